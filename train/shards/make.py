"""Videos become shards: a restartable unit of work a video, then a packing that only sorted keys decide."""

import contextlib
import fcntl
import io
import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from ...checkpoints.files import chunked
from ...files import replacing, sweep
from ...media import reader as media
from ...model import LongCompress
from ...videos import read_session, source_info
from ..records import SLACK_S, Record, checked
from .index import INDEX, Index, index_of, load_index
from .remote import Place, Remote, ends_work, fetched, place_of, placing, sizes_in
from .sample import JSON, members_of, read_sample
from .tar import members_in, read_members, sha256_of, write_tar

T = TypeVar("T")
Parts = Generator["Result", None, None]
Kind = Literal["features", "media"]
ENDLESS = 1 << 40  # tokens; a shard keeps all `tokens_per_segment`, no budget reduces them
PARTS = "parts"
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Result:
    """The result of making one video's part."""

    key: str  # of its record
    status: Literal["made", "exists", "failed"]  # "exists": it had been made before
    reason: str = ""  # of the failure


def make(
    records: Sequence[Record], out: str | Place, model: LongCompress | None, *, kind: Kind = "features",
    protocols: Sequence[str] = ("file",), **options: Any,
) -> list[Result]:  # fmt: skip
    """Make the parts of some videos; parts that exist are left alone.

    Args:
        records: of all videos.
        out: folder, or a URL of a bucket (s3://); parts lie below it in `parts`.
        model: makes the features; not needed for media.
        kind: "features", or "media" for the files' own bytes.
        protocols: where videos may come from: "file", "s3", "hf".
        options: of `make_share`.

    Raises:
        ValueError: share is none, there is no model for features, or another process makes the same share.
        OSError: the disk is full, or a store is down; what was made stays.
    """
    if kind == "features" and model is None:
        raise ValueError("kind 'features' needs a model")
    part = partial(make_part, model=model, kind=kind, protocols=protocols)
    return make_share(records, out, each(part), **options)


def each(part: Callable[[Record, Any], Result]) -> Callable[[Sequence[Record], Any], Parts]:
    """`parts` for `make_share` of what makes one."""
    return lambda records, folder: (part(record, folder) for record in records)


def make_share(
    records: Sequence[Record], out: str | Place, parts: Callable[[Sequence[Record], Any], Parts],
    *, share: tuple[int, int] = (0, 1), on_error: Literal["quarantine", "stop"] = "quarantine",
    progress: bool = True,
) -> list[Result]:  # fmt: skip
    """The results, by key, of `parts`, called with the records of a share and the folder `parts` of `out`.

    Args:
        records, out: as for `make`.
        parts: makes them.
        share: (i, N): every N-th record by key from the i-th on, for arrays of jobs.
        on_error: "quarantine" notes a video that can't be used and goes on; "stop" raises.
        progress: show a bar.
    """
    number, of = share
    if not 0 <= number < of:
        raise ValueError(f"share must be i/N with 0 <= i < N, got {number}/{of}")
    own = sorted(records, key=lambda r: r.key)[number::of]
    videos = {record.key: record.video for record in own}
    folder = place_of(out) / PARTS
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    if not own:
        return results
    with share_lock(folder, share), contextlib.closing(parts(own, folder)) as arriving:
        for result in tqdm(arriving, desc="videos", unit="video", total=len(own), disable=not progress):
            results.append(result)
            if result.status == "failed" and on_error == "stop":
                raise ValueError(f"{videos[result.key]}: {result.reason}")
    if isinstance(folder, Path):
        sweep(folder)  # of workers that were killed meanwhile
    return sorted(results, key=lambda result: result.key)


def make_part(
    record: Record, folder: Place, model: LongCompress | None, kind: Kind,
    protocols: Sequence[str] = ("file",),
) -> Result:  # fmt: skip
    """The unit of work: a video to folder/KEY.tar, whole or not at all; or the reason to KEY.failed.json."""

    def read() -> dict[str, bytes]:
        with fetched(record.video, protocols) as video:
            local = replace(record, video=video)
            return _features(local, model) if kind == "features" and model else _media(local)

    return try_sample(record, folder, read)


def try_sample(record: Record, folder: Place, read: Callable[[], dict[str, bytes]]) -> Result:
    """`try_part` of a sample's members, written to folder/KEY.tar."""
    name = f"{record.key}.tar"

    def write(members: dict[str, bytes]) -> None:
        with placing(folder, name) as path:
            write_tar(path, [(record.key, members)], sweeping=False)

    return try_part(record, folder, folder / name, read, write)


def note_failure(record: Record, folder: Place, reason: str) -> Result:
    """The result of a video that can't be used; the reason goes to folder/KEY.failed.json."""
    content = {"key": record.key, "video": record.video, "reason": reason}
    with placing(folder, f"{record.key}.failed.json") as path, replacing(path, sweeping=False) as part:
        part.write_text(json.dumps(content) + "\n")
    return Result(record.key, "failed", reason)


def try_part(
    record: Record, folder: Place, path: Place, read: Callable[[], T], write: Callable[[T], object]
) -> Result:
    """`write` what `read` gives, or the reason to KEY.failed.json, unless `path`, written last, exists."""
    if path.is_file():
        return Result(record.key, "exists")
    try:
        content = read()
    except (OSError, ValueError) as error:
        if ends_work(error):
            raise
        return note_failure(record, folder, str(error))
    write(content)
    (folder / f"{record.key}.failed.json").unlink(missing_ok=True)
    return Result(record.key, "made")


@contextlib.contextmanager
def share_lock(folder: Place, share: tuple[int, int]) -> Iterator[None]:
    """ValueError if another process makes this share; the lock ends with its process, however that ends.

    A store has no locks: two makers do the same work twice, for the same bytes. What is written there shows
    that the store may be written to, before hours of work.
    """
    name = f".lock-{share[0]}-of-{share[1]}"
    if isinstance(folder, Remote):
        with placing(folder, name) as path:
            path.touch()
        yield
        return
    with open(folder / name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            hint = "wait for it, or give --shard i/N"
            raise ValueError(f"{folder}: another process makes this share here; {hint}") from None
        sweep(folder)
        yield


def pack(
    out: str | Place, records: Sequence[Record], *, shard_bytes: int = 1 << 30, progress: bool = True
) -> Index:
    """Pack the parts of all records, which must have been made or have failed, into shards beside them of at
    most `shard_bytes`, or of one sample, and index them; a pure function of the parts."""
    out = place_of(out)
    folder = out / PARTS
    sizes = sizes_in(folder)
    keys = sorted(record.key for record in records)
    failed = [k for k in keys if f"{k}.failed.json" in sizes]
    packed = [k for k in keys if f"{k}.tar" in sizes]
    if missing := sorted(set(keys) - set(packed) - set(failed)):
        such = f"such as {missing[0]!r}; run on"
        raise ValueError(f"{out}: {len(missing)} of {len(keys)} videos aren't made yet, {such}")
    if not packed:
        raise ValueError(
            f"{out}: none of {len(keys)} videos could be used; {PARTS}/{keys[0]}.failed.json says why"
        )

    def sample(i: int) -> tuple[str, dict[str, bytes]]:
        path = folder / f"{packed[i]}.tar"
        with open(path, "rb") if isinstance(path, Path) else io.BytesIO(path.read_bytes()) as file:
            ((key, members),) = members_in(file, str(path)).items()
            return key, read_members(file, members)

    lines = [{"key": key, "status": "made"} for key in packed]
    for key in failed:
        lines.append(json.loads((folder / f"{key}.failed.json").read_bytes()) | {"status": "failed"})
    lines.sort(key=lambda line: line["key"])
    with placing(out, MANIFEST) as path, replacing(path) as part:
        part.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    num_bytes = [sizes[f"{key}.tar"] for key in packed]
    return index_of(out, _write_shards(out, num_bytes, sample, shard_bytes, progress))


def repack(source: str | Path, out: str | Place, *, shard_bytes: int, progress: bool = True) -> Index:
    """The samples of indexed shards in shards of another size, by key."""
    index, out = load_index(source), place_of(out)
    ends = [str(p.resolve() if isinstance(p, Path) else p).rstrip("/") for p in (index.folder, out)]
    if ends[0] == ends[1]:
        raise ValueError(f"out must be another folder than {source}")
    if isinstance(out, Path):
        out.mkdir(parents=True, exist_ok=True)
    numbers = sorted(range(len(index)), key=lambda i: index.entries[i].key)
    sizes = [sum(m.num_bytes for m in index.entries[i].members.values()) for i in numbers]

    def sample(i: int) -> tuple[str, dict[str, bytes]]:
        return index.entries[numbers[i]].key, index.read(numbers[i])

    return index_of(out, _write_shards(out, sizes, sample, shard_bytes, progress))


def verify(folder: str | Path, *, progress: bool = True) -> list[str]:
    """Faults of indexed shards, each in a line: hashes, members, unreadable features."""
    index, lines = load_index(folder), []
    if not isinstance(index.folder, Path):
        hint = "a cache checks shards of a URL on fetching them"
        raise ValueError(f"verify reads a folder, got {folder}; {hint}")
    for number, shard in enumerate(tqdm(index.shards, desc="verify", unit="shard", disable=not progress)):
        path = index.folder / shard.name
        if not path.is_file():
            lines.append(f"{path} is missing")
            continue
        with open(path, "rb") as file:
            if sha256_of(path) != shard.sha256:
                lines.append(f"{path} was altered: its hash is not the index's")
            try:
                members = members_in(file, str(path))
            except ValueError as error:
                lines.append(str(error))
                continue
        for i, entry in enumerate(index.entries):
            if entry.shard != number:
                continue
            if members.get(entry.key) != entry.members:
                lines.append(f"{path}: sample {entry.key!r} is not where the index says")
            elif entry.tokens:
                try:
                    read_sample(index.read(i), f"{path}: sample {entry.key!r}")
                except ValueError as error:
                    lines.append(str(error))
    return lines


def _features(record: Record, model: LongCompress) -> dict[str, bytes]:
    """A video, or the part of it that its record is of: the file is then read from its beginning on and what
    lies before dropped, so every part of a long video costs its reading up to there."""
    session = read_session(model, record.video, budget=ENDLESS, interval=record.part, progress=False)
    duration_s = session.encoder.end_s
    if record.part is not None:
        start_s, end_s = record.part
        if start_s + duration_s < end_s - SLACK_S:
            raise ValueError(
                f"{record.video}: its part from {start_s:g} to {end_s:g} s goes on after its end at about "
                f"{start_s + duration_s:.1f} s"
            )
    content = checked(record, duration_s).to_json() | {"video": source_info(record.video)}
    return members_of(session.state(), model, content, duration_s)


def _media(record: Record) -> dict[str, bytes]:
    if record.part:
        raise ValueError(
            f"{record.video}: the record is of its part {list(record.part)} only, whose bytes can't be had "
            "without encoding it anew; make features, or cut it out and name that file"
        )
    info = media.probe(record.video)
    if not (info.has_video or info.has_audio):
        raise ValueError(f"{record.video}: there is no frame and no audio track in it that can be decoded")
    path = Path(record.video)
    duration_s = info.duration_s or record.duration_s
    content = checked(record, duration_s).to_json() | {"video": source_info(record.video)}
    suffix = path.suffix.lower().lstrip(".") or "bin"
    return {JSON: json.dumps(content, sort_keys=True).encode(), suffix: path.read_bytes()}


def _write_shards(
    out: Place, sizes: Sequence[int], sample: Callable[[int], tuple[str, dict[str, bytes]]], max_bytes: int,
    progress: bool,
) -> Iterator[Path]:  # fmt: skip
    """Write samples 0, 1, ... to shards of at most `max_bytes`, or of one sample; the path on this machine of
    each, which goes into a store when the next is asked for. Shards of an earlier packing are removed."""
    shards = {f"shard-{number:06d}.tar": chunk for number, chunk in enumerate(chunked(sizes, max_bytes))}
    before = _hashes(out)
    for name, chunk in tqdm(shards.items(), desc="shards", unit="shard", disable=not progress):
        with TemporaryDirectory() if isinstance(out, Remote) else contextlib.nullcontext(str(out)) as folder:
            path = Path(folder) / name
            write_tar(path, (sample(i) for i in chunk))
            yield path
            if isinstance(out, Remote) and before.get(name) != sha256_of(path):
                (out / INDEX).unlink(missing_ok=True)  # which would name another shard
                (out / name).put(path)
    for name in sizes_in(out):
        if re.fullmatch(r"shard-\d{6,}\.tar", name) and name not in shards:
            (out / INDEX).unlink(missing_ok=True)
            (out / name).unlink()


def _hashes(out: Place) -> dict[str, str]:
    """Name -> hash of the shards that lie in a store with their index."""
    try:
        return {s.name: s.sha256 for s in load_index(out.url).shards} if isinstance(out, Remote) else {}
    except (FileNotFoundError, ValueError):  # nothing yet, or the index of another version
        return {}
