"""A synthetic video as frames and audio, whole and in random parts."""

import random
from itertools import pairwise

import numpy as np
import torch

from longcompress.synthetic.scenes import audio, frames, make_scene
from longcompress.types import Audio, Frames


def make_clip(seconds: float, seed: int = 0) -> tuple[Frames, Audio]:
    """A frame of 16 pixels a second, and the audio."""
    scene = make_scene(seed, seconds)
    time_s = np.arange(0, seconds, 1.0)
    pixels = frames(scene, time_s, size_px=16)
    return (
        Frames(torch.from_numpy(pixels), torch.from_numpy(time_s), 1.0),
        Audio(torch.from_numpy(audio(scene, 0.0, seconds)), 0.0),
    )


def random_parts(frame: Frames, sound: Audio, seed: int) -> list[Frames | Audio]:
    """Random parts of both, each in its order, in time order as a live source would give them."""
    generator = random.Random(seed)
    cuts = [0, *sorted(generator.sample(range(1, len(frame)), min(9, len(frame) - 1))), len(frame)]
    parts: list[tuple[float, Frames | Audio]] = [
        (float(frame.time_s[a]), frame.cut(a, b)) for a, b in pairwise(cuts)
    ]
    cuts = [0, *sorted(generator.sample(range(1, len(sound)), 15)), len(sound)]
    parts += [(a / 16000, sound.cut(a, b)) for a, b in pairwise(cuts)]
    return [part for _, part in sorted(parts, key=lambda item: item[0])]
