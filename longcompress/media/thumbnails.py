"""Frames of chosen times as small JPEGs, and back as pixels."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from ..config import MediaConfig
from ..types import Audio, Frames
from .image import decode
from .probe import probe
from .reader import read

QUALITY = "3"  # the encoder's quantiser, 2 (best) to 31
MARKS = (b"\xff\xd8", b"\xff\xd9")  # around a JPEG


@dataclass(frozen=True)
class Thumbnail:
    """A frame of a video.

    Attributes:
        time_s: its time.
        index: of the video token that it shows.
        jpeg: the file's bytes.
    """

    time_s: float
    index: int
    jpeg: bytes


def check_numbers(num: int, size_px: int) -> None:
    """ValueError for a number or a size of thumbnails that can't be."""
    if num < 0 or not 16 <= size_px <= 4096:
        raise ValueError(
            f"thumbnails must be at least 0, and thumbnail_px from 16 to 4096, got {num} and {size_px}"
        )


def check_rereadable(source: Any) -> None:
    """ValueError for a source that can't be read a second time."""
    if isinstance(source, str | Path | Frames | Audio | Sequence):
        return
    if not (hasattr(source, "seekable") and source.seekable()):
        raise ValueError(
            f"thumbnails need a source that can be read twice, got {type(source).__name__}; save it to a "
            "file, or give a list of Frames and Audio"
        )


def read_thumbnails(
    source: Any,
    times: dict[float, int],
    size_px: int,
    config: MediaConfig,
    *,
    part: tuple[float, float] | None = None,
    protocols: Sequence[str] = ("file",),
) -> list[Thumbnail]:
    """The frames on screen at some times, in time order; a frame that can't be decoded is left out.

    Args:
        source, part, protocols: as of `media.read`; the source can be read twice.
        times: time -> index of the token that is shown.
        size_px: of the longer side.
        config: how the source was read before.
    """
    if not times:
        return []
    config = replace(config, size_px=size_px, audio=False, decode="exact", frames=0)
    wide = 1.0 if config.fit != "squash" else _aspect(source, config, protocols)
    sides = [max(2, round(size_px * side / 2) * 2) for side in (min(1.0, wide), min(1.0, 1 / wide))]
    out = []
    # a part, even of everything, ends with the last of its instants; warnings came with the first reading
    part, quiet = part or (0.0, math.inf), lambda text: None
    with read(source, config, part=part, times=sorted(times), protocols=protocols, on_warning=quiet) as parts:
        for frames in parts:
            assert isinstance(frames, Frames)
            for pixels, time_s in zip(frames.pixels, frames.time_s.tolist(), strict=True):
                out.append(Thumbnail(time_s, times[time_s], to_jpeg(pixels.numpy(), sides[0], sides[1])))
    return out


def pixels_of(jpeg: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a JPEG; ValueError for what is none."""
    try:
        return decode(jpeg, "mjpeg", MediaConfig.max_pixels)
    except ValueError as error:
        raise ValueError(
            f"thumbnail is no JPEG that can be decoded ({error}); compress the video again"
        ) from error


def to_jpeg(pixels: NDArray[np.uint8], width: int, height: int) -> bytes:
    """A JPEG of width x height of pixels (H, W, 3)."""
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
    context.time_base, context.options = Fraction(1, 25), {"qmin": QUALITY, "qmax": QUALITY}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(width, height, "yuvj420p")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def url_of(jpeg: bytes) -> str:
    """A JPEG as a data URL."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _aspect(source: Any, config: MediaConfig, protocols: Sequence[str]) -> float:
    """Width over height as the video is shown."""
    if isinstance(source, str | Path) or hasattr(source, "read"):
        info = probe(source, protocols=protocols, config=config)
        assert info.width and info.height
        wide = info.width * info.pixel_aspect / info.height
        return 1 / wide if info.rotation_deg % 180 else wide
    frames = next(
        part for part in ([source] if isinstance(source, Frames) else source) if isinstance(part, Frames)
    )
    return frames.pixels.shape[2] / frames.pixels.shape[1]
