"""Curves of relevance against loops written from MMDuet's definitions."""

import math
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics.highlights import clip_ratings, highlights
from longcompress.eval.metrics.relevance import (
    Curve,
    clip_scores,
    relevance_grounding,
    relevant_frames,
    smoothed,
)

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=20)


def slow_smoothed(score, num_frames):
    return [fmean(score[max(0, i - num_frames) : i + num_frames + 1]) for i in range(len(score))]


@settings(deadline=None)
@given(SCORES, st.integers(0, 5))
def test_smoothing_is_a_centred_mean_cut_at_the_ends(score, num_frames):
    assert smoothed(score, num_frames).tolist() == pytest.approx(slow_smoothed(score, num_frames))


@settings(deadline=None)
@given(SCORES, st.integers(0, 3), st.sampled_from([0.31, 0.5, 0.69]), st.tuples(*[st.integers(0, 12)] * 2))
def test_iou_of_frames_is_counted(score, num_frames, threshold, span):
    curve = Curve([i / 2 for i in range(len(score))], score)
    values = slow_smoothed(score, num_frames)
    low, high = min(values), max(values)
    near = [(v - low) / (high - low) if high > low + 1e-12 else -1.0 for v in values]
    if any(abs(v - threshold) < 1e-9 for v in near):
        return  # on the edge rounding decides
    ours = {i for i, v in enumerate(near) if v >= threshold}
    theirs = {i for i in range(len(score)) if span[0] <= i / 2 <= span[1]}
    want = len(ours & theirs) / len(ours | theirs) if ours | theirs else 0.0
    got = relevance_grounding({"q": [span]}, {"q": curve}, threshold=threshold, num_frames=num_frames)
    assert got["mIoU"] == pytest.approx(want) and got["R@0.5"] == float(want >= 0.5)


def test_grounding_by_hand():
    curve = Curve([0, 1, 2, 3, 4], [0.0, 0.2, 1.0, 0.8, 0.1])
    gold = {1: [(2.0, 4.0)], 2: [(0.0, 1.0), (3.0, 3.0)], 3: [(0.0, 1.0)]}
    # Relevant are 2 and 3: of 2, 3, 4 two; of 0, 1, 3 one of four; the third has no curve.
    got = relevance_grounding(gold, {1: curve, 2: curve, 9: curve}, threshold=0.5, num_frames=0)
    assert got["mIoU"] == pytest.approx((2 / 3 + 1 / 4) / 3)
    assert (got["R@0.3"], got["R@0.5"], got["R@0.7"]) == (1 / 3, 1 / 3, 0.0)
    assert (got["num"], got["num_missing"], got["num_unknown"]) == (3, 1, 1)


def test_curves_that_point_nowhere():
    for score in ([0.3] * 4, [0.1 + 0.2, 0.3, 0.3, 0.3], [0.0] * 4):
        assert not relevant_frames(Curve(range(4), score), threshold=0.0, num_frames=1).any()
    got = relevance_grounding({1: [(0, 9)], 2: [(5, 5)]}, {1: Curve([], [])}, threshold=0.5)
    assert got["mIoU"] == 0.0 and relevance_grounding({}, {}, threshold=0.5)["mIoU"] is None
    one = relevance_grounding({1: [(0, 9)]}, {1: Curve([0.0], [0.7])}, threshold=0.5)
    assert one["mIoU"] == 0.0  # one frame is the least and the greatest
    no_time = relevance_grounding(
        {1: [(2, 2)]}, {1: Curve(range(4), [0, 0, 1, 0])}, threshold=1, num_frames=0
    )
    assert no_time["mIoU"] == 1.0  # a span of no length holds the frame it lies on


def test_clips_are_sums_of_their_frames():
    assert clip_scores(Curve(range(5), [1, 2, 3, 4, 5]), num_frames=0) == [3.0, 7.0, 5.0]
    assert clip_scores(Curve([0, 0.5, 1, 1.5, 2, 2.5], [1, 1, 1, 1, 1, 1]), num_frames=2) == [4.0, 2.0]
    assert clip_scores(Curve([0, 2, 4], [1, 2, 3]), num_frames=0) == [1.0, 2.0, 3.0]
    assert clip_scores(Curve([0.1 * i for i in range(40)], [1.0] * 40)) == pytest.approx([20.0, 20.0])
    assert clip_scores(Curve([], [])) == [] and clip_scores(Curve([0.0], [0.5])) == [0.5]
    gold = {1: clip_ratings(10, [1, 2], [[4, 4, 4], [4, 4, 4]])}
    curve = Curve(range(10), [0, 0, 3, 2, 2, 1, 0, 0, 0, 0])
    assert highlights(gold, {1: clip_scores(curve, num_frames=0)})["mAP@VeryGood"] == 1.0


def test_thousands_of_frames_and_wrong_curves():
    many = Curve(range(5000), [math.sin(i / 100) for i in range(5000)])
    got = relevance_grounding(
        {i: [(0, 300)] for i in range(20)}, dict.fromkeys(range(20), many), threshold=0.7
    )
    assert 0 < got["mIoU"] < 0.2
    with pytest.raises(ValueError, match=r"curve must be a finite time and .* got \(2,\) times"):
        clip_scores(Curve([0, 1], [1.0]))
    with pytest.raises(ValueError, match="curve must be a finite time and a finite score for each frame"):
        relevant_frames(Curve([0.0], [math.nan]), threshold=0.5, num_frames=0)
    with pytest.raises(ValueError, match="num_frames must be at least 0, got -1"):
        smoothed([1.0], -1)
    with pytest.raises(ValueError, match=r"curve must have a frame a clip at least, .* got one each 3 s"):
        clip_scores(Curve([0, 3], [1, 1]))
