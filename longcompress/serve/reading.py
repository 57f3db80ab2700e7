"""The media of a request are checked against the limits, and become a memory."""

import asyncio
import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from ..media import probe, read
from ..media.image import PNG, plain_png
from ..memory import VideoMemory
from ..model import LongCompress
from ..types import Audio, Frames
from ..videos import compress
from .limits import MB, ApiError, Limits, refuse
from .request import ChatRequest
from .sources import Source

ALONE_S = 3.0  # of reading, before another begins beside it
WARNINGS = 20  # texts about a video that a client gets
Progress = Callable[[float, float | None], object]


class Stopped(Exception):
    """Nobody waits for the result any more."""


@dataclass
class Job:
    """A video that is read for all who wait: `listeners` are called with the seconds read, and those of all
    (None: unknown)."""

    future: asyncio.Future[VideoMemory]
    listeners: list[Progress] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def tell(self, read_s: float, length_s: float | None) -> None:
        """Call the listeners, from any thread."""
        for listener in list(self.listeners):
            self.future.get_loop().call_soon_threadsafe(listener, read_s, length_s)


class Turns:
    """Readings enter one after another: two that share an interpreter take longer than one after the other.
    Beside one that is at work for over ALONE_S others enter, so that short ones don't wait for long ones."""

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._since: dict[int, float] = {}  # thread -> when its reading began

    def __enter__(self) -> None:
        with self._left:
            while (wait_s := max((t + ALONE_S - monotonic() for t in self._since.values()), default=0)) > 0:
                self._left.wait(wait_s)
            self._since[threading.get_ident()] = monotonic()

    def __exit__(self, *_: object) -> None:
        with self._left:
            del self._since[threading.get_ident()]
            self._left.notify()


def read_memory(
    model: LongCompress, sources: Sequence[Source], chat: ChatRequest, budget: int, limits: Limits, job: Job
) -> VideoMemory:
    """The memory of a request's media; ApiError for what can't be read or is past a limit."""
    warnings: list[str] = []
    names = {str(source.path): source.param for source in sources}

    def clean(error: object) -> str:
        """A message with the field of the request in the place of the server's path."""
        text = " ".join(str(error).split())
        for path, param in names.items():
            text = text.replace(path, param)
        return text[:500]

    def progress(read_s: float, length_s: float | None) -> None:
        if job.stop.is_set():
            raise Stopped
        _check_length(model, read_s, limits, sources[0].param)
        job.tell(read_s, None if length_s is None else min(length_s, chat.end_s - chat.start_s))

    if job.stop.is_set():
        raise Stopped
    try:
        for source in sources:
            _defuse(source, limits)
        _check(model, sources, chat, budget, limits)
        memory = compress(
            model, _joined(model, sources), budget=budget, progress=progress, start_s=chat.start_s,
            end_s=chat.end_s, keep_assignment=chat.patches, thumbnails=chat.thumbnails,
            on_warning=lambda text: warnings.append(clean(text)),
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise ApiError(clean(error), sources[0].param, "unreadable") from error
    memory.source["warnings"] = warnings[:WARNINGS]
    return memory


def _defuse(source: Source, limits: Limits) -> None:
    """Cut out of a PNG what the decoder would inflate to any size."""
    with open(source.path, "rb") as file:
        if file.read(len(PNG)) != PNG:
            return
    if (num := source.path.stat().st_size) > 8 * limits.max_pixels + MB:
        raise refuse(source.param, f"has {num} bytes, more than {limits.max_pixels} pixels need", "too_large")
    data = plain_png(source.path.read_bytes(), limits.max_pixels)
    source.path.unlink()  # it may be a link to a file of the client
    source.path.write_bytes(data)


def _check(
    model: LongCompress, sources: Sequence[Source], chat: ChatRequest, budget: int, limits: Limits
) -> None:
    """ApiError for media past a limit by their headers, or a budget that can't be."""
    infos = [probe(source.path, config=model.config.media) for source in sources]
    for source, info in zip(sources, infos, strict=True):
        if not (info.has_video or info.has_audio) or (source.kind == "image" and not info.has_video):
            kind = "image" if source.kind == "image" else "video or audio"
            raise refuse(source.param, f"has no {kind} that can be decoded", "unreadable")
        if info.width * info.height > limits.max_pixels:
            size = f"{info.width} x {info.height}"
            raise refuse(source.param, f"has {size} pixels, more than {limits.max_pixels}", "too_large")
        if info.duration_s is not None and source.kind != "image":
            end_s = min(info.duration_s, chat.end_s)
            if chat.start_s >= end_s:
                raise refuse("longcompress.start_s", f"must be before {end_s:.1f} s, got {chat.start_s}")
            _check_length(model, end_s - chat.start_s, limits, source.param)
    has = {"video": any(i.has_video for i in infos), "audio": any(i.has_audio for i in infos)}
    streams = [name for name, encoder in model.encoders.items() if has[encoder.modality]]
    if not streams:
        raise refuse(sources[0].param, f"has no {' or '.join(model.media)} for this model", "unreadable")
    context = model.llm.context
    try:
        model.check_budget(budget, streams)
        if context is not None and budget >= context:
            raise ValueError(f"budget must be below the language model's {context} positions, got {budget}")
    except ValueError as error:
        raise ApiError(str(error), "longcompress.budget") from error


def _check_length(model: LongCompress, length_s: float, limits: Limits, param: str) -> None:
    """ApiError for more seconds or frames than are read for an answer."""
    num = model.config.media.num_frames(length_s)
    if length_s > limits.max_seconds or num > limits.max_frames:
        needed = f"at most {limits.max_seconds:g} s and {limits.max_frames} frames"
        remedy = "ask about a part: longcompress.start_s and end_s"
        raise refuse(param, f"must give {needed}, got {length_s:.0f} s and {num}; {remedy}", "too_long")


def _joined(model: LongCompress, sources: Sequence[Source]) -> Any:
    """What `compress` takes: a file, or images in their order, one a step, with audio."""
    if sources[0].kind != "image" and len(sources) == 1:
        return sources[0].path
    images = [source for source in sources if source.kind == "image"]
    frames = [_image(model, source, number) for number, source in enumerate(images)]
    audio = [source for source in sources if source.kind == "audio"]
    return _with_audio(model, frames, audio[0]) if audio else frames


def _image(model: LongCompress, source: Source, number: int) -> Frames:
    """A still image as a frame."""
    config = replace(model.config.media, audio=False, frames=0)
    with read(source.path, config) as parts:
        for part in parts:
            if isinstance(part, Frames) and len(part):
                step_s = 1 / config.rate_fps
                return Frames(part.pixels[:1], 0 * part.time_s[:1] + number * step_s, step_s)
    raise ValueError(f"{source.path} is no image that can be decoded")


def _with_audio(model: LongCompress, frames: Sequence[Frames], source: Source) -> Iterator[Frames | Audio]:
    """Frames and the audio of a file, by time."""
    with closing(read(source.path, replace(model.config.media, video=False))) as audio:
        yield from heapq.merge(frames, audio, key=lambda part: part.start_s)
