"""QVHighlights: moments retrieved for a query, and clips rated by how well they show it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import Columns, FloatArray, Interval, Metrics, entry_counts, mean, tiou_matrix

Window = tuple[float, float, float]  # start_s, end_s, score
IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
MOMENTS = ("mAP", *(f"mAP@{t:g}" for t in IOUS), *(f"R1@{t:g}" for t in IOUS), "mIoU")
# Reference windows of a length above the first and up to the second number of seconds.
LENGTHS = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
_MAX_PREDICTIONS = 10  # of a query
CLIP_S = 2.0
LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}
PUBLISHED_FRAMES = 2  # of smoothing, at a frame a second


def moments(
    reference: Mapping[Any, Sequence[Interval]], predicted: Mapping[Any, Sequence[Window]]
) -> tuple[Metrics, Columns]:
    """(moment retrieval over all queries, the same of each query).

    Of a query and an IoU t, predicted windows are taken by falling score (equal scores in their order). Each
    that has IoU >= t with a reference window not yet taken takes the one it overlaps best (of equal IoUs the
    last), and is right. AP is the sum over right windows of the greatest precision from there on, over the
    number of reference windows. R1@t is the share of queries whose first window, as listed, has IoU >= t with
    the reference window it overlaps best. By length, only reference windows of that length count.

    A query without a reference window is not scored. Predicted windows come the best first; only the first
    ten count. A query without any, which the official evaluator leaves out of mAP and stops at in R1, scores
    0.

    Returns:
        mAP (over IoU .5 : .05 : .95), mAP@t, R1@t for each t, mIoU (of the first window), and each as
        "short/NAME", "middle/NAME" and "long/NAME", None where there is no query; num, short/num, ...; other
        counts.
    """
    metrics: Metrics = {}
    columns: Columns = {}
    for length, (above, up_to) in {"": (-math.inf, math.inf), **LENGTHS}.items():
        of_length = {
            key: [window for window in windows if above < window[1] - window[0] <= up_to]
            for key, windows in reference.items()
        }
        each, prefix = moments_of_each(of_length, predicted), f"{length}/" if length else ""
        for name in MOMENTS:
            column = columns[prefix + name] = {key: values[name] for key, values in each.items()}
            metrics[prefix + name] = mean(column.values())
        metrics[f"{prefix}num"] = len(each)
    metrics |= entry_counts(reference, predicted)
    return metrics | {"num_without_reference": sum(not w for w in reference.values())}, columns


def moments_of_each(
    reference: Mapping[Any, Sequence[Interval]], predicted: Mapping[Any, Sequence[Window]]
) -> dict[Any, dict[str, float]]:
    """mAP, mAP@t, R1@t and mIoU of each query that has a reference window."""
    out = {}
    for key, windows in reference.items():
        if not windows:
            continue
        ours = predicted.get(key, ())
        best = sorted(ours[:_MAX_PREDICTIONS], key=lambda window: -window[2])
        precisions = _average_precisions(tiou_matrix(best, windows))
        iou = float(tiou_matrix(ours[:1], windows).max(initial=0.0))
        out[key] = {
            "mAP": float(precisions.mean()),
            **{f"mAP@{t:g}": float(value) for t, value in zip(IOUS, precisions, strict=True)},
            **{f"R1@{t:g}": float(iou >= t) for t in IOUS},
            "mIoU": iou,
        }
    return out


def _average_precisions(overlap: FloatArray) -> FloatArray:
    """(IoUs,) AP at each IoU from (predicted by falling score, reference) IoUs."""
    num_predicted, num_reference = overlap.shape
    out = np.zeros(len(IOUS))
    for row, t in enumerate(IOUS):
        is_right = np.zeros(num_predicted, bool)
        is_free = np.ones(num_reference, bool)
        for i in range(num_predicted):
            fits = np.where(is_free, overlap[i], -1.0)
            best = num_reference - 1 - int(fits[::-1].argmax())  # of equal IoUs the last
            if fits[best] >= t:
                is_right[i], is_free[best] = True, False
        precision = np.cumsum(is_right) / np.arange(1, num_predicted + 1)
        out[row] = _best_from_here_on(precision)[is_right].sum() / num_reference
    return out


def _best_from_here_on(precision: FloatArray) -> FloatArray:
    return np.maximum.accumulate(precision[::-1])[::-1]


def highlights(
    reference: Mapping[Any, ArrayLike], predicted: Mapping[Any, Sequence[float]]
) -> tuple[Metrics, Columns]:
    """(mAP and HIT@1 of highlights at the levels Fair, Good and VeryGood, the same of each query).

    A clip is positive for a rater who gave it at least 2, 3 or 4. HIT@1 is the share of queries whose highest
    rated clip (of equal ratings the first) is positive for any rater. AP of a query and rater is the mean,
    over the different recalls that a threshold on the predicted ratings reaches, of the greatest precision at
    that recall or more; 0 if no clip is positive, 1 if all are. mAP is its mean over raters and queries.

    The reference is (clips, raters) ratings of each query, see `clip_ratings`, the prediction a rating of
    each clip. Missing ratings are 0, those beyond the last clip are cut off (and if the highest is one of
    them, it is no hit). No ratings at all score 0.
    """
    columns: Columns = {f"{metric}@{level}": {} for level in LEVELS for metric in ("mAP", "HIT1")}
    for key, rows in reference.items():
        ratings, ours = np.asarray(rows, np.float64), np.asarray(predicted.get(key, ()), np.float64)
        if not ratings.size:
            raise ValueError(
                f"reference[{key!r}] must be (clips, raters), one of each at least; got {ratings.shape}"
            )
        filled = np.zeros(len(ratings))
        filled[: len(ours)] = ours[: len(ratings)]
        top = int(ours.argmax()) if len(ours) else len(ratings)
        for level, lowest in LEVELS.items():
            positive = ratings >= lowest
            precisions = [average_precision(rater, filled) for rater in positive.T]
            columns[f"mAP@{level}"][key] = float(np.mean(precisions)) if len(ours) else 0.0
            columns[f"HIT1@{level}"][key] = float(top < len(ratings) and positive[top].any())
    metrics: dict[str, Any] = {name: mean(column.values()) for name, column in columns.items()}
    return metrics | {"num": len(reference)} | entry_counts(reference, predicted), columns


def average_precision(positive: NDArray[np.bool_], score: FloatArray) -> float:
    """The AP of `highlights`: equal scores are above a threshold together."""
    if positive.all() or not positive.any():
        return float(positive.all())
    order = np.argsort(-score, kind="stable")
    last_of_equals = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(positive[order])[last_of_equals]
    precision = hits / (np.flatnonzero(last_of_equals) + 1)
    return float(_best_from_here_on(precision)[np.diff(hits, prepend=0) > 0].mean())


def clip_ratings(
    duration_s: float, relevant_clip_ids: Sequence[int], saliency_scores: Sequence[Sequence[float]]
) -> FloatArray:
    """(clips, raters) ratings of all clips of a video; clips that nobody was asked about have 0."""
    ratings = np.asarray(saliency_scores, np.float64)
    where = np.asarray(relevant_clip_ids, np.int64)
    out = np.zeros((int(duration_s / CLIP_S), ratings.shape[1] if ratings.ndim == 2 else 3))
    if ratings.shape[:1] != where.shape or ((where < 0) | (where >= len(out))).any():
        raise ValueError(
            f"relevant_clip_ids must be one of {len(out)} clips for each of {len(ratings)} saliency_scores; "
            f"got {list(relevant_clip_ids)!r}"
        )
    if len(where):
        out[where] = ratings
    return out


def smoothed(score: Sequence[float], num_frames: int) -> list[float]:
    """(T,) the mean of each score and up to `num_frames` before and behind it, fewer at the ends."""
    # exact means, rounded once: windows of the same scores tie in any order and at the ends
    windows = (score[max(i - num_frames, 0) : i + num_frames + 1] for i in range(len(score)))
    return [statistics.mean(map(float, window)) for window in windows]


def clip_scores(
    time_s: Sequence[float], score: Sequence[float], *, num_frames: int = PUBLISHED_FRAMES
) -> list[float]:
    """The rating of each clip of a video, for `highlights`: the sum of its frames' smoothed scores.

    `time_s` and `score` are (T,) seconds of its frames, and how relevant each is to a query. MMDuet sums so
    (yellow-binary-tree/MMDuet, test/evaluate.py, MIT). These are offline numbers: smoothing looks ahead.
    """
    step_s = time_s[1] - time_s[0] if len(time_s) > 1 else CLIP_S
    if not 0 < step_s <= CLIP_S:
        raise ValueError(
            f"curve must have a frame a clip at least, {CLIP_S:g} s, by time; got one each {step_s:g} s"
        )
    of_clip = int(CLIP_S / step_s + 1e-9)
    frames = smoothed(score, num_frames)
    return [math.fsum(frames[first : first + of_clip]) for first in range(0, len(frames), of_clip)]
