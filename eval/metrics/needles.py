"""Needles in a video: whether they were found, and how far off in time."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from .intervals import Interval, mean, tiou


def needles(
    gold: Mapping[Any, Interval],
    predicted: Mapping[Any, Interval | None],
    *,
    tolerance_s: float = 2.0,
    groups: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """Recall of needles and the error in time.

    A needle is found if the middle of the answered span is in the needle's, widened by `tolerance_s` on
    either
    side: an answer that names half the video finds nothing but by chance. The error in time is the distance of
    the two middles, of answered needles.

    Args:
        gold: the span of each needle.
        predicted: the span that was answered; a moment is a span with both ends equal; None, or no entry, for
            no answer, which is not found. Ends are put in order.
        tolerance_s: see above, at least 0.
        groups: a name for each needle (its kind, the video's length), for recall by group.

    Returns:
        recall, mIoU, error_s_mean, error_s_median, error_s_p90 (None of no needles, or none answered); with
        groups recall/GROUP and num/GROUP; num, num_unanswered, num_unknown.
    """
    found = found_of_each(gold, predicted, tolerance_s=tolerance_s)
    errors = sorted(
        abs(_middle(span) - _middle(gold[key]))
        for key, span in predicted.items()
        if key in gold and span is not None
    )
    overlaps = [
        0.0 if (span := predicted.get(key)) is None else tiou(_ordered(span), true)
        for key, true in gold.items()
    ]
    return {
        "recall": mean(list(found.values())),
        "mIoU": mean(overlaps),
        "error_s_mean": mean(errors),
        "error_s_median": statistics.median(errors) if errors else None,
        "error_s_p90": errors[math.ceil(0.9 * len(errors)) - 1] if errors else None,
        **({} if groups is None else _by_group(found, groups)),
        "num": len(gold),
        "num_unanswered": sum(predicted.get(key) is None for key in gold),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def found_of_each(
    gold: Mapping[Any, Interval], predicted: Mapping[Any, Interval | None], *, tolerance_s: float = 2.0
) -> dict[Any, float]:
    """1 for each needle that was found, 0 for the others: what heat maps and `bootstrap` are made of."""
    if not tolerance_s >= 0:
        raise ValueError(f"tolerance_s must be at least 0 seconds, got {tolerance_s}")
    out = {}
    for key, (start_s, end_s) in gold.items():
        if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s <= end_s):
            raise ValueError(f"gold[{key!r}] must be (start_s, end_s >= start_s), got {(start_s, end_s)}")
        span = predicted.get(key)
        out[key] = float(span is not None and start_s - tolerance_s <= _middle(span) <= end_s + tolerance_s)
    return out


def heat_map(
    values: Mapping[Any, float], length: Mapping[Any, Any], depth: Mapping[Any, Any]
) -> dict[tuple[Any, Any], float]:
    """The mean value of each (length, depth) that there is: the frame everyone expects."""
    patches: dict[tuple[Any, Any], list[float]] = {}
    for key, value in values.items():
        patches.setdefault((length[key], depth[key]), []).append(value)
    return {patch: math.fsum(some) / len(some) for patch, some in sorted(patches.items())}


def _by_group(found: Mapping[Any, float], groups: Mapping[Any, str]) -> dict[str, Any]:
    members: dict[str, list[float]] = {}
    for key, value in found.items():
        if key not in groups:
            raise ValueError(f"groups must name each needle of the gold, got none for {key!r}")
        members.setdefault(groups[key], []).append(value)
    means = {f"recall/{name}": mean(values) for name, values in sorted(members.items())}
    return {**means, **{f"num/{name}": len(values) for name, values in sorted(members.items())}}


def _middle(span: Interval) -> float:
    return (span[0] + span[1]) / 2


def _ordered(span: Interval) -> Interval:
    return min(span), max(span)
