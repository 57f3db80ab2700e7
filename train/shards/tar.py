"""webdataset tars: members KEY.NAME of a sample side by side; the same samples give the same bytes."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from webdataset import TarWriter

from ...files import replacing

FORBIDDEN = (".pkl", ".pickle", ".pyd", ".pt", ".pth", ".npy.pkl")  # what loaders would unpickle


@dataclass(frozen=True)
class Member:
    """The position of a member's bytes in its tar."""

    offset: int
    num_bytes: int


def write_tar(
    path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]], *, sweeping: bool = True
) -> None:
    """Write (key, members) one after the other, members by name; the same samples give the same bytes."""
    with (
        replacing(path, sweeping=sweeping) as part,
        open(part, "wb") as file,
        TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False) as tar,
    ):
        for key, members in samples:
            tar.write({"__key__": key, **members})


def members_in(file: BinaryIO, where: str) -> dict[str, dict[str, Member]]:
    """key -> member name -> where its bytes lie, of all samples in an open tar, in their order."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            last, end = None, 0
            for info in tar:
                end = info.offset_data + info.size
                base = info.name.rpartition("/")[2]
                if not info.isfile() or base.startswith("."):  # macOS adds .DS_Store and ._NAME
                    continue
                key, dot, name = base.partition(".")
                if not dot or not key:
                    raise ValueError(f"{where}: member {info.name!r} has no KEY.NAME")
                if info.name.endswith(FORBIDDEN):
                    hint = "a pickle, which is never read; make it anew"
                    raise ValueError(f"{where}: member {info.name!r} is {hint}")
                if key in samples and key != last:
                    raise ValueError(f"{where}: key {key!r} stands in two places")
                if name in samples.setdefault(key, {}):
                    raise ValueError(f"{where}: member {info.name!r} is there twice")
                samples[key][name] = Member(info.offset_data, info.size)
                last = key
    except tarfile.TarError as error:
        raise ValueError(f"{where} is no tar, or was cut: {error}") from error
    file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):  # what every tar ends with
        raise ValueError(f"{where} was cut: the end of the tar is missing")
    return samples


def read_members(file: BinaryIO, members: Mapping[str, Member]) -> dict[str, bytes]:
    """The bytes of these members of an open tar; fewer where it ends before."""
    out, size = {}, file.seek(0, os.SEEK_END)  # no more is asked for: memory is taken before reading
    for name, member in sorted(members.items(), key=lambda item: item[1].offset):
        file.seek(min(member.offset, size))
        out[name] = file.read(min(member.num_bytes, size))
    return out


def sha256_of(path: Path) -> str:
    """Hash of all of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
