"""BLEU-1 to BLEU-4 of a corpus."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from .intervals import FloatArray
from .ngrams import LONGEST, Ngram, References, Words, ngrams

# The captioning evaluator's guards against dividing by zero, which reach into the eighth digit.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(hypotheses: Sequence[Words], references: Sequence[References]) -> list[float]:
    """[BLEU-1, .., BLEU-4], each in [0, 1].

    BLEU-n is the geometric mean of the shares p_1 .. p_n times a penalty for being short. p_k is, over the
    whole corpus, the number of runs of k words of the hypotheses that are also in a reference of their item
    (each at most as often as in the reference that has it most often) over the number of runs of k words. The
    penalty is exp(1 - r / h) if the hypotheses have fewer words, h, than their references, r: of each item
    the reference counts whose length is closest, the shorter of two.

    No items, or none with a word: four zeros. BLEU-n is next to 0 as soon as no run of n words is right, and
    at most 0.032 where all hypotheses are shorter than n words: the evaluator's guards against dividing by
    zero.
    """
    return bleu_of(bleu_counts(hypotheses, references).sum(0))


def bleu_counts(hypotheses: Sequence[Words], references: Sequence[References]) -> FloatArray:
    """(items, 10) what BLEU is made of, to be summed: right runs of 1 .. 4 words, all runs of 1 .. 4 words,
    words of the hypothesis and of the reference that counts."""
    out = np.zeros((len(hypotheses), 2 * LONGEST + 2))
    for row, hypothesis, some in zip(out, hypotheses, references, strict=True):
        known = [Counter[Ngram]() for _ in range(LONGEST)]
        for item in some:
            known = [highest | counts for highest, counts in zip(known, ngrams(item), strict=True)]
        for n, (counts, highest) in enumerate(zip(ngrams(hypothesis), known, strict=True)):
            row[n], row[LONGEST + n] = (counts & highest).total(), counts.total()
        row[-2] = len(hypothesis)
        row[-1] = min((abs(len(element) - len(hypothesis)), len(element)) for element in some)[1]
    return out


def bleu_of(counts: FloatArray) -> list[float]:
    """[BLEU-1, .., BLEU-4] of (10,) summed `bleu_counts`."""
    right, all_runs = counts[:LONGEST].tolist(), counts[LONGEST:-2].tolist()
    num_words, num_wanted = counts[-2:].tolist()
    if not num_words:
        return [0.0] * LONGEST
    ratio = (num_words + _TINY) / (num_wanted + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(LONGEST):
        product *= (right[n] + _TINY) / (all_runs[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores
