"""Grounding by curves: how relevant each frame is to a sentence, against the spans in which it happens."""

from collections.abc import Sequence

from .highlights import smoothed
from .intervals import Interval


def curve_iou(
    time_s: Sequence[float], score: Sequence[float], spans: Sequence[Interval], *, num_frames: int,
    threshold: float,
) -> float:  # fmt: skip
    """IoU of the frames that a curve points at with those inside any of the spans, both ends included.

    A curve is smoothed over `num_frames` before and behind each frame, then scaled to 0 .. 1 over the whole
    video; it points where it reaches the threshold, and nowhere if it is flat. So MMDuet grounds
    (yellow-binary-tree/MMDuet, test/evaluate.py, MIT): an offline number, for both look ahead.

    Args:
        time_s, score: (T,) of the frames.
        spans: (start_s, end_s).
        num_frames: of smoothing.
        threshold: in (0, 1].
    """
    if len(time_s) != len(score):
        raise ValueError(f"score must be one of each of {len(time_s)} frames, got {len(score)}")
    curve = smoothed(score, num_frames)
    low, high = min(curve, default=0.0), max(curve, default=0.0)
    pointed = [high > low and (value - low) / (high - low) >= threshold for value in curve]
    inside = [any(start <= t <= end for start, end in spans) for t in time_s]
    union = sum(a or b for a, b in zip(pointed, inside, strict=True))
    return sum(a and b for a, b in zip(pointed, inside, strict=True)) / union if union else 0.0
