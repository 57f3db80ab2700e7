"""Where the questions and videos of a run come from: files, or synthetic scenes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ...config import MediaConfig
from ...media import reader as media
from ...synthetic.scenes import SIZE_PX, parts_of
from ..tasks.synthetic import Synthetic, synthesize_all
from ..tasks.task import Example
from .run_file import file_hash, lines_hash
from .score import read_examples, task_of

# A video's name, how to read it, and who takes warnings, to its media; raises OSError or ValueError.
Open: TypeAlias = Callable[[str, MediaConfig, Callable[[str], object]], media.Reading]

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wav", ".mp3", ".flac")


@dataclass(frozen=True)
class Source:
    """Questions, and the videos they are about."""

    task: str  # a key of TASKS
    examples: Sequence[Example]  # all of them, before a limit
    pins: Mapping[str, Any]  # what the header of a run says of them
    open: Open
    frame_size: Callable[[str], tuple[int, int]]  # of a video's name: width and height of its frames


def from_files(
    task: str, reference: Sequence[str | Path], videos: str | Path, *, durations: str | Path | None = None
) -> Source:
    """A benchmark's files and its videos in a folder, in which they may lie deeper; no task without files."""
    examples = read_examples(task, reference, durations=durations)
    names = {example.video for example in examples}
    if not Path(videos).is_dir():
        raise FileNotFoundError(f"videos must be an existing folder, got {videos}")
    paths: dict[str, Path] = {}  # by name without suffix
    for path in sorted(Path(videos).rglob("*")):
        if path.suffix.lower() in SUFFIXES and (name := path.stem) in names:
            if name in paths:
                raise ValueError(f"videos: two are called {name!r}, {paths[name]} and {path}; remove one")
            paths[name] = path

    def read(name: str, config: MediaConfig, on_warning: Callable[[str], object]) -> media.Reading:
        if name not in paths:
            raise FileNotFoundError(f"no video {name!r} in {videos}")
        return media.read(paths[name], config, on_warning=on_warning)

    def frame_size(name: str) -> tuple[int, int]:
        info = media.probe(paths[name])
        return info.width, info.height

    pins = {
        "reference": [Path(path).name for path in reference],
        "reference_sha256": [file_hash(Path(path)) for path in reference],
        "durations_sha256": file_hash(Path(durations)) if durations else None,
        "synthetic": None,
    }
    return Source(task, examples, pins, read, frame_size)


def from_scenes(task: str, synthetic: Synthetic) -> Source:
    """Synthetic videos and questions; frames and audio pass through no codec."""
    synthesize = task_of(task).synthesize
    assert synthesize is not None
    examples, videos = synthesize_all(task, synthesize, synthetic)

    def read(name: str, config: MediaConfig, on_warning: Callable[[str], object]) -> media.Reading:
        scene, _ = synthesize(*videos[name])
        kinds = tuple(kind for kind in ("video", "audio") if getattr(config, kind))
        rate_fps = config.frames_a_second(scene.duration_s)
        parts = (part for part in parts_of(scene, rate_fps) if part.modality in kinds)
        return media.Reading(parts, name, kinds, scene.duration_s)

    lines = ({"id": e.id, "question": e.question, "truth": asdict(e.truth)} for e in examples)
    pins = {
        "reference": [],
        "reference_sha256": [lines_hash(lines)],
        "durations_sha256": None,
        "synthetic": asdict(synthetic) | {"minutes": list(synthetic.minutes)},
    }
    return Source(task, examples, pins, read, lambda name: (SIZE_PX, SIZE_PX))
