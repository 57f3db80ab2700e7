"""What tests of reading share: all that a source gives, stamps and kinds of files, and files that lie."""

import struct
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from longcompress.config import MediaConfig
from longcompress.media.reader import read
from longcompress.types import Frames

from videos import Video

SMALL = {"size_px": 40, "threads": 1}


def gather(source, config=None, **options):
    """All frames as (T, H, W, 3) and times, all audio as (start_s, samples), and the warnings."""
    warned: list[str] = []
    pixels, times, sounds = [], [], []
    with read(source, config or MediaConfig(**SMALL), on_warning=warned.append, **options) as reading:
        for item in reading:
            if isinstance(item, Frames):
                pixels += list(item.pixels)
                times += item.time_s.tolist()
            else:
                sounds.append(item)
    assert times == sorted(set(times))
    return pixels, times, sounds, warned


def joined(sounds):
    """Contiguous chunks as one array."""
    for item, other in pairwise(sounds):
        assert other.start_s == pytest.approx(item.end_s, abs=1e-9)
    return np.concatenate([s.samples.numpy() for s in sounds])


def shown_at(stamps_s, instant):
    """Number of the frame on screen, the first one before it begins."""
    return max(0, int(np.searchsorted(stamps_s, instant + 5e-4, side="right")) - 1)


KINDS = {
    "mp4": Video(flashes=(1.0, 2.52), beeps=(1.0, 2.52)),
    "mov": Video(flashes=(1.0, 2.52), beeps=(1.0, 2.52), rotation=90),
    "mkv": Video(flashes=(1.0, 2.52), beeps=(1.0, 2.52), audio_codec="libopus"),
    "webm": Video(
        codec="libvpx-vp9",
        audio_codec="libopus",
        flashes=(1.0, 2.52),
        beeps=(1.0, 2.52),
        options={"deadline": "realtime", "cpu-used": "8"},
    ),
    "ts": Video(flashes=(1.0, 2.52), beeps=(1.0, 2.52)),
}


STAMPS = {
    "constant": range(0, 4000, 40),
    "variable": [s for s in range(0, 4000, 20) if s % 100 != 40 and not 1300 < s < 1900],
    "late": range(120, 4000, 40),
}


def media_threads():
    return [t for t in threading.enumerate() if t.name == "longcompress-media"]


def patched(path: Path, name: str, old: bytes, new: bytes, count: int = -1) -> Path:
    data = path.read_bytes()
    assert old in data
    other = path.with_name(name)
    other.write_bytes(data.replace(old, new, count))
    return other


def longer(path: Path, name: str, factor: float) -> Path:
    """The MP4 with the durations in its mvhd, tkhd, mdhd and edit list boxes multiplied."""
    data = bytearray(path.read_bytes())
    for kind, offset in ((b"mvhd", 20), (b"mdhd", 20), (b"tkhd", 24)):
        at = data.find(kind)
        while at >= 0:
            field = slice(at + offset, at + offset + 4)
            data[field] = struct.pack(">I", int(struct.unpack(">I", data[field])[0] * factor))
            at = data.find(kind, at + 4)
    other = path.with_name(name)
    other.write_bytes(data)
    return other


def restamp(source: Path, target: Path, stamps: dict[int, int]) -> Path:
    """A copy of a Matroska video of one cluster with other stamps (ms) for the frames of these numbers."""
    data = source.read_bytes()
    for number, stamp in stamps.items():
        old = [b"\x81" + struct.pack(">h", 40 * number) + flags for flags in (b"\x80", b"\x00")]
        assert sum(map(data.count, old)) == 1
        for block in old:
            data = data.replace(block, block[:1] + struct.pack(">h", stamp) + block[3:])
    target.write_bytes(data)
    return target
