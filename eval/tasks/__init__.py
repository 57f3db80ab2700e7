"""The benchmarks: their files as published, prompts, parsers of answers, scores."""

from .choice import LONGVIDEOBENCH_TASK, LVBENCH_TASK, MLVU_TASK, VIDEO_MME_TASK
from .dense import ACTIVITYNET_DENSE
from .grounding import ACTIVITYNET_GROUNDING, CHARADES_STA
from .longvale import LONGVALE_DVC, LONGVALE_SC, LONGVALE_TVG
from .magqa import MAGQA
from .open_qa import ACTIVITYNET_QA, AVSD, MSRVTT_QA, MSVD_QA, MUSIC_AVQA
from .qvhighlights import QVHIGHLIGHTS
from .synthetic import NEEDLE, SYNTHETIC_QA
from .task import Task
from .video_chatgpt import VIDEO_CHATGPT
from .youcook import YOUCOOK2

TASKS: dict[str, Task] = {
    "charades-sta": CHARADES_STA,
    "activitynet-grounding": ACTIVITYNET_GROUNDING,
    "activitynet-dense": ACTIVITYNET_DENSE,
    "qvhighlights": QVHIGHLIGHTS,
    "youcook2": YOUCOOK2,
    "magqa": MAGQA,
    "longvale-tvg": LONGVALE_TVG,
    "longvale-dvc": LONGVALE_DVC,
    "longvale-sc": LONGVALE_SC,
    "avsd": AVSD,
    "music-avqa": MUSIC_AVQA,
    "activitynet-qa": ACTIVITYNET_QA,
    "msvd-qa": MSVD_QA,
    "msrvtt-qa": MSRVTT_QA,
    "video-chatgpt": VIDEO_CHATGPT,
    "video-mme": VIDEO_MME_TASK,
    "mlvu": MLVU_TASK,
    "lvbench": LVBENCH_TASK,
    "longvideobench": LONGVIDEOBENCH_TASK,
    "needle": NEEDLE,
    "synthetic_qa": SYNTHETIC_QA,
}
