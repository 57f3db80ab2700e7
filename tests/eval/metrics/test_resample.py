"""Corpus scores of drawn videos against the same scores of a corpus in which those videos stand so often."""

import numpy as np
import pytest

from longcompress.eval.metrics.bootstrap import Corpus, interval, intervals_of, means_of
from longcompress.eval.metrics.captions import caption_scores as score_captions
from longcompress.eval.metrics.dense import dense_captions, youcook2

WORDS = [
    "a",
    "the",
    "dog",
    "cat",
    "man",
    "runs",
    "sleeps",
    "over",
    "red",
    "big",
    "mat",
    "café",
    "日本",
    "and",
]
TIMES = ((1, 1, 1, 1, 1), (2, 0, 1, 1, 1), (0, 0, 5, 0, 0), (3, 1, 0, 1, 0))


def caption_scores(reference, predicted):
    return score_captions(reference, predicted, dict.fromkeys(reference))[0]


def caption_corpus(*some):
    return score_captions(*some)[1]


def text(random):
    return " ".join(random.choice(WORDS, random.integers(1, 9)))


def corpus_of(seed=0, num=5):
    """Right captions, predictions and videos: several items a video, some unanswered, empty or right."""
    random = np.random.default_rng(seed)
    reference, predicted, video = {}, {}, {}
    for v in range(num):
        for i in range(1 + v % 3):
            key = f"{v}-{i}"
            reference[key] = [text(random) for _ in range(1 + (v + i) % 2)]
            video[key] = f"v{v}"
            if random.random() < 0.85:
                predicted[key] = reference[key][0] if random.random() < 0.3 else text(random)
    predicted["0-0"], predicted["unknown"] = " ... ", "a dog"
    return reference, predicted, video


def repeated(times, *of):
    """The same with the items of each video so often, under new names."""
    reference, predicted, video = of
    copies = {key: [f"{key}/{i}" for i in range(times[int(video[key][1:])])] for key in reference}
    return (
        {new: reference[key] for key, some in copies.items() for new in some},
        {new: predicted[key] for key, some in copies.items() if key in predicted for new in some},
    )


@pytest.mark.parametrize("times", TIMES)
def test_captions_of_drawn_videos(times):
    some = corpus_of()
    corpus = caption_corpus(*some)
    assert set(corpus.videos) == {f"v{i}" for i in range(5)}
    want = caption_scores(*repeated(times, *some))
    got = corpus.scores(np.array([times[int(item[1:])] for item in corpus.videos], float))
    assert set(got) == {"CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "METEOR"}
    assert got == pytest.approx({name: want[name] for name in got}, abs=1e-9)


def events_of(seed=0, num=5):
    """Two annotators and predictions of some videos."""
    random = np.random.default_rng(seed)

    def events(longest):
        starts = random.integers(0, 20, random.integers(0, longest))
        return [(float(s), float(s + random.integers(0, 20)), text(random)) for s in starts]

    reference = [{f"v{v}": events(5) for v in range(num)}, {f"v{v}": events(4) for v in range(0, num, 2)}]
    predicted = {f"v{v}": events(5) + reference[0][f"v{v}"][:1] for v in range(num - 1)} | {"v9": []}
    return reference, predicted


def of_times(times, events):
    return {
        f"{key}/{i}": some
        for key, some in events.items()
        if int(key[1:]) < len(times)
        for i in range(times[int(key[1:])])
    }


@pytest.mark.parametrize("compat", [None, "paper"])
@pytest.mark.parametrize("times", TIMES)
def test_dense_captions_of_drawn_videos(times, compat):
    reference, predicted = events_of()
    how = {"compat": compat}
    corpus = dense_captions(reference, predicted, **how)[1]
    want = dense_captions([of_times(times, item) for item in reference], of_times(times, predicted), **how)[0]
    got = corpus.scores(np.array([times[int(item[1:])] for item in corpus.videos], float))
    assert got == pytest.approx({name: want[name] for name in got}, abs=1e-9) and len(got) == 50


@pytest.mark.parametrize("compat", [None, "paper"])
@pytest.mark.parametrize("times", TIMES)
def test_youcook2_of_drawn_videos(times, compat):
    (reference, _), predicted = events_of(1)
    how = {"compat": compat}
    corpus = youcook2(reference, predicted, **how)[2]
    want = youcook2(of_times(times, reference), of_times(times, predicted), **how)[0]
    got = corpus.scores(np.array([times[int(item[1:])] for item in corpus.videos], float))
    assert got == pytest.approx({name: want[name] for name in got}, abs=1e-9)
    assert set(got) == {"F1", "precision", "recall", "CIDEr", "METEOR"}


VALUES = {"a": {i: float(i % 7) for i in range(60)}, "b": dict.fromkeys(range(3), 1.0), "none": {}}
VIDEO = {i: i // 3 for i in range(60)}


def test_means_as_a_corpus_have_the_intervals_of_means():
    got = intervals_of(means_of(VALUES, VIDEO), num_draws=4000)
    want = interval(VALUES["a"], VIDEO)
    assert got["a"]["mean"] == pytest.approx(want["mean"]) and got["a"]["num_videos"] == 20
    for end in ("low", "high"):
        assert got["a"][end] == pytest.approx(want[end], abs=0.05)
    assert (got["b"]["mean"], got["b"]["low"], got["b"]["high"]) == (1.0, 1.0, 1.0)  # of draws that have one
    assert got["none"] == {"mean": None, "low": None, "high": None, "num_videos": 20}


def test_one_seed_gives_one_answer_and_one_video_says_nothing_of_others():
    reference, predicted, video = corpus_of()
    corpus = caption_corpus(reference, predicted, video)
    first = intervals_of(corpus, num_draws=50, seed=3)
    assert first == intervals_of(corpus, num_draws=50, seed=3) != intervals_of(corpus, num_draws=50, seed=4)
    assert all(line["low"] <= line["high"] for line in first.values() if line["mean"] is not None)
    alone = caption_corpus(reference, predicted, dict.fromkeys(reference, "v"))
    for line in intervals_of(alone, num_draws=5).values():
        assert line["low"] is line["high"] is None and (line["mean"] is None or line["mean"] >= 0)
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        intervals_of(corpus, num_draws=0)


def test_of_nothing_there_is_no_score():
    for corpus in (
        caption_corpus({}, {"x": "a dog"}, {}),
        dense_captions([], {})[1],
        youcook2({}, {})[2],
        means_of({"a": {}}, {}),
    ):
        assert all(line["mean"] is line["low"] is None for line in intervals_of(corpus, num_draws=3).values())
    empty = {"v": [(5.0, 5.0, "")], "w": []}  # no length, no words, no events
    for name, line in intervals_of(dense_captions([empty], empty)[1], num_draws=9).items():
        if not name.startswith("METEOR"):
            assert line["mean"] == 0.0 == line["low"] == line["high"], name


def test_thousands_of_captions():
    random = np.random.default_rng(0)
    reference = {i: [text(random)] for i in range(3000)}
    predicted = {i: text(random) for i in range(3000)}
    corpus = caption_corpus(reference, predicted, {i: i // 6 for i in range(3000)})
    got = intervals_of(corpus, num_draws=20)
    assert got["CIDEr"]["low"] < got["CIDEr"]["mean"] < got["CIDEr"]["high"]


def test_a_corpus_is_asked_for_all_videos_once_then_for_draws():
    asked = []

    def scores(times):
        asked.append(times.tolist())
        return {"sum": float(times @ np.arange(4))}

    got = intervals_of(Corpus(("a", "b", "c", "d"), scores), num_draws=30)
    assert asked[0] == [1, 1, 1, 1] and len(asked) == 31 and all(sum(times) == 4 for times in asked)
    assert got["sum"]["mean"] == 6 and got["sum"]["low"] < 6 < got["sum"]["high"]
