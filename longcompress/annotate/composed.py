"""Videos whose boundaries are known: real clips cut together, with real recordings laid under them.

A seed chooses cuts and the ends of sounds before anything is decoded. No detector has a say in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import MediaConfig
from ..media import fit_pixels, probe, read
from ..media.write import write
from ..types import Audio, Frames
from .boundaries import Span

T = TypeVar("T")
RATE_FPS, SIZE_PX, RATE_HZ = 24, 224, 16000
SHOT_S, SOUND_S, PAUSE_S = (4.0, 12.0), (2.0, 10.0), (2.0, 8.0)  # between these
MIN_S = 3.0  # of a clip or recording that is taken
AUDIBLE = 0.02  # of a recording's peak: before and after it has no sample above
PEAK = 0.5  # of a sound


class Excerpt(NamedTuple):
    """A piece of a file, from `start_s` of it on, and where it lies in the composed video."""

    path: str
    start_s: float
    span: Span


@dataclass(frozen=True)
class Composition:
    """Shots that follow one another from 0 to the end, and sounds between pauses."""

    shots: tuple[Excerpt, ...]
    sounds: tuple[Excerpt, ...]

    @property
    def duration_s(self) -> float:
        """Of the video."""
        return self.shots[-1].span[1]


def clips_in(folder: str | Path) -> dict[str, float]:
    """Path -> seconds of the videos of a folder; ValueError for fewer than two of MIN_S."""
    lengths = {str(path): probe(str(path), keyframes=True).duration_s or 0 for path in _files(folder)}
    return _enough(folder, {path: length_s for path, length_s in lengths.items() if length_s >= MIN_S})


def recordings_in(folder: str | Path) -> dict[str, Tensor]:
    """Path -> samples of the recordings of a folder, from the first audible to the last, all of one peak;
    ValueError for fewer than two of MIN_S."""
    sounds = {}
    for path in _files(folder):
        with read(str(path), MediaConfig(video=False, rate_hz=RATE_HZ)) as parts:
            samples = torch.cat([part.samples for part in parts if isinstance(part, Audio)])
        (audible,) = torch.where(samples.abs() > AUDIBLE * samples.abs().max())
        samples = samples[audible[0] : audible[-1] + 1]
        sounds[str(path)] = samples * PEAK / samples.abs().max()
    return _enough(folder, {path: x for path, x in sounds.items() if len(x) >= MIN_S * RATE_HZ})


def compose(
    clips: Mapping[str, float], recordings: Mapping[str, Tensor], seconds: float, seed: int
) -> Composition:
    """A composition of about `seconds`. No clip follows itself; a sound is the start of a recording."""
    rng = np.random.default_rng(seed)
    shots: list[Excerpt] = []
    until_s = 0.0
    while until_s < seconds:
        path = str(rng.choice([path for path in clips if not shots or path != shots[-1].path]))
        left_s = clips[path] - 0.2  # headers round
        length_s = round(RATE_FPS * min(rng.uniform(*SHOT_S), left_s)) / RATE_FPS  # a cut is between frames
        first_s = float(rng.uniform(0, max(0.0, left_s - length_s)))
        shots.append(Excerpt(path, first_s, (until_s, until_s + length_s)))
        until_s += length_s
    sounds: list[Excerpt] = []
    at_s = rng.uniform(*PAUSE_S)
    while recordings:
        path = str(rng.choice([*recordings]))
        end_s = at_s + min(rng.uniform(*SOUND_S), len(recordings[path]) / RATE_HZ)
        if end_s > until_s:
            break
        sounds.append(Excerpt(path, 0.0, (at_s, end_s)))
        at_s = end_s + rng.uniform(*PAUSE_S)
    return Composition(tuple(shots), tuple(sounds))


def write_composition(composition: Composition, recordings: Mapping[str, Tensor], path: Path) -> Path:
    """Write the video (H.264, AAC)."""
    audio = torch.zeros(round(composition.duration_s * RATE_HZ))
    for sound in composition.sounds:
        first, last = (round(time_s * RATE_HZ) for time_s in sound.span)
        audio[first:last] = recordings[sound.path][: last - first]
    pixels = lru_cache(maxsize=1)(_pixels_of)  # of a shot at a time
    ends = [shot.span[1] for shot in composition.shots]

    def frames(times: NDArray[np.float64]) -> NDArray[np.uint8]:
        shown = []
        for time_s in times:
            shot = composition.shots[int(np.searchsorted(ends, time_s + 1e-6, side="right"))]
            every = pixels(shot)
            shown.append(every[min(round((time_s - shot.span[0]) * RATE_FPS), len(every) - 1)].numpy())
        return np.stack(shown)

    def samples(start_s: float, end_s: float) -> NDArray[np.float32]:
        return audio[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)].numpy()

    return write(
        path, frames, samples, duration_s=composition.duration_s, size_px=SIZE_PX, rate_fps=RATE_FPS,
        rate_hz=RATE_HZ,
    )  # fmt: skip


def _pixels_of(shot: Excerpt) -> Tensor:
    """(T, SIZE_PX, SIZE_PX, 3) frames of a shot."""
    config = MediaConfig(rate_fps=RATE_FPS, size_px=SIZE_PX, audio=False)
    part = (shot.start_s, shot.start_s + shot.span[1] - shot.span[0])
    with read(shot.path, config, part=part) as parts:
        return torch.cat([fit_pixels(piece.pixels, config) for piece in parts if isinstance(piece, Frames)])


def _files(folder: str | Path) -> list[Path]:
    return sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name[0] != ".")


def _enough(folder: str | Path, files: dict[str, T]) -> dict[str, T]:
    if len(files) < 2:
        raise ValueError(f"{folder} must have two files of {MIN_S:g} s at least, got {len(files)}")
    return files
