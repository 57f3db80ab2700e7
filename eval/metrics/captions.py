"""Captions against the right ones, over a whole corpus: CIDEr, BLEU, ROUGE-L and METEOR."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from .bleu import bleu
from .cider import cider
from .intervals import FloatArray, mean
from .meteor import meteor_of_stems, stem_counts
from .meteor_java import is_available, java_meteor
from .ngrams import References, Words
from .rouge import rouge_l
from .words import words, words_of_each

WhichMeteor = Literal["auto", "java", "stems"]


class Meteor(NamedTuple):
    """A METEOR: the name that belongs beside its numbers; hypotheses and references to (corpus, items), or to
    what a corpus' score is made of, an item a row, to be summed, and what makes the sums a score."""

    name: str
    score: Callable[[Sequence[Words], Sequence[References]], tuple[float, list[float]]]
    counts: Callable[
        [Sequence[Words], Sequence[References]], tuple[FloatArray, Callable[[FloatArray], float]]
    ]


def meteor(which: WhichMeteor = "auto") -> Meteor:
    """METEOR's own program ("java"), the built-in one ("stems"), or the first where it runs ("auto")."""
    if which not in ("auto", "java", "stems"):
        raise ValueError(f"meteor must be 'auto', 'java' or 'stems', got {which!r}")
    if which == "java" or (which == "auto" and is_available()):
        return Meteor("METEOR 1.5 (java)", java_meteor(), java_meteor().counts)
    name = "METEOR exact+stem (built in, not comparable with METEOR 1.5)"
    return Meteor(name, meteor_of_stems, stem_counts)


def meteor_of_pairs(
    pairs: Sequence[tuple[str, str]], which: WhichMeteor = "auto", *, swapped: bool = False
) -> list[float]:
    """METEOR of each (prediction, gold) pair of texts.

    Args:
        pairs: the texts.
        which: as of `meteor`.
        swapped: hand the prediction over as the reference and the gold as the hypothesis, as the SODA
            evaluators of the papers do; METEOR is not symmetric.
    """
    read = words_of_each([text for pair in pairs for text in pair])
    predicted, gold = read[0::2], read[1::2]
    if swapped:
        predicted, gold = gold, predicted
    return meteor(which).score(predicted, [[one] for one in gold])[1]


def caption_scores(
    gold: Mapping[Any, Sequence[str]],
    predicted: Mapping[Any, str],
    *,
    which_meteor: WhichMeteor = "auto",
    swapped: bool = False,
    unanswered: Literal["zero", "skip"] = "zero",
    tokenize: Callable[[str], list[str]] = words,
) -> dict[str, Any]:
    """CIDEr, BLEU-1 .. 4, ROUGE-L and METEOR of captions, over the corpus, as the captioning evaluators do.

    Args:
        gold: the right captions of each item, at least one.
        predicted: the caption of each.
        which_meteor: as of `meteor`.
        swapped: METEOR with hypothesis and reference exchanged; needs one right caption an item.
        unanswered: "zero" scores an item without a prediction like an empty caption; "skip" leaves it out of
            everything, of CIDEr's document frequencies too.
        tokenize: text to words.

    Returns:
        CIDEr, BLEU-1, BLEU-2, BLEU-3, BLEU-4, ROUGE-L, METEOR (None of no items), meteor (its name), num,
        num_unanswered, num_empty (predictions without a word), num_unknown.
    """
    if unanswered not in ("zero", "skip"):
        raise ValueError(f"unanswered must be 'zero' or 'skip', got {unanswered!r}")
    used = meteor(which_meteor)
    keys = [key for key in gold if unanswered == "zero" or key in predicted]
    hypotheses = [tokenize(predicted.get(key, "")) for key in keys]
    references = [[tokenize(text) for text in gold[key]] for key in keys]
    bleus = bleu(hypotheses, references) if keys else [None] * 4
    return {
        "CIDEr": mean(cider(hypotheses, references)),
        **{f"BLEU-{n}": value for n, value in enumerate(bleus, 1)},
        "ROUGE-L": mean(rouge_l(hypotheses, references)),
        "METEOR": _corpus_meteor(used, hypotheses, references, swapped) if keys else None,
        "meteor": used.name + (", arguments swapped" if swapped else ""),
        "num": len(keys),
        "num_unanswered": sum(key not in predicted for key in gold),
        "num_empty": sum(not one for key, one in zip(keys, hypotheses, strict=True) if key in predicted),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def _corpus_meteor(
    used: Meteor, hypotheses: Sequence[Words], references: Sequence[References], swapped: bool
) -> float:
    if not swapped:
        return used.score(hypotheses, references)[0]
    most = max(len(some) for some in references)
    if most > 1:
        raise ValueError(f"swapped needs one right caption an item, got one with {most}; use swapped=False")
    return used.score([some[0] for some in references], [[one] for one in hypotheses])[0]
