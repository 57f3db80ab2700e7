"""How well a span in time is predicted: temporal IoU, recall at 1, mean IoU."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]  # (start_s, end_s), half-open
Captioned = tuple[float, float, str]  # start_s, end_s, text
Annotator = Mapping[Any, Sequence[Captioned]]  # the events of each video
Metrics = dict[str, Any]  # numbers by name, and what belongs beside them
Each = dict[Any, float]  # the number of each item
Columns = dict[str, Each]  # numbers of each item, by their names
FloatArray = NDArray[np.float64]
Compat = Literal["paper"] | None


def as_spans(spans: Sequence[Sequence[Any]], name: str) -> FloatArray:
    """(n, 2) float64: the first two numbers of each span; ValueError, with `name`, unless they are finite."""
    out = np.array([span[:2] for span in spans], np.float64).reshape(-1, 2)
    for i in np.flatnonzero(~np.isfinite(out).all(1)).tolist():
        raise ValueError(
            f"{name}[{i}] must be (start_s, end_s), two finite numbers; got {spans[i]!r}. "
            "Leave out what could not be read"
        )
    return out


def tiou_matrix(a: Sequence[Sequence[Any]], b: Sequence[Sequence[Any]], epsilon: float = 0.0) -> FloatArray:
    """(len(a), len(b)) float64: the time that both cover over the time that either covers, in [0, 1].

    A span that ends before it starts, or where it starts, covers no time: its IoU with anything, itself
    included, is 0. So is that of two spans that only touch.

    `epsilon` is added to what is divided by; 1e-8 is what the dense-caption evaluators do, by which an IoU of
    just 0.5 is below 0.5.
    """
    first, second = as_spans(a, "a"), as_spans(b, "b")
    start = np.maximum(first[:, None, 0], second[None, :, 0])
    end = np.minimum(first[:, None, 1], second[None, :, 1])
    both = np.maximum(end - start, 0.0)
    either = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None, :] - both + epsilon
    return np.divide(both, either, out=np.zeros_like(both), where=(both > 0) & (either > 0))


def grounding(
    reference: Mapping[Any, Interval], predicted: Mapping[Any, Interval | None], *, round_iou: bool = False,
    ious: Mapping[Any, float] | None = None,
) -> tuple[Metrics, Columns]:  # fmt: skip
    """(recall at 1, R@.3 .5 .7, and mean IoU of a predicted span for each query, the same of each query).

    R@t is the share of queries whose IoU is at least t. A query without a prediction, or with None, has IoU
    0. `round_iou` rounds each IoU to two decimals first, as VTimeLLM and LongVALE do (0.495 then counts at
    0.5). `ious` are of queries whose IoU is known in another way.
    """
    known, of_each = ious or {}, {}
    for key, true in reference.items():
        span = predicted.get(key)
        iou = known.get(key, 0.0 if span is None else float(tiou_matrix([span], [true])[0, 0]))
        of_each[key] = round(iou, 2) if round_iou else iou
    each = {"mIoU": of_each}
    each |= {f"R@{t:g}": {key: float(iou >= t) for key, iou in of_each.items()} for t in (0.3, 0.5, 0.7)}
    metrics = {
        **{name: mean(values.values()) for name, values in each.items()},
        "num": len(of_each),
        "num_unanswered": sum(predicted.get(key) is None and key not in known for key in reference),
        "num_unknown": sum(key not in reference for key in predicted),
    }
    return metrics, each


def entry_counts(
    reference: Collection[Any],
    predicted: Mapping[Any, Any],
    is_empty: Callable[[Any], bool] = lambda entry: len(entry) == 0,
    names: tuple[str, str] = ("num_missing", "num_empty"),
) -> dict[str, int]:
    """Under `names` the numbers of ids without an entry and with an empty one; num_unknown (ids of none)."""
    keys = set(reference)
    missing, empty = names
    return {
        missing: sum(key not in predicted for key in keys),
        empty: sum(is_empty(predicted[key]) for key in keys if key in predicted),
        "num_unknown": sum(key not in keys for key in predicted),
    }


def mean(values: Collection[float]) -> float | None:
    """The arithmetic mean, summed exactly; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def harmonic(precision: float | None, recall: float | None) -> float | None:
    """2 P R / (P + R), 0 where both are 0; None of nothing."""
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
