"""Videos that tests write: a frame has its number as a bar code, or flashes; beeps at known seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import pi
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from longcompress.media import write as media_write

BITS = 10
TICKS = 1000  # stamps are given in ms


@dataclass
class Video:
    """What to write. Stamps are in ms; None as audio_codec or codec leaves the track out."""

    codec: str | None = "libx264"
    audio_codec: str | None = "aac"
    size: tuple[int, int] = (160, 96)
    stamps: Sequence[int] = field(default_factory=lambda: range(0, 4000, 40))
    flashes: Sequence[float] | None = None
    beeps: Sequence[float] = (1.0,)
    audio_s: float = 4.0
    audio_start_s: float = 0.0
    audio_hz: int = 48000
    layout: str = "stereo"
    pix_fmt: str = "yuv420p"
    rotation: int = 0
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    quarter: bool = False  # white top-left quarter instead of a bar code


def write(path: Path, spec: Video) -> Path:
    """The video as a file; its kind is the path's suffix."""
    with av.open(str(path), "w", container_options=spec.container_options) as container:
        video = audio = None
        if spec.codec:
            video = container.add_stream(spec.codec, rate=25, options=spec.options)
            video.width, video.height = spec.size
            video.pix_fmt = spec.pix_fmt
            video.codec_context.time_base = Fraction(1, 25 if str(spec.codec).startswith("mpeg") else TICKS)
            if spec.rotation:
                video.set_display_rotation(spec.rotation)
        if spec.audio_codec:
            audio = container.add_stream(spec.audio_codec, rate=spec.audio_hz)
            audio.layout = spec.layout
        frames = _frames(spec, video) if video else iter(())
        sounds = _sounds(spec, audio) if audio else iter(())
        frame, audio_frame = next(frames, None), next(sounds, None)
        while frame is not None or audio_frame is not None:
            if audio_frame is None or (frame is not None and frame.time <= audio_frame.time):
                container.mux(video.encode(frame))
                frame = next(frames, None)
            else:
                container.mux(audio.encode(audio_frame))
                audio_frame = next(sounds, None)
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


def _frames(spec, stream):
    base = stream.codec_context.time_base
    for number, stamp in enumerate(spec.stamps):
        frame = av.VideoFrame.from_ndarray(_paint(spec, number, stamp), format="rgb24").reformat(
            format=spec.pix_fmt
        )
        frame.time_base = base
        frame.pts = round(Fraction(stamp, TICKS) / base)
        yield frame


def _paint(spec, number, stamp):
    width, height = spec.size
    if spec.quarter:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2, : width // 2] = 255
        return pixels
    if spec.flashes is not None:
        bright = any(0 <= stamp / 1000 - second < 0.2 for second in spec.flashes)
        return np.full((height, width, 3), 255 if bright else 0, np.uint8)
    column = np.arange(width) * BITS // max(width, BITS)
    return np.broadcast_to(
        ((number >> column & 1) * 255).astype(np.uint8)[None, :, None], (height, width, 3)
    ).copy()


def _sounds(spec, stream):
    size = stream.codec_context.frame_size or 1024
    channels = len(av.AudioLayout(spec.layout).channels)
    first = range(0, int(spec.audio_s * spec.audio_hz), size)
    time = spec.audio_start_s + np.arange(len(first) * size) / spec.audio_hz
    wave = np.zeros(len(time), np.float32)
    for beep in spec.beeps:
        on = (time >= beep) & (time < beep + 0.2)
        wave[on] = 0.5 * np.sin(2 * np.pi * 1000 * time[on])
    sample_format = stream.codec_context.format.name if stream.codec_context.format else "fltp"
    resampler = av.AudioResampler(format=sample_format, layout=spec.layout, rate=spec.audio_hz)
    for at in first:
        samples = np.tile(wave[at : at + size], (channels, 1))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=spec.layout)
        frame.sample_rate = spec.audio_hz
        frame.time_base = Fraction(1, spec.audio_hz)
        frame.pts = at + round(spec.audio_start_s * spec.audio_hz)
        yield from [frame] if sample_format == "fltp" else resampler.resample(frame)


def number_of(pixels: torch.Tensor) -> int:
    """The bar code of a frame (H, W, 3)."""
    row = pixels[pixels.shape[0] // 2].numpy().astype(np.float32).mean(1)
    middles = (np.arange(BITS) * 2 + 1) * len(row) // (2 * BITS)
    return int(sum(1 << bit for bit, middle in enumerate(middles) if row[middle] > 127))


def onsets(samples: np.ndarray, rate_hz: int, start_s: float) -> list[float]:
    """Seconds at which a beep begins."""
    loud = np.abs(samples) > 0.1
    edges = [i for i in np.flatnonzero(loud) if not loud[max(0, i - rate_hz // 10) : i].any()]
    return [start_s + i / rate_hz for i in edges]


def write_flash(
    path: str | Path,
    at_s: Sequence[float],
    *,
    duration_s: float,
    length_s: float = 0.25,
    size_px: int = 64,
    rate_fps: float = 8,
    rate_hz: int = 16000,
) -> Path:
    """The path of a video, black and silent but white with a 1 kHz beep for length_s from each of at_s on."""

    def is_on(times: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.any([(at <= times) & (times < at + length_s) for at in at_s], axis=0).astype(np.float32)

    def frames(times: NDArray[np.float64]) -> NDArray[np.uint8]:
        white = (255 * is_on(times)).astype(np.uint8)
        return np.broadcast_to(white[:, None, None, None], (len(times), size_px, size_px, 3)).copy()

    def samples(start_s: float, end_s: float) -> NDArray[np.float32]:
        times = np.arange(round(start_s * rate_hz), round(end_s * rate_hz)) / rate_hz
        return (0.5 * np.sin(2000 * pi * times) * is_on(times)).astype(np.float32)

    form: dict[str, Any] = {"size_px": size_px, "rate_fps": rate_fps, "rate_hz": rate_hz}
    return media_write.write(Path(path), frames, samples, duration_s=duration_s, **form)
