"""Dense captions and YouCook2 by hand; against the evaluators' own scorers in test_metrics_package.py."""

import pytest

from longcompress.eval.metrics import dense
from longcompress.eval.metrics.dense import THRESHOLDS, dense_captions, reply_segments, youcook2
from longcompress.eval.metrics.intervals import harmonic
from longcompress.eval.metrics.meteor import NOT_COMPUTED, is_available

needs_meteor = pytest.mark.skipif(not is_available(), reason="java or pycocoevalcap is not installed")


DOG, CAT, MAN = "a dog runs over the field", "the cat sleeps on a mat", "some man pours cold milk"
REFERENCE = {"v": [(0, 10, DOG), (20, 40, CAT)], "w": [(0, 8, MAN)]}


def score(reference, predicted, **how):
    return dense_captions(reference, predicted, **how)[0]


def test_a_perfect_answer():
    got = score([REFERENCE], REFERENCE)
    meteor = ("METEOR",) if is_available() else ()
    for name in (*meteor, "ROUGE-L", "BLEU-4", "precision", "recall", "F1"):
        assert got[name] == pytest.approx(1.0)
        assert all(got[f"{name}@{t}"] == got[name] for t in THRESHOLDS)
    assert got["CIDEr"] == pytest.approx(10.0)
    assert (got["num"], got["num_missing"], got["num_empty"], got["num_unknown"]) == (2, 0, 0, 0)


def test_cider_of_a_video_with_one_item_is_0_for_the_papers():
    assert score([{"w": REFERENCE["w"]}], REFERENCE, compat="paper")["CIDEr"] == 0.0
    assert score([REFERENCE], REFERENCE, compat="paper")["CIDEr"] == pytest.approx(
        5.0
    )  # v has two items, w one


def test_localisation_by_hand():
    # IoU .8 with the first; the second prediction finds nothing; the second reference event has no match.
    predicted = {"v": [(0, 8, DOG), (12, 18, DOG)], "w": []}
    got = score([REFERENCE], predicted)
    assert [got[f"precision@{t}"] for t in THRESHOLDS] == [0.25, 0.25, 0.25, 0.0]
    assert [got[f"recall@{t}"] for t in THRESHOLDS] == [0.25, 0.25, 0.25, 0.0]
    assert got["F1"] == pytest.approx(0.75 * 0.25) and got["num_empty"] == 1


def test_an_iou_of_just_the_threshold_is_no_match():
    got = score([{"v": [(0, 10, DOG)]}], {"v": [(0, 5, DOG)]})
    assert got["recall@0.3"] == 1.0 and got["recall@0.5"] == 0.0
    assert got["ROUGE-L@0.3"] == pytest.approx(1.0) and got["ROUGE-L@0.5"] == 0.0


def test_an_unmatched_prediction_is_an_item_that_scores_0():
    got = score([REFERENCE], {"v": [(0, 10, DOG), (50, 60, DOG)], "w": [(0, 8, MAN)]})
    assert got["ROUGE-L@0.3"] == pytest.approx((1 / 2 + 1) / 2)


def test_annotators_one_after_another():
    """A prediction that fits both makes two items; localisation takes the best annotator, videos are of
    any."""
    other = {"v": [(0, 10, CAT)], "x": [(0, 1, MAN)]}
    got = score([REFERENCE, other], {"v": [(0, 10, DOG)]})
    assert got["num"] == 3 and got["num_missing"] == 2
    assert got["ROUGE-L@0.9"] == pytest.approx((1 + 1 / 6) / 2 / 3)  # "the" or "a" in order
    assert got["recall@0.9"] == pytest.approx(1 / 3) and got["precision@0.9"] == pytest.approx(1 / 3)


def test_videos_without_an_entry():
    predicted = {"v": REFERENCE["v"], "z": []}
    assert score([REFERENCE], predicted)["recall"] == pytest.approx(0.5)
    got = score([REFERENCE], predicted, compat="paper")
    assert got["recall"] == pytest.approx(1.0) and got["num"] == 1 and got["num_missing"] == 1
    assert got["num_unknown"] == 1


@pytest.mark.parametrize("compat", [None, "paper"])
def test_the_word_that_matches_nothing_doesn_t_change_a_score(monkeypatch, compat):
    predicted = {"v": [(0, 10, DOG), (50, 60, CAT), (70, 80, CAT)], "w": [(4, 8, MAN)]}
    want = score([REFERENCE], predicted, compat=compat)
    monkeypatch.setattr(dense, "_MATCHES_NOTHING", ["wvutsrqponmlk"])
    assert score([REFERENCE], predicted, compat=compat) == want


def test_predictions_beyond_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr(dense, "MAX_PREDICTIONS", 3)
    predicted = {"v": [(50 + i, 51 + i, DOG) for i in range(3)] + REFERENCE["v"], "w": REFERENCE["w"]}
    got = score([REFERENCE], predicted)
    assert got["recall"] == pytest.approx(0.5) and got["num_over"] == 2


def test_odd_input():
    empty = score([], {})
    assert empty["CIDEr"] is empty["F1"] is empty["recall@0.3"] is None and empty["num"] == 0
    nothing = score([{"v": []}], {"v": [(0, 1, DOG)]})
    assert nothing["recall"] == nothing["precision"] == nothing["CIDEr"] == 0.0
    odd = {"v": [(5, 5, ""), (9, 2, "日本語"), (0, 10, "...")]}
    got = score([odd], odd)
    assert got["BLEU-4"] < 1e-6 and 0 < got["recall"] < 1
    assert (
        harmonic(0.0, 0.0) == 0.0
        and harmonic(None, 1.0) is None
        and harmonic(1.0, 0.5) == pytest.approx(2 / 3)
    )


# --- YouCook2


def cook(reference, predicted, **how):
    return youcook2(reference, predicted, **how)[0]


def test_youcook_by_hand():
    """v: precision 1, 1, 1, 0 and recall half of it; F1 of the means .75 and .375; w is silent."""
    got = cook(REFERENCE, {"v": [(0, 8, DOG)], "w": []})
    assert got["F1"] == pytest.approx(2 * 0.75 * 0.375 / (0.75 + 0.375) / 2)
    assert got["precision"] == pytest.approx(0.375) and got["num_predictions"] == 0.5
    if is_available():
        assert got["SODA_c"] == pytest.approx(2 * 0.8 / 3 / 2)
    else:
        assert got["SODA_c"] is got["METEOR"] is None and got["meteor"] == NOT_COMPUTED
    assert (got["num"], got["num_missing"], got["num_empty"]) == (2, 0, 1)


def test_youcook_reads_exchanged_ends_and_counts_missing_videos():
    straight, exchanged = (cook(REFERENCE, {"v": [span]}) for span in ((0, 8, DOG), (8, 0, DOG)))
    assert straight == exchanged and straight["num_missing"] == 1 and straight["num"] == 2
    assert cook({}, {})["F1"] is None


@needs_meteor
def test_youcook_for_the_papers():
    predicted = {"v": [(0, 10, "dog"), (20, 40, CAT)], "w": REFERENCE["w"]}
    fair, paper = cook(REFERENCE, predicted), cook(REFERENCE, predicted, compat="paper")
    assert paper["F1"] == fair["F1"] and paper["CIDEr"] < fair["CIDEr"]  # w has one item: 0
    assert paper["SODA_c"] != pytest.approx(fair["SODA_c"], abs=1e-3)
    assert "swapped" in paper["meteor"]


def test_replies_are_events_up_to_their_last_time():
    replies = [(1.0, "a"), (2.0, "a"), (5.0, "b"), (9.0, "a")]
    assert reply_segments(replies) == [(0.0, 2.0, "a"), (2.0, 5.0, "b"), (5.0, 9.0, "a")]
    assert reply_segments(replies, first_start_s=None) == [(2.0, 5.0, "b"), (5.0, 9.0, "a")]
    assert reply_segments([]) == []
