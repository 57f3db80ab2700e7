"""What the commands share: the flags of a model, videos compressed or remembered, and whose fault an error
is."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch and transformers take seconds to import: only commands that need them do
    from ..media.reader import MediaInfo
    from ..memory import VideoMemory
    from ..model import LongCompress


@dataclass(frozen=True)
class Common:
    """What compresses, and how.

    Attributes:
        model: a preset (tiny), a folder, or a hub name owner/model.
        budget: tokens that stand for the video; the model's own number if not given.
        budget_share: deal them out evenly over time, or by what is new.
        device: cpu, cuda, cuda:1, ...; the GPU if there is one.
        dtype: of encoders and language model; float32 on a CPU, bfloat16 on a GPU if not given.
        rate_fps: frames looked at a second; short for --media.rate_fps.
        decode: exact frames, or faster ones near the wanted time; short for --media.decode.
        protocols: where videos may come from, with commas, such as file,https.
        overrides: section -> changed fields of the model's config.
    """

    model: str = "tiny"
    budget: int | None = None
    budget_share: Literal["even", "novelty"] | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    rate_fps: float | None = None
    decode: Literal["exact", "nonref", "keyframe"] | None = None
    protocols: str = "file"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        """The protocols one by one."""
        return tuple(p.strip() for p in self.protocols.split(",") if p.strip())


class Failed(Exception):
    """Ends the command with a message and an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def probe_video(file: str, common: Common) -> "MediaInfo":
    """What the header says; the packets, where it doesn't tell the length."""
    from ..media import reader as media

    with reading():
        found = media.probe(file, protocols=common.allowed)
        if found.duration_s is None:
            found = media.probe(file, protocols=common.allowed, keyframes=True)
        if not (found.has_video or found.has_audio):
            raise ValueError(f"{file}: there is no frame and no audio track in it that can be decoded")
    return found


def load_model(common: Common) -> "LongCompress":
    """The model, with what the flags change."""
    from ..presets import load

    try:
        model = load(common.model, device=common.device, dtype=common.dtype)
    except (RuntimeError, AssertionError) as error:
        if common.device is None:
            raise
        raise ValueError(f"--device {common.device} can't be used: {error}") from error
    changes = {section: dict(values) for section, values in common.overrides.items()}
    for flag in ("rate_fps", "decode"):
        if getattr(common, flag) is not None:
            changes.setdefault("media", {})[flag] = getattr(common, flag)
    if common.budget_share is not None:
        changes["budget"] = {"allocation": common.budget_share}
    model.change(changes)
    return model


def compress_video(
    model: "LongCompress", file: str, video: "MediaInfo", common: Common, *, keep_assignment: bool
) -> "VideoMemory":
    """The memory of a video; a wrong budget is told apart from a video that can't be read."""
    from ..session import compress

    has = {"video": video.has_video, "audio": video.has_audio}
    budget = model.config.budget.tokens if common.budget is None else common.budget
    model.check_budget(budget, [name for name in model.streams if has[name]])
    with reading():
        return compress(
            model,
            file,
            budget=budget,
            progress=bars(),
            protocols=common.allowed,
            keep_assignment=keep_assignment,
        )


def remember(source: str, common: Common, *, keep_assignment: bool = False) -> "VideoMemory":
    """The memory of a video, compressed now, or of a memory file."""
    if not is_memory(source):
        video = probe_video(source, common)
        return compress_video(load_model(common), source, video, common, keep_assignment=keep_assignment)
    given = [n for n in ("budget", "budget_share", "rate_fps", "decode", "overrides") if getattr(common, n)]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for videos; the memory file {source} was "
            f"compressed with its own"
        )
    from ..memory import VideoMemory

    with reading():
        if not Path(source).is_file():
            raise FileNotFoundError(f"no memory file {source}; make one with `longcompress compress`")
    model = load_model(common)
    with reading():
        return VideoMemory.load(source, model)


def is_memory(source: str) -> bool:
    """Whether it names a memory file rather than a video."""
    return source.lower().endswith(".lcm")


def targets_of(files: list[str], out: Path) -> list[Path]:
    """Where the memory of each video goes."""
    if len(files) == 1 and not out.is_dir():
        if not is_memory(str(out)):
            raise ValueError(f"--out must end in .lcm or be a folder that is there, got {out}")
        check_writable(out)
        return [out]
    if is_memory(str(out)):
        raise ValueError(f"--out must be a folder for {len(files)} videos, got {out}")
    folder = folder_of(str(out))
    targets = [folder / f"{Path(file).stem}.lcm" for file in files]
    twice = [t for t in targets if targets.count(t) > 1]
    if twice:
        raise ValueError(
            f"files: several would be written to {twice[0]}; watch them into folders of their own"
        )
    return targets


def folder_of(path: str) -> Path:
    """A folder to write into, made if it isn't there."""
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


@contextmanager
def reading() -> Iterator[None]:
    """What goes wrong in here is the input's fault."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Failed(3, str(error)) from error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """An OSError in here is the output's."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failed(4, f"{path} can't be written: {error}") from error


def bars() -> bool:
    """Whether to show progress bars: they are for people."""
    return sys.stderr.isatty()
