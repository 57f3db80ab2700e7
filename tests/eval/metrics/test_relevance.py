"""Curves of relevance against loops written from MMDuet's definitions."""

from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics.highlights import clip_ratings, clip_scores, highlights, smoothed

SCORES = st.lists(st.integers(0, 8), min_size=1, max_size=20)


def slow_smoothed(score, num_frames):
    return [fmean(score[max(0, i - num_frames) : i + num_frames + 1]) for i in range(len(score))]


@settings(deadline=None)
@given(SCORES, st.integers(0, 5))
def test_smoothing_is_a_centred_mean_cut_at_the_ends(score, num_frames):
    assert smoothed(score, num_frames) == pytest.approx(slow_smoothed(score, num_frames))


def test_equal_windows_tie_wherever_they_lie():
    assert len(set(smoothed([0.1] * 9, 2))) == 1
    # a running sum would leave a rest of the large score behind
    curve = smoothed([0.7, 1e6, 0.3, *[0.0] * 5, 0.1, 0.2, 0.3, 0.0, 0.0], 2)
    assert curve[9] == smoothed([0.0, 0.3, 0.2, 0.1, 0.0], 2)[2] and curve[5] == 0.0


def test_clips_are_sums_of_their_frames():
    assert clip_scores(range(5), [1, 2, 3, 4, 5], num_frames=0) == [3.0, 7.0, 5.0]
    assert clip_scores([0, 0.5, 1, 1.5, 2, 2.5], [1, 1, 1, 1, 1, 1], num_frames=2) == [4.0, 2.0]
    assert clip_scores([0, 2, 4], [1, 2, 3], num_frames=0) == [1.0, 2.0, 3.0]
    assert clip_scores([0.1 * i for i in range(40)], [1.0] * 40) == pytest.approx([20.0, 20.0])
    assert clip_scores([], []) == [] and clip_scores([0.0], [0.5]) == [0.5]
    reference = {1: clip_ratings(10, [1, 2], [[4, 4, 4], [4, 4, 4]])}
    curve = range(10), [0, 0, 3, 2, 2, 1, 0, 0, 0, 0]
    assert highlights(reference, {1: clip_scores(*curve, num_frames=0)})[0]["mAP@VeryGood"] == 1.0


def test_wrong_curves():
    with pytest.raises(ValueError, match=r"curve must have a frame a clip at least, .* got one each 3 s"):
        clip_scores([0, 3], [1, 1])
