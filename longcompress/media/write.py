"""Writes a video from functions of time, for synthetic videos."""

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..files import replacing

# These containers keep the time 0 of frames and audio; .avi, .ts and .mpg shift the one or the other.
_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")


def write(
    path: Path,
    frames: Callable[[NDArray[np.float64]], NDArray[np.uint8]],
    samples: Callable[[float, float], NDArray[np.float32]] | None,
    *,
    duration_s: float,
    size_px: int,
    rate_fps: float,
    rate_hz: int,
    progress: bool = False,
) -> Path:
    """Write a video (H.264, AAC) second by second, so in bounded memory; the path, once the file is whole.

    Args:
        path: .mp4, .m4v, .mov or .mkv.
        frames: times (T,) in seconds -> (T, size_px, size_px, 3) RGB. Frame k is shown at k / rate_fps.
        samples: start and end in seconds -> (n,) in -1..1. The first sample is heard at 0. None: no audio.
        progress: whether to show a bar.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"path must end in one of {', '.join(_SUFFIXES)}, got {path.name!r}")
    if size_px % 2:
        raise ValueError(f"size_px must be even for H.264, got {size_px}; take {size_px + 1}")
    rate = Fraction(rate_fps).limit_denominator(1001)
    last = max(1, ceil(round(duration_s * rate, 6)))
    with replacing(path) as part, av.open(str(part), "w") as container:
        video = container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "20", "bf": "0"}
        )
        video.width = video.height = size_px
        video.pix_fmt, video.gop_size = "yuv420p", max(1, round(2 * rate))
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=rate_hz, layout="mono") if samples else None
        for second in tqdm(range(ceil(duration_s)), disable=not progress, unit="s", desc=path.name):
            numbers = range(ceil(second * rate), min(ceil((second + 1) * rate), last))
            shown = frames(np.array([float(k / rate) for k in numbers]))
            for number, image in zip(numbers, shown, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, 1 / rate
                container.mux(video.encode(frame))
            wave = samples(second, min(second + 1, duration_s)) if samples else np.zeros(0, np.float32)
            if audio and len(wave):
                frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = rate_hz, second * rate_hz
                frame.time_base = Fraction(1, rate_hz)
                container.mux(audio.encode(frame))
        container.mux(video.encode())
        if audio:
            container.mux(audio.encode())
    return path
