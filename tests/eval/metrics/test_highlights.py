"""QVHighlights against literal forms of its evaluator's definitions, and scikit-learn where it is
installed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import highlights as metrics
from longcompress.eval.metrics.highlights import (
    IOUS,
    LENGTHS,
    LEVELS,
    average_precision,
    clip_ratings,
    moments_of_each,
)


def moments(*args):
    return metrics.moments(*args)[0]


def highlights(*args):
    return metrics.highlights(*args)[0]


def highlights_of_each(*args):
    columns = metrics.highlights(*args)[1]
    return {"q": {name: column["q"] for name, column in columns.items()}}


SPAN = st.tuples(st.integers(0, 20), st.integers(1, 30)).map(lambda s: (2 * s[0], 2 * (s[0] + s[1])))
WINDOW = st.tuples(SPAN, st.sampled_from([0.1, 0.5, 0.9])).map(lambda w: (*w[0], w[1]))


def slow_iou(a, b) -> float:
    both = min(a[1], b[1]) - max(a[0], b[0])
    return both / (max(a[1], b[1]) - min(a[0], b[0])) if both > 0 else 0.0


def slow_ap(reference, predicted, t: float) -> float:
    """Precision and recall after each prediction; for each recall the best precision at it or a greater
    one."""
    taken, right, curve = set(), 0, [(0.0, 0.0)]
    for rank, window in enumerate(sorted(predicted, key=lambda w: -w[2]), 1):
        free = [(slow_iou(window, g), j) for j, g in enumerate(reference) if j not in taken]
        best = max(free, default=(0.0, -1))
        if best[1] >= 0 and best[0] >= t:
            taken.add(best[1])
            right += 1
        curve.append((right / len(reference), right / rank))
    recalls = sorted({recall for recall, _ in curve})
    return sum(
        (recall - before) * max(p for r, p in curve if r >= recall) for before, recall in pairwise(recalls)
    )


@settings(deadline=None)
@given(st.lists(SPAN, min_size=1, max_size=4), st.lists(WINDOW, max_size=13))
def test_moments_are_their_definition(reference, predicted):
    got = moments_of_each({"q": reference}, {"q": predicted})["q"]
    want = [slow_ap(reference, predicted[:10], t) for t in IOUS]
    assert [got[f"mAP@{t:g}"] for t in IOUS] == pytest.approx(want, abs=1e-9)
    assert got["mAP"] == pytest.approx(sum(want) / 10, abs=1e-9)
    best = max((slow_iou(predicted[0], line) for line in reference), default=0.0) if predicted else 0.0
    assert [got[f"R1@{t:g}"] for t in IOUS] == [float(best >= t) for t in IOUS]


def test_moments_by_hand():
    reference = {1: [(0, 10), (20, 40)], 2: [(0, 100)]}
    # 1: found, not found, found; 2: wrong.
    predicted = {1: [(0, 10, 0.9), (50, 60, 0.8), (20, 40, 0.7)], 2: [(100, 140, 1.0)]}
    got = moments(reference, predicted)
    assert got["mAP"] == pytest.approx((1 / 2 * 1 + 1 / 2 * 2 / 3) / 2)
    assert got["R1@0.5"] == 0.5 and got["R1@0.95"] == 0.5 and got["mIoU"] == 0.5
    assert (got["short/num"], got["middle/num"], got["long/num"], got["num"]) == (1, 1, 1, 2)
    assert got["short/mAP"] == 1.0 and got["long/R1@0.5"] == 0.0
    # Of the middle one only, the right window comes third.
    assert got["middle/mAP"] == pytest.approx(1 / 3) and got["middle/R1@0.5"] == 0.0


def test_the_first_listed_window_is_r1_s_and_scores_order_ap_s():
    got = moments({1: [(0, 10)]}, {1: [(50, 60, 0.1), (0, 10, 0.9)]})
    assert got["R1@0.5"] == 0.0 and got["mAP"] == 1.0


def test_missing_lengths_have_no_score():
    got = moments({1: [(0, 10)]}, {1: [(0, 10, 1.0)]})
    for name in ("middle", "long"):
        assert got[f"{name}/mAP"] is got[f"{name}/R1@0.5"] is None and got[f"{name}/num"] == 0
    assert set(LENGTHS) == {"short", "middle", "long"}


def test_silence_and_odd_queries():
    reference = {1: [(0, 10)], 2: [(0, 10)], 3: []}
    got = moments(reference, {1: [], 4: [(0, 1, 1.0)]})
    assert got["mAP"] == got["R1@0.5"] == 0.0
    counts = ("num", "num_missing", "num_empty", "num_unknown", "num_without_reference")
    assert [got[name] for name in counts] == [2, 2, 1, 1, 1]
    assert moments({}, {})["mAP"] is None
    no_time = moments({1: [(5, 5)]}, {1: [(5, 5, 1.0), (9, 1, 1.0)]})
    assert no_time["mAP"] == 0.0 and no_time["R1@0.5"] == 0.0


def test_thousands_of_windows():
    predicted = {1: [(i, i + 10, 0.5) for i in range(5000)]}
    got = moments({1: [(9, 19)], 2: [(3000, 3010)]}, predicted | {2: predicted[1]})
    assert got["mAP@0.95"] == pytest.approx(1 / 10 / 2)  # the tenth counts, those behind it don't


# --- highlight detection


def slow_clip_ap(positive: list[bool], score: list[float]) -> float:
    """The mean over recalls reached by some threshold of the best precision at that recall or more."""
    if all(positive) or not any(positive):
        return float(all(positive))
    curve = []
    for threshold in set(score):
        selected = [p for p, s in zip(positive, score, strict=True) if s >= threshold]
        curve.append((sum(selected), sum(selected) / len(selected)))
    recalls = {recalled for recalled, _ in curve if recalled}
    return sum(max(p for recalled, p in curve if recalled >= recall) for recall in recalls) / len(recalls)


CLIPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([-1.0, 0.0, 0.3, 0.5, 2.0])), min_size=1, max_size=12
)


@settings(deadline=None)
@given(CLIPS)
def test_average_precision_is_its_definition(clips):
    positive, score = [c[0] for c in clips], [c[1] for c in clips]
    got = average_precision(np.array(positive), np.array(score))
    assert got == pytest.approx(slow_clip_ap(positive, score), abs=1e-12)


@settings(deadline=None)
@given(CLIPS)
def test_average_precision_is_of_scikit_learn_s_curve(clips):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    positive, score = np.array([c[0] for c in clips]), np.array([c[1] for c in clips])
    if positive.all() or not positive.any():
        return
    precision, recall, _ = sklearn.precision_recall_curve(positive, score)
    best = np.maximum.accumulate(precision)  # from full recall on
    want = best[np.flatnonzero(np.diff(recall))].mean()
    assert average_precision(positive, score) == pytest.approx(want, abs=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=10),
)
def test_highlights_are_their_definition(ratings, predicted):
    got = highlights_of_each({"q": np.array(ratings)}, {"q": predicted})["q"]
    filled = (predicted + [0.0] * len(ratings))[: len(ratings)]
    top = max(range(len(predicted)), key=lambda i: (predicted[i], -i)) if predicted else None
    for level, lowest in LEVELS.items():
        aps = [slow_clip_ap([rating[r] >= lowest for rating in ratings], filled) for r in range(3)]
        assert got[f"mAP@{level}"] == pytest.approx(sum(aps) / 3 if predicted else 0.0, abs=1e-12)
        hit = top is not None and top < len(ratings) and max(ratings[top]) >= lowest
        assert got[f"HIT1@{level}"] == float(hit)


def test_highlights_by_hand():
    reference = {1: clip_ratings(11, [1, 3], [(4, 4, 2), (3, 0, 0)])}
    assert reference[1].tolist() == [[0, 0, 0], [4, 4, 2], [0, 0, 0], [3, 0, 0], [0, 0, 0]]
    got = highlights(reference, {1: [0.1, 0.9, 0.8, 0.2, 0.0]})
    # VeryGood: two raters have clip 1 only, found first; the third has none.
    assert got["mAP@VeryGood"] == pytest.approx(2 / 3) and got["HIT1@VeryGood"] == 1.0
    # Good: the first rater also has clip 3, found third.
    assert got["mAP@Good"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 3)


def test_ties_count_together():
    assert average_precision(np.array([True, False]), np.array([0.5, 0.5])) == 0.5
    assert average_precision(np.array([False, True]), np.array([0.5, 0.5])) == 0.5


def test_silence_and_odd_ratings():
    reference = {1: np.full((2, 3), 4), 2: np.zeros((2, 3)), 3: np.full((2, 3), 4)}
    got = highlights(reference, {1: [], 2: [1.0], 9: [0.0]})
    assert got["mAP@Fair"] == 0.0 and got["HIT1@Fair"] == 0.0
    assert (got["num"], got["num_missing"], got["num_empty"], got["num_unknown"]) == (3, 1, 1, 1)
    assert highlights({1: reference[1]}, {1: [0.0, 0.0, 5.0]})["HIT1@Fair"] == 0.0  # beyond the last clip
    assert highlights({}, {})["mAP@Fair"] is None
    assert clip_ratings(4, [], []).shape == (2, 3)


def test_wrong_ratings_are_refused():
    with pytest.raises(
        ValueError, match=r"reference\[1\] must be \(clips, raters\), one of each at least; got \(0, 3\)"
    ):
        highlights({1: np.zeros((0, 3))}, {})
    with pytest.raises(
        ValueError, match="relevant_clip_ids must be one of 2 clips for each of 1 saliency_scores"
    ):
        clip_ratings(4, [2], [(1, 1, 1)])
