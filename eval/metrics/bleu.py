"""BLEU-1 to BLEU-4 of a corpus."""

import math
from collections import Counter
from collections.abc import Sequence

from .ngrams import LONGEST, Ngram, References, Words, check_items, ngrams

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
        at
    most 0.032 where all hypotheses are shorter than n words: the evaluator's guards against dividing by zero.
    """
    check_items(hypotheses, references)
    right, all_runs = [0] * LONGEST, [0] * LONGEST
    num_words = num_wanted = 0
    for hypothesis, some in zip(hypotheses, references, strict=True):
        num_words += len(hypothesis)
        num_wanted += min((abs(len(one) - len(hypothesis)), len(one)) for one in some)[1]
        known = [Counter[Ngram]() for _ in range(LONGEST)]
        for one in some:
            known = [most | counts for most, counts in zip(known, ngrams(one), strict=True)]
        for n, (counts, most) in enumerate(zip(ngrams(hypothesis), known, strict=True)):
            right[n] += (counts & most).total()
            all_runs[n] += counts.total()
    if not num_words:
        return [0.0] * LONGEST
    ratio = (num_words + _TINY) / (num_wanted + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(LONGEST):
        product *= (right[n] + _TINY) / (all_runs[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return scores
