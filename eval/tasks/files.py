"""Reference and prediction files: JSON, JSON lines; errors name file and place."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import replacing

_IDS = ("id", "video_id", "question_id", "qid", "uid")
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Record:
    """One JSON object and where it stands.

    `text`, `name`, `number` and so on give the first of the named fields that is there, checked to be that.
    """

    value: dict[str, Any]
    where: str
    twice: tuple[str, ...] = ()  # keys that came again in an object of the file

    def fault(self, needed: str, got: object) -> ValueError:
        """The error that says so."""
        return ValueError(f"{self.where}: {needed}; got {short(got)}")

    def has(self, *names: str) -> bool:
        """True if one of these fields is there."""
        return any(name in self.value for name in names)

    def get(self, *names: str) -> Any:
        """The first of these fields that is there, whatever it is."""
        for name in names:
            if name in self.value:
                return self.value[name]
        raise self.fault(f"needs the field {' or '.join(map(repr, names))}", sorted(self.value))

    def text(self, *names: str) -> str:
        if not isinstance(value := self.get(*names), str):
            raise self.fault(f"{names[0]!r} must be text", value)
        return value

    def name(self, *names: str) -> str:
        """An id: text or a whole number."""
        value = self.get(*names)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise self.fault(f"{names[0]!r} must be an id, text or a whole number", value)
        return str(value)

    def number(self, *names: str) -> float:
        return self.as_number(self.get(*names), repr(names[0]))

    def maybe_number(self, name: str) -> float | None:
        """A number, None where it is not there."""
        return None if self.value.get(name) is None else self.number(name)

    def items(self, *names: str) -> list[Any]:
        if not isinstance(value := self.get(*names), list):
            raise self.fault(f"{names[0]!r} must be a list", value)
        return value

    def texts(self, *names: str) -> list[str]:
        items = self.items(*names)
        if not all(isinstance(item, str) for item in items):
            raise self.fault(f"{names[0]!r} must be a list of texts", items)
        return items

    def records(self, name: str) -> list["Record"]:
        return [self.within(item, f"{name} {i}") for i, item in enumerate(self.items(name), 1)]

    def spans(self, name: str) -> list[tuple[float, float]]:
        return [self.span(item, f"{name} {i}") for i, item in enumerate(self.items(name), 1)]

    def within(self, value: object, name: str) -> "Record":
        """A value inside this object as an object."""
        if not isinstance(value, dict):
            raise self.fault(f"{name} must be an object {{...}}", value)
        return Record(value, f"{self.where}, {name}", self.twice)

    def names(self) -> list[str]:
        """Its keys; those that came twice again at the end."""
        return [*self.value, *(key for key in self.twice if key in self.value)]

    def span(self, value: object, name: str) -> tuple[float, float]:
        """A value as a start and an end in seconds."""
        if not isinstance(value, list) or len(value) != 2:
            raise self.fault(f"{name} must be [start, end] in seconds", value)
        return self.as_number(value[0], name), self.as_number(value[1], name)

    def as_number(self, value: object, name: str) -> float:
        """A value as a finite number."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fault(f"{name} must be a finite number", value)
        return float(value)


def short(value: object) -> str:
    """A value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def read_text(path: Path) -> str:
    """A file's text, UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text; byte {error.start} is not") from error


def read_json(path: Path) -> tuple[Any, list[str]]:
    """A file's JSON value, and keys that came twice in one object; what came first counts."""
    twice: list[str] = []

    def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in pairs:
            if key in out:
                twice.append(key)
            out.setdefault(key, value)
        return out

    text = read_text(path)
    if not text.strip():
        return {}, []
    try:
        return json.loads(text, object_pairs_hook=first), twice
    except json.JSONDecodeError as error:
        why = f"{error.msg} at column {error.colno}"
        raise ValueError(f"{path}:{error.lineno}: must be JSON; {why}") from error


def read_object(path: Path) -> Record:
    """The object that is all of a file."""
    value, twice = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold one JSON object {{...}}, got {type(value).__name__}")
    return Record(value, str(path), tuple(twice))


def read_records(path: Path) -> list[Record]:
    """The objects of a JSON list or of JSON lines; which of them shows by the first character."""
    text = read_text(path)
    if text.lstrip()[:1] == "[":
        entries, _ = read_json(path)
        return [Record({}, str(path)).within(item, f"entry {i}") for i, item in enumerate(entries, 1)]
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            why = f"{error.msg} at column {error.colno}"
            needed = "each line must be a JSON object, or the file one JSON list"
            raise ValueError(f"{where}: {needed}; {why}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{where}: must be a JSON object {{...}}, got {line.strip()[:80]!r}")
        out.append(Record(value, where))
    return out


def is_lines(path: Path) -> bool:
    """True for a list or lines of objects with an id, False for one object that is all of the file."""
    text = read_text(path).strip()
    if not text.startswith("{"):
        return True
    try:
        first = json.loads(text.split("\n", 1)[0])
    except json.JSONDecodeError:
        return False
    return any(name in first for name in _IDS)


def one_file(paths: Sequence[Path], name: str) -> Path:
    """The only file."""
    if len(paths) != 1:
        raise ValueError(f"--{name} must be one file for this task, got {len(paths)}")
    return paths[0]


def video_of(name: str) -> str:
    """A video's name without folder and suffix."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def write_text(path: Path, text: str) -> None:
    """Write a file; it appears whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """One JSON value as a file's text."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def lines_text(records: Iterable[Any]) -> str:
    """JSON lines as a file's text."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
