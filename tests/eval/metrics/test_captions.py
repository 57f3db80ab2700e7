"""BLEU, CIDEr, ROUGE-L and METEOR against slow forms written from their definitions; what is odd is
defined."""

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import captions
from longcompress.eval.metrics import meteor as program
from longcompress.eval.metrics.captions import bleu, cider, common_length, resampled_cider, rouge_l

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
        sorted((abs(len(line) - len(hypothesis)), len(line)) for line in references)[0][1]
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
        num_items = sum(any(run in runs(line, len(run)) for line in references) for _, references in items)
        return runs(words, len(run)).count(run) * (math.log(len(items)) - math.log(max(num_items, 1)))

    out = []
    for hypothesis, references in items:
        total = 0.0
        for line in references:
            for n in range(1, 5):
                every = set(runs(hypothesis, n)) | set(runs(line, n))
                ours, theirs = ({run: weight(w, run) for run in every} for w in (hypothesis, line))
                norms = math.dist([0.0] * len(every), ours.values()) * math.dist(
                    [0.0] * len(every), theirs.values()
                )
                dot = sum(min(ours[run], theirs[run]) * theirs[run] for run in every)
                gap = max(len(hypothesis) - 1, 0) - max(len(line) - 1, 0)
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
    corpus = [*references, [["some", "cat"]], [["a", "cat"]]]
    # No run of four words is in a caption of three: three of four n are right.
    assert resampled_cider(hypotheses, references, corpus, [0] * 3, 1)(np.ones(1)) == pytest.approx([7.5])
    assert resampled_cider(hypotheses, references, [], [], 1)(np.ones(1)).tolist() == [0.0]


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


# --- the whole


def caption_scores(reference: dict, predicted: dict) -> dict:
    return captions.caption_scores(reference, predicted, dict.fromkeys(reference))[0]


REFERENCE = {1: ["A dog runs.", "The dog is running"], 2: ["Ein Hund läuft über die Straße"], 3: ["a cat"]}


def test_a_perfect_answer_and_silence():
    got = caption_scores(REFERENCE, {key: some[0] for key, some in REFERENCE.items()})
    assert got["BLEU-1"] == pytest.approx(1.0) and got["ROUGE-L"] == pytest.approx(1.0)
    assert got["num"] == 3 and got["METEOR"] == (pytest.approx(1.0) if program.is_available() else None)
    silent = caption_scores(REFERENCE, {1: "", 2: " ... "})
    for name in ("CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L"):
        assert silent[name] == 0.0
    assert silent["num_unanswered"] == 1 and silent["num_empty"] == 2


def test_nothing_to_score_and_unknown_ids():
    got = caption_scores({}, {"x": "a dog"})
    assert got["CIDEr"] is got["METEOR"] is got["BLEU-4"] is None
    assert got["num"] == 0 and got["num_unknown"] == 1


def test_without_the_program_meteor_is_not_computed_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(program, "jar", lambda: None)
    monkeypatch.setattr(program.shutil, "which", lambda _: "/usr/bin/java")
    got = caption_scores(REFERENCE, {1: "A dog runs."})
    assert got["METEOR"] is None and got["meteor"] == program.NOT_COMPUTED and got["ROUGE-L"] > 0
    assert program.meteor() is None and "pip install pycocoevalcap" in got["meteor"]
    monkeypatch.setattr(program.shutil, "which", lambda _: None)
    assert not program.is_available()
