"""The file of a run: a header that pins all it depends on, a line for each example; two runs compared."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from longcompress.files import replacing

from ..metrics.bootstrap import difference
from ..tasks.task import Times

FORMAT = 2
_BEGINS = b'{"format"'  # of a header, whole or torn
_SAME = ("task", "gold_sha256", "prompt", "prompt_sha256", "durations_sha256")  # or runs can't be compared


@dataclass(frozen=True)
class RunConfig:
    """What a run is made with.

    Attributes:
        budget: tokens of a video's memory; None: as the model's config says.
        streams: what is taken in; "both": all that the model takes in.
        prompt: name of the task's prompt.
        max_new_tokens: longest answer; None: as the model's config says.
        limit: only so many examples, the first of the gold.
        durations: a file with lengths of videos, where the gold has none.
        times: what numbers in answers are; None: as the prompt asks for them.
    """

    budget: int | None = None
    streams: Literal["video", "audio", "both"] = "both"
    prompt: str = "default"
    max_new_tokens: int | None = None
    limit: int | None = None
    durations: Path | None = None
    times: Times | None = None

    def __post_init__(self) -> None:
        if self.streams not in ("video", "audio", "both"):
            raise ValueError(f"streams must be 'frame', 'audio' or 'both', got {self.streams!r}")
        if self.times is not None and self.times not in get_args(Times):
            raise ValueError(f"times must be one of {', '.join(get_args(Times))}, got {self.times!r}")
        for name in ("budget", "max_new_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class RunFile:
    """A run as far as it is written.

    Attributes:
        header: all that the answers depend on.
        lines: by the id of the example, in the order of the file.
        num_bytes: of header and whole lines; what comes after is torn.
    """

    header: dict[str, Any]
    lines: dict[str, dict[str, Any]]
    num_bytes: int

    @property
    def answered(self) -> dict[str, dict[str, Any]]:
        """The lines that have an answer."""
        return {key: line for key, line in self.lines.items() if "lost" not in line}

    @property
    def lost(self) -> dict[str, dict[str, Any]]:
        """The lines whose video is missing or could not be read."""
        return {key: line for key, line in self.lines.items() if "lost" in line}


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def line_of(value: Mapping[str, Any]) -> bytes:
    """An object as a line."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def read_run(path: Path) -> RunFile | None:
    """What is whole of a run's file; None if not even its header is.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another kind of file, or a line of it is broken.
    """
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if data and not (data.startswith(_BEGINS) or _BEGINS.startswith(data)):
        raise ValueError(f"{path} is no file of a run: its first line must be a header; name another file")
    if not whole:
        return None
    values = []
    for number, line in enumerate(whole[:-1].split(b"\n"), 1):
        try:
            values.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number}: must be a JSON object ({error}); begin a new file") from error
    header, *rest = values
    lines: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(rest, 2):
        if not isinstance(one, dict) or not isinstance(one.get("id"), str):
            raise ValueError(f"{path}:{number}: must be an object with an 'id'; begin a new file")
        if one["id"] in lines:
            raise ValueError(f"{path}:{number}: {one['id']!r} is there already; remove one of its lines")
        lines[one["id"]] = one
    return RunFile(header, lines, len(whole))


def begin(path: Path, header: Mapping[str, Any]) -> RunFile:
    """The run at `path`, begun if there is none; a torn last line is cut off.

    Raises:
        ValueError: what is there was begun with another header; it is left as it is.
    """
    found = read_run(path) if path.is_file() else None
    if found is None:
        line = line_of(header)
        path.write_bytes(line)
        return RunFile(dict(header), {}, len(line))
    wanted = json.loads(line_of(header))
    for name in dict.fromkeys([*wanted, *found.header]):
        if found.header.get(name) != wanted.get(name):
            raise ValueError(
                f"{path} was begun with {name} = {_short(found.header.get(name))}, this run has "
                f"{_short(wanted.get(name))}; resume with the same, or give another --out"
            )
    with path.open("r+b") as file:
        file.truncate(found.num_bytes)
    return found


def replace_lines(path: Path, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """These lines, by id, in the places of those with the same ids; the rest of the file stays as it is.

    The file is there as it was, or with all of them.
    """
    kept = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        key = json.loads(line)["id"] if number else ""  # of the header
        kept.append(line_of(lines[key]) if key in lines else line)
    with replacing(path) as part:
        part.write_bytes(b"".join(kept))


def summary_path(path: Path) -> Path:
    """Where the summary of a run lies: run.jsonl has run.summary.json."""
    return path.with_suffix(".summary.json")


def pairs(first: str | Path, second: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """What the first run is worth more than the second, example by example.

    Args:
        first: the file of a run that came to its end.
        second: of another, on the same gold with the same prompt.
        seed: of the intervals.

    Returns:
        task; first and second (names of files); differs: fields of the headers that differ, both values; num
        of examples answered in both; only_first and only_second: ids answered in one alone; differences:
        `bootstrap.difference` of each main score, whole videos drawn.

    Raises:
        ValueError: gold, durations or prompt differ; a run has no summary of just this file.
    """
    paths = Path(first), Path(second)
    runs = [_whole(path) for path in paths]
    one, two = (run for run, _ in runs)
    for name in _SAME:
        if one.header.get(name) != two.header.get(name):
            raise ValueError(
                f"runs to compare must have the same {name}, got {_short(one.header.get(name))} in "
                f"{paths[0]} and {_short(two.header.get(name))} in {paths[1]}"
            )
    both = [key for key in one.answered if key in two.answered]
    videos = {key: one.lines[key]["video"] for key in both}
    scores, others = (summary["each"] for _, summary in runs)
    differences = {}
    for name in (name for name in scores if name in others):
        kept = [key for key in both if key in scores[name] and key in others[name]]
        left, right = ({key: each[name][key] for key in kept} for each in (scores, others))
        differences[name] = difference(left, right, videos, seed=seed)
    return {
        "task": one.header["task"],
        "first": str(first),
        "second": str(second),
        "differs": {
            key: [one.header[key], two.header.get(key)]
            for key in one.header
            if one.header[key] != two.header.get(key)
        },
        "num": len(both),
        "only_first": [key for key in one.answered if key not in two.answered],
        "only_second": [key for key in two.answered if key not in one.answered],
        "differences": differences,
    }


def summary_of(path: Path) -> dict[str, Any] | None:
    """The summary beside a run; None if there is none of its present lines."""
    beside = summary_path(path)
    summary: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return summary if summary.get("run_sha256") == file_hash(path) else None


def _whole(path: Path) -> tuple[RunFile, dict[str, Any]]:
    """A run and its summary."""
    found, summary = read_run(path), summary_of(path)
    if found is None or summary is None:
        raise ValueError(
            f"{path} has no summary of its present lines in {summary_path(path)}; run it to its end first"
        )
    return found, summary


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
