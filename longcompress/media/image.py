"""A JPEG or PNG as pixels, for images of people nobody knows."""

import struct
import zlib

import av
import numpy as np
from numpy.typing import NDArray

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
SCAN = b"\xff\xda"
MAX_SCANS = 100  # of a JPEG: each may go over all of the image
CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the PNG's kind of colour


def decode_image(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a JPEG or PNG.

    Raises:
        ValueError: it is neither, damaged, has more pixels, or is a bomb: a PNG that holds more than its
            pixels, a JPEG with more scans than any program writes.
    """
    if data.startswith(PNG):
        return decode(plain_png(data, max_pixels), "png", max_pixels)
    if not data.startswith(JPEG):
        raise ValueError("image must be a JPEG or PNG, got other bytes")
    if data.count(SCAN) > MAX_SCANS:
        raise ValueError(f"image must have at most {MAX_SCANS} scans, got {data.count(SCAN)}")
    return decode(data, "mjpeg", max_pixels)


def decode(data: bytes, codec: str, max_pixels: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of the only frame in `data`; ValueError where there is none."""
    context = av.CodecContext.create(codec, "r")
    context.options = {"max_pixels": str(2 * max_pixels + (1 << 20))}  # the decoder counts padding
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
        frame = frames[0]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(
            f"image can't be decoded, or has far more than {max_pixels} pixels ({error}); send another one"
        ) from error
    if frame.width * frame.height > max_pixels:
        raise ValueError(f"image must have at most {max_pixels} pixels, got {frame.width} x {frame.height}")
    return frame.to_ndarray(format="rgb24")


def plain_png(data: bytes, max_pixels: int) -> bytes:
    """The PNG without texts and colour profiles, which the decoder would inflate to any size; ValueError as
    of decode_image."""
    parts, packed, at = [PNG], bytearray(), len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in CHUNKS:
            parts.append(data[at : at + 12 + length])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    if len(parts) < 2 or parts[1][4:8] != b"IHDR" or len(parts[1]) != 25:
        raise ValueError("image is a PNG without a header; save it again")
    width, height, depth, colour = struct.unpack_from(">IIBB", parts[1], 8)
    if width * height > max_pixels:
        raise ValueError(f"image must have at most {max_pixels} pixels, got {width} x {height}")
    row = 1 + (width * depth * CHANNELS.get(colour, 4) + 7) // 8
    needed = 2 * row * height + 1024  # an interlaced one has more rows
    try:
        inflated = zlib.decompressobj().decompress(packed, needed + 1)
    except zlib.error as error:
        raise ValueError(f"image is a PNG that can't be inflated ({error}); save it again") from error
    if len(inflated) > needed:
        raise ValueError(f"image holds more than the {width} x {height} pixels that it names")
    return b"".join(parts)
