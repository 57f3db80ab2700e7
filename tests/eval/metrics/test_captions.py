"""BLEU, CIDEr, ROUGE-L and METEOR against slow forms written from their definitions; what is odd is
defined."""

import math
import time
from collections import Counter
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import meteor_java
from longcompress.eval.metrics.bleu import bleu
from longcompress.eval.metrics.captions import caption_scores, meteor, meteor_of_pairs
from longcompress.eval.metrics.cider import Documents, cider, documents
from longcompress.eval.metrics.meteor import FUNCTION_WORDS, align, count, meteor_of_stems, score
from longcompress.eval.metrics.rouge import common_length, rouge_l
from longcompress.eval.metrics.stem import stem

WORD = st.sampled_from(["a", "the", "dog", "dogs", "run", "runs", "red"])
CAPTION = st.lists(WORD, max_size=6)
ITEM = st.tuples(CAPTION, st.lists(st.lists(WORD, min_size=1, max_size=6), min_size=1, max_size=3))
ITEMS = st.lists(ITEM, min_size=1, max_size=5)


def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def slow_bleu(items: list, n: int) -> float:
    shares = []
    for k in range(1, n + 1):
        right = every = 0
        for hypothesis, references in items:
            ours = Counter(runs(hypothesis, k))
            every += sum(ours.values())
            right += sum(
                min(times, max(runs(r, k).count(run) for r in references)) for run, times in ours.items()
            )
        shares.append(right / every if every else 0.0)
    if not all(shares):
        return 0.0
    h = sum(len(hypothesis) for hypothesis, _ in items)
    r = sum(
        sorted((abs(len(one) - len(hypothesis)), len(one)) for one in references)[0][1]
        for hypothesis, references in items
    )
    return math.prod(shares) ** (1 / n) * min(1.0, math.exp(1 - r / h))


@settings(deadline=None)
@given(ITEMS)
def test_bleu_is_its_definition(items):
    got = bleu([item[0] for item in items], [item[1] for item in items])
    for n in range(1, 5):
        assert got[n - 1] == pytest.approx(slow_bleu(items, n), abs=1e-6 if slow_bleu(items, n) else 0.04)


def slow_cider(items: list) -> list[float]:
    def weight(words: list[str], run: tuple[str, ...]) -> float:
        found = sum(any(run in runs(one, len(run)) for one in references) for _, references in items)
        return runs(words, len(run)).count(run) * (math.log(len(items)) - math.log(max(found, 1)))

    out = []
    for hypothesis, references in items:
        total = 0.0
        for one in references:
            for n in range(1, 5):
                every = set(runs(hypothesis, n)) | set(runs(one, n))
                ours, theirs = ({run: weight(w, run) for run in every} for w in (hypothesis, one))
                norms = math.dist([0.0] * len(every), ours.values()) * math.dist(
                    [0.0] * len(every), theirs.values()
                )
                dot = sum(min(ours[run], theirs[run]) * theirs[run] for run in every)
                gap = max(len(hypothesis) - 1, 0) - max(len(one) - 1, 0)
                total += (dot / norms if norms else 0.0) * math.exp(-(gap**2) / 72) / 4
        out.append(10 * total / len(references))
    return out


@settings(deadline=None)
@given(ITEMS)
def test_cider_is_its_definition(items):
    got = cider([item[0] for item in items], [item[1] for item in items])
    assert got == pytest.approx(slow_cider(items), abs=1e-9)


def test_cider_of_one_item_is_0_unless_the_corpus_is_given():
    hypotheses, references = [["a", "red", "dog"]], [[["a", "red", "dog"]]]
    assert cider(hypotheses, references) == [0.0]
    corpus = documents([*references, [["some", "cat"]], [["a", "cat"]]])
    # No run of four words is in a caption of three: three of four n are right.
    assert cider(hypotheses, references, corpus) == pytest.approx([7.5])
    assert cider(hypotheses, references, Documents(Counter(), 0)) == [0.0]


def slow_common(a: list[str], b: list[str]) -> int:
    for n in range(min(len(a), len(b)), 0, -1):
        ours = {tuple(a[i] for i in places) for places in combinations(range(len(a)), n)}
        if ours & {tuple(b[i] for i in places) for places in combinations(range(len(b)), n)}:
            return n
    return 0


@settings(deadline=None)
@given(CAPTION, CAPTION)
def test_common_length_is_the_longest_subsequence_in_both(a, b):
    assert common_length(a, b) == slow_common(a, b)


def test_rouge_by_hand():
    # "the dog" in both: P = 2/3, R = 2/4.
    p, r = 2 / 3, 2 / 4
    got = rouge_l([["the", "red", "dog"]], [[["the", "dog", "runs", "off"]]])
    assert got == [pytest.approx(2.44 * p * r / (r + 1.44 * p))]
    # P and R are the best of all references, each by itself.
    assert rouge_l([["a", "b"]], [[["a"], ["a", "b", "c", "d"]]]) == [pytest.approx(1.0)]
    assert rouge_l([[]], [[["a"]]]) == [0.0] and rouge_l([["a"]], [[["b"]]]) == [0.0]


# --- METEOR


def all_alignments(a: list[str], b: list[str]) -> list[tuple[tuple[int, int], ...]]:
    """Every one-to-one matching of words of equal stem."""
    out = []
    for n in range(min(len(a), len(b)) + 1):
        for ours in combinations(range(len(a)), n):
            for theirs in permutations(range(len(b)), n):
                if all(stem(a[i]) == stem(b[j]) for i, j in zip(ours, theirs, strict=True)):
                    out.append(tuple(sorted(zip(ours, theirs, strict=True), key=lambda pair: pair[1])))
    return out


def chunks_of(matched: tuple[tuple[int, int], ...]) -> int:
    return sum((i - 1, j - 1) not in matched for i, j in matched)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORD, max_size=5), st.lists(WORD, max_size=5))
def test_alignment_has_most_equal_words_then_fewest_chunks(a, b):
    got = align(a, b)
    assert got in all_alignments(a, b)
    if a == b:
        return  # only equal words are looked at
    # What matches each other and nothing else is always in.
    sure = {
        (i, j)
        for i, word in enumerate(a)
        for j, other in enumerate(b)
        if stem(word) == stem(other)
        and sum(stem(word) == stem(w) for w in a) == sum(stem(word) == stem(w) for w in b) == 1
    }
    allowed = [some for some in all_alignments(a, b) if sure <= set(some)]

    def cost(some):
        return -sum(a[i] == b[j] for i, j in some), chunks_of(some)

    assert sure <= set(got)
    assert cost(got) == min(cost(some) for some in allowed)


def test_meteor_by_hand():
    # "dog" and "runs"/"run" match, in one chunk: content words weigh .75, "the" .25.
    hypothesis, reference = ["the", "dog", "runs"], ["a", "dog", "run"]
    p = r = (0.75 * 1 + 0.75 * 0.6) / (0.75 * 2 + 0.25)
    want = p * r / (0.85 * p + 0.15 * r) * (1 - 0.6 * (1 / 2) ** 0.2)
    assert meteor_of_stems([hypothesis], [[reference]]) == (pytest.approx(want), [pytest.approx(want)])
    assert {"the", "a"} <= FUNCTION_WORDS


def test_meteor_of_equal_captions_is_1_and_of_none_0():
    assert score(count(["a", "red", "dog"], ["a", "red", "dog"])) == pytest.approx(1.0)
    assert score(count([], ["a"])) == score(count(["a"], [])) == score(count([], [])) == 0.0
    assert meteor_of_stems([], []) == (0.0, [])


def test_meteor_is_not_symmetric():
    pairs = [("a dog", "a big red dog runs over the old field")]
    straight, swapped = meteor_of_pairs(pairs, "stems"), meteor_of_pairs(pairs, "stems", swapped=True)
    assert swapped == meteor_of_pairs([pairs[0][::-1]], "stems")
    assert abs(straight[0] - swapped[0]) > 0.05


def test_meteor_of_several_references_is_the_best():
    one, other = [["x", "dog"]], [["red", "dog"]]
    both = meteor_of_stems([["red", "dog"]], [one + other])
    assert both == meteor_of_stems([["red", "dog"]], [other])


def test_meteor_of_the_corpus_is_of_summed_counts():
    hypotheses, references = [["dog"], ["x", "y", "z", "w"]], [[["dog"]], [["q"]]]
    corpus, items = meteor_of_stems(hypotheses, references)
    # One word of content matches of five and of two; a caption that is equal adds no chunk.
    assert corpus == pytest.approx((1 / 5) * (1 / 2) / (0.85 / 5 + 0.15 / 2))
    assert items == [pytest.approx(1.0), 0.0]


# --- the whole

GOLD = {1: ["A dog runs.", "The dog is running"], 2: ["Ein Hund läuft über die Straße"], 3: ["a cat"]}


def test_a_perfect_answer_and_silence():
    got = caption_scores(GOLD, {key: some[0] for key, some in GOLD.items()}, which_meteor="stems")
    assert got["BLEU-1"] == pytest.approx(1.0) and got["ROUGE-L"] == pytest.approx(1.0)
    assert got["METEOR"] == pytest.approx(1.0) and got["num"] == 3
    silent = caption_scores(GOLD, {1: "", 2: " ... "}, which_meteor="stems")
    for name in ("CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L", "METEOR"):
        assert silent[name] == 0.0
    assert silent["num_unanswered"] == 1 and silent["num_empty"] == 2


def test_nothing_to_score_and_unknown_ids():
    got = caption_scores({}, {"x": "a dog"}, which_meteor="stems")
    assert got["CIDEr"] is got["METEOR"] is got["BLEU-4"] is None
    assert got["num"] == 0 and got["num_unknown"] == 1


def test_what_was_not_answered_may_be_left_out():
    got = caption_scores(GOLD, {1: "A dog runs."}, which_meteor="stems", unanswered="skip")
    assert got["num"] == 1 and got["num_unanswered"] == 2 and got["ROUGE-L"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="unanswered must be 'zero' or 'skip'"):
        caption_scores(GOLD, {}, unanswered="drop")


def test_swapped_needs_one_right_caption():
    with pytest.raises(ValueError, match="swapped needs one right caption an item, got one with 2"):
        caption_scores(GOLD, {1: "a dog"}, which_meteor="stems", swapped=True)
    one = {3: ["a cat sleeps on the mat"]}
    straight, swapped = (
        caption_scores(one, {3: "a cat"}, which_meteor="stems", swapped=how)["METEOR"]
        for how in (False, True)
    )
    assert straight < swapped


def test_which_meteor():
    assert "not comparable" in meteor("stems").name
    assert meteor("auto").name == (meteor("java" if meteor_java.is_available() else "stems").name)
    with pytest.raises(ValueError, match="meteor must be 'auto', 'java' or 'stems', got 'nltk'"):
        meteor("nltk")


def test_without_the_program_meteor_says_what_to_install(monkeypatch):
    monkeypatch.setattr(meteor_java, "jar", lambda: None)
    monkeypatch.setattr(meteor_java.shutil, "which", lambda _: "/usr/bin/java")
    with pytest.raises(FileNotFoundError, match=r"needs the package pycocoevalcap; install Java and `pip"):
        meteor_java.JavaMeteor()([["a"]], [[["a"]]])
    monkeypatch.setattr(meteor_java.shutil, "which", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"needs the program `java`"):
        meteor_java.JavaMeteor()([["a"]], [[["a"]]])
    assert meteor("auto").score is meteor_of_stems


@pytest.mark.parametrize("metric", [bleu, cider, rouge_l, meteor_of_stems])
def test_items_must_have_references_of_words(metric):
    with pytest.raises(ValueError, match="must be of the same items; got 1 and 0"):
        metric([["a"]], [])
    with pytest.raises(ValueError, match=r"references\[0\] must have at least one caption"):
        metric([["a"]], [[]])
    with pytest.raises(ValueError, match=r"references\[0\] must be lists of words"):
        metric([["a"]], [["a dog"]])


def test_a_prediction_that_loops_is_scored_in_seconds():
    loop, caption = "the dog runs " * 1000, "the dog runs over the red field and the dogs run on"
    start = time.perf_counter()
    straight, swapped = (meteor_of_pairs([(loop, caption)], "stems", swapped=how)[0] for how in (False, True))
    assert time.perf_counter() - start < 30
    assert 0 < straight < 0.2 and 0 < swapped < 0.2
