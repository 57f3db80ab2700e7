"""How the processor of a stock video LLM samples a video, by the numbers that its checkpoint publishes."""

import math
from dataclasses import dataclass, replace
from typing import Any

from ..config import MediaConfig
from .backbone import PROCESSOR_FILES, read_file

DEFAULTS = {"Qwen3VLVideoProcessor": {"fps": 2.0, "min_frames": 4, "max_frames": 768}}
"""Classes of processors that take frames evenly from the first to the last, and keep frames within limits of
pixels of the whole video; with what a class has where a checkpoint's file says nothing."""


@dataclass(frozen=True)
class Sampling:
    """Attributes:
    rate_fps: frames a second, between min_frames and max_frames.
    min_pixels, max_pixels: of all frames of a video together.
    """

    rate_fps: float
    min_frames: int
    max_frames: int
    min_pixels: int
    max_pixels: int

    def media(
        self, config: MediaConfig, duration_s: float, width: int, height: int, side: int
    ) -> MediaConfig:
        """`config` for a video of this length and size of frames. Frames are square here: of the largest
        square of as many tokens, of side x side pixels each, as the processor would give a frame at most."""
        num = min(max(int(duration_s * self.rate_fps), self.min_frames), self.max_frames)
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        pixels = num * rows * columns * side**2
        limit = min(max(pixels, self.min_pixels), self.max_pixels)
        if limit != pixels:
            scale = math.sqrt(limit / (num * height * width)) / side
            away = math.floor if limit < pixels else math.ceil
            rows, columns = (max(1, away(length * scale)) for length in (height, width))
        size_px = side * math.isqrt(rows * columns)
        return replace(config, frames=num, frames_at="ends", size_px=size_px)


def sampling_of(base: str) -> Sampling:
    """The sampling of the checkpoint at `base`, a folder or hub name; ValueError where it isn't known."""
    kinds = []
    for name in PROCESSOR_FILES:
        values: dict[str, Any] = read_file(base, name)
        values = values.get("video_processor", values)
        kind, size = values.get("video_processor_type"), values.get("size") or {}
        kinds += [kind] if kind else []
        if kind in DEFAULTS and {"shortest_edge", "longest_edge"} <= set(size):
            values = DEFAULTS[kind] | values
            frames = int(values["min_frames"]), int(values["max_frames"])
            return Sampling(float(values["fps"]), *frames, size["shortest_edge"], size["longest_edge"])
    raise ValueError(
        f"method stock needs a checkpoint whose {PROCESSOR_FILES[0]} names a video processor of "
        f"{', '.join(DEFAULTS)} and its limits of pixels, got {', '.join(kinds) or 'none'} at {base!r}; "
        "leave it out"
    )
