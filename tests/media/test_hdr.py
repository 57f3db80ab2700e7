"""HDR is tone-mapped as ffmpeg does it, and told."""

from fractions import Fraction

import av
import numpy as np
import pytest

from longcompress.config import MediaConfig
from longcompress.media import probe, read

BARS = np.array([[255, 0, 0], [0, 192, 0], [0, 0, 255], [128, 128, 128], [255, 255, 255]]) / 255
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
# What ffmpeg 5.1 makes of the PQ bars: zscale=t=linear:npl=100,zscale=p=bt709,tonemap=hable,zscale=t=bt709.
WANT = {"PQ": [(157, 5, 0), (0, 124, 4), (0, 0, 157)]}


def codes(name):
    light = BARS**2.4 @ TO_2020.T
    if name == "PQ":
        y = (light * 203 / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    scene = light * 0.265
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def write(path, name):
    """Bars of 64 pixels in 10 bits, BT.2020."""
    row = np.repeat(codes(name), 64, axis=0)
    pixels = (np.repeat(row[None], 64, axis=0) * 65535).round().astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], "yuv420p10le"
        context = stream.codec_context
        context.color_trc = 16 if name == "PQ" else 18
        context.color_primaries, context.colorspace, context.color_range = 9, 9, 1
        for k in range(5):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb48le").reformat(
                format="yuv420p10le", dst_colorspace=9, dst_color_range=1
            )
            frame.color_trc, frame.color_primaries, frame.colorspace = context.color_trc, 9, 9
            frame.pts, frame.time_base = k, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["PQ", "HLG"])
def test_bars_come_out_as_ffmpeg_maps_them(tmp_path, name):
    path, warned = write(tmp_path / "bars.mkv", name), []
    with read(path, MediaConfig(size_px=320, audio=False), on_warning=warned.append) as parts:
        pixels = next(iter(parts)).pixels[0].float()
        list(parts)
    seen = [pixels[160, 32 + 64 * k].tolist() for k in range(5)]
    for got, want in zip(seen, WANT.get(name, []), strict=False):
        assert got == pytest.approx(want, abs=25)
    red, _, _, grey, white = seen
    assert red[0] > 120 and max(red[1:]) < 30  # not the pale red of the codes taken as BT.709
    assert max(grey) - min(grey) < 12 and max(white) - min(white) < 12 and white[0] > 140 > grey[0] > 50
    assert any(f"HDR ({name})" in text for text in warned)
    assert probe(path).hdr == name
