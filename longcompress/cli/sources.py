"""Files, folders, patterns and standard input as the videos of a command, and where each memory file goes."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import VIDEO_SUFFIXES
from .common import Failed, check_writable, folder_of, is_memory

if TYPE_CHECKING:
    from ..model import LongCompress

STDIN = "-"


def find_videos(files: Sequence[str]) -> tuple[dict[str, Path], list[Path]]:
    """(video -> its memory file below the folder of --out, files of folders that are no videos).

    A folder stands for all videos in it and below; its memory files have the folders that its videos have. A
    pattern ("day*/*.mp4") stands for the files that it matches. Names that would fall on one file get the
    folders in which they differ.
    """
    memories: dict[str, Path] = {}
    others: list[Path] = []
    for file in files:
        if Path(file).is_dir():
            inside = sorted(path for path in Path(file).rglob("*") if path.is_file())
            videos = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES]
            others += [p for p in inside if p.suffix.lower() not in VIDEO_SUFFIXES and p.name[0] != "."]
            if not videos:
                endings = " ".join(sorted(VIDEO_SUFFIXES))
                raise Failed(3, f"{file}: no video in this folder; videos end in {endings}")
            memories |= {str(path): path.relative_to(file) for path in videos}
        elif not Path(file).exists() and any(sign in file for sign in "*?["):
            matches = sorted(path for path in glob.glob(file, recursive=True) if Path(path).is_file())
            if not matches:
                raise Failed(3, f"no file matches {file}")
            memories |= {path: Path(Path(path).name) for path in matches}
        else:
            memories[file] = Path("stdin" if file == STDIN else Path(file).name)
    names = [path.with_suffix(".lcm") for path in memories.values()]
    if len(set(names)) < len(names):  # cam1/0001.mp4 and cam2/0001.mp4: as they lie below what they share
        local = {file: os.path.abspath(file) for file in memories if file != STDIN}
        root = os.path.commonpath(os.path.dirname(path) for path in local.values())
        memories |= {file: Path(os.path.relpath(path, root)) for file, path in local.items()}
        names = [path.with_suffix(".lcm") for path in memories.values()]
    num_of = Counter(names)  # a.mp4 and a.mkv fall on one
    return {
        file: path.with_name(f"{path.name}.lcm") if num_of[name] > 1 else name
        for (file, path), name in zip(memories.items(), names, strict=True)
    }, others


def memory_paths(files: dict[str, Path], out: Path) -> dict[str, Path]:
    """Video -> its memory file: `out` itself for a single video, else below the folder `out`."""
    if len(files) == 1 and not out.is_dir():
        if not is_memory(str(out)):
            raise ValueError(f"--out must end in .lcm or be an existing folder, got {out}")
        check_writable(out)
        return dict.fromkeys(files, out)
    if is_memory(str(out)):
        raise ValueError(f"--out must be a folder for {len(files)} videos, got {out}")
    return {file: folder_of((out / path).parent) / path.name for file, path in files.items()}


def is_done(path: Path, file: str, model: "LongCompress", budget: int) -> bool:
    """Whether `path` is the memory of this file, made by this model with these settings and budget."""
    from ..memory import read_header

    try:
        header = read_header(path)
        source = header["source"]
        same = (header["identity"], header["budget"], source.get("settings"), source.get("num_bytes"))
        want = (model.identity(), budget, model.settings(), Path(file).stat().st_size)
        return same == want and "part_s" not in source
    except (OSError, ValueError, KeyError):
        return False
