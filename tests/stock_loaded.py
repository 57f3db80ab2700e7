"""Stock models as `lc.load` gives them, and random videos of the frames that they take."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import longcompress as lc
from longcompress.media.reader import arrays
from longcompress.memory import VideoMemory
from longcompress.model import LongCompress
from longcompress.types import Audio, Frames

from helpers import integers, normal
from stock_folders import save

SIZE = 32
RATE = 16000


def small(model: LongCompress) -> LongCompress:
    """The model with small frames where its family takes any."""
    if not model.video.family.fixed:
        model.change({"media": {"size_px": SIZE}})
    return model


def loading(root: Path) -> tuple[Callable[[str], Path], Callable[[str], LongCompress]]:
    """What gives the folder below `root` of a family's small model, and what gives the model as it is loaded
    with small frames; each once, so tests leave both as they are."""
    folder_of = cache(lambda name: save(name, root / name))
    return folder_of, cache(lambda name: small(lc.load(folder_of(name), device="cpu")))


def random_clip(
    model: LongCompress, seconds: float, seed: int = 0, audio: bool = True
) -> list[Frames | Audio]:
    """Random frames at the model's rate, and audio where it hears."""
    size, rate = model.config.media.size_px, model.config.media.rate_fps
    pixels = integers(0, 256, round(seconds * rate), size, size, 3, seed=seed).to(torch.uint8)
    samples = None
    if model.audio is not None and audio:
        samples = normal(round(seconds * RATE), seed=seed).mul(0.1).clamp(-1, 1)
    return arrays(pixels, rate, samples)


def memory_of(model: LongCompress, seconds: float = 9.0, budget: int = 40, **options: Any) -> VideoMemory:
    """A random video, compressed."""
    return lc.compress(model, random_clip(model, seconds, **options), budget=budget, progress=False)
