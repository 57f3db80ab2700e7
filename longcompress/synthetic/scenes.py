"""Synthetic videos with audio and known events. The embedded model learns on them, and tests use them.

A `Scene` is a list of events. `frames`, `audio`, `patches` and `heard` give its state at any time.
T frame times, An audio windows, n samples; seconds from the start of the video, intervals half-open.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..media import write as media_write
from ..types import Audio, Frames
from . import render as paint

SHAPES, COLOURS = tuple(paint.SHAPES), tuple(paint.RGB)
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
SOUNDS = tuple(paint.VOICES)
LETTERS = tuple(paint.GLYPHS)

OBJECTS_A_MINUTE, SOUNDS_A_MINUTE = 4.4, 2.8  # varied by a fifth
LENGTH_S = (5.0, 20.0)  # shortest and longest event
LETTER_SHARE, LETTER_SIZE = 0.6, 0.5  # of objects that carry a letter; its height by the object's diameter
SIZE_PX = 128  # side of frames
GAP_S = 4.0  # at least this long between two events of the same name
REPEAT = 0.25  # of objects that are shown again, and of sounds that overlap one showing of such an object

Float = NDArray[np.float64]


@dataclass(frozen=True)
class SceneEvent:
    """An object seen or a sound heard during `[start_s, end_s)`, with all that is needed to render it."""

    start_s: float
    end_s: float
    kind: Literal["video", "audio"]
    name: str
    path: tuple[tuple[float, float], ...] = ((0.3, 0.5), (0.5, 0.5), (0.7, 0.5))  # Bezier (x, y) in 0..1
    size: float = 0.34  # diameter, as a share of the frame's width
    tilt: float = 0.0  # radians
    shade: float = 1.0  # brightness of the colour, 0.85..1
    pitch: float = 1.0  # times the sound's usual frequencies and rhythm
    loudness: float = 0.25  # amplitude, about
    key: int = 0  # seed of the sound's noise and phase
    letter: str = ""  # of LETTERS, painted on the object; "": none


@dataclass(frozen=True)
class Scene:
    """A video: seed of its background and noise, length in seconds, events sorted by start."""

    seed: int
    duration_s: float
    events: tuple[SceneEvent, ...]

    def of(self, kind: str) -> list[SceneEvent]:
        """Events of a kind, by start."""
        return [event for event in self.events if event.kind == kind]


def make_scene(
    seed: int, duration_s: float, *, objects: Sequence[str] = OBJECTS, letters: bool = False,
    objects_a_minute: float = OBJECTS_A_MINUTE,
) -> Scene:  # fmt: skip
    """A random video; the same arguments give the same video. Its objects are some of `objects`, and with
    `letters` LETTER_SHARE of them carry a letter; all else is the same without."""
    if not duration_s > 0:
        raise ValueError(f"duration_s must be above 0, got {duration_s}")
    generator = np.random.default_rng([seed, 1])
    shown: list[SceneEvent] = []
    for _ in range(_sample_count(generator, objects_a_minute, duration_s)):
        for _ in range(40):
            used = list(dict.fromkeys(event.name for event in shown))
            pool = used if used and generator.random() < REPEAT else objects
            name = str(generator.choice(pool))
            start_s, end_s = _sample_span(generator, duration_s)
            if _fits(shown, start_s, end_s, name, at_most=3):
                size, tilt = generator.uniform(0.28, 0.40), generator.uniform(-0.25, 0.25)
                shade = generator.uniform(0.88, 1.0)
                path = _sample_path(generator, shown, start_s, end_s, size)
                shown.append(SceneEvent(start_s, end_s, "video", name, path, size, tilt, shade))
                break
    sounds: list[SceneEvent] = []
    for _ in range(_sample_count(generator, SOUNDS_A_MINUTE, duration_s)):
        for attempt in range(40):
            name = str(generator.choice(SOUNDS))
            start_s, end_s = _sample_span(generator, duration_s)
            bound = _sample_overlap(generator, shown, duration_s, end_s - start_s) if attempt < 20 else None
            if bound is not None and generator.random() < REPEAT:
                start_s, end_s = bound
            if _fits(sounds, start_s, end_s, name, at_most=2):
                sounds.append(sample_sound(generator, name, start_s, end_s))
                break
    if letters:
        generator = np.random.default_rng([seed, 7])
        has, which = generator.random(len(shown)) < LETTER_SHARE, generator.choice(LETTERS, len(shown))
        shown = [replace(e, letter=str(w)) if h else e for e, h, w in zip(shown, has, which, strict=True)]
    return Scene(seed, float(duration_s), tuple(sorted(shown + sounds, key=lambda event: event.start_s)))


def sample_sound(generator: np.random.Generator, name: str, start_s: float, end_s: float) -> SceneEvent:
    """A sound of random pitch, loudness and noise."""
    pitch, loudness = generator.uniform(0.96, 1.04), generator.uniform(0.15, 0.35)
    key = int(generator.integers(1 << 31))
    return SceneEvent(start_s, end_s, "audio", name, pitch=pitch, loudness=loudness, key=key)


def clip_events(events: Iterable[SceneEvent], start_s: float, end_s: float) -> tuple[SceneEvent, ...]:
    """Parts of events in `[start_s, end_s)`, with times from start_s on; paths are cut too."""
    parts = []
    for event in events:
        first, last = max(event.start_s, start_s), min(event.end_s, end_s)
        if first < last:
            points = position(event, np.array([first, (first + last) / 2, last]))  # (3, 2)
            points[1] = 2 * points[1] - (points[0] + points[2]) / 2  # the control point of the part
            path = tuple(map(tuple, points.tolist()))
            parts.append(replace(event, start_s=first - start_s, end_s=last - start_s, path=path))
    return tuple(parts)


def position(event: SceneEvent, times: Float) -> Float:
    """(T, 2) x and y of the middle of the object at times (T,), as shares of the width."""
    return paint.curve(event.path, (times - event.start_s) / (event.end_s - event.start_s))


def frames(scene: Scene, time_s: ArrayLike, *, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    """(T, size_px, size_px, 3) RGB frames at times (T,); each depends on the scene and its own time."""
    times = np.atleast_1d(np.asarray(time_s, np.float64))
    ground, noise = paint.ground(scene.seed, size_px), paint.noise(size_px)
    visible: list[list[tuple[SceneEvent, tuple[float, float]]]] = [[] for _ in times]
    for event, now, points in _shown(scene, times):
        for index, (x, y) in zip(now, (points * size_px).tolist(), strict=True):
            visible[index].append((event, (x, y)))
    out = np.empty((len(times), size_px, size_px, 3), np.uint8)
    jumps = paint.jumps(scene.seed, times)
    for frame, t, jump, visible_now in zip(out, times.tolist(), jumps, visible, strict=True):
        left, top = (int(speed * t * size_px) % size_px for speed in (0.012, 0.008))  # the ground drifts
        frame[:] = ground[top : top + size_px, left : left + size_px]
        for (x, y), radius, grey in paint.blobs(scene.seed, t):
            radius *= size_px
            paint.blend(frame, "ball", (x * size_px, y * size_px), radius, (grey,) * 3, soft=radius / 3)
        for event, at in visible_now:
            colour, shape = event.name.split()
            rgb = tuple(event.shade * value for value in paint.RGB[colour])
            paint.blend(frame, shape, at, event.size / 2 * size_px, rgb, event.tilt)
            if event.letter:
                paint.letter(frame, event.letter, at, LETTER_SIZE * event.size * size_px)
        left, top = jump % size_px, jump // size_px % size_px
        frame += noise[jump // size_px**2 % len(noise), top : top + size_px, left : left + size_px]
    return out


def audio(scene: Scene, start_s: float, end_s: float, *, rate_hz: int = 16000) -> NDArray[np.float32]:
    """(n,) samples in -1..1 of `[start_s, end_s)`; samples don't depend on how the video is cut."""
    first, last = round(start_s * rate_hz), round(end_s * rate_hz)
    # always whole seconds, for the same bits in any cut
    blocks = range(first // rate_hz, -(-last // rate_hz))
    if first == last:
        return np.zeros(0, np.float32)
    whole = np.concatenate([_audio_block(scene, block, rate_hz) for block in blocks])
    return whole[first - blocks[0] * rate_hz : last - blocks[0] * rate_hz]


def patches(scene: Scene, time_s: ArrayLike, *, grid: int = 4) -> NDArray[np.int64]:
    """(T, grid, grid) index into OBJECTS of the object in a patch (row, column); len(OBJECTS): background.

    An object has a patch if its body fills 30 % of the patch, or has a fifth of its area there. The body is a
    disc of 0.85 of its radius, above earlier objects. An object that is not hidden has at least one patch.
    """
    times, fine = np.atleast_1d(np.asarray(time_s, np.float64)), 8 * grid
    shown = list(_shown(scene, times))
    shared = _by_patch(_owners(shown, len(times), fine), grid)
    winner, best = np.full(shared.shape[:3], len(OBJECTS)), np.zeros(shared.shape[:3])
    for number, (event, now, _) in enumerate(shown):
        count = (shared[now] == number).sum(-1)  # (T', grid, grid)
        body = pi * (0.85 * event.size / 2 * fine) ** 2
        wins = (count >= min(0.3 * 64, 0.2 * body)) & (count > best[now])
        winner[now] = np.where(wins, OBJECTS.index(event.name), winner[now])
        best[now] = np.where(wins, count, best[now])
    return winner


def letter_patches(scene: Scene, time_s: ArrayLike, *, grid: int = 4) -> NDArray[np.int64]:
    """(T, grid, grid) index into LETTERS of the letter in a patch (row, column); len(LETTERS): none.

    A letter has the patches that show 30 % of its box, and the patch that shows most of it.
    """
    times, fine = np.atleast_1d(np.asarray(time_s, np.float64)), 8 * grid
    shown = list(_shown(scene, times))
    owner, at = _owners(shown, len(times), fine), (np.arange(fine) + 0.5) / fine
    winner, best = np.full((len(times), grid, grid), len(LETTERS)), np.zeros((len(times), grid, grid))
    for number, (event, now, points) in enumerate(shown):
        if not event.letter or not len(now):
            continue
        height = LETTER_SIZE * event.size
        inside_x = np.abs(at - points[:, :1]) < 5 / 14 * height
        inside_y = np.abs(at - points[:, 1:]) < height / 2
        inside = inside_x[:, None, :] & inside_y[:, :, None] & (owner[now] == number)  # (T', fine, fine)
        count = _by_patch(inside, grid).sum(-1)
        highest = np.maximum(count.max((1, 2), keepdims=True), 1)
        box = 5 / 7 * (height * fine) ** 2
        wins = ((count >= 0.3 * box) | (count == highest)) & (count > best[now])
        winner[now] = np.where(wins, LETTERS.index(event.letter), winner[now])
        best[now] = np.where(wins, count, best[now])
    return winner


def heard(scene: Scene, start_s: ArrayLike, end_s: ArrayLike) -> NDArray[np.float32]:
    """(A, len(SOUNDS)) share of each window (A,) that the sound is on; 1 from a half upwards."""
    start, end = np.atleast_1d(np.asarray(start_s, np.float64)), np.atleast_1d(np.asarray(end_s, np.float64))
    share = np.zeros((len(start), len(SOUNDS)))
    for event in scene.of("audio"):
        common = np.minimum(end, event.end_s) - np.maximum(start, event.start_s)
        share[:, SOUNDS.index(event.name)] += np.maximum(common, 0) / (end - start)
    return np.where(share >= 0.5, 1, share).astype(np.float32)


def parts_of(scene: Scene, rate_fps: float) -> Iterator[Frames | Audio]:
    """Frames and audio of a scene as a decoder would give them, a minute at a time."""
    start_s = 0.0
    while start_s < scene.duration_s:
        end_s = min(start_s + 60.0, scene.duration_s)
        first, last = (ceil(t * rate_fps - 1e-9) for t in (start_s, end_s))
        time_s = np.arange(first, last) / rate_fps
        yield Frames(torch.from_numpy(frames(scene, time_s)), torch.from_numpy(time_s), 1 / rate_fps)
        yield Audio(torch.from_numpy(audio(scene, start_s, end_s)), start_s)
        start_s = end_s


def write_video(
    scene: Scene, path: str | Path, *, size_px: int = 128, rate_fps: float = 8, progress: bool = False
) -> Path:
    """The path of a video of the scene, as `media_write.write` writes it."""
    return media_write.write(
        Path(path),
        lambda times: frames(scene, times, size_px=size_px),
        lambda start_s, end_s: audio(scene, start_s, end_s),
        duration_s=scene.duration_s, size_px=size_px, rate_fps=rate_fps, rate_hz=16000, progress=progress,
    )  # fmt: skip


# --- sampling of events


def _sample_count(generator: np.random.Generator, per_minute: float, duration_s: float) -> int:
    return max(1, round(per_minute * duration_s / 60 * generator.uniform(0.8, 1.2)))


def _sample_span(generator: np.random.Generator, duration_s: float) -> tuple[float, float]:
    shortest, longest = LENGTH_S  # a short video has shorter ones
    length = generator.uniform(min(shortest, duration_s / 2), min(longest, duration_s))
    start_s = generator.uniform(0, duration_s - length)
    return start_s, start_s + length


def _fits(others: list[SceneEvent], start_s: float, end_s: float, name: str, at_most: int) -> bool:
    """Whether an event fits: at most `at_most` at once, and no other of its name within GAP_S."""
    near = _within(others, start_s, end_s)
    starts = [start_s, *(event.start_s for event in near if event.start_s >= start_s)]
    peak = max(sum(event.start_s <= t < event.end_s for event in near) for t in starts)
    beside = _within(others, start_s - GAP_S, end_s + GAP_S)
    return peak < at_most and all(event.name != name for event in beside)


def _within(events: list[SceneEvent], start_s: float, end_s: float) -> list[SceneEvent]:
    return [event for event in events if event.start_s < end_s and start_s < event.end_s]


def _sample_overlap(
    generator: np.random.Generator, shown: list[SceneEvent], duration_s: float, length: float
) -> tuple[float, float] | None:
    """A span that overlaps exactly one appearance of a repeated object, by 4 s or more."""
    names = [event.name for event in shown]
    often = [event for event in shown if names.count(event.name) > 1]
    if not often:
        return None
    event = often[int(generator.integers(len(often)))]
    low, high = max(0.0, event.start_s + 4.5 - length), min(event.end_s - 4.5, duration_s - length)
    if low >= high:
        return None
    start_s = generator.uniform(low, high)
    others = [o for o in shown if o.name == event.name and o is not event]
    return None if _within(others, start_s, start_s + length) else (start_s, start_s + length)


def _sample_path(
    generator: np.random.Generator, others: list[SceneEvent], start_s: float, end_s: float, size: float
) -> tuple[tuple[float, float], ...]:
    """A curve within the frame, the best of 32 at staying away from other objects."""
    near = _within(others, start_s, end_s)
    best, best_score = None, -9.0
    for _ in range(32):
        points = generator.uniform(0.54 * size, 1 - 0.54 * size, (3, 2))
        if np.hypot(*(points[2] - points[0])) < 0.25:
            continue
        draft = SceneEvent(start_s, end_s, "video", OBJECTS[0], tuple(map(tuple, points.tolist())), size)
        score = 1.0
        for event in near:
            times = np.linspace(max(start_s, event.start_s), min(end_s, event.end_s), 32)
            apart = np.hypot(*(position(draft, times) - position(event, times)).T)
            score = min(score, float((apart > 0.27).mean()) + 3 * min(0.0, float(apart.min()) - 0.1))
        if score > best_score:
            best, best_score = draft.path, score
        if score > 0.8:
            break
    return best or ((0.3, 0.3), (0.5, 0.7), (0.7, 0.3))


def _shown(scene: Scene, times: Float) -> Iterator[tuple[SceneEvent, NDArray[np.intp], Float]]:
    """Each object, the indices (T',) of the times at which it is visible, and where it is then (T', 2)."""
    for event in scene.of("video"):
        now = np.flatnonzero((event.start_s <= times) & (times < event.end_s))
        yield event, now, position(event, times[now])


def _owners(
    shown: Sequence[tuple[SceneEvent, NDArray[np.intp], Float]], num: int, fine: int
) -> NDArray[np.int64]:
    """(T, fine, fine) number of the object whose body is on top at each point; len(shown): background."""
    owner = np.full((num, fine, fine), len(shown))
    at = (np.arange(fine) + 0.5) / fine
    for number, (event, now, points) in enumerate(shown):
        x, y = points.T
        far = (at - x[:, None])[:, None, :] ** 2 + (at - y[:, None])[:, :, None] ** 2  # (T', fine, fine)
        owner[now] = np.where(far < (0.85 * event.size / 2) ** 2, number, owner[now])
    return owner


def _by_patch(points: NDArray[Any], grid: int) -> NDArray[Any]:
    """(T, grid, grid, 64) the points (T, 8 * grid, 8 * grid) of each patch."""
    return points.reshape(len(points), grid, 8, grid, 8).swapaxes(2, 3).reshape(len(points), grid, grid, 64)


def _audio_block(scene: Scene, block: int, rate_hz: int) -> NDArray[np.float32]:
    """(rate_hz,) samples of the block-th second."""
    total = paint.backdrop(scene.seed, block, rate_hz)
    times = np.arange(block * rate_hz, (block + 1) * rate_hz) / rate_hz
    for event in scene.of("audio"):
        if event.start_s < block + 1 and block < event.end_s:
            since, left = times - event.start_s, event.end_s - times
            wave = paint.VOICES[event.name](
                since * event.pitch + event.key % 997 / 997, paint.hiss(event.key, block, rate_hz)
            )
            total += event.loudness * wave * np.clip(np.minimum(since, left) / 0.01, 0, 1)  # 10 ms of fade
    return total.clip(-1, 1).astype(np.float32)
