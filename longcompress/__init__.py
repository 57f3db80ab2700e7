"""Hours of video with audio as a fixed, declared number of tokens that a language model reads."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .memory import VideoMemory, ask_each
    from .model import LongCompress
    from .presets import load
    from .session import Session, compress
    from .types import Answer, Audio, Event, Frames, Tokens

__version__ = "0.1.0"

# Public names and the file each one is in; they are imported when they are first used, so that
# `import longcompress` stays quick.
_HOMES = {
    "Answer": "types",
    "Event": "types",
    "Frames": "types",
    "LongCompress": "model",
    "Session": "session",
    "Audio": "types",
    "Tokens": "types",
    "VideoMemory": "memory",
    "ask_each": "memory",
    "load": "presets",
    "compress": "session",
}
__all__ = [
    "Answer",
    "Event",
    "Frames",
    "LongCompress",
    "Session",
    "Audio",
    "Tokens",
    "VideoMemory",
    "ask_each",
    "estimate",
    "load",
    "open",
    "compress",
]


def open(path: "str | Path", model: "LongCompress") -> "VideoMemory":
    """The memory in a .lcm file, to be asked with `model`; see VideoMemory.load."""
    from .memory import VideoMemory

    return VideoMemory.load(path, model)


def estimate(model: "LongCompress", source: Any, budget: int | None = None) -> Any:
    """What compressing a video (path, or its length in seconds) will come to, before decoding; see
    budget.Estimate."""
    if isinstance(source, int | float):
        return model.estimate(float(source), budget)
    from .media.reader import probe

    info = probe(source)
    if info.duration_s is None:
        raise ValueError(
            f"source {info.name} does not say how long it is; give its length in seconds instead"
        )
    return model.estimate(info.duration_s, budget, video=info.has_video, audio=info.has_audio)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
