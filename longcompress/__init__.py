"""Hours of video with audio as a fixed, declared number of tokens that a language model reads."""

from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .compression.estimate import Estimate
    from .memory import VideoMemory, ask_each
    from .model import LongCompress
    from .presets import families, from_transformers, load
    from .session import Session
    from .types import Answer, Audio, Event, Frames, Tokens
    from .videos import Result, compress, compress_many

__version__ = "0.1.0"

# Public names and the file each is in; they are imported when they are first used, so that
# `import longcompress` stays quick.
_HOMES = {
    "Answer": "types", "Audio": "types", "Event": "types", "Frames": "types", "Tokens": "types",
    "LongCompress": "model",
    "families": "presets", "from_transformers": "presets", "load": "presets",
    "VideoMemory": "memory", "ask_each": "memory",
    "Result": "videos", "Session": "session", "compress": "videos", "compress_many": "videos",
}  # fmt: skip
__all__ = [
    "Answer", "Audio", "Event", "Frames", "LongCompress", "Result", "Session", "Tokens", "VideoMemory",
    "ask_each", "compress", "compress_many", "estimate", "families", "from_transformers", "load",
    "load_memory",
]  # fmt: skip


def load_memory(path: "str | Path", model: "LongCompress") -> "VideoMemory":
    """The memory in a .lcm file, to be asked with `model`; see VideoMemory.load."""
    from .memory import VideoMemory

    return VideoMemory.load(path, model)


def estimate(
    model: "LongCompress", source: Any, budget: int | None = None, *, start_s: float = 0.0,
    end_s: float = inf,
) -> "Estimate":  # fmt: skip
    """Sizes of a compressed video (path, or its length in seconds), or of a part of it, before decoding; see
    estimate.Estimate."""
    length_s: float | None
    if isinstance(source, int | float):
        length_s, media, name = float(source), {}, "the video"
    else:
        from .media import probe

        info = probe(source)
        length_s, media, name = info.duration_s, {"video": info.has_video, "audio": info.has_audio}, info.name
        if length_s is None:
            raise ValueError(f"source {name} does not say how long it is; give its length in seconds instead")
    if (start_s, end_s) != (0.0, inf):
        if not 0 <= start_s < min(length_s, end_s):
            raise ValueError(
                f"start_s must be before end_s and the end of {name}, {length_s:.1f} s, got {start_s}"
            )
        length_s = min(length_s, end_s) - start_s
    return model.estimate(length_s, budget, **media)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
