"""Temporal IoU against counted tenths of a second, and recall at 1 by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import intervals
from longcompress.eval.metrics.intervals import mean, tiou_matrix


def grounding(*args, **options):
    return intervals.grounding(*args, **options)[0]


def tiou(a, b):
    return float(tiou_matrix([a], [b])[0, 0])


def iou_of_each(*args):
    return intervals.grounding(*args)[1]["mIoU"]


TENTH = st.integers(-50, 50)
SPAN = st.tuples(TENTH, TENTH)


def counted(a: tuple[int, int], b: tuple[int, int]) -> float:
    """IoU of spans in whole tenths, by counting the tenths in both and in either."""
    first, second = set(range(*a)), set(range(*b))
    return len(first & second) / len(first | second) if first & second else 0.0


@settings(deadline=None)
@given(SPAN, SPAN)
def test_iou_is_that_of_counted_tenths(a, b):
    got = tiou((a[0] / 10, a[1] / 10), (b[0] / 10, b[1] / 10))
    assert got == pytest.approx(counted(a, b), abs=1e-12)


@settings(deadline=None)
@given(st.lists(SPAN, max_size=6), st.lists(SPAN, max_size=6))
def test_the_matrix_is_each_with_each(a, b):
    got = tiou_matrix(a, b)
    assert got.shape == (len(a), len(b))
    want = np.array([[tiou(x, y) for y in b] for x in a]).reshape(got.shape)
    assert np.array_equal(got, want)
    assert np.array_equal(tiou_matrix(b, a), got.T)


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (2, 7), 0.5),
        ((0, 5), (5, 9), 0.0),  # touching
        ((0, 5), (7, 9), 0.0),  # apart
        ((3, 3), (3, 3), 0.0),  # no length
        ((3, 3), (0, 9), 0.0),
        ((9, 1), (0, 10), 0.0),  # ends before it starts
        ((9, 1), (9, 1), 0.0),
        ((0, 1e9), (0, 1), 1e-9),
    ],
)
def test_iou_of_odd_spans(a, b, want):
    assert tiou(a, b) == pytest.approx(want, abs=1e-15)


def test_epsilon_takes_a_round_iou_below_its_threshold():
    assert tiou_matrix([(0, 5)], [(0, 10)])[0, 0] == 0.5
    assert 0.5 - 1e-8 < tiou_matrix([(0, 5)], [(0, 10)], epsilon=1e-8)[0, 0] < 0.5


@pytest.mark.parametrize("bad", [(0.0, math.nan), (math.inf, 1.0)])
def test_a_span_must_be_two_finite_numbers(bad):
    with pytest.raises(ValueError, match=r"b\[1\] must be \(start_s, end_s\), two finite numbers; got"):
        tiou_matrix([(0, 1)], [(0, 1), bad])


REFERENCE = {"a": (0.0, 10.0), "b": (0.0, 200.0), "c": (5.0, 6.0), "d": (1.0, 2.0)}
PREDICTED = {"a": (0.0, 10.0), "b": (0.0, 99.1), "c": None, "e": (0.0, 1.0)}  # IoU 1, .4955, -, -


def test_grounding_by_hand():
    got = grounding(REFERENCE, PREDICTED)
    assert got["R@0.3"] == 0.5 and got["R@0.5"] == got["R@0.7"] == 0.25
    assert got["mIoU"] == pytest.approx((1 + 0.4955) / 4)
    assert (got["num"], got["num_unanswered"], got["num_unknown"]) == (4, 2, 1)


def test_rounding_lifts_an_iou_over_its_threshold():
    got = grounding(REFERENCE, PREDICTED, round_iou=True)
    assert got["R@0.5"] == 0.5 and got["mIoU"] == pytest.approx(1.5 / 4)


def test_nothing_has_no_score():
    got = grounding({}, {"x": (0.0, 1.0)})
    assert got["mIoU"] is None and got["R@0.5"] is None and got["num"] == 0 and got["num_unknown"] == 1
    assert mean([]) is None


def test_silence_scores_nothing():
    got = grounding(REFERENCE, {})
    assert got["mIoU"] == 0.0 and got["R@0.3"] == 0.0 and got["num_unanswered"] == 4
    assert iou_of_each(REFERENCE, {}) == dict.fromkeys(REFERENCE, 0.0)
