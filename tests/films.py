"""Films that tests write: a picture has its number as a bar code, or flashes; beeps at known seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

BITS = 10
TICKS = 1000  # stamps are given in ms


@dataclass
class Film:
    """What to write. Stamps are in ms; None as sound_codec or codec leaves the track out."""

    codec: str | None = "libx264"
    sound_codec: str | None = "aac"
    size: tuple[int, int] = (160, 96)
    stamps: Sequence[int] = field(default_factory=lambda: range(0, 4000, 40))
    flashes: Sequence[float] | None = None
    beeps: Sequence[float] = (1.0,)
    sound_s: float = 4.0
    sound_start_s: float = 0.0
    sound_hz: int = 48000
    layout: str = "stereo"
    pix_fmt: str = "yuv420p"
    rotation: int = 0
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    quarter: bool = False  # white top-left quarter instead of a bar code


def write(path: Path, film: Film) -> Path:
    """The film as a file; its kind is the path's suffix."""
    with av.open(str(path), "w", container_options=film.container_options) as container:
        video = audio = None
        if film.codec:
            video = container.add_stream(film.codec, rate=25, options=film.options)
            video.width, video.height = film.size
            video.pix_fmt = film.pix_fmt
            video.codec_context.time_base = Fraction(1, 25 if film.codec == "mpeg4" else TICKS)
            if film.rotation:
                video.set_display_rotation(film.rotation)
        if film.sound_codec:
            audio = container.add_stream(film.sound_codec, rate=film.sound_hz)
            audio.layout = film.layout
        frames = _pictures(film, video) if video else iter(())
        sounds = _sounds(film, audio) if audio else iter(())
        frame, sound = next(frames, None), next(sounds, None)
        while frame is not None or sound is not None:
            if sound is None or (frame is not None and frame.time <= sound.time):
                container.mux(video.encode(frame))
                frame = next(frames, None)
            else:
                container.mux(audio.encode(sound))
                sound = next(sounds, None)
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


def _pictures(film, stream):
    base = stream.codec_context.time_base
    for number, stamp in enumerate(film.stamps):
        picture = av.VideoFrame.from_ndarray(_paint(film, number, stamp), format="rgb24").reformat(
            format=film.pix_fmt
        )
        picture.time_base = base
        picture.pts = round(Fraction(stamp, TICKS) / base)
        yield picture


def _paint(film, number, stamp):
    width, height = film.size
    if film.quarter:
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[: height // 2, : width // 2] = 255
        return pixels
    if film.flashes is not None:
        bright = any(0 <= stamp / 1000 - second < 0.2 for second in film.flashes)
        return np.full((height, width, 3), 255 if bright else 0, np.uint8)
    column = np.arange(width) * BITS // max(width, BITS)
    return np.broadcast_to(
        ((number >> column & 1) * 255).astype(np.uint8)[None, :, None], (height, width, 3)
    ).copy()


def _sounds(film, stream):
    size = stream.codec_context.frame_size or 1024
    channels = len(av.AudioLayout(film.layout).channels)
    for at in range(0, int(film.sound_s * film.sound_hz), size):
        time = film.sound_start_s + (at + np.arange(size)) / film.sound_hz
        on = np.zeros(size, bool)
        for beep in film.beeps:
            on |= (time >= beep) & (time < beep + 0.2)
        wave = np.where(on, 0.5 * np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.tile(wave, (channels, 1)), format="fltp", layout=film.layout)
        frame.sample_rate = film.sound_hz
        frame.time_base = Fraction(1, film.sound_hz)
        frame.pts = at + round(film.sound_start_s * film.sound_hz)
        wanted = stream.codec_context.format.name if stream.codec_context.format else "fltp"
        if wanted == "fltp":
            yield frame
        else:
            resampler = av.AudioResampler(format=wanted, layout=film.layout, rate=film.sound_hz)
            yield from resampler.resample(frame)


def number_of(pixels: torch.Tensor) -> int:
    """The bar code of a picture (H, W, 3)."""
    row = pixels[pixels.shape[0] // 2].numpy().astype(np.float32).mean(1)
    middles = (np.arange(BITS) * 2 + 1) * len(row) // (2 * BITS)
    return int(sum(1 << bit for bit, middle in enumerate(middles) if row[middle] > 127))


def onsets(samples: np.ndarray, rate_hz: int, start_s: float) -> list[float]:
    """Seconds at which a beep begins."""
    loud = np.abs(samples) > 0.1
    edges = [i for i in np.flatnonzero(loud) if not loud[max(0, i - rate_hz // 10) : i].any()]
    return [start_s + i / rate_hz for i in edges]
