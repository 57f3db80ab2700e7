"""A score for each frame of its relevance to a query, summed by clip as MMDuet does.

From its test/evaluate.py (yellow-binary-tree/MMDuet, MIT). These are offline numbers: smoothing looks ahead.
"""

from math import fsum
from statistics import mean
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .intervals import FloatArray

PUBLISHED_FRAMES = 2  # of smoothing QVHighlights, at a frame a second


class Curve(NamedTuple):
    """Frames of a video in order of time: (T,) seconds, and (T,) how relevant each is."""

    time_s: ArrayLike
    score: ArrayLike


def smoothed(score: ArrayLike, num_frames: int) -> FloatArray:
    """(T,) the mean of each score and up to `num_frames` before and behind it, fewer at the ends."""
    values = np.asarray(score, np.float64).tolist()
    # exact means, rounded once: windows of the same scores tie in any order and at the ends
    means = [mean(values[max(i - num_frames, 0) : i + num_frames + 1]) for i in range(len(values))]
    return np.array(means, np.float64)


def clip_scores(curve: Curve, *, num_frames: int = PUBLISHED_FRAMES, clip_s: float = 2.0) -> list[float]:
    """The rating of each clip of a video, for `highlights`: the sum of its frames' smoothed scores."""
    time_s, score = (np.asarray(item, np.float64) for item in curve)
    if not len(time_s):
        return []
    step_s = float(time_s[1] - time_s[0]) if len(time_s) > 1 else clip_s
    if not 0 < step_s <= clip_s:
        raise ValueError(
            f"curve must have a frame a clip at least, {clip_s:g} s, by time; got one each {step_s:g} s"
        )
    of_clip = int(clip_s / step_s + 1e-9)
    frames = smoothed(score, num_frames).tolist()
    return [fsum(frames[first : first + of_clip]) for first in range(0, len(frames), of_clip)]
