"""The file of a run: a header that pins all it depends on, a line for each example; two runs compared."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..metrics.bootstrap import interval
from ..tasks.files import lines_text, short
from ..tasks.task import Times

FORMAT = 1
_START = b'{"format"'  # of a header, whole or torn
# Or runs can't be compared.
_SAME = ("task", "reference_sha256", "prompt", "prompt_sha256", "durations_sha256")


@dataclass(frozen=True)
class RunConfig:
    """How a run is made.

    Attributes:
        budgets: tokens of a video's memory, each "4096", or "10%" of a video's raw tokens; none: as the
            model's config says. Each video is encoded once for all budgets.
        media: what the model takes in; "both": all.
        prompt: name of the task's prompt, or a text with {question}.
        max_new_tokens: longest answer; None: as the model's config says.
        limit: only the first examples of the reference, this many.
        times: what numbers in answers are; None: as the prompt asks for them.
    """

    budgets: tuple[str, ...] = ()
    media: Literal["video", "audio", "both"] = "both"
    prompt: str = "default"
    max_new_tokens: int | None = None
    limit: int | None = None
    times: Times | None = None

    def __post_init__(self) -> None:
        check_budgets(self.budgets)
        for name in ("max_new_tokens", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def check_budgets(budgets: Sequence[str]) -> None:
    """ValueError unless all are different, each "4096" or "10%"."""
    for text in budgets:
        number = text.removesuffix("%")
        try:
            fits = 0 < float(number) < math.inf and (text.endswith("%") or number.isdigit())
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"budgets must be numbers, or shares such as 10%, got {text!r}")
        if budgets.count(text) > 1:
            raise ValueError(f"budgets must be different, got {text!r} twice")


def num_tokens(budget: str, num_raw: int) -> int:
    """Tokens of a budget of a video with `num_raw` raw tokens."""
    return round(float(budget[:-1]) / 100 * num_raw) if budget.endswith("%") else int(budget)


@dataclass(frozen=True)
class RunFile:
    """A run as far as it is written: header, lines by id, and their bytes; what comes after is torn."""

    header: dict[str, Any]
    lines: dict[str, dict[str, Any]]
    num_bytes: int

    @cached_property
    def answered(self) -> dict[str, dict[str, Any]]:
        """The lines that have an answer."""
        return {key: line for key, line in self.lines.items() if "failed" not in line}

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The lines whose video is missing or could not be read."""
        return [line for line in self.lines.values() if "failed" in line]


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines_hash(values: Iterable[Mapping[str, Any]]) -> str:
    """sha256 of objects as lines."""
    return hashlib.sha256(lines_text(values).encode()).hexdigest()


def read_run(path: Path) -> RunFile | None:
    """What is whole of a run's file; None if not even its header is. ValueError for another kind of file."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if data and not (data.startswith(_START) or _START.startswith(data)):
        raise ValueError(f"{path} is no file of a run: its first line must be a header; name another file")
    if not whole:
        return None
    header: dict[str, Any] = {}
    lines: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(whole[:-1].split(b"\n"), 1):
        try:
            line = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number}: must be a JSON object ({error}); begin a new file") from error
        if number == 1:
            header = line
            continue
        if not isinstance(line, dict) or not isinstance(line.get("id"), str):
            raise ValueError(f"{path}:{number}: must be an object with an 'id'; begin a new file")
        if line["id"] in lines:
            raise ValueError(f"{path}:{number}: {line['id']!r} comes again; remove one of its lines")
        lines[line["id"]] = line
    return RunFile(header, lines, len(whole))


def open_run(path: Path, header: Mapping[str, Any]) -> RunFile:
    """The run at `path`, created if needed; a torn last line is cut off. ValueError for another header."""
    run = read_run(path) if path.is_file() else None
    if run is None:
        line = lines_text([header]).encode()
        path.write_bytes(line)
        return RunFile(dict(header), {}, len(line))
    ours = json.loads(lines_text([header]))
    for name in dict.fromkeys([*ours, *run.header]):
        if run.header.get(name) != ours.get(name):
            before, now = short(run.header.get(name)), short(ours.get(name))
            why = f"was started with {name} = {before}, this run has {now}"
            raise ValueError(f"{path} {why}; resume with the same, or give another --out")
    with path.open("r+b") as file:
        file.truncate(run.num_bytes)
    return run


def summary_path(path: Path) -> Path:
    """Where the summary of a run lies: run.jsonl has run.summary.json."""
    return path.with_suffix(".summary.json")


def pairs(first: str | Path, second: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """The scores of the first run minus those of the second, example by example.

    Both are files of complete runs on the same reference with the same prompt; `seed` is of the intervals.

    Returns:
        task; first and second (names of files); differs: fields of the headers that differ, both values; num
        of examples answered in both; only_first and only_second: ids answered in one alone; differences:
        `bootstrap.interval` of the gain in each main score, NAME, and of it in each group, NAME/KIND/GROUP.
    """
    paths = Path(first), Path(second)
    (ours, our_summary), (theirs, their_summary) = map(_complete, paths)
    for name in _SAME:
        if ours.header.get(name) != theirs.header.get(name):
            raise ValueError(
                f"runs to compare must have the same {name}, got {short(ours.header.get(name))} in "
                f"{paths[0]} and {short(theirs.header.get(name))} in {paths[1]}"
            )
    both = [key for key in ours.answered if key in theirs.answered]
    videos = {key: ours.lines[key]["video"] for key in both}
    differences = {}
    for name in (name for name in our_summary["each"] if name in their_summary["each"]):
        sides = our_summary["each"][name], their_summary["each"][name]
        shared = [key for key in both if all(key in side for side in sides)]
        for group, ids in ({"": shared} | our_summary["groups"]).items():
            ids = set(ids)
            gains = {key: sides[0][key] - sides[1][key] for key in shared if key in ids}
            if gains or not group:
                label = f"{name}/{group}" if group else name
                differences[label] = interval(gains, videos, seed=seed)
    return {
        "task": ours.header["task"],
        "first": str(first),
        "second": str(second),
        "differs": {
            k: [v, theirs.header.get(k)] for k, v in ours.header.items() if v != theirs.header.get(k)
        },
        "num": len(both),
        "only_first": [key for key in ours.answered if key not in theirs.answered],
        "only_second": [key for key in theirs.answered if key not in ours.answered],
        "differences": differences,
    }


def summary_of(path: Path) -> dict[str, Any] | None:
    """The summary beside a run; None if there is none of its present lines."""
    beside = summary_path(path)
    summary: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return summary if summary.get("run_sha256") == file_hash(path) else None


def _complete(path: Path) -> tuple[RunFile, dict[str, Any]]:
    """A run and its summary."""
    run, summary = read_run(path), summary_of(path)
    if run is None or summary is None:
        why = f"has no summary of its present lines in {summary_path(path)}"
        raise ValueError(f"{path} {why}; run it to its end first")
    return run, summary


@contextlib.contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """ValueError if another process, or another run of this one, writes to `path`.

    The lock is the system's (flock) on NAME.lock beside it, so it ends with its process, however that ends; a
    file that a killed process left is no obstacle. The file is removed at the end.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.lock")
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            writer = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise ValueError(
                f"{path} is being written by another run{f' (process {writer})' if writer else ''}; wait for "
                "it, or give another --out"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), beside.stat()):
                break
        os.close(file)  # the one before took it away between opening and locking
    try:
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        beside.unlink(missing_ok=True)  # while it is locked: who waits for it sees that it is gone
        os.close(file)
