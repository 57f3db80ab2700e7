"""Pixels and samples of the synthetic videos of `scenes.py`: shapes, grounds, noise, voices."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil, pi

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Wave = NDArray[np.float32]
Plane = NDArray[np.floating]

# Noise of +-12 is added modulo 256, so everything drawn has to stay within 12..243.
RGB = {
    "red": (222, 38, 36),
    "green": (36, 186, 60),
    "blue": (48, 84, 232),
    "yellow": (236, 214, 36),
    "purple": (164, 48, 196),
    "white": (238, 238, 238),
}


def _star(x: Plane, y: Plane, radius: float) -> Plane:
    fifth = 2 * pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)  # 0 at a tip, fifth / 2 at a notch
    far = np.hypot(x, y)
    notch_x, notch_y = 0.45 * radius * np.cos(fifth / 2), 0.45 * radius * np.sin(fifth / 2)
    edge = np.hypot(notch_y, radius - notch_x)
    return ((far * np.cos(angle) - radius) * notch_y + far * np.sin(angle) * (radius - notch_x)) / edge


# Signed distance in pixels (below 0 inside) of points (x, y) from the middle, y downwards.
SHAPES: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "ball": lambda x, y, r: np.hypot(x, y) - 0.95 * r,
    "box": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - 0.76 * r,
    "triangle": lambda x, y, r: np.maximum(y - 0.55 * r, 0.866 * np.abs(x) - 0.5 * y - 0.5 * r),
    "star": _star,
    "cross": lambda x, y, r: np.minimum(
        np.maximum(np.abs(x) - r, np.abs(y) - 0.27 * r), np.maximum(np.abs(y) - r, np.abs(x) - 0.27 * r)
    ),
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - 0.74 * r) - 0.22 * r,
}

# Rows of 5 points, the highest bit on the left.
GLYPHS: dict[str, tuple[int, ...]] = {
    "c": (14, 17, 16, 16, 16, 17, 14),
    "f": (31, 16, 16, 30, 16, 16, 16),
    "h": (17, 17, 17, 31, 17, 17, 17),
    "k": (17, 18, 20, 24, 20, 18, 17),
    "l": (16, 16, 16, 16, 16, 16, 31),
    "t": (31, 4, 4, 4, 4, 4, 4),
    "x": (17, 17, 10, 4, 10, 17, 17),
    "z": (31, 1, 2, 4, 8, 16, 31),
}


def blend(
    frame: NDArray[np.uint8], shape: str, at: tuple[float, float], radius: float, rgb: tuple[float, ...],
    tilt: float = 0.0, soft: float = 0.5,
) -> None:  # fmt: skip
    """Draws a shape into a frame (H, W, 3) in place; all in pixels, the edge 2 * soft wide."""
    reach = 1.06 * radius + soft
    left, right = max(0, int(at[0] - reach)), min(frame.shape[1], ceil(at[0] + reach) + 1)
    top, bottom = max(0, int(at[1] - reach)), min(frame.shape[0], ceil(at[1] + reach) + 1)
    if left >= right or top >= bottom:
        return
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - at[0])
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - at[1])
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    inside = SHAPES[shape](cosine * x + sine * y, cosine * y - sine * x, radius)
    mask = np.clip(0.5 - inside / np.float32(2 * soft), 0, 1).astype(np.float32)[..., None]  # (h, w, 1)
    window = frame[top:bottom, left:right]
    window[:] = window + (np.array(rgb, np.float32) - window) * mask


def letter(frame: NDArray[np.uint8], glyph: str, at: tuple[float, float], height: float) -> None:
    """Draws a dark letter of GLYPHS into a frame (H, W, 3) in place, its middle at (x, y), in pixels."""
    point = height / 7
    row = np.floor((np.arange(frame.shape[0]) + 0.5 - at[1]) / point + 3.5).astype(int)
    column = np.floor((np.arange(frame.shape[1]) + 0.5 - at[0]) / point + 2.5).astype(int)
    rows, columns = np.flatnonzero((row >= 0) & (row < 7)), np.flatnonzero((column >= 0) & (column < 5))
    bits = np.array(GLYPHS[glyph])[row[rows], None] >> (4 - column[columns]) & 1
    window = frame[rows[:, None], columns]
    frame[rows[:, None], columns] = np.where(bits[..., None] == 1, np.uint8(14), window)


def curve(path: tuple[tuple[float, float], ...], share: Float) -> Float:
    """(T, 2) points of a Bezier curve of three points, at shares (T,) of its length in time."""
    u, (start, control, end) = share[:, None], np.array(path)
    return (1 - u) ** 2 * start + 2 * u * (1 - u) * control + u**2 * end


@lru_cache(maxsize=8)
def ground(seed: int, size_px: int) -> NDArray[np.uint8]:
    """(2 * size_px, 2 * size_px, 3) muted texture that repeats after size_px, of coarse and fine patches."""
    generator = np.random.default_rng([seed, 2])
    total = np.full((size_px, size_px, 3), generator.uniform(64, 116))
    for patches, strength in ((3, 26.0), (9, 12.0)):
        coarse = generator.uniform(-1, 1, (patches, patches, 1))
        coarse = coarse + generator.uniform(-0.4, 0.4, (patches, patches, 3))
        place = np.arange(size_px) * patches / size_px
        low, part = place.astype(int), place % 1
        part = part * part * (3 - 2 * part)
        high = (low + 1) % patches
        rows = coarse[low] * (1 - part)[:, None, None] + coarse[high] * part[:, None, None]
        total += strength * (rows[:, low] * (1 - part)[:, None] + rows[:, high] * part[:, None])
    return np.tile(total.clip(20, 200).astype(np.uint8), (2, 2, 1))


@lru_cache(maxsize=8)
def noise(size_px: int) -> NDArray[np.uint8]:
    """(4, 2 * size_px, 2 * size_px, 3) values from -12 to 12 modulo 256."""
    values = np.random.default_rng(3).normal(0, 5, (4, 2 * size_px, 2 * size_px, 3))
    return values.round().clip(-12, 12).astype(np.int8).view(np.uint8)


@lru_cache(maxsize=64)
def _wander(seed: int) -> tuple[Float, Float, Float]:
    generator = np.random.default_rng([seed, 4])
    number = int(generator.integers(2, 5))
    speed, phase = generator.uniform(0.02, 0.12, (number, 2)), generator.uniform(0, 2 * pi, (number, 2))
    looks = np.stack([generator.uniform(0.05, 0.13, number), generator.choice([40, 60, 120, 145], number)], 1)
    return speed, phase, looks


def blobs(seed: int, time_s: float) -> list[tuple[tuple[float, float], float, float]]:
    """Middle, radius (shares of the width) and grey of each unnamed blob at this time."""
    speed, phase, looks = _wander(seed)
    middle = 0.5 + 0.5 * np.sin(speed * time_s * 2 * pi + phase)
    rows = zip(middle.tolist(), looks.tolist(), strict=True)
    return [((x, y), radius, grey) for (x, y), (radius, grey) in rows]


def jumps(seed: int, time_s: Float) -> list[int]:
    """T numbers below 2**32 that look random, from the seed and the microsecond."""
    with np.errstate(over="ignore"):
        z = np.round(time_s * 1e6).astype(np.int64).astype(np.uint64)
        z = z + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(32)).tolist()


def _tone(t: Float, rate_hz: float | Float) -> Float:
    return np.sin(2 * pi * rate_hz * t)


def _bell(t: Float, _: Wave) -> Float:
    s = t % 0.6
    return 0.9 * sum(
        level * _tone(s, 880 * times) * np.exp(-fall * s)
        for times, level, fall in ((1, 1.0, 5), (2.76, 0.6, 8), (5.4, 0.35, 12))
    )


def _chirp(t: Float, _: Wave) -> Float:
    s = t % 0.25
    return _tone(s, 2000 + 8000 * s) * np.sin(pi * np.minimum(s / 0.16, 1))


def _siren(t: Float, _: Wave) -> Float:
    turn = 2 * pi * 850 * t - 350 * 0.9 * np.cos(2 * pi * t / 0.9)  # 500 to 1200 Hz and back in 0.9 s
    return 0.6 * np.sin(turn) + 0.25 * np.sin(2 * turn)


def _drum(t: Float, hiss: Wave) -> Float:
    s = t % 0.4
    return 1.6 * _tone(s, 75) * np.exp(-12 * s) + 0.8 * hiss * np.exp(-25 * s)


# Waves of about the same power from the time since the start (n,), sped up by the pitch, and noise (n,).
VOICES: dict[str, Callable[[Float, Wave], Float]] = {
    "bell": _bell,
    "hum": lambda t, _: 0.5 * (_tone(t, 110) + 0.7 * _tone(t, 220) + 0.4 * _tone(t, 330)),
    "beep": lambda t, _: (t % 0.3 < 0.15) * (0.8 * _tone(t, 1000) + 0.2 * _tone(t, 3000)),
    "rain": lambda _, hiss: 0.35 * (hiss - np.roll(hiss, 1)).astype(np.float64),
    "chirp": _chirp,
    "siren": _siren,
    "knock": lambda t, _: 2.0 * _tone(t % 0.2, 420) * np.exp(-40 * (t % 0.2)),
    "buzz": lambda t, _: 0.9 * (2 * (150 * t % 1) - 1),
    "whistle": lambda t, _: 0.7 * np.sin(2 * pi * 2600 * t + 12 * np.sin(2 * pi * 6 * t)),
    "drum": _drum,
}


def hiss(seed: int, block: int, rate_hz: int) -> Wave:
    """(rate_hz,) normal noise of one second."""
    return np.random.default_rng([seed, 5, block]).standard_normal(rate_hz, np.float32)


def backdrop(seed: int, block: int, rate_hz: int) -> Float:
    """(rate_hz,) faint hiss, and a click in about every other second, of one second of a video."""
    generator = np.random.default_rng([seed, 6, block])
    out = 0.004 * generator.standard_normal(rate_hz)
    if generator.random() < 0.5:
        at, length = int(generator.integers(rate_hz - rate_hz // 200)), rate_hz // 400
        out[at : at + length] += generator.uniform(0.1, 0.4) * generator.uniform(-1, 1, length)
    return out
