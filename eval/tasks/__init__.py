"""The benchmarks: their files as published, prompts, parsers of answers, scores."""

from . import choice, events, open_qa, synthetic, synthetic_alerts, synthetic_events
from .magqa import MAGQA
from .qvhighlights import QVHIGHLIGHTS
from .task import Task
from .video_chatgpt import VIDEO_CHATGPT

TASKS: dict[str, Task] = {
    **events.ACTIVITYNET,
    "qvhighlights": QVHIGHLIGHTS,
    "youcook2": events.YOUCOOK2,
    "magqa": MAGQA,
    **events.LONGVALE,
    **open_qa.TASKS,
    "video-chatgpt": VIDEO_CHATGPT,
    **choice.TASKS,
    **synthetic.TASKS,
    **synthetic_events.TASKS,
    **synthetic_alerts.TASKS,
}
