"""Annotations as other projects publish them, as records: `longcompress shards convert`.

| shape | of | JSON |
|---|---|---|
| events | LongVALE, ActivityNet Captions | {id: {duration, timestamps: [[s, e]], sentences: [text]}} |
| dialogues | VTimeLLM, LongVALE | [{id, conversations: [{from, value}], meta: {duration, split, token}}] |
| qa | VideoInstruct (Video-ChatGPT, LongVLM) | [{video_id, q, a}] |
| llava | LLaVA-Video, lmms-style lists | [{id, video, conversations: [{from, value}]}] |
| mmduet-caption | MMDuetIT | {video_uid: {annotation_uid: [{text, time, timespan}]}} |
| mmduet-magqa | MMDuetIT | [{video_uid, conversation: [{role, time, content, timespan}]}] |
| mmduet-grounding | MMDuetIT | [{video_uid, query, timestamps: [[s, e]]}] |

A llava list is JSON, JSON lines, or YAML that names lists: `datasets: [{json_path, sampling_strategy}]`. Its
`video` is a path in the folder of videos; entries about images or without a video are left out.

MMDuet's times of speaking become `duets` of a record (`records.py`), with all questions of a conversation.

Times that a dialogue names by symbols stay symbols; `meta["token"]` of the record holds their seconds: they
can be written as seconds or as hundredths when read. Several entries of one video become one
record, but for cut-outs (`split`), which are videos of their own: their times are given from the start of
the cut and stay so (`records.py`).
"""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml

from ...config import VIDEO_SUFFIXES
from ...files import parse_json, replacing
from ..records import Record, TimedTurn, Turn, events_of, part_key, part_of, read_text, sorted_events

Shape = Literal["events", "dialogues", "qa", "llava", "mmduet-caption", "mmduet-magqa", "mmduet-grounding"]
SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant"}
FEATURES = (".npy", ".pkl")  # of other projects, for `imports.features`
PLACEHOLDERS = ("<video>\n", "\n<video>", "<video>", "<image>\n", "<image>")


def convert(source: str | Path, shape: Shape, videos: str | Path) -> tuple[list[Record], list[str]]:
    """(records by key, names of videos that are annotated but missing) of a JSON file of a shape above.

    In the folder `videos` lie the videos, as ID.mp4 or with another ending, or features of them, as ID.npy or
    ID.pkl. A ValueError says which entry is of another shape.
    """
    source, videos = Path(source), Path(videos)
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    if not videos.is_dir():
        raise FileNotFoundError(f"no folder of videos {videos}")
    if not source.is_file():
        raise FileNotFoundError(f"no file {source}")
    content = llava_list(source) if shape == "llava" else parse_json(source.read_bytes(), str(source))
    files = videos.rglob("*") if shape == "llava" else videos.iterdir()
    paths = sorted(files, reverse=True)  # of one name the first counts, a video before features
    kinds = (FEATURES, VIDEO_SUFFIXES)
    paths_of = {
        str(p.relative_to(videos).with_suffix("")): str(p)
        for ends in kinds
        for p in paths
        if p.suffix.lower() in ends
    }
    merged: dict[str, Record] = {}
    missing = set()
    for where, video, part in _entries(content, shape, source):
        if video not in paths_of:
            missing.add(video)
            continue
        key = part_key(video, part.get("meta", {}).get("split"))
        record = Record(key, paths_of[video], source=shape, **part)
        before = merged.get(key)
        if before is not None and before.video != record.video:
            raise ValueError(f"{where}: {record.video} and {before.video} have one key, {key!r}; rename one")
        merged[key] = record if before is None else _joined(before, record, where)
    return sorted(merged.values(), key=lambda r: r.key), sorted(missing)


def save_records(records: list[Record], path: str | Path) -> None:
    """Write records as JSON lines, videos relative to the file where they lie below its folder."""
    path = Path(path)
    folder = path.parent.resolve()
    with replacing(path) as part, part.open("w", encoding="utf8") as file:
        for record in records:
            value, video = record.to_json(), Path(record.video).resolve()
            if video.is_relative_to(folder):
                value["video"] = str(video.relative_to(folder))
            file.write(json.dumps(value, sort_keys=True) + "\n")


def _entries(content: Any, shape: Shape, source: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where, video, fields of a record) of each entry."""
    is_object = shape in ("events", "mmduet-caption")
    if not isinstance(content, dict if is_object else list):
        raise ValueError(f"{source}: shape {shape!r} is a JSON {'object' if is_object else 'list'}")
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for name, entry in items:
        where = f"{source}, entry {name!r}"
        try:
            video, part = SHAPES[shape](str(name), entry)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"{where} is not of shape {shape!r}: {error!r}") from error
        yield where, video, part


def _of_events(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    pairs = zip(entry["timestamps"], entry["sentences"], strict=True)
    fields = _events_fields((*times, text) for times, text in pairs)
    return name, {"duration_s": float(entry["duration"])} | fields


def _of_dialogues(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    meta = entry.get("meta") or {}
    turns = tuple(Turn(SPEAKERS[t["from"]], _clean(t["value"])) for t in entry["conversations"])
    fields: dict[str, Any] = {}
    if meta.get("token"):
        turns, fields["token"] = _renamed(turns, {str(k): float(v) for k, v in meta["token"].items()}, 0)
    if meta.get("split"):
        fields["split"] = list(part_of(meta["split"]))
    duration_s = None if meta.get("duration") is None else float(meta["duration"])
    return str(entry["id"]), {"duration_s": duration_s, "dialogues": (turns,), "meta": fields}


def _of_qa(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    turns = (Turn("user", _clean(entry["q"])), Turn("assistant", entry["a"]))
    return str(entry["video_id"]), {"dialogues": (turns,)}


def llava_list(source: Path) -> list[Any]:
    """The entries about videos of a llava list (see above).

    Raises:
        ValueError: a file is no such list, or a strategy is none.
        FileNotFoundError: YAML names a list that isn't there, from its own folder.
    """
    if source.suffix.lower() not in (".yaml", ".yml"):
        text = read_text(source)
        lines = [line for line in text.split("\n") if line.strip()] if source.suffix == ".jsonl" else []
        entries = [parse_json(line, str(source)) for line in lines] or parse_json(text, str(source))
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{source}: shape 'llava' is a JSON list of objects, JSON lines, or YAML of those"
            )
        videos = [entry for entry in entries if entry.get("video") or "conversations" not in entry]
        if num := len(entries) - len(videos):
            warnings.warn(f"{source}: {num} entries without a video are left out", stacklevel=2)
        return videos
    try:
        rows = [(str(row["json_path"]), row) for row in yaml.safe_load(read_text(source))["datasets"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is no YAML with datasets: [{{json_path: FILE}}]: {error}") from error
    out: list[Any] = []
    for name, row in rows:
        path, strategy = source.parent / name, str(row.get("sampling_strategy", "all"))
        if not path.is_file():
            raise FileNotFoundError(f"{source}: json_path: no file {path}")
        match = re.fullmatch(r"(all)|(first|end|random):(\d+)(%?)", strategy)
        if match is None:
            need = "must be all, or first, end or random with a number, as random:10%"
            raise ValueError(f"{source}: sampling_strategy {need}, got {strategy!r}")
        entries = llava_list(path)
        if match[2] == "random":
            np.random.default_rng(0).shuffle(entries)
        if match[2]:
            num = -(-int(match[3]) * len(entries) // 100) if match[4] else int(match[3])
            entries = entries[max(len(entries) - num, 0) :] if match[2] == "end" else entries[:num]
        out += entries
    return out


def _of_llava(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    turns = tuple(Turn(SPEAKERS[t["from"]], _clean(t["value"])) for t in entry["conversations"])
    return str(PurePosixPath(entry["video"]).with_suffix("")), {"dialogues": (turns,)}


def _of_mmduet_caption(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Narrations, each annotator's a duet of its own."""
    duets = tuple(tuple(_timed(t | {"role": "assistant"}) for t in each) for each in entry.values())
    return Path(name).stem, {"duets": duets} | _events_of_duets(duets)


def _of_mmduet_magqa(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Questions with several answers, each in its time: a duet, and a dialogue of each question."""
    duet = tuple(_timed(turn | {"text": turn["content"]}) for turn in entry["conversation"])
    if not duet or duet[0].role != "user":
        raise ValueError("a conversation begins with a user's question")
    starts = [i for i, turn in enumerate(duet) if turn.role == "user"]
    dialogues = tuple(
        (Turn("user", duet[a].text), Turn("assistant", " ".join(turn.text for turn in duet[a + 1 : b])))
        for a, b in zip(starts, [*starts[1:], None], strict=True)
        if len(duet[a:b]) > 1
    )
    fields = {"dialogues": dialogues, "duets": (duet,)} | _events_of_duets([duet])
    return Path(str(entry["video_uid"])).stem, fields


def _timed(turn: Mapping[str, Any]) -> TimedTurn:
    """A turn of MMDuetIT: {role, text, time, timespan?, learn?}."""
    if turn["role"] not in SPEAKERS:
        raise ValueError(f"role must be one of {', '.join(SPEAKERS)}, got {turn['role']!r}")
    start_s, end_s = map(float, turn.get("timespan") or (turn["time"],) * 2)
    text, learn = str(turn["text"]).strip(), bool(turn.get("learn", True))
    return TimedTurn(SPEAKERS[turn["role"]], text, float(turn["time"]), start_s, end_s, learn)


def _events_of_duets(duets: Iterable[Iterable[TimedTurn]]) -> dict[str, Any]:
    turns = [
        turn for duet in duets for turn in duet if turn.role == "assistant" and turn.end_s > turn.start_s
    ]
    return _events_fields((turn.start_s, turn.end_s, turn.text) for turn in turns)


def _of_mmduet_grounding(name: str, entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    events = _events_fields((*times, entry["query"]) for times in entry["timestamps"])
    return Path(str(entry["video_uid"])).stem, events


def _events_fields(annotations: Iterable[tuple[Any, Any, Any]]) -> dict[str, Any]:
    events, faults = events_of((start, end, str(text).strip()) for start, end, text in annotations)
    return {"events": events, "faults": faults}


SHAPES: dict[str, Callable[[str, Any], tuple[str, dict[str, Any]]]] = {
    "events": _of_events,
    "dialogues": _of_dialogues,
    "qa": _of_qa,
    "llava": _of_llava,
    "mmduet-caption": _of_mmduet_caption,
    "mmduet-magqa": _of_mmduet_magqa,
    "mmduet-grounding": _of_mmduet_grounding,
}


def _joined(before: Record, more: Record, where: str) -> Record:
    """Two records of one video as one; symbols of times are numbered on."""
    lengths = {r.duration_s for r in (before, more) if r.duration_s is not None}
    if len(lengths) > 1 and max(lengths) - min(lengths) > 1.0:
        other = f"{before.duration_s} s before"
        raise ValueError(f"{where}: {more.key!r} lasts {more.duration_s} s here and {other}")
    token = dict(before.meta.get("token", {}))
    dialogues = before.dialogues
    for turns in more.dialogues:
        renamed, seconds = _renamed(turns, more.meta.get("token", {}), len(token))
        dialogues, token = (*dialogues, renamed), token | seconds
    meta = before.meta | more.meta | ({"token": token} if token else {})
    return Record(
        before.key, before.video, max(lengths, default=None), sorted_events([*before.events, *more.events]),
        dialogues, before.captions + more.captions, before.source, meta, before.faults + more.faults,
        sorted_events([*before.text, *more.text]), before.duets + more.duets,
    )  # fmt: skip


def _renamed(
    turns: tuple[Turn, ...], token: Mapping[str, float], first: int
) -> tuple[tuple[Turn, ...], dict[str, float]]:
    """The turns with symbols <t0>, <t1>, ... from number `first` on, and their seconds."""
    names = {old: f"<t{first + i}>" for i, old in enumerate(token)}
    symbols = re.compile("|".join(map(re.escape, sorted(token, key=len, reverse=True))) or r"(?!)")
    out = tuple(Turn(turn.role, symbols.sub(lambda m: names[m[0]], turn.text)) for turn in turns)
    return out, {names[old]: seconds for old, seconds in token.items()}


def _clean(text: str) -> str:
    """A turn without the place of the video, which is always before the first."""
    for placeholder in PLACEHOLDERS:
        text = text.replace(placeholder, "")
    return text.strip()
