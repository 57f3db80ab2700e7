"""Every metric on input that is odd: nothing, silence, one item, the same again, other scripts, thousands."""

import numpy as np
import pytest

from longcompress.eval.metrics.answers import (
    Judge,
    exact_match,
    magqa,
    multiple_choice,
    open_answers,
    rated_answers,
)
from longcompress.eval.metrics.captions import caption_scores
from longcompress.eval.metrics.dense import dense_captions, soda_c, youcook2
from longcompress.eval.metrics.highlights import LENGTHS, highlights, moments
from longcompress.eval.metrics.intervals import grounding

TEXTS = ["a dog runs over the mat", "Ein Hund läuft über die Straße", "日本 の 犬 が 走る", "a café, naïve"]


def same(prompts):
    """A judge that looks whether reference and answer are the same text."""
    equal = [len(set(prompt.split(" | ")[1:])) == 1 for prompt in prompts]
    return ["{'pred': 'yes', 'score': 5}" if item else "{'pred': 'no', 'score': 1}" for item in equal]


JUDGE = Judge("a line of Python", "{question} | {reference} | {answer}", same)


def equal(pairs):
    return [float(a == b) for a, b in pairs]


def first(metric):
    """The metrics without those of each item."""
    return lambda reference, predicted: metric(reference, predicted)[0]


def matched(reference, predicted):
    return exact_match({key: [text] for key, text in reference.items()}, predicted)[0]


def asked(reference):
    return dict.fromkeys(reference, "what?")


def dense(reference, predicted):
    return dense_captions([reference], predicted)[0]


def cooked(reference, predicted):
    return youcook2(reference, predicted)[0]


def judged(reference, predicted):
    return open_answers(reference, predicted, asked(reference), JUDGE)[0]


# name: the metric; a reference value, what is right for it, what is silence; scores that are 1 if all is
# right (a number: what they are instead), and that are 0 of silence.
SPANS = {
    "grounding": (first(grounding), (2.0, 9.0), (2.0, 9.0), None, {"mIoU": 1, "R@0.7": 1}),
    "moments": (first(moments), [(2.0, 9.0)], [(2.0, 9.0, 0.5)], [], {"mAP": 1, "R1@0.95": 1, "mIoU": 1}),
    "highlights": (
        first(highlights), [[4, 4, 4], [0, 0, 0]], [0.9, 0.1], [], {"mAP@VeryGood": 1, "HIT1@Fair": 1},
    ),
}  # fmt: skip
EVENTS = [(0.0, 10.0, TEXTS[0]), (20.0, 40.0, TEXTS[1])]
STORIES = {
    "soda": (lambda g, p: soda_c(g, p, equal)[0], EVENTS, EVENTS, [], {"SODA_c": 1}),
    "dense": (dense, EVENTS, EVENTS, [], {"ROUGE-L": 1, "BLEU-4": 1, "F1": 1, "recall@0.9": 1}),
    "youcook2": (cooked, EVENTS, EVENTS, [], {"F1": 1, "recall": 1}),
}
ANSWERS = {
    "captions": (
        lambda reference, predicted: caption_scores(reference, predicted, dict.fromkeys(reference))[0],
        [TEXTS[1], TEXTS[0]], TEXTS[1], "", {"ROUGE-L": 1, "BLEU-4": 1},
    ),
    "choice": (first(multiple_choice), "B", "b", None, {"accuracy": 1}),
    "exact": (matched, TEXTS[1], TEXTS[1].upper().replace("SS", "ß"), "", {"accuracy": 1}),
    "open": (judged, TEXTS[2], TEXTS[2], "", {"accuracy": 1, "score": 5}),
    "rated": (lambda g, p: rated_answers(g, p, asked(g), JUDGE)[0], TEXTS[3], TEXTS[3], "", {"score": 5}),
    "magqa": (
        lambda reference, predicted: magqa(reference, predicted, asked(reference), JUDGE)[0],
        [(0.0, 5.0, TEXTS[2])], [(3.0, TEXTS[2])], [], {"in_span": 5},
    ),
}  # fmt: skip
ALL = SPANS | STORIES | ANSWERS
LOWEST = {"in_span": 1.0}


@pytest.mark.parametrize("name", ALL)
def test_of_nothing_there_is_no_score(name):
    metric, _, right, _, scores = ALL[name]
    for predicted in ({}, {"unknown": right}):
        got = metric({}, predicted)
        assert [got[item] for item in scores] == [None] * len(scores), name
        assert got["num"] == 0 and got.get("num_unknown", len(predicted)) == len(predicted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_one_item_and_thousands_that_are_right(name):
    metric, reference, right, _, scores = ALL[name]
    assert metric({"é": reference}, {"é": right}) | scores == pytest.approx(
        metric({"é": reference}, {"é": right})
    )
    num = 300 if name in STORIES else 2000
    got = metric(dict.fromkeys(range(num), reference), dict.fromkeys(range(num), right))
    assert {item: got[item] for item in scores} == pytest.approx(scores) and got["num"] == num


@pytest.mark.parametrize("name", ALL)
def test_silence_scores_the_least_and_is_counted(name):
    metric, reference, right, silence, scores = ALL[name]
    for predicted in ({}, {1: silence, 2: silence}):
        got = metric({1: reference, 2: reference}, predicted)
        assert {item: got[item] for item in scores} == {item: LOWEST.get(item, 0.0) for item in scores}, name
    half = metric({1: reference, 2: reference}, {1: right})
    for item in set(scores) - {"BLEU-4", "METEOR"}:  # of these the corpus is no mean of its items
        assert half[item] == pytest.approx((scores[item] + LOWEST.get(item, 0.0)) / 2), item


@pytest.mark.parametrize("name", [*STORIES, "moments", "magqa"])
def test_the_same_said_again_is_no_better(name):
    metric, reference, right, _, scores = ALL[name]
    got = metric({1: reference}, {1: [item for item in right for _ in range(3)]})
    for item, best in scores.items():
        assert got[item] <= best + 1e-12
    if name == "soda":
        assert got["SODA_c_precision"] == pytest.approx(1 / 3) and got["SODA_c_recall"] == pytest.approx(1.0)
    if name == "moments":
        assert got["mAP"] == 1.0  # what comes after all is found costs nothing
    if name == "magqa":
        assert (got["turns"], got["turns_distinct"]) == (3.0, 1.0)


@pytest.mark.parametrize("name", ["grounding", "moments"])
def test_spans_without_length(name):
    metric, reference, _, _, _ = SPANS[name]
    point = (5.0, 5.0)
    of = {"grounding": point, "moments": [(*point, 1.0)]}[name]
    got = metric({1: reference}, {1: of})
    assert got["mIoU"] == 0.0 and got["num"] == 1
    assert metric({1: [point] if name == "moments" else point}, {1: of})["mIoU"] == 0.0


@pytest.mark.parametrize("name", STORIES)
def test_stories_of_points_in_time(name):
    metric, *_, scores = STORIES[name]
    points = [(5.0, 5.0, TEXTS[0]), (7.0, 7.0, TEXTS[1])]
    got = metric({1: points}, {1: points})
    assert {item: got[item] for item in scores} == pytest.approx(dict.fromkeys(scores, 0.0), abs=1e-9)


def test_replies_at_a_point_in_time_are_due_there():
    got = magqa({1: [(5.0, 5.0, "a")]}, {1: [(5.0, "a"), (5.1, "b")]}, {1: "?"}, JUDGE)[0]
    assert got["in_span"] == 5.0


def test_equal_scores_take_their_order_as_it_stands():
    reference = {1: [(0.0, 10.0)]}
    first, second = (0.0, 10.0, 0.5), (50.0, 60.0, 0.5)
    assert moments(reference, {1: [first, second]})[0]["mAP"] == 1.0
    assert moments(reference, {1: [second, first]})[0]["mAP"] == 0.5
    even = highlights({1: np.array([[0], [4], [0], [0]])}, {1: [0.5] * 4})[0]
    assert even["mAP@VeryGood"] == 0.25 and even["HIT1@VeryGood"] == 0.0  # all at once; the first is the top


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_that_no_query_has(name):
    above, up_to = LENGTHS[name]
    got = moments({1: [(0.0, float(up_to))]}, {1: [(0.0, float(up_to), 1.0)]})[0]
    for other in LENGTHS:
        assert got[f"{other}/mAP"] == (1.0 if other == name else None) and got[f"{other}/num"] == (
            other == name
        )
    assert moments({1: [(0.0, float(above))]}, {})[0][f"{name}/mAP"] is None
