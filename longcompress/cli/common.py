"""What commands share: the options of a model, videos and memory files, and the exit code of an error."""

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import MediaConfig, ModelConfig
from ..config_values import load_config, read_values
from .defaults import with_defaults

if TYPE_CHECKING:  # torch and transformers take seconds to import: only commands that need them do
    from ..events.listing import EventList
    from ..media.reader import MediaInfo
    from ..memory import VideoMemory
    from ..model import LongCompress
    from ..types import Event

QUIET = ContextVar("quiet", default=False)  # whether to say nothing but errors
LONGEST = 1500  # signs of a line on standard error
SHOWN = 5  # answers without a time that have a line


@dataclass(frozen=True)
class ModelOptions:
    """A model, and changes to its config.

    Attributes:
        model: a preset, a folder, or a hub name owner/model.
        device: cpu, cuda, cuda:1, ...; the GPU if there is one.
        dtype: of encoders and language model; float32 on a CPU, bfloat16 on a GPU if not given.
        config: a YAML or JSON file of changes to the model's config; --media.rate_fps 2 changes a field.
            `longcompress config` lists the fields.
        changes: section to changed fields, above those of `config`.
    """

    model: str = "tiny"
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    config: str | None = None
    changes: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"fields_of": ModelConfig})


@dataclass(frozen=True)
class VideoOptions(ModelOptions):
    """What compresses a video, and where it comes from.

    Attributes:
        budget: tokens of the memory; the model's own number if not given.
        start: where to begin, in seconds or h:mm:ss; times then count from there.
        end: where to stop.
        video_track: number from 0 or language of the video track; the player's choice if not given.
        audio_track: likewise of the audio track. `info` lists the tracks.
        protocols: where videos may come from: file https.
        subtitles: SRT, VTT, ... of the video, which the prompt has beside the budget (llm.text_tokens).
    """

    budget: int | None = None
    start: str | None = None
    end: str | None = None
    video_track: str | None = None
    audio_track: str | None = None
    protocols: list[str] = field(default_factory=lambda: ["file"])
    subtitles: str | None = None

    def __post_init__(self) -> None:
        tracks = {name: getattr(self, name) for name in ("video_track", "audio_track")}
        self.changes.setdefault("media", {}).update({name: t for name, t in tracks.items() if t is not None})
        if not self.changes["media"]:
            del self.changes["media"]
        if self.start_s >= self.end_s:
            raise ValueError(f"--end must be after --start, got {self.start} to {self.end}")

    @property
    def start_s(self) -> float:
        """Seconds at which to begin."""
        return 0.0 if self.start is None else seconds_of("--start", self.start)

    @property
    def end_s(self) -> float:
        """Seconds at which to stop."""
        return math.inf if self.end is None else seconds_of("--end", self.end)

    def compressing(self, **more: Any) -> dict[str, Any]:
        """What `compress` takes besides a model and videos."""
        return {
            "budget": self.budget, "protocols": self.protocols, "start_s": self.start_s, "end_s": self.end_s,
            "progress": bars(),
            "text": texts_of(self.subtitles, self.start_s, self.end_s) if self.subtitles else (), **more,
        }  # fmt: skip


def texts_of(subtitles: str, start_s: float = 0.0, end_s: float = math.inf) -> "list[Event]":
    """The texts of a file of subtitles in a part of a video; its faults go to standard error."""
    from ..events.subtitles import read_subtitles

    with reading():
        cues = read_subtitles(Path(subtitles)).within(start_s, end_s)
    for kind, num in cues.faults.items():
        first = next((place for place in cues.places if place.startswith(kind)), kind)
        complain("warning", f"{subtitles}: {num} times {first}")
    return cues.events


class Failed(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def probe_video(file: str, options: VideoOptions) -> "MediaInfo":
    """What the header of a video says; its packets are read where the header has no length."""
    from ..media import reader as media

    config = MediaConfig(video_track=options.video_track or "", audio_track=options.audio_track or "")
    with reading():
        info = media.probe(file, protocols=options.protocols, config=config)
        if info.duration_s is None:
            info = media.probe(file, protocols=options.protocols, config=config, keyframes=True)
        if not (info.has_video or info.has_audio):
            raise ValueError(f"{file}: it has no frames and no audio that can be decoded")
        if info.duration_s is not None:
            length_s = min(info.duration_s, options.end_s) - options.start_s
            if length_s <= 0:
                raise ValueError(
                    f"{file}: --start {options.start} is behind its end, {info.duration_s:.1f} s"
                )
            info = replace(info, duration_s=length_s)
    return info


def seconds_of(flag: str, text: str) -> float:
    """Seconds of a text as "90", "1:30" or "0:01:30.5"."""
    if not re.fullmatch(r"(\d+:)?(\d+:)?\d+(\.\d*)?", text):
        raise ValueError(f"{flag} must be seconds or h:mm:ss, got {text!r}")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def load_model(options: ModelOptions) -> "LongCompress":
    """The model, with the changes to its config."""
    changes = options.changes
    if options.config is not None:
        whole = asdict(load_config(ModelConfig, options.config))  # checked before the model is loaded
        values = {
            name: {key: whole[name][key] for key in part} if isinstance(part, dict) else {}
            for name, part in read_values(options.config).items()
        }
        changes = {name: {**values.get(name, {}), **changes.get(name, {})} for name in {**values, **changes}}
    from ..presets import load

    try:
        model = load(options.model, device=options.device, dtype=options.dtype)
    except (RuntimeError, AssertionError) as error:
        if options.device is None:
            raise
        raise ValueError(f"--device {options.device} can't be used: {error}") from error
    model.change(changes)
    return model


def check_budget(model: "LongCompress", options: VideoOptions, infos: Sequence["MediaInfo"]) -> None:
    """ValueError for a budget that none of these videos fits into."""
    budget = model.config.budget.tokens if options.budget is None else options.budget
    if not infos:  # nothing is known of standard input
        return
    media = {"video": any(i.has_video for i in infos), "audio": any(i.has_audio for i in infos)}
    model.check_budget(budget, [name for name, e in model.encoders.items() if media[e.modality]])


def memory_of(source: str, options: VideoOptions, **more: Any) -> "VideoMemory":
    """The memory of a video, compressed now with `more` of `compress`, or of a memory file."""
    if not is_memory(source):
        infos = [] if source == "-" else [probe_video(source, options)]
        model = load_model(options)
        check_budget(model, options, infos)
        from ..videos import compress

        with reading():
            opened = sys.stdin.buffer if source == "-" else source
            return compress(model, opened, **options.compressing(**more))
    plain = with_defaults(VideoOptions)  # the user's defaults are for videos alone
    names = ("budget", "config", "start", "end", "subtitles")
    ignored = [name for name in names if getattr(options, name) not in (None, getattr(plain, name))]
    ignored += [f"{section}.{name}" for section, values in options.changes.items() for name in values]
    if ignored:
        raise ValueError(
            f"--{ignored[0]} is for videos; the memory file {source} was compressed with its own"
        )
    if not Path(source).is_file():
        raise Failed(3, f"no memory file {source}; make one with `longcompress compress`")
    from ..memory import VideoMemory, read_header, sampling_hint

    model = load_model(options)
    with reading():
        origin = read_header(Path(source))["source"]
        if sampling_hint(origin, model):
            model.change({"media": origin["media"]})
        return VideoMemory.load(source, model)


def events_of(memory: "VideoMemory", **options: Any) -> "EventList":
    """The events of a memory; how its windows answered, and answers without a time, go to standard error."""
    listed = memory.list_events(progress=bars(), **options)
    complain("note", listed)
    for window in listed.unparsed[:SHOWN]:
        complain("warning", f"no time in the answer about {window}")
    return listed


def is_memory(source: str) -> bool:
    """Whether it names a memory file rather than a video."""
    return source.lower().endswith(".lcm")


def folder_of(path: str | Path) -> Path:
    """A folder to write into, made if it isn't there."""
    if "://" in str(path):
        raise ValueError(f"--out must be a folder here, got the URL {path}")
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    check_writable(Path(path) / "x")
    return Path(path)


def check_writable(path: Path) -> None:
    """Fails before hours of work rather than after."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failed(4, f"--out: {path.parent} is no folder that can be written into")
    if path.is_dir():
        raise Failed(4, f"--out: {path} is a folder; name a file")


def check_positive(**values: float | None) -> None:
    """ValueError for a flag that is not above 0; None is one that isn't given."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be > 0, got {value}")


@contextmanager
def reading() -> Iterator[None]:
    """An error in here is one of the input."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Failed(3, str(error)) from error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """An OSError in here is one of the output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(4, f"{path} can't be written: {error}") from error


def bars() -> bool:
    """Whether to show progress bars: they are for people."""
    return sys.stderr.isatty() and not QUIET.get()


def complain(kind: str, what: object) -> None:
    """A line on standard error."""
    if QUIET.get() and kind in ("warning", "note"):
        return
    text = " ".join(str(what).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."  # a damaged file may be quoted in it
    print(f"longcompress: {kind}: {text}", file=sys.stderr, flush=True)
