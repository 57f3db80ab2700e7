"""Videos become shards: a restartable unit of work a video, then a packing that only sorted keys decide."""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from tqdm import tqdm

from ...files import replacing
from ...media import reader as media
from ...model import LongCompress
from ...session import compressed
from ..data.records import SLACK_S, Record, complaints, overlapping
from .index import Index, load_index, make_index
from .sample import JSON, hold_of, members_of
from .tar import members_in, read_members, sha256_of, write_tar

T = TypeVar("T")
Kind = Literal["features", "media"]
ENDLESS = 1 << 40  # tokens; a shard's hold is never brought below the detail asked for
PARTS = "parts"
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Made:
    """What became of a video.

    Attributes:
        key: of its record.
        status: "made", "there" (it had been made before) or "failed".
        reason: why it failed.
    """

    key: str
    status: Literal["made", "there", "failed"]
    reason: str = ""


def make(
    records: Sequence[Record],
    out: str | Path,
    model: LongCompress | None,
    *,
    kind: Kind = "features",
    share: tuple[int, int] = (0, 1),
    on_error: Literal["quarantine", "stop"] = "quarantine",
    progress: bool = True,
) -> list[Made]:
    """Make the parts of some videos; those that are there already are left alone.

    Args:
        records: of all videos.
        out: folder; parts lie in its folder `parts`.
        model: whose encoders and merging make features; not needed for media.
        kind: "features", or "media" for the files' own bytes.
        share: (i, N): every N-th record by key from the i-th on, for arrays of jobs.
        on_error: "quarantine" notes a video that can't be used and goes on; "stop" raises.
        progress: show a bar.

    Raises:
        ValueError: share is none, there is no model for features, or somebody else makes the same share here.
    """
    if kind == "features" and model is None:
        raise ValueError("kind 'features' needs a model")

    def part(record: Record, folder: Path) -> Made:
        return make_part(record, folder, model, kind)

    return each(records, out, part, share=share, on_error=on_error, progress=progress)


def each(
    records: Sequence[Record],
    out: str | Path,
    part: Callable[[Record, Path], Made],
    *,
    share: tuple[int, int] = (0, 1),
    on_error: Literal["quarantine", "stop"] = "quarantine",
    progress: bool = True,
) -> list[Made]:
    """What `part` makes of each record of a share, in the folder `parts` of `out`; see `make`."""
    mine = mine_of(records, share)
    folder = Path(out) / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    done = []
    with alone(folder, share):
        for record in tqdm(mine, desc="videos", unit="video", disable=not progress):
            done.append(part(record, folder))
            if done[-1].status == "failed" and on_error == "stop":
                raise ValueError(f"{record.video}: {done[-1].reason}")
    return done


def mine_of(records: Sequence[Record], share: tuple[int, int]) -> list[Record]:
    """Every N-th record by key from the i-th on, of share (i, N)."""
    number, of = share
    if not 0 <= number < of:
        raise ValueError(f"share must be i/N with 0 <= i < N, got {number}/{of}")
    return sorted(records, key=lambda r: r.key)[number::of]


def make_part(record: Record, folder: Path, model: LongCompress | None, kind: Kind) -> Made:
    """The unit of work: a video to folder/KEY.tar, whole or not at all; or the reason to KEY.failed.json."""
    path = folder / f"{record.key}.tar"

    def read() -> dict[str, bytes]:
        return _features(record, model) if kind == "features" and model else _media(record)

    return attempt(record, folder, path, read, lambda members: write_tar(path, [(record.key, members)]))


def attempt(
    record: Record, folder: Path, path: Path, read: Callable[[], T], write: Callable[[T], object]
) -> Made:
    """What is read of a video, written; unless `path`, which writing ends with, is there. What can't be read
    has its reason in KEY.failed.json."""
    failed = folder / f"{record.key}.failed.json"
    if path.is_file():
        return Made(record.key, "there")
    try:
        found = read()
    except (OSError, ValueError) as error:
        with replacing(failed) as part:
            part.write_text(
                json.dumps({"key": record.key, "video": record.video, "reason": str(error)}) + "\n"
            )
        return Made(record.key, "failed", str(error))
    write(found)
    failed.unlink(missing_ok=True)
    return Made(record.key, "made")


@contextlib.contextmanager
def alone(folder: Path, share: tuple[int, int]) -> Iterator[None]:
    """ValueError if another process makes this share; let go when a process ends, however it ends."""
    with open(folder / f".lock-{share[0]}-of-{share[1]}", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"{folder}: another process makes this share here; wait for it, or give --shard i/N"
            ) from None
        yield


def pack(
    out: str | Path, records: Sequence[Record], *, shard_bytes: int = 1 << 30, progress: bool = True
) -> Index:
    """Pack the parts of all records into shards and index them; a pure function of the parts.

    Args:
        out: folder of the parts; shards and the index come beside them.
        records: all of them: each must have been made or have failed.
        shard_bytes: a shard is closed before a sample that would take it above this.
        progress: show a bar.

    Raises:
        ValueError: a record was neither made nor failed, or none was made.
    """
    out = Path(out)
    keys = sorted(record.key for record in records)
    failed = [k for k in keys if (out / PARTS / f"{k}.failed.json").is_file()]
    made = [k for k in keys if (out / PARTS / f"{k}.tar").is_file()]
    missing = sorted(set(keys) - set(made) - set(failed))
    if missing:
        raise ValueError(
            f"{out}: {len(missing)} of {len(keys)} videos aren't made yet, such as {missing[0]!r}; run on"
        )
    if not made:
        raise ValueError(f"{out}: none of {len(keys)} videos could be used; {MANIFEST} says why")
    parts = [out / PARTS / f"{key}.tar" for key in made]

    def sample(i: int) -> tuple[str, dict[str, bytes]]:
        with open(parts[i], "rb") as file:
            ((key, members),) = members_in(file, str(parts[i])).items()
            return key, read_members(file, members)

    written = _write_shards(out, [part.stat().st_size for part in parts], sample, shard_bytes, progress)
    for old in out.glob("shard-*.tar"):  # of an earlier packing with more of them
        if old.name not in written:
            old.unlink()
    _write_manifest(out, made, failed)
    return make_index(out, progress=progress)


def repack(source: str | Path, out: str | Path, *, shard_bytes: int, progress: bool = True) -> Index:
    """The samples of indexed shards in shards of another size, by key."""
    index, out = load_index(source), Path(out)
    if isinstance(index.folder, Path) and out.resolve() == index.folder.resolve():
        raise ValueError(f"out must be another folder than {source}")
    out.mkdir(parents=True, exist_ok=True)
    numbers = sorted(range(len(index)), key=lambda i: index.entries[i].key)
    sizes = [sum(m.num_bytes for m in index.entries[i].members.values()) for i in numbers]

    def sample(i: int) -> tuple[str, dict[str, bytes]]:
        return index.entries[numbers[i]].key, index.read(numbers[i])

    _write_shards(out, sizes, sample, shard_bytes, progress)
    return make_index(out, progress=progress)


def verify(folder: str | Path, *, progress: bool = True) -> list[str]:
    """What is wrong with indexed shards, each in a line: hashes, members, features that don't read."""
    index, found = load_index(folder), []
    if not isinstance(index.folder, Path):
        raise ValueError(
            f"verify reads a folder, got {folder}; a cache checks shards of a URL on fetching them"
        )
    for number, shard in enumerate(tqdm(index.shards, desc="verify", unit="shard", disable=not progress)):
        path = index.folder / shard.name
        if not path.is_file():
            found.append(f"{path} is missing")
            continue
        with open(path, "rb") as file:
            if sha256_of(path) != shard.sha256:
                found.append(f"{path} was altered: its hash is not the index's")
            try:
                there = members_in(file, str(path))
            except ValueError as error:
                found.append(str(error))
                continue
        for i, entry in enumerate(index.entries):
            if entry.shard != number:
                continue
            if there.get(entry.key) != entry.members:
                found.append(f"{path}: sample {entry.key!r} is not where the index says")
            elif entry.tokens:
                try:
                    hold_of(index.read(i), f"{path}: sample {entry.key!r}")
                except ValueError as error:
                    found.append(str(error))
    return found


def _features(record: Record, model: LongCompress) -> dict[str, bytes]:
    """A video, or the part of it that its record is of: the file is then read from its beginning on and what
    lies before dropped, so every part of a long video costs its reading up to there."""
    session, name = compressed(model, record.video, ENDLESS, part=record.part, progress=False)
    seen = session.stats()
    if not seen["raw_tokens"]:
        raise ValueError(f"{name} gave neither a frame nor a sample that could be read")
    duration_s = _length_of(record, seen["seen_s"])
    record = _with_overlaps(replace(record, duration_s=duration_s))
    if wrong := complaints(record):
        raise ValueError("; ".join(wrong))
    told = record.to_json() | {"video": _source(record.video)}
    return members_of(session.held(), model, told, duration_s)


def _length_of(record: Record, seen_s: float) -> float:
    """Seconds of what was compressed.

    Raises:
        ValueError: the record is of a part that goes on after the video's end.
    """
    if record.part is None:
        return seen_s
    start_s, end_s = record.part
    if start_s + seen_s < end_s - SLACK_S:
        raise ValueError(
            f"{record.video}: its part from {start_s:g} to {end_s:g} s goes on after its end at about "
            f"{start_s + seen_s:.1f} s"
        )
    return min(seen_s, end_s - start_s)


def _with_overlaps(record: Record) -> Record:
    """The record with the number of its overlapping events, if there are any."""
    num = overlapping(record.events)
    return replace(record, meta=record.meta | {"overlapping": num}) if num else record


def _media(record: Record) -> dict[str, bytes]:
    if record.part:
        raise ValueError(
            f"{record.video}: the record is of its part {list(record.part)} only, whose bytes can't be had "
            "without encoding it anew; make features, or cut it out and name that file"
        )
    info = media.probe(record.video)
    if not (info.has_video or info.has_audio):
        raise ValueError(f"{record.video}: there is no frame and no audio track in it that can be decoded")
    record = _with_overlaps(replace(record, duration_s=info.duration_s or record.duration_s))
    if wrong := complaints(record):
        raise ValueError("; ".join(wrong))
    path = Path(record.video)
    told = record.to_json() | {"video": _source(record.video)}
    suffix = path.suffix.lower().lstrip(".") or "bin"
    return {JSON: json.dumps(told, sort_keys=True).encode(), suffix: path.read_bytes()}


def _source(video: str) -> dict[str, object]:
    """Base name, size and hash: no path of a machine goes into a shard."""
    path = Path(video)
    if not path.is_file():
        return {"name": video.rsplit("/", 1)[-1]}
    return {"name": path.name, "num_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_shards(
    out: Path, sizes: Sequence[int], sample: Callable[[int], tuple[str, dict[str, bytes]]], most: int,
    progress: bool,
) -> set[str]:  # fmt: skip
    """Write samples (key, members) 0, 1, ... of these sizes to shards; their names."""
    chunks = {f"shard-{number:06d}.tar": chunk for number, chunk in enumerate(_chunks(sizes, most))}
    for name, chunk in tqdm(chunks.items(), desc="shards", unit="shard", disable=not progress):
        write_tar(out / name, (sample(i) for i in chunk))
    return set(chunks)


def _chunks(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of neighbours whose sizes come to at most `most`; one alone may pass it."""
    chunk: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if chunk and total + size > most:
            yield chunk
            chunk, total = [], 0
        chunk.append(i)
        total += size
    if chunk:
        yield chunk


def _write_manifest(out: Path, made: Sequence[str], failed: Sequence[str]) -> None:
    """A line a video, by key: made, or failed and why."""
    lines = [{"key": key, "status": "made"} for key in made]
    for key in failed:
        lines.append(json.loads((out / PARTS / f"{key}.failed.json").read_text()) | {"status": "failed"})
    lines.sort(key=lambda line: line["key"])
    with replacing(out / MANIFEST) as part:
        part.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
