"""SODA_c against every matching tried, and its modes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import dense as soda
from longcompress.eval.metrics.dense import Soda, in_order, meteor_of_pairs, soda_of_each
from longcompress.eval.metrics.meteor import NOT_COMPUTED, is_available

needs_meteor = pytest.mark.skipif(not is_available(), reason="java or pycocoevalcap is not installed")

MATRIX = st.tuples(st.integers(0, 4), st.integers(0, 5)).flatmap(
    lambda shape: st.lists(st.floats(0, 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda values: np.array(values).reshape(shape)
    )
)
EVENT = st.tuples(st.integers(0, 20), st.integers(0, 25), st.sampled_from(["a", "b", "c"]))


def every_matching(earned: np.ndarray) -> float:
    """The most of any choice of rows and of as many columns, both in order."""
    n, m = earned.shape
    return max(
        sum(earned[i, j] for i, j in zip(rows, columns, strict=True))
        for size in range(min(n, m) + 1)
        for rows in combinations(range(n), size)
        for columns in combinations(range(m), size)
    )


@settings(deadline=None)
@given(MATRIX)
def test_in_order_is_the_best_of_every_matching(earned):
    assert in_order(earned) == pytest.approx(every_matching(earned), abs=1e-12)


def soda_c(*args, **options):
    return soda.soda_c(*args, **options)[0]


def same(pairs):
    return [float(a == b) + 0.25 for a, b in pairs]


@settings(deadline=None)
@given(st.lists(EVENT, max_size=4), st.lists(EVENT, max_size=4))
def test_soda_is_its_definition(ours, theirs):
    got = soda_of_each({"v": theirs}, {"v": ours}, same)["v"]
    a, b = sorted(ours, key=lambda e: e[0]), sorted(theirs, key=lambda e: e[0])
    earned = np.zeros((len(a), len(b)))
    for i, (s, e, text) in enumerate(a):
        for j, (s2, e2, text2) in enumerate(b):
            both, hull = min(e, e2) - max(s, s2), max(e, e2) - min(s, s2)
            earned[i, j] = max(both, 0) / hull * (1.25 if text == text2 else 0.25) if both > 0 else 0.0
    best = every_matching(earned)
    if not best:
        assert got == Soda(0.0, 0.0, 0.0)
        return
    assert got.precision == pytest.approx(best / len(a)) and got.recall == pytest.approx(best / len(b))
    assert got.f1 == pytest.approx(2 * best / (len(a) + len(b)))


REFERENCE = {
    "v": [(0, 10, "a dog runs"), (10, 20, "a cat sleeps")],
    "w": [(0, 5, "music")],
    "x": [(0, 5, "rain")],
}
PREDICTED = {"v": [(10, 20, "a cat sleeps"), (0, 10, "a dog runs")], "w": [], "u": [(0, 1, "?")]}


def equal(pairs):
    return [float(a == b) for a, b in pairs]


def test_without_a_scorer_nothing_is_computed():
    got = soda_c(REFERENCE, PREDICTED, None)
    assert got["SODA_c"] is got["SODA_c_recall"] is None and got["scorer"] == NOT_COMPUTED
    assert (got["num"], got["num_missing"]) == (3, 1)


def test_a_perfect_story_in_any_order_and_silence():
    got = soda_c(REFERENCE, PREDICTED, equal)
    assert got["SODA_c"] == pytest.approx(1 / 3) and got["SODA_c_recall"] == pytest.approx(1 / 3)
    assert (got["num"], got["num_missing"], got["num_empty"], got["num_unknown"]) == (3, 1, 1, 1)
    assert got["scorer"] == "equal"


def test_the_papers_leave_out_what_was_not_predicted():
    got = soda_c(REFERENCE, PREDICTED, equal, compat="paper")
    assert got["SODA_c"] == pytest.approx(1 / 2) and got["num"] == 2 and got["num_missing"] == 1


@needs_meteor
def test_swapped_arguments_are_another_score():
    odd = {"v": [(0, 10, "a dog")]}, {"v": [(0, 10, "a big red dog runs over the old field")]}
    straight, swapped = (soda_c(*odd, meteor_of_pairs(swapped=how)) for how in (False, True))
    assert straight["SODA_c"] != pytest.approx(swapped["SODA_c"], abs=0.05)
    assert swapped["scorer"] == straight["scorer"] + ", arguments swapped"


def test_the_papers_read_ascii_only():
    odd = {"v": [(0, 10, "naïve café")]}, {"v": [(0, 10, "na ve caf ")]}
    assert soda_c(*odd, equal)["SODA_c"] == 0.0
    assert soda_c(*odd, equal, compat="paper")["SODA_c"] == pytest.approx(1.0)


def test_a_scorer_of_ones_own_is_asked_once_about_overlapping_pairs():
    asked = []

    def scorer(pairs):
        asked.append(list(pairs))
        return same(pairs)

    reference = {"v": [(0, 10, "a"), (0, 10, "a"), (50, 60, "b")], "w": [(0, 10, "a")]}
    got = soda_c(reference, {"v": [(0, 10, "c")] * 3, "w": [(1, 9, "c"), (70, 80, "d")]}, scorer=scorer)
    assert asked == [[("c", "a")]]
    assert got["scorer"] == "scorer"


def test_odd_events():
    assert soda_c({}, {}, scorer=same)["SODA_c"] is None
    no_time = {"v": [(5, 5, "a"), (9, 2, "a")]}
    assert soda_c(no_time, no_time, scorer=same)["SODA_c"] == 0.0
    assert soda_c({"v": []}, {"v": [(0, 1, "a")]}, scorer=same)["SODA_c"] == 0.0
    # One right event told three times earns once and costs precision.
    got = soda_c({"v": [(0, 10, "a")]}, {"v": [(0, 10, "a")] * 3}, scorer=lambda pairs: [1.0] * len(pairs))
    assert (got["SODA_c_precision"], got["SODA_c_recall"]) == (pytest.approx(1 / 3), pytest.approx(1.0))


def test_a_thousand_events_against_a_thousand():
    reference = {"v": [(i, i + 1000, f"text {i % 700}") for i in range(1000)]}
    predicted = {"v": [(i + 0.3, i + 900, f"text {i}") for i in range(1000)]}
    got = soda_c(reference, predicted, scorer=lambda pairs: [float(a == b) for a, b in pairs])
    assert 0.6 < got["SODA_c"] < 0.65
