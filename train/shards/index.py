"""What is in which shard, and the order it is read in: a pure function of a seed, an epoch and a position."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from ...files import parse_json, replacing
from ...types import stream_order
from .remote import Place, Remote, placing
from .sample import JSON, features_of, read_json
from .tar import Member, members_in, read_members, sha256_of

INDEX = "index.json"
FORMAT = 1
SAME = ("identity", "segments", "merge")  # what all samples are made with
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Shard:
    """A tar.

    Attributes:
        name: relative to the index.
        num_bytes: its size.
        sha256: of all its bytes.
    """

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A sample.

    Attributes:
        key: its name.
        shard: number of its tar.
        members: name -> where its bytes lie.
        duration_s: of the video; 0 where it isn't known.
        tokens: stream -> tokens held.
    """

    key: str
    shard: int
    members: dict[str, Member]
    duration_s: float
    tokens: dict[str, int]


@dataclass(frozen=True)
class Index:
    """All samples of a data set.

    Attributes:
        folder: where its shards lie; a `Remote` for a URL.
        shards: tars.
        entries: samples, shard after shard.
        features: what all of them were made with: identity of the encoders and segments; empty for media.
    """

    folder: Place
    shards: tuple[Shard, ...]
    entries: tuple[Entry, ...]
    features: dict[str, Any]

    def __len__(self) -> int:
        return len(self.entries)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """(len,) int64 numbers of samples in the order of an epoch."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def __getitem__(self, number: int) -> dict[str, bytes]:
        return self.read(number)

    def url(self, shard: int) -> str:
        """Path or URL of a shard."""
        name = self.shards[shard].name
        return self.folder.of(name) if isinstance(self.folder, Remote) else str(self.folder / name)

    def open(self, shard: int) -> BinaryIO:
        """A shard, to be read from its first byte to its last. Raises what `Remote` raises, or:

        Raises:
            ValueError: it is longer or shorter than the one that was indexed.
            FileNotFoundError: it is gone.
        """
        if isinstance(self.folder, Remote):
            return self.folder.open(**asdict(self.shards[shard]))
        path, num_bytes = self.folder / self.shards[shard].name, self.shards[shard].num_bytes
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; get it again, or index the folder again")
        if (got := path.stat().st_size) != num_bytes:
            raise ValueError(
                f"{path} has {got} bytes, the shard that was indexed {num_bytes}: it was cut or made anew; "
                "get it again, or index the folder again"
            )
        return open(path, "rb")

    def read(self, number: int) -> dict[str, bytes]:
        """Member name -> bytes of a sample, by ranged reads; what `Remote` raises comes with the shard's URL.

        Raises:
            ValueError: the shard ends before the sample does, or isn't the one that was indexed.
            FileNotFoundError: the shard is gone.
        """
        entry = self.entries[number]
        name = self.url(entry.shard)
        if isinstance(self.folder, Remote):
            content = self.folder.members(entry.members, **asdict(self.shards[entry.shard]))
        else:
            with open(name, "rb") as file:
                content = read_members(file, entry.members)
        for member, data in content.items():
            if len(data) != entry.members[member].num_bytes:
                raise ValueError(f"{name} was cut: sample {entry.key!r} is not whole; get the shard again")
        return content

    def save(self) -> Place:
        """Write it where its shards lie."""
        content = {
            "format": FORMAT, "features": self.features, "shards": [asdict(s) for s in self.shards],
            "samples": [
                vars(e) | {"members": {n: [m.offset, m.num_bytes] for n, m in sorted(e.members.items())}}
                for e in self.entries
            ],
        }  # fmt: skip
        with placing(self.folder, INDEX) as path, replacing(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
        return self.folder / INDEX


def load_index(
    folder: str | Path, cache: str | Path | None = None, *, tries: int = 5, wait_s: float = 0.5
) -> Index:
    """The index in a folder, or below a URL that fsspec reads (http, https, s3, hf, ...).

    Args:
        folder: of shards, or its URL.
        cache: folder on this machine that shards of a URL are kept in, each fetched whole once and checked
            then; None: samples are asked for by their ranges, unchecked. Shards of a folder are never copied.
        tries: how often a read below a URL is tried.
        wait_s: time before the second try; doubled before each further one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is none, or of a newer format.
        OSError: the server failed at every try.
        ImportError: a package that reads such URLs is missing.
    """
    where: Place = Path(folder)
    if "://" in str(folder):
        where = Remote(str(folder), None if cache is None else Path(cache), tries, wait_s)
    path = where.of(INDEX) if isinstance(where, Remote) else where / INDEX
    try:
        text = where.whole(INDEX) if isinstance(where, Remote) else Path(path).read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no index {path}; make one with `longcompress shards index FOLDER`"
        ) from error
    content = parse_json(text, f"{path} is no index of shards: it")
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, this version reads {FORMAT}; make it again with "
            "`longcompress shards index FOLDER`"
        )
    try:
        shards = tuple(_shard(values) for values in content["shards"])
        entries = tuple(_entry(sample, len(shards)) for sample in content["samples"])
        features = dict(content["features"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}; make it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of shards ({error!r}); make it again") from error
    return Index(where, shards, entries, features)


def _shard(values: Any) -> Shard:
    """A shard of a stranger's index: it must lie beside it, and a hash names a file in a cache."""
    shard = Shard(**values)
    pure = PurePosixPath(shard.name)
    if pure.is_absolute() or ".." in pure.parts or re.search(r"[\\:\0]", shard.name):
        raise ValueError(f"shard {shard.name!r} must be a file beside the index")
    if not re.fullmatch(r"[0-9a-f]{64}", shard.sha256) or type(shard.num_bytes) is not int:
        raise ValueError(f"shard {shard.name!r} must have bytes and a sha256, got {shard.sha256!r}")
    return shard


def _entry(sample: Any, num_shards: int) -> Entry:
    """A sample of a stranger's index."""
    entry = Entry(**sample | {"members": {n: Member(*m) for n, m in sample["members"].items()}})
    counts = [entry.shard, *entry.tokens.values()]
    counts += [count for m in entry.members.values() for count in (m.offset, m.num_bytes)]
    is_fine = isinstance(entry.key, str) and all(type(count) is int and count >= 0 for count in counts)
    if not (is_fine and entry.shard < num_shards and 0 <= entry.duration_s < math.inf):
        raise ValueError(f"sample {entry.key!r:.80} has a wrong key, number or length")
    stream_order(entry.tokens)
    return entry


def make_index(folder: str | Path, *, progress: bool = True) -> Index:
    """Read through the tars of a folder and index them; the index is saved there.

    Raises:
        ValueError: there is no tar; one is compressed, cut or holds a pickle; a key is there twice; a sample
            has no `json`; features of different encoders or segments lie side by side.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.tar"))
    if packed := sorted(path for path in folder.glob("*") if path.name.endswith(PACKED)):
        raise ValueError(
            f"{packed[0]} is compressed, and samples are read by their places in a tar; unpack it "
            f"(gunzip {packed[0].name}, or what made it)"
        )
    if not paths:
        raise ValueError(f"{folder}: no tar in it; make shards with `longcompress shards make`")
    return index_of(folder, tqdm(paths, desc="index", unit="shard", disable=not progress))


def index_of(place: Place, paths: Iterable[Path]) -> Index:
    """The index, saved in a place, of tars that lie or will lie there. Each is read before the next is asked
    for. Errors are those of `make_index`."""
    shards, entries = [], []
    seen: dict[str, str] = {}
    features: dict[str, Any] | None = None
    for number, path in enumerate(paths):
        with open(path, "rb") as file:
            for key, members in members_in(file, str(path)).items():
                where = f"{path}: sample {key!r}"
                if key in seen:
                    raise ValueError(f"{where} is in {seen[key]} too; a key names one sample")
                seen[key] = path.name
                described = {n: m for n, m in members.items() if n == JSON}
                content = read_json(read_members(file, described), where)
                made_with = features_of(content, where) if content.get("features") else {}
                known: dict[str, Any] = {k: made_with[k] for k in (*SAME, "encoders") if k in made_with}
                if features is not None and any(known.get(k) != features.get(k) for k in SAME):
                    raise ValueError(f"{where} has other encoders, segments or detail than those before it")
                features = known | (features or {})
                tokens = {name: stream["tokens"] for name, stream in made_with.get("streams", {}).items()}
                duration_s = _seconds(made_with.get("duration_s") or content.get("duration_s"), where)
                entries.append(Entry(key, number, members, duration_s, tokens))
            shards.append(Shard(path.name, path.stat().st_size, sha256_of(path)))
    index = Index(place, tuple(shards), tuple(entries), features or {})
    index.save()
    return index


def _seconds(value: Any, where: str) -> float:
    if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(f"{where}: duration_s must be a number of seconds, got {value!r:.60}")
    return float(value or 0.0)
