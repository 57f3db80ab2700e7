"""The benchmarks: their files as published, prompts, parsers of answers, scores."""

from . import choice, grounding, longvale, open_qa, synthetic
from .dense import ACTIVITYNET_DENSE
from .magqa import MAGQA
from .qvhighlights import QVHIGHLIGHTS
from .task import Task
from .video_chatgpt import VIDEO_CHATGPT
from .youcook import YOUCOOK2

TASKS: dict[str, Task] = {
    **grounding.TASKS,
    "activitynet-dense": ACTIVITYNET_DENSE,
    "qvhighlights": QVHIGHLIGHTS,
    "youcook2": YOUCOOK2,
    "magqa": MAGQA,
    **longvale.TASKS,
    **open_qa.TASKS,
    "video-chatgpt": VIDEO_CHATGPT,
    **choice.TASKS,
    **synthetic.TASKS,
}
