"""Runs of words and how often they occur: what BLEU and CIDEr count."""

from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
References = Sequence[Words]  # the captions that are right for one item, at least one
Ngram = tuple[str, ...]
LONGEST = 4


def ngrams(words: Words) -> list[Counter[Ngram]]:
    """How often each run of n words occurs, for n = 1 .. 4."""
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]
