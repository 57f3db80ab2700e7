"""Whole videos, one or many, through a session into memories."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from . import media
from .llm.texts import text_info
from .media.reader import Reading
from .media.thumbnails import check_numbers, check_rereadable, read_thumbnails
from .memory import VideoMemory
from .model import LongCompress
from .session import Session
from .session_events import Dropped
from .types import Audio, Event, Frames

Progress = Callable[[float, float | None], object]


@dataclass(frozen=True)
class Result:
    """What became of a source in `compress_many`: a memory, or the error."""

    source: Any
    memory: VideoMemory | None
    error: OSError | ValueError | None


def compress(
    model: LongCompress,
    source: Any,
    *,
    budget: int | None = None,
    progress: bool | Progress = True,
    start_s: float = 0.0,
    end_s: float = math.inf,
    protocols: Sequence[str] = ("file",),
    keep_assignment: bool = False,
    thumbnails: int = 0,
    thumbnail_px: int = 160,
    on_warning: Callable[[str], object] = warnings.warn,
    text: Sequence[Event] = (),
) -> VideoMemory:
    """Decode, encode and compress a video once, in bounded memory.

    Args:
        model: what encodes, and answers later.
        source: path, URL, file object, or arrays (`media.arrays`).
        budget: tokens the memory will have (or all there are, if the video has fewer); None: the model's
            default.
        progress: show a bar with rate and time left; or a function of the seconds read and those there are
            (None: unknown), called at every segment. What it raises ends the reading.
        start_s, end_s: the part of the video to read; times of the memory count from start_s.
        protocols: where files may come from; ("file", "http", "https") to allow the web.
        keep_assignment: remember which raw token went where, to plot it. This grows with the video.
        thumbnails: keep this many frames as small JPEGs, each of the place of one of the heaviest video
            tokens; the source is read a second time. With merge.place "medoid" it is the medoid's frame.
        thumbnail_px: their longer side.
        on_warning: called with every text about what could not be read.
        text: what is said or written in the video, as subtitles have it; times from start_s. The prompt has
            it, outside the budget.

    Raises:
        ValueError, FileNotFoundError: what can't be read, a budget too small.
    """
    if thumbnails:
        check_numbers(thumbnails, thumbnail_px)
        check_rereadable(source)
    part = None if (start_s, end_s) == (0.0, math.inf) else (start_s, end_s)
    session = read_session(
        model, source, budget=budget, interval=part, progress=progress, protocols=protocols,
        keep_assignment=keep_assignment, on_warning=on_warning,
    )  # fmt: skip
    memory = session.memory()
    if text:
        memory.video = replace(memory.video, text=tuple(text))
        if hasattr(model, "llm"):  # encoders alone have no prompt; `messages` shows the text
            memory.source["text"] = text_info(text, model.llm.tokenizer, model.config.llm)
    memory.source |= source_info(source) | {"settings": model.settings()}
    if part:
        memory.source["part_s"] = [start_s, start_s + memory.duration_s]
    if thumbnails:
        config = model.config.media
        at = memory.heaviest(thumbnails, config.frame_s(memory.duration_s))
        memory.thumbnails = read_thumbnails(source, at, thumbnail_px, config, part=part, protocols=protocols)
    return memory


def compress_many(model: LongCompress, sources: Iterable[Any], **options: Any) -> Iterator[Result]:
    """`compress` of each source, as it is done; a source that can't be read is a Result with its error.

    Args:
        model: as for `compress`.
        sources: as many as there are.
        options: as for `compress`.
    """
    for source in sources:
        try:
            yield Result(source, compress(model, source, **options), None)
        except (OSError, ValueError) as error:
            yield Result(source, None, error)


def read_session(
    model: LongCompress,
    source: Any,
    *,
    budget: int | None = None,
    interval: tuple[float, float] | None = None,
    progress: bool | Progress = True,
    protocols: Sequence[str] = ("file",),
    keep_assignment: bool = False,
    on_warning: Callable[[str], object] = warnings.warn,
) -> Session:
    """A closed session that took in all of a video, or an interval of it as if that were all.

    Args: as for `compress` and `media.read`.

    Raises:
        ValueError: neither a frame nor a sample could be read.
    """
    # a track that the model takes in and the video lacks gives a warning
    config = replace(model.config.media, video="video" in model.media, audio="audio" in model.media)
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}, {rate_fmt}]"
    with media.read(source, config, part=interval, protocols=protocols, on_warning=on_warning) as parts:
        session = Session(
            model, budget, media=_media_of(source, parts, model), keep_assignment=keep_assignment
        )
        length_s, name = parts.duration_s, parts.name
        with tqdm(
            total=length_s, desc=Path(name).name, unit="s", bar_format=shape if length_s else None,
            disable=progress is not True,
        ) as bar:  # fmt: skip
            for event in session.run(parts):
                if isinstance(event, Dropped):
                    on_warning(
                        f"{name}: {event.what} from {event.time_s:.1f} to {event.end_s:.1f} s was left out: "
                        f"{event.reason}"
                    )
                if callable(progress):
                    progress(session.encoder.end_s, length_s)
                bar.total = bar.total and max(bar.total, session.encoder.end_s)
                bar.update(session.encoder.end_s - bar.n)
        session.close()
        session.encoder.end(min(parts.end_s, math.inf if interval is None else interval[1] - interval[0]))
    if not session.stats()["raw_tokens"]:
        raise ValueError(f"source {name} gave neither a frame nor a sample that could be read")
    return session


def source_info(source: Any) -> dict[str, Any]:
    """Base name, size and hash of a local file; the name alone of anything else."""
    if not isinstance(source, str | Path) or not Path(source).is_file():
        # of a URL neither password nor signature may end up in a file
        is_path = isinstance(source, str | Path)
        return {"name": urlsplit(str(source)).path.rsplit("/", 1)[-1] if is_path else "pushed"}
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": Path(source).name, "num_bytes": Path(source).stat().st_size, "sha256": digest}


def _media_of(source: Any, parts: Reading, model: LongCompress) -> list[str]:
    """Media that the model takes in and that will come, as far as it is known."""
    known = parts.streams
    if known is None and isinstance(source, list | tuple):
        if wrong := [part for part in source if not isinstance(part, Frames | Audio)]:
            raise TypeError(
                f"source must be one video, or Frames and Audio, got a list with {wrong[0]!r:.60}; "
                "compress_many takes several videos"
            )
        known = tuple(part.modality for part in source)
    return [modality for modality in model.media if known is None or modality in known]
