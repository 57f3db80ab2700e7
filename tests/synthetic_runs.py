"""What runs on synthetic videos share: a config, and answers in place of a model's."""

from types import SimpleNamespace
from zlib import crc32

from longcompress.eval.runner import run as running
from longcompress.eval.runner.run_file import RunConfig
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks.synthetic import Synthetic

TWO_OF_5 = Synthetic(minutes=(5,), num_videos=2)


CONFIG = RunConfig(budgets=("24",), max_new_tokens=4, media="video")


def run_drawn(task, synthetic, model, out, config=None):
    (summary,) = running.run(from_scenes(task, synthetic), model, out, config)
    return summary


def compressed(source, media, read, video, names):
    """What takes the place of encoding: answers that depend on video and question alone."""

    def answer(prompt):
        first = crc32(f"{video} {prompt}".encode()) % 300
        return SimpleNamespace(text=f"{first} to {first + 7}")

    memory = SimpleNamespace(num_tokens=8, ask_all=lambda asked, **_: [answer(item) for item in asked])
    return [(name, running.Encoded(memory, 0.0)) for name in names]
