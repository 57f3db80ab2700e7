"""A score for each frame of how much it has to do with a query, as MMDuet scores such curves: spans, clips.

From its paper and test/evaluate.py (yellow-binary-tree/MMDuet, MIT). These are offline numbers: smoothing
looks ahead, and the least and greatest score are of the whole video.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import FloatArray, Interval, mean

PUBLISHED_FRAMES = {"charades-sta": 6, "qvhighlights": 2}  # of smoothing, at 2 and 1 frames a second


class Curve(NamedTuple):
    """Frames of a video in order of time: (T,) seconds, and (T,) how relevant each is."""

    time_s: ArrayLike
    score: ArrayLike


def smoothed(score: ArrayLike, num_frames: int) -> FloatArray:
    """(T,) the mean of each score and up to `num_frames` before and behind it, fewer at the ends."""
    if num_frames < 0:
        raise ValueError(f"num_frames must be at least 0, got {num_frames}")
    values = np.asarray(score, np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, end = np.maximum(at - num_frames, 0), np.minimum(at + num_frames + 1, len(values))
    return (sums[end] - sums[first]) / (end - first)


def relevant_frames(curve: Curve, *, threshold: float, num_frames: int) -> NDArray[np.bool_]:
    """(T,) where the smoothed score, its least in the video set to 0 and its greatest to 1, is >= threshold.

    A curve that is the same everywhere points nowhere: no frame is relevant.
    """
    _, score = _checked(curve)
    values = smoothed(score, num_frames)
    spread = np.ptp(values) if len(values) else 0.0
    if not spread > 1e-12 * max(np.abs(values).max(initial=0.0), 1e-300):
        return np.zeros(len(values), bool)
    return (values - values.min()) / spread >= threshold


def relevance_grounding(
    gold: Mapping[Any, Sequence[Interval]],
    predicted: Mapping[Any, Curve],
    *,
    threshold: float,
    num_frames: int = PUBLISHED_FRAMES["charades-sta"],
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
) -> dict[str, Any]:
    """Recall at 1 and mean IoU of relevant frames, which need not lie together.

    IoU is of frames: those that are relevant (`relevant_frames`) and in a gold span, both ends included, over
    those that are either; 0 where there are none. It is not that of spans: of one frame a second, a span may
    gain or lose one at either end.

    Args:
        gold: the true spans of each query.
        predicted: the curve of each; none, or one without frames, is IoU 0.
        threshold: of relevant frames, in [0, 1]; MMDuet's script tries .30 to .70, its paper doesn't name it.
        num_frames: of smoothing.
        thresholds: the t of R@t.

    Returns:
        R@t for each t, mIoU (None of no queries), num, num_missing, num_unknown.
    """
    each = frame_iou_of_each(gold, predicted, threshold=threshold, num_frames=num_frames)
    return {
        **{f"R@{t:g}": mean([float(iou >= t) for iou in each.values()]) for t in thresholds},
        "mIoU": mean(list(each.values())),
        "num": len(each),
        "num_missing": sum(key not in predicted for key in gold),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def frame_iou_of_each(
    gold: Mapping[Any, Sequence[Interval]],
    predicted: Mapping[Any, Curve],
    *,
    threshold: float,
    num_frames: int,
) -> dict[Any, float]:
    """The IoU of frames of each query of the gold."""
    out = {}
    for key, spans in gold.items():
        curve = predicted.get(key, Curve((), ()))
        ours = relevant_frames(curve, threshold=threshold, num_frames=num_frames)
        time_s, _ = _checked(curve)
        theirs = np.zeros(len(time_s), bool)
        for start_s, end_s in spans:
            theirs |= (start_s <= time_s) & (time_s <= end_s)
        either = int((ours | theirs).sum())
        out[key] = int((ours & theirs).sum()) / either if either else 0.0
    return out


def clip_scores(
    curve: Curve, *, num_frames: int = PUBLISHED_FRAMES["qvhighlights"], clip_s: float = 2.0
) -> list[float]:
    """The rating of each clip of a video, for `highlights.highlights`: the sum of its frames' smoothed scores.

    Args:
        curve: frames at an even rate, from the video's start.
        num_frames: of smoothing.
        clip_s: seconds of a clip.
    """
    time_s, score = _checked(curve)
    if not len(time_s):
        return []
    step_s = float(time_s[1] - time_s[0]) if len(time_s) > 1 else clip_s
    if not 0 < step_s <= clip_s:
        raise ValueError(
            f"curve must have a frame a clip at least, {clip_s:g} s, in order of time; got one each "
            f"{step_s:g} s"
        )
    of_clip = int(clip_s / step_s + 1e-9)
    return np.add.reduceat(smoothed(score, num_frames), np.arange(0, len(time_s), of_clip)).tolist()


def _checked(curve: Curve) -> tuple[FloatArray, FloatArray]:
    time_s, score = (np.asarray(one, np.float64) for one in curve)
    if time_s.ndim != 1 or time_s.shape != score.shape or not np.isfinite([time_s, score]).all():
        raise ValueError(
            "curve must be a finite time and a finite score for each frame, got "
            f"{time_s.shape} times and {score.shape} scores"
        )
    return time_s, score
