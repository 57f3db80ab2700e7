"""A video and its annotations: the one shape that all of training reads.

A JSON line of ours, `video` relative to the file it stands in, times in seconds from the start of the video:

    {"key": "v_001", "video": "v_001.mp4", "duration_s": 120.0,
     "events": [{"start_s": 3.0, "end_s": 9.5, "text": "A dog runs in."}],
     "dialogues": [[{"role": "user", "text": "..."}, {"role": "assistant", "text": "..."}]],
     "captions": ["A dog in a park."], "source": "mine"}

`key` may be left out (the video's name serves), and so may all annotations. A folder of videos is read as a
record each; NAME.json beside a video holds its annotations.

A record with `"meta": {"split": [12.0, 62.5]}` is of that part of its video only, as VTimeLLM cuts its clips:
all its times (events, `duration_s`, and `meta["token"]`, the seconds that symbols in dialogues stand for)
begin at 0 of the part. Its key, if left out, is the video's name with the part's seconds, so that several
parts of a video and the whole can be in one file.

Events may overlap. Reading warns of those once, and `shards make` writes their number into the sample's
`meta["overlapping"]`.
"""

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..types import Event

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m4v", ".mp3", ".m4a", ".wav", ".flac", ".ogg")
ROLES = ("user", "assistant")
SLACK_S = 1.0  # annotations may pass the end by so much: annotators round


@dataclass(frozen=True)
class Turn:
    """What the user or the assistant says."""

    role: str
    text: str


@dataclass(frozen=True)
class Record:
    """A video and its annotations.

    Attributes:
        key: its name in shards; letters, digits, `_` and `-`.
        video: its path or URL.
        duration_s: its length where it is known.
        events: in order of their start.
        dialogues: each a list of turns, the user's first.
        captions: of the whole video.
        source: which data set it is of.
        meta: anything else; `split` and `token` as above.
        faults: annotations that no event can be made of, a line each; `checked` refuses the record for them.
    """

    key: str
    video: str
    duration_s: float | None = None
    events: tuple[Event, ...] = ()
    dialogues: tuple[tuple[Turn, ...], ...] = ()
    captions: tuple[str, ...] = ()
    source: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object of the shape above."""
        return {name: value for name, value in asdict(self).items() if value or name != "faults"}

    @property
    def part(self) -> tuple[float, float] | None:
        """The part of the video that it is of; None: the whole. ValueError: `split` is none."""
        split = self.meta.get("split")
        return part_of(split) if split else None


def slug(name: str) -> str:
    """A key from a name: all but letters, digits, `_` and `-` becomes `_` (a dot would end it in a tar)."""
    key = re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_")
    if not key:
        raise ValueError(f"key must have a letter or a digit, got {name!r}")
    return key


def part_of(split: Any) -> tuple[float, float]:
    """(start_s, end_s) of a `split`; a ValueError if it is none."""
    try:
        start_s, end_s = map(float, split)
    except (TypeError, ValueError):
        start_s = end_s = math.nan
    if not 0 <= start_s < end_s < math.inf:
        raise ValueError(f"split must be [start_s, end_s] with 0 <= start_s < end_s, got {split!r}")
    return start_s, end_s


def part_key(video: str, part: tuple[float, float] | None) -> str:
    """The key of a video by its name, or of a part of it."""
    stamps = [f"{seconds:.3f}".rstrip("0").rstrip(".").replace(".", "p") for seconds in part or ()]
    return "_".join([slug(video), *stamps])


def read_records(source: str | Path) -> list[Record]:
    """The records of a folder of videos or a JSONL file, by key.

    Raises:
        ValueError: for a line that is no record, with its number; two records of one key; nothing at all.
        FileNotFoundError: there is no such file or folder.
    """
    source = Path(source)
    if source.is_dir():
        records = [_of_video(path) for path in sorted(source.iterdir()) if path.suffix.lower() in VIDEOS]
    elif source.is_file():
        records = list(_of_lines(source))
    else:
        raise FileNotFoundError(f"no folder of videos and no JSONL file {source}")
    if not records:
        raise ValueError(f"{source}: no video in it; videos end in {', '.join(VIDEOS)}")
    for key, num in sorted(Counter(record.key for record in records).items()):
        if num > 1:
            raise ValueError(f"{source}: key {key!r} stands for {num} records; give each its own")
    if overlaps := [num for record in records if (num := num_overlapping(record.events))]:
        warnings.warn(
            f"{source}: {sum(overlaps)} events of {len(overlaps)} records begin before one ahead of them has "
            "ended; they are kept",
            stacklevel=2,
        )
    return sorted(records, key=lambda record: record.key)


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; a ValueError that names `where` if it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from error


def parse_record(value: Any, folder: Path, where: str) -> Record:
    """A record from a JSON value.

    Args:
        value: the object.
        folder: its `video` is relative to this.
        where: its name in errors.

    Raises:
        ValueError: for anything of another shape.
    """
    if not isinstance(value, dict) or not isinstance(value.get("video"), str):
        raise ValueError(f'{where}: a record must be an object with "video", got {str(value)[:80]}')
    if unknown := sorted(set(value) - set(Record.__dataclass_fields__)):
        raise ValueError(
            f"{where}: {unknown[0]!r} is no field of a record; {', '.join(Record.__dataclass_fields__)} are"
        )
    video = value["video"]
    if "://" not in video and not Path(video).is_absolute():
        video = str(folder / video)
    duration_s = value.get("duration_s")
    try:
        meta = dict(value.get("meta", {}))
        part = part_of(meta["split"]) if meta.get("split") else None
        events, unordered = events_of((e["start_s"], e["end_s"], e["text"]) for e in value.get("events", ()))
        return Record(
            slug(str(value["key"])) if value.get("key") else part_key(Path(value["video"]).stem, part),
            video, None if duration_s is None else float(duration_s), events,
            tuple(tuple(_turn(t) for t in d) for d in value.get("dialogues", ())),
            tuple(map(str, value.get("captions", ()))), str(value.get("source", "")), meta,
            (*map(str, value.get("faults", ())), *unordered),
        )  # fmt: skip
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where}: {error!r} in its events, dialogues, captions or meta") from error


def events_of(annotations: Iterable[tuple[Any, Any, Any]]) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """(events of (start_s, end_s, text) by start and end, a line for each that ends before it starts)."""
    events, lines = [], []
    for i, (start, end, text) in enumerate(annotations):
        start_s, end_s = float(start), float(end)
        if end_s >= start_s:
            events.append(Event(start_s, end_s, str(text)))
        else:
            lines.append(f"events[{i}] {start_s:g} to {end_s:g} s ends before it starts")
    return sorted_events(events), tuple(lines)


def sorted_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """The events by start, then by end."""
    return tuple(sorted(events, key=lambda e: (e.start_s, e.end_s)))


def checked(record: Record, duration_s: float | None) -> Record:
    """The record with the true length of its video and the number of its overlapping events, if any.

    Raises:
        ValueError: its annotations have faults.
    """
    num = num_overlapping(record.events)
    meta = record.meta | ({"overlapping": num} if num else {})
    record = replace(record, duration_s=duration_s, meta=meta)
    if lines := faults(record):
        raise ValueError("; ".join(lines))
    return record


def faults(record: Record) -> list[str]:
    """Faults of the annotations of a video, each in a line; empty without any."""
    end_s, lines = record.duration_s, list(record.faults)
    for i, event in enumerate(record.events):
        where = f"events[{i}] {event.start_s:g} to {event.end_s:g} s"
        if not event.text.strip():
            lines.append(f"{where} has no text")
        if event.end_s == event.start_s:
            lines.append(f"{where} lasts no time")
        if event.start_s < 0 or (end_s is not None and event.end_s > end_s + SLACK_S):
            lines.append(f"{where} is outside" + ("" if end_s is None else f" the video of {end_s:g} s"))
    for i, dialogue in enumerate(record.dialogues):
        roles = [turn.role for turn in dialogue]
        if not roles or roles != list(ROLES) * (len(roles) // 2):
            lines.append(f"dialogues[{i}] must be turns of user and assistant in turn, the user's first")
        elif any(not turn.text.strip() for turn in dialogue):
            lines.append(f"dialogues[{i}] has a turn without text")
    return lines


def num_overlapping(events: Sequence[Event]) -> int:
    """Events that begin before one that came earlier has ended."""
    until, num = float("-inf"), 0
    for event in events:
        num += event.start_s < until
        until = max(until, event.end_s)
    return num


def _turn(value: Any) -> Turn:
    if value["role"] not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {value['role']!r}")
    return Turn(value["role"], str(value["text"]))


def _of_video(path: Path) -> Record:
    annotations = path.with_suffix(".json")
    value = parse_json(annotations.read_bytes(), str(annotations)) if annotations.is_file() else {}
    return parse_record({"key": path.stem} | value | {"video": path.name}, path.parent, str(annotations))


def _of_lines(path: Path) -> Iterator[Record]:
    with open(path, encoding="utf8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            yield parse_record(parse_json(line, where), path.parent, where)
