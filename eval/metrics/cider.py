"""CIDEr, in the form that captioning evaluators call CIDEr: clipped, with a penalty for length (CIDEr-D)."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .ngrams import LONGEST, Ngram, References, Words, ngrams

SIGMA = 6.0


class Documents(NamedTuple):
    """In how many items of a corpus each run of words is."""

    num_items: Counter[Ngram]
    num: int


def documents(references: Sequence[References]) -> Documents:
    """Counts, for each run of 1 .. 4 words, the items of which a reference has it."""
    num_items: Counter[Ngram] = Counter()
    for some in references:
        num_items.update({run for item in some for counts in ngrams(item) for run in counts})
    return Documents(num_items, len(references))


def cider(
    hypotheses: Sequence[Words], references: Sequence[References], corpus: Documents | None = None
) -> list[float]:
    """CIDEr of each item, in [0, 10]; of a corpus it is their mean.

    Each run of n words of a caption weighs (how often it is there) * log (items in all / items of which a
    reference has it). For n = 1 .. 4 the hypothesis is compared with a reference as by cosine, with its
    weight of a run cut to that of the reference; this is multiplied by exp(-d^2 / 72), d the difference of
    their lengths, and by 10; then comes the mean over n and over references.

    `corpus` has the items that the frequencies are of; those of `references` if not given. A corpus of one
    item knows no rare words: everything weighs log 1 = 0 and every score is 0.
    """
    known = documents(references) if corpus is None else corpus
    log_num = math.log(max(known.num, 1))
    scores = []
    for hypothesis, some in zip(hypotheses, references, strict=True):
        ours = _weighted(hypothesis, known, log_num)
        alike = [_alike(ours, _weighted(item, known, log_num)) for item in some]
        scores.append(10 * math.fsum(alike) / len(some))
    return scores


class _Weighted(NamedTuple):
    weights: list[dict[Ngram, float]]
    norms: list[float]
    num_pairs: int  # what the evaluator takes for the length: runs of two words


def _weighted(words: Words, known: Documents, log_num: float) -> _Weighted:
    weights = [
        {run: times * (log_num - math.log(max(1, known.num_items[run]))) for run, times in counts.items()}
        for counts in ngrams(words)
    ]
    norms = [math.sqrt(math.fsum(weight**2 for weight in some.values())) for some in weights]
    return _Weighted(weights, norms, max(len(words) - 1, 0))


def _alike(hypothesis: _Weighted, reference: _Weighted) -> float:
    total = 0.0
    for n in range(LONGEST):
        norm = hypothesis.norms[n] * reference.norms[n]
        if norm:
            theirs = reference.weights[n]
            shared = (
                min(weight, theirs[run]) * theirs[run]
                for run, weight in hypothesis.weights[n].items()
                if run in theirs
            )
            total += math.fsum(shared) / norm
    difference = hypothesis.num_pairs - reference.num_pairs
    return total / LONGEST * math.exp(-(difference**2) / (2 * SIGMA**2))
