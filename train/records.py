"""A video and its annotations: the one shape that all of training reads.

A JSON line of ours, `video` relative to the file it stands in, times in seconds from the start of the video:

    {"key": "v_001", "video": "v_001.mp4", "duration_s": 120.0,
     "events": [{"start_s": 3.0, "end_s": 9.5, "text": "A dog runs in."}],
     "dialogues": [[{"role": "user", "text": "..."}, {"role": "assistant", "text": "..."}]],
     "captions": ["A dog in a park."], "text": [{"start_s": 4.0, "end_s": 5.5, "text": "Come here!"}],
     "duets": [[{"role": "user", "time_s": 2.0, "text": "..."},
                {"role": "assistant", "time_s": 7.5, "text": "...", "start_s": 4.0, "end_s": 8.0}]],
     "source": "mine"}

`text` is what is said or written in the video, as subtitles have it. The language model reads it at its time.

`duets` are conversations while the video plays: when a turn comes, and of the assistant's what it is about
(else its own time). A duet without a user is a narration. `"learn": false` keeps a turn from being learned.

`key` may be left out (the video's name serves), and so may all annotations. A folder of videos is read as a
record each; NAME.json beside a video holds its annotations.

A record with `"meta": {"split": [12.0, 62.5]}` is of that part of its video only, as VTimeLLM cuts its clips:
all its times (events, `duration_s`, and `meta["token"]`, the seconds that symbols in dialogues stand for)
begin at 0 of the part. Its key, if left out, is the video's name with the part's seconds, so that several
parts of a video and the whole can be in one file.

Events may overlap. Reading warns of those once, and `shards make` writes their number into the sample's
`meta["overlapping"]`.
"""

import hashlib
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import VIDEO_SUFFIXES
from ..events.subtitles import SUFFIXES
from ..files import parse_json
from ..types import HALF, Event

if TYPE_CHECKING:
    from .shards.remote import Place

T = TypeVar("T")
ROLES = ("user", "assistant")
SLACK_S = 1.0  # annotations may pass the end by so much: annotators round


@dataclass(frozen=True)
class Turn:
    """What the user or the assistant says."""

    role: str
    text: str


@dataclass(frozen=True)
class TimedTurn(Turn):
    """What is said at time_s, about start_s to end_s; whether it is learned."""

    time_s: float
    start_s: float
    end_s: float
    learn: bool = True


@dataclass(frozen=True)
class Record:
    """A video and its annotations.

    Attributes:
        key: its name in shards; letters, digits, `_` and `-`.
        video: its path or URL.
        duration_s: its length where it is known.
        events: in order of their start.
        dialogues: each a list of turns, the user's first.
        duets: each a list of turns with their times, in order.
        captions: of the whole video.
        text: what is said or written at a time, by start; it is read, not learned.
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
    text: tuple[Event, ...] = ()
    duets: tuple[tuple[TimedTurn, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object of the shape above."""
        optional = ("faults", "text", "duets")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}

    @property
    def part(self) -> tuple[float, float] | None:
        """The part of the video that it is of; None: the whole. ValueError: `split` is none."""
        split = self.meta.get("split")
        return part_of(split) if split else None


def slug(name: str) -> str:
    """A key from a name: all but Latin letters, digits, `_` and `-` becomes `_` (a dot ends a key in a tar).

    A name in another script gets a hash too, so that two of them never fall on one key.
    """
    name = unicodedata.normalize("NFC", name)
    key = re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_")
    if any(sign.isalnum() and not sign.isascii() for sign in name):
        digest = hashlib.sha256(name.encode("utf8", "replace")).hexdigest()[:8]
        key = f"{key}_{digest}" if key else digest
    if not key:
        raise ValueError(f"key must have a letter or a digit, got {name!r}")
    return key


def part_of(split: Any) -> tuple[float, float]:
    """(start_s, end_s) of a `split`; a ValueError if it is none."""
    try:
        start_s, end_s = map(float, split)
    except (TypeError, ValueError, OverflowError):
        start_s = end_s = math.nan
    if not 0 <= start_s < end_s < math.inf:
        raise ValueError(f"split must be [start_s, end_s] with 0 <= start_s < end_s, got {split!r}")
    return start_s, end_s


def part_key(video: str, part: tuple[float, float] | None) -> str:
    """The key of a video by its name, or of a part of it."""
    stamps = [f"{seconds:.3f}".rstrip("0").rstrip(".").replace(".", "p") for seconds in part or ()]
    return "_".join([slug(video), *stamps])


def read_records(source: "str | Place") -> list[Record]:
    """The records of a folder of videos or a JSONL file, here or in a bucket, by key.

    Raises:
        ValueError: for a line that is no record, with its number; two records of one key; nothing at all.
        FileNotFoundError: there is no such file or folder.
    """
    source = Path(source) if isinstance(source, str) else source
    if (names := _names_in(source)) is not None:
        videos = sorted(name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES)
        records = [_of_video(source, name, names) for name in videos]
        annotations = {Path(name).stem + suffix for name in videos for suffix in (".json", *SUFFIXES)}
        if others := sorted(names - annotations.union(videos)):
            warnings.warn(
                f"{source}: no videos: {', '.join(others[:9])} ({len(others)} in all)", stacklevel=2
            )
    elif source.is_file():
        records = list(_of_lines(source))
    else:
        raise FileNotFoundError(f"no folder of videos and no JSONL file {source}")
    if not records:
        raise ValueError(f"{source}: no video in it; videos end in {' '.join(sorted(VIDEO_SUFFIXES))}")
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


def _names_in(source: "Place") -> set[str] | None:
    """Names of the files of a folder; None for what is none. A URL that ends like a list is none."""
    if not isinstance(source, Path):
        names = None if str(source).lower().endswith((".jsonl", ".json")) else [*source.sizes()]
    else:
        names = [path.name for path in source.iterdir() if path.is_file()] if source.is_dir() else None
    return None if names is None else {name for name in names if name[0] != "."}


def parse_record(value: Any, folder: "Place", where: str) -> Record:
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
        meta = dict(value.get("meta") or {})
        if not isinstance(meta.get("token") or {}, dict):
            raise ValueError(
                f"meta.token must be an object of symbols and seconds, got {str(meta['token'])[:60]}"
            )
        part = part_of(meta["split"]) if meta.get("split") else None
        key = slug(str(value["key"])) if value.get("key") else part_key(Path(value["video"]).stem, part)
        length = None if duration_s is None else _Reader(value, "").number("duration_s")
        # annotations that can't be read are faults of this record alone
        lines = [str(fault) for fault in _list(value.get("faults"), "faults")]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error

    def each(name: str, parse: Callable[[Any, str], T]) -> list[T]:
        out = []
        try:
            for i, item in enumerate(_list(value.get(name), name)):
                out.append(parse(item, f"{name}[{i}]"))
        except ValueError as error:
            lines.append(f"{where}: {error}")
        return out

    events, unordered = events_of(each("events", _annotation))
    cues, wrong = events_of(each("text", _annotation), "text")
    dialogues, captions = tuple(each("dialogues", _dialogue)), tuple(each("captions", _text))
    duets = tuple(each("duets", _duet))
    source = str(value.get("source") or "")
    return Record(
        key, video, length, events, dialogues, captions, source, meta, (*lines, *unordered, *wrong), cues,
        duets,
    )  # fmt: skip


def events_of(
    annotations: Iterable[tuple[Any, Any, Any]], name: str = "events"
) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """(events of (start_s, end_s, text) by start and end, a line for each that ends before it starts)."""
    events, lines = [], []
    for i, (start, end, text) in enumerate(annotations):
        start_s, end_s = float(start), float(end)
        if end_s >= start_s:
            events.append(Event(start_s, end_s, str(text)))
        else:
            lines.append(f"{name}[{i}] {start_s:g} to {end_s:g} s ends before it starts")
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
    timed = [(f"events[{i}]", event) for i, event in enumerate(record.events)]
    timed += [(f"text[{i}]", event) for i, event in enumerate(record.text)]
    for name, event in timed:
        where = f"{name} {event.start_s:g} to {event.end_s:g} s"
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
        lines += [f"dialogues[{i}]: {fault}" for fault in _symbol_faults(record, dialogue, end_s)]
    for i, duet in enumerate(record.duets):
        times = [turn.time_s for turn in duet]
        if times != sorted(times) or any(turn.end_s < turn.start_s for turn in duet):
            lines.append(
                f"duets[{i}] must be turns in the order of their times, each about a start and an end"
            )
        if any(not turn.text.strip() for turn in duet):
            lines.append(f"duets[{i}] has a turn without text")
        if times and (times[0] < 0 or (end_s is not None and times[-1] > end_s + SLACK_S)):
            lines.append(f"duets[{i}] has a turn outside the video")
    lines += [f"captions[{i}] has no text" for i, text in enumerate(record.captions) if not text.strip()]
    return lines


def _symbol_faults(record: Record, dialogue: Sequence[Turn], end_s: float | None) -> list[str]:
    """Symbols of times, as <s0>, that stand for none, or for one outside the video."""
    times = record.meta.get("token") or {}
    lines = []
    for symbol in dict.fromkeys(s for turn in dialogue for s in re.findall(r"<[se]\d+>", turn.text)):
        got = times.get(symbol)
        if not isinstance(got, int | float) or not math.isfinite(got):
            lines.append(f"{symbol} stands for no time")
        elif got < 0 or (end_s is not None and got > end_s + SLACK_S):
            lines.append(f"{symbol} stands for {got:g} s, which is outside the video")
    return lines


def num_overlapping(events: Sequence[Event]) -> int:
    """Events that begin before one that came earlier has ended."""
    until, num = float("-inf"), 0
    for event in events:
        num += event.start_s < until
        until = max(until, event.end_s)
    return num


def _annotation(value: Any, where: str) -> tuple[float, float, str]:
    """(start_s, end_s, text) of an event."""
    event = _Reader(value, where)
    return event.number("start_s"), event.number("end_s"), event.text()


def _dialogue(value: Any, where: str) -> tuple[Turn, ...]:
    return tuple(Turn(turn.role(), turn.text()) for turn in _turns(value, where))


def _duet(value: Any, where: str) -> tuple[TimedTurn, ...]:
    def timed(turn: _Reader) -> TimedTurn:
        time_s = turn.number("time_s")
        start_s, end_s = (turn.number(n) if n in turn.value else time_s for n in ("start_s", "end_s"))
        return TimedTurn(turn.role(), turn.text(), time_s, start_s, end_s, turn.flag("learn", True))

    return tuple(map(timed, _turns(value, where)))


def _turns(value: Any, where: str) -> list["_Reader"]:
    return [_Reader(turn, f"{where}[{i}]") for i, turn in enumerate(_list(value, where))]


@dataclass(frozen=True)
class _Reader:
    """The fields of an annotation, checked: nothing is ever learned as "None" or "nan"."""

    value: Any
    where: str

    def field(self, name: str) -> Any:
        """A field that must be there."""
        if not isinstance(self.value, dict) or name not in self.value:
            raise ValueError(f"{self.where} must be an object with {name!r}, got {str(self.value)[:60]}")
        return self.value[name]

    def number(self, name: str) -> float:
        """A finite number, or the text of one."""
        got = self.field(name)
        try:
            number = math.nan if isinstance(got, bool) else float(got)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{self.where} {name} must be a number of seconds, got {got!r}".strip())
        return number

    def flag(self, name: str, default: bool) -> bool:
        """true or false; a text such as "false" is neither."""
        got = self.value.get(name, default)
        if not isinstance(got, bool):
            raise ValueError(f"{self.where} {name} must be true or false, got {got!r}".strip())
        return got

    def role(self) -> str:
        """Who speaks."""
        role: str = self.field("role")
        if role not in ROLES:
            raise ValueError(f"{self.where} role must be one of {ROLES}, got {role!r}")
        return role

    def text(self) -> str:
        """The text."""
        return _text(self.field("text"), f"{self.where} text")


def _list(value: Any, where: str) -> list[Any]:
    """The items of a list; none where there is no list."""
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError(f"{where} must be a list, got {str(value)[:60]!r}")
    return list(value or ())


def _text(value: Any, where: str) -> str:
    """A text without the halves of a cut emoji, which no tokenizer takes."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, got {value!r}")
    if HALF.search(value):
        raise ValueError(f"{where} has half of a sign (a lone surrogate), got {value[:60]!r}")
    return value


def read_text(path: "Place") -> str:
    """The text of a UTF-8 file, with or without a byte order mark; ValueError for another encoding."""
    try:
        return re.sub(r"\r\n?", "\n", path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        at = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{path} must be UTF-8, got {at}; save it as UTF-8") from error


def _of_video(folder: "Place", name: str, names: Collection[str]) -> Record:
    stem = Path(name).stem
    annotations = folder / f"{stem}.json"
    is_there = f"{stem}.json" in names
    value = parse_json(annotations.read_bytes(), str(annotations)) if is_there else {}
    if isinstance(value, dict):
        value = {"key": stem} | value | {"video": name}
    return parse_record(value, folder, str(annotations))


def _of_lines(path: "Place") -> Iterator[Record]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield parse_record(parse_json(line, where), path.parent, where)
