"""Captioning metrics against pycocoevalcap 1.2, its Java programs included.

Its values are stored, and made again where it is installed. `python tests/test_metrics_package.py` stores
them anew for the lines, words and captions in the store; it needs `pip install -e ".[eval]"` and Java.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from longcompress.eval.metrics.captions import bleu, cider, rouge_l
from longcompress.eval.metrics.captions import caption_scores as score_captions
from longcompress.eval.metrics.dense import THRESHOLDS, dense_captions, meteor_of_pairs, soda_c
from longcompress.eval.metrics.meteor import is_available, meteor
from longcompress.eval.metrics.words import ascii_only, words

STORE = Path(__file__).with_name("expected.json")
STORED = json.loads(STORE.read_text(encoding="utf8"))
CAPTIONS = STORED["captions_of"]  # (prediction, right captions)
has_java = pytest.mark.skipif(not is_available(), reason="java or pycocoevalcap is not installed")

REFERENCE = {
    "v1": [
        (0, 10, "A man slices an onion."),
        (8, 20, "He puts it in a pan."),
        (20, 40, "The onion is frying."),
    ],
    "v2": [(5, 15, "A dog jumps over the fence."), (30, 60, "Children are playing with the dog.")],
    "v3": [(0, 100, "A café owner doesn't smile.")],
    "v4": [(0, 10, "Nobody answered this one.")],
}
REFERENCE_2 = {
    "v1": [(0, 12, "Someone is cutting onions."), (12, 40, "Onions fry in a pan.")],
    "v2": [(0, 20, "The dog leaps a fence.")],
}
PREDICTED = {
    "v1": [(0, 9, "A man is slicing onions."), (9, 22, "He puts onions into a pan."), (50, 60, "The end.")],
    "v2": [(31, 58, "Kids play with a dog."), (4, 16, "A dog jumped a fence"), (0, 60, "dog dog dog")],
    "v3": [],
}


def caption_scores(reference: dict, predicted: dict) -> dict:
    return score_captions(reference, predicted, dict.fromkeys(reference))[0]


def expected() -> dict[str, Any]:
    """What the package says of all that is stored."""
    from pycocoevalcap.meteor.meteor import Meteor

    tokens = by_package_tokens(
        [
            *STORED["tokens"],
            *(text for item, some in CAPTIONS for text in (item, *some)),
            *(
                ascii_only(event[2])
                for some in (REFERENCE, REFERENCE_2, PREDICTED)
                for e in some.values()
                for event in e
            ),
        ]
    )
    res = {i: [tokens[item]] for i, (item, _) in enumerate(CAPTIONS)}
    gts = {i: [tokens[text] for text in some] for i, (_, some) in enumerate(CAPTIONS)}
    scorer = Meteor()
    return {
        "tokens": {line: tokens[line] for line in STORED["tokens"]},
        "captions": scores_by_package(gts, res, scorer),
        "captions_of": CAPTIONS,
        "meteor_pairs": [scorer.compute_score({0: gts[i][:1]}, {0: res[i]})[0] for i in res],
        "meteor_swapped": [scorer.compute_score({0: res[i]}, {0: gts[i][:1]})[0] for i in res],
        "dense": dense_by_package(tokens, scorer),
        "soda": soda_by_package(tokens, scorer),
    }


def by_package_tokens(texts: list[str]) -> dict[str, str]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    got = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    return {text: got[i][0] for i, text in enumerate(texts)}


def scores_by_package(gts: dict, res: dict, scorer: Any) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleus = Bleu(4).compute_score(gts, res, verbose=0)[0]
    return {
        "CIDEr": float(Cider().compute_score(gts, res)[0]),
        "METEOR": scorer.compute_score(gts, res)[0],
        "ROUGE-L": float(Rouge().compute_score(gts, res)[0]),
        **{f"BLEU-{n}": value for n, value in enumerate(bleus, 1)},
    }


def dense_by_package(tokens: dict[str, str], scorer: Any) -> dict[str, float]:
    """The protocol once more, word for word: pairs, tokens, a score a video, means."""
    sums: dict[str, list[float]] = {}
    for t in THRESHOLDS:
        for video, ours in PREDICTED.items():
            pairs = []
            for start, end, text in ours:
                right = [
                    reference[2]
                    for annotator in (REFERENCE, REFERENCE_2)
                    for reference in annotator.get(video, [])
                    if slow_iou((start, end), reference[:2]) >= t
                ]
                pairs += [(text, other) for other in right or [""]]
            res = {i: [tokens[ascii_only(pair[0])]] for i, pair in enumerate(pairs)}
            gts = {i: [tokens.get(ascii_only(pair[1]), "garbagegarbage")] for i, pair in enumerate(pairs)}
            some = scores_by_package(gts, res, scorer) if pairs else {}
            for name in ("CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"):
                sums.setdefault(f"{name}@{t}", []).append(some.get(name, 0.0))
    return {name: sum(values) / len(values) for name, values in sums.items()}


def soda_by_package(tokens: dict[str, str], scorer: Any) -> float:
    """SODA_c as the papers run it, by trying every matching."""
    values = []
    for video, ours in PREDICTED.items():
        ours, theirs = sorted(ours, key=lambda e: e[0]), sorted(REFERENCE[video], key=lambda e: e[0])
        earned = [
            [
                slow_iou(line[:2], reference[:2])
                * scorer.compute_score(
                    {0: [tokens[ascii_only(line[2])]]}, {0: [tokens[ascii_only(reference[2])]]}
                )[0]  # swapped
                for reference in theirs
            ]
            for line in ours
        ]
        best = best_match(earned)
        values.append(2 * best / (len(ours) + len(theirs)))
    return sum(values) / len(values)


def best_match(earned: list[list[float]]) -> float:
    """The most that matches in order earn: the first row is matched with some column, or not."""
    if not earned or not earned[0]:
        return 0.0
    tries = [earned[0][j] + best_match([row[j + 1 :] for row in earned[1:]]) for j in range(len(earned[0]))]
    return max(best_match(earned[1:]), *tries)


def slow_iou(a: tuple, b: tuple) -> float:
    both = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return both / (min(max(a[1], b[1]) - min(a[0], b[0]), a[1] - a[0] + b[1] - b[0]) + 1e-8)


@pytest.fixture(scope="module")
def captions() -> tuple[dict, dict]:
    return (
        {i: some for i, (_, some) in enumerate(CAPTIONS)},
        {i: item for i, (item, _) in enumerate(CAPTIONS)},
    )


@has_java
def test_the_store_is_what_the_package_says():
    again = json.loads(json.dumps(expected()))
    assert again["tokens"] == STORED["tokens"]
    for name in ("captions", "dense"):
        assert again[name] == pytest.approx(STORED[name], abs=1e-9)
    for name in ("meteor_pairs", "meteor_swapped", "soda"):
        assert again[name] == pytest.approx(STORED[name], abs=1e-9)


@pytest.mark.parametrize("line", STORED["tokens"])
def test_words_are_those_of_the_tokeniser(line):
    assert " ".join(words(line)) == STORED["tokens"][line]


@pytest.mark.parametrize("name", ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"])
def test_corpus_scores_are_those_of_the_package(captions, name):
    got = caption_scores(*captions)
    assert got[name] == pytest.approx(STORED["captions"][name], abs=1e-6)


@pytest.mark.parametrize("name", ["CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L"])
def test_dense_captions_are_those_of_the_package(name):
    got = dense_captions([REFERENCE, REFERENCE_2], PREDICTED, compat="paper")[0]
    for t in THRESHOLDS:
        assert got[f"{name}@{t}"] == pytest.approx(STORED["dense"][f"{name}@{t}"], abs=1e-6)


def test_random_corpora_score_as_in_the_package():
    pytest.importorskip("pycocoevalcap", reason="pycocoevalcap is not installed")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(0)

    def some(shortest: int) -> list[str]:
        return [rng.choice("abcdefgh") for _ in range(rng.randint(shortest, 9))]

    for turn in range(100):
        hypotheses = [some(turn % 3 > 0) for _ in range(rng.randint(1, 12))]  # some of them empty
        references = [[some(1) for _ in range(rng.randint(1, 4))] for _ in hypotheses]
        res = {i: [" ".join(item)] for i, item in enumerate(hypotheses)}
        gts = {i: [" ".join(item) for item in of_item] for i, of_item in enumerate(references)}
        assert bleu(hypotheses, references) == pytest.approx(
            Bleu(4).compute_score(gts, res, verbose=0)[0], abs=1e-9
        )
        assert cider(hypotheses, references) == pytest.approx(Cider().compute_score(gts, res)[1], abs=1e-9)
        assert rouge_l(hypotheses, references) == pytest.approx(Rouge().compute_score(gts, res)[1], abs=1e-9)


@has_java
def test_meteor_is_that_of_the_package(captions):
    assert caption_scores(*captions)["METEOR"] == pytest.approx(STORED["captions"]["METEOR"], abs=1e-6)
    pairs = [(item, some[0]) for item, some in CAPTIONS]
    assert meteor_of_pairs()(pairs) == pytest.approx(STORED["meteor_pairs"], abs=1e-6)
    assert meteor_of_pairs(swapped=True)(pairs) == pytest.approx(STORED["meteor_swapped"], abs=1e-6)
    assert STORED["meteor_pairs"] != pytest.approx(STORED["meteor_swapped"], abs=1e-3)
    got = dense_captions([REFERENCE, REFERENCE_2], PREDICTED, compat="paper")[0]
    for t in THRESHOLDS:
        assert got[f"METEOR@{t}"] == pytest.approx(STORED["dense"][f"METEOR@{t}"], abs=1e-6)


@has_java
def test_soda_is_that_of_every_matching_tried():
    got = soda_c(REFERENCE, PREDICTED, meteor_of_pairs(swapped=True), compat="paper")[0]
    assert got["SODA_c"] == pytest.approx(STORED["soda"], abs=1e-6)
    assert got["num"] == 3 and got["num_missing"] == 1 and got["num_empty"] == 1
    assert got["scorer"] == "METEOR 1.5 (java), arguments swapped"


@has_java
def test_the_program_reads_what_is_not_words():
    program = meteor()
    corpus, items = program(
        [[], ["a"], ["|||", "b"], ["日本"], ["a"]], [[["a"]], [[]], [["b"]], [["日本"]], [["a"]]]
    )
    assert items == pytest.approx([0, 0, 1, 1, 1])
    assert 0 < corpus < 1
    assert program([], []) == (0.0, [])


if __name__ == "__main__":
    STORE.write_text(
        json.dumps(expected(), indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf8"
    )
    sys.stdout.write(f"{STORE}\n")
