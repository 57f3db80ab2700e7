"""JPEG and PNG of people nobody knows: the right pixels, and no bomb."""

import struct
import zlib

import av
import numpy as np
import pytest

from longcompress.media.image import MAX_SCANS, PNG, decode_image
from longcompress.media.thumbnails import to_jpeg

GRID = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, *, depth=8, colour=2, more=(), size=(30, 20), interlace=0):
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    parts = [chunk(b"IHDR", head), *more, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return PNG + b"".join(parts)


def packed(pixels):
    rows = pixels.reshape(len(pixels), -1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))


def test_a_png_is_its_pixels():
    assert np.array_equal(decode_image(png(packed(GRID)), 600), GRID)
    half = packed(GRID)
    split = [chunk(b"IDAT", half[:40]), chunk(b"tEXt", b"key\0text")]
    assert np.array_equal(decode_image(png(half[40:], more=split), 600), GRID)
    grey = decode_image(png(packed(GRID[:, :, 0]), colour=0), 600)
    assert np.array_equal(grey, np.repeat(GRID[:, :, :1], 3, axis=2))
    clear = np.concatenate([GRID, np.full_like(GRID[:, :, :1], 255)], axis=2)
    assert np.array_equal(decode_image(png(packed(clear), colour=6), 600), GRID)
    palette = [chunk(b"PLTE", bytes(range(12)))]
    bits = np.tile(np.array([0b00011011, 0b00011011], np.uint8), (20, 4))
    shown = decode_image(png(packed(bits), depth=2, colour=3, more=palette), 600)
    assert shown.shape == (20, 30, 3) and shown[0, :4].tolist() == np.arange(12).reshape(4, 3).tolist()


def test_a_jpeg_is_near_its_pixels():
    smooth = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 3, np.arange(96) * 2, 90), -1)
    pixels = decode_image(to_jpeg(smooth.astype(np.uint8), 96, 64), 96 * 64)
    assert pixels.shape == (64, 96, 3) and np.abs(pixels.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "must be a JPEG or PNG"),
        (b"GIF89a", "must be a JPEG or PNG"),
        (PNG, "PNG without a header"),
        (PNG + chunk(b"IHDR", b"x"), "PNG without a header"),
        (png(packed(GRID), size=(31, 20)), "can't be decoded|31"),
        (png(packed(GRID), size=(60_000, 60_000)), "at most 600 pixels, got 60000 x 60000"),
        (png(zlib.compress(bytes(1 << 20))), "holds more than the 30 x 20 pixels"),
        (png(b"no zlib"), "can't be inflated"),
        (to_jpeg(GRID, 64, 64), "at most 600 pixels, got 64 x 64"),
        (to_jpeg(GRID, 16, 16)[:100], "can't be decoded"),
        (b"\xff\xd8" + b"\xff\xda" * (MAX_SCANS + 1), f"at most {MAX_SCANS} scans"),
    ],
    ids=range(11),
)
def test_what_is_no_image(data, message):
    if message == "can't be decoded|31":  # a row too short for its header: what there is, or an error
        try:
            assert decode_image(data, 10_000).shape == (20, 31, 3)
        except ValueError:
            return
    else:
        with pytest.raises(ValueError, match=message):
            decode_image(data, 600)


def test_texts_and_profiles_are_left_out(monkeypatch):
    """The decoder inflates them to any size: 2 MB took 4 GB and 50 s."""
    bomb = zlib.compress(bytes(1 << 20))
    heads = {b"zTXt": b"key\0\0", b"iCCP": b"key\0\0", b"iTXt": b"key\0\1\0\0\0"}
    more = [chunk(kind, head + bomb) for kind, head in heads.items()]
    decoded, packet = [], av.Packet
    spy = lambda data: decoded.append(data) or packet(data)  # noqa: E731
    monkeypatch.setattr("longcompress.media.image.av.Packet", spy)
    assert np.array_equal(decode_image(png(packed(GRID), more=more), 600), GRID)
    assert decoded == [png(packed(GRID))]
