"""Where the questions and videos of a run come from: files, or scenes drawn from seeds."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from longcompress.config import MediaConfig
from longcompress.media import reader as media
from longcompress.synthetic.scenes import parts_of
from longcompress.types import Frames

from ..tasks.synthetic import Drawn, draw_all
from ..tasks.task import Example
from .run_file import file_hash, line_of
from .score import read_examples, task_of

Open: TypeAlias = Callable[[str, MediaConfig, Callable[[str], object]], media.Reading]

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wav", ".mp3", ".flac")


@dataclass(frozen=True)
class Source:
    """What is asked about, and the videos.

    Attributes:
        task: a key of TASKS.
        examples: all of them, before a limit.
        pins: what the header of a run says of them.
        open: a video's name, how to read, and who hears warnings, to its frames and audio; OSError or
            ValueError says why there is none.
    """

    task: str
    examples: Sequence[Example[Any]]
    pins: Mapping[str, Any]
    open: Open


def from_files(
    task: str, gold: Sequence[str | Path], videos: str | Path, *, durations: str | Path | None = None
) -> Source:
    """A benchmark's files and its videos in a folder.

    Args:
        task: a key of TASKS, none whose videos are drawn.
        gold: the benchmark's files.
        videos: the folder of its videos, in which they may lie deeper.
        durations: a file with lengths of videos, where the gold has none.

    Raises:
        ValueError: naming file and place, if a file is not what it should be; a video that is there twice.
        FileNotFoundError: there is no such folder.
    """
    if task_of(task).draw is not None:
        raise ValueError(f"the videos of {task} are drawn, it has no files; use from_scenes")
    examples = read_examples(task, gold, durations=durations)
    files = _videos(Path(videos), {one.video for one in examples})

    def read(name: str, config: MediaConfig, on_warning: Callable[[str], object]) -> media.Reading:
        if name not in files:
            raise FileNotFoundError(f"no video {name!r} in {videos}")
        return media.read(files[name], config, on_warning=on_warning)

    pins = {
        "gold": [Path(path).name for path in gold],
        "gold_sha256": [file_hash(Path(path)) for path in gold],
        "durations_sha256": file_hash(Path(durations)) if durations else None,
        "drawn": None,
    }
    return Source(task, examples, pins, read)


def from_scenes(task: str, drawn: Drawn) -> Source:
    """Videos and questions drawn from seeds; frames and audio come as they are drawn, no codec between.

    Args:
        task: a key of TASKS whose videos are drawn.
        drawn: which videos.
    """
    draw = task_of(task).draw
    if draw is None:
        raise ValueError(f"the videos of {task} are not drawn, it has files; use from_files")
    examples, files = draw_all(task, draw, drawn)

    def read(name: str, config: MediaConfig, on_warning: Callable[[str], object]) -> media.Reading:
        scene, _ = draw(*files[name])
        streams = tuple(
            kind for kind, is_read in (("video", config.video), ("audio", config.audio)) if is_read
        )
        parts = (
            part
            for part in parts_of(scene, config.rate_fps)
            if ("video" if isinstance(part, Frames) else "audio") in streams
        )
        return media.Reading(parts, name, streams, scene.duration_s)

    digest = hashlib.sha256()
    for one in examples:
        digest.update(line_of({"id": one.id, "question": one.question, "truth": asdict(one.truth)}))
    pins = {
        "gold": [],
        "gold_sha256": [digest.hexdigest()],
        "durations_sha256": None,
        "drawn": asdict(drawn) | {"minutes": list(drawn.minutes)},
    }
    return Source(task, examples, pins, read)


def _videos(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Wanted videos below a folder, by name without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"videos must be a folder that is there, got {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.stem not in wanted:
            continue
        if path.stem in found:
            raise ValueError(
                f"videos: {path.stem!r} is there twice, {found[path.stem]} and {path}; remove one"
            )
        found[path.stem] = path
    return found
