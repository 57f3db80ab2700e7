"""Runs of words and how often they occur: what BLEU and CIDEr count."""

from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
References = Sequence[Words]  # the captions that are right for one item
Ngram = tuple[str, ...]
LONGEST = 4


def ngrams(words: Words) -> list[Counter[Ngram]]:
    """How often each run of n words occurs, for n = 1 .. 4."""
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, LONGEST + 1)]


def check_items(hypotheses: Sequence[Words], references: Sequence[References]) -> None:
    """Raises ValueError unless there is a hypothesis for each item, and a reference at least."""
    if len(hypotheses) != len(references):
        raise ValueError(
            "hypotheses and references must be of the same items; "
            f"got {len(hypotheses)} and {len(references)} of them"
        )
    for i, some in enumerate(references):
        if not some:
            raise ValueError(f"references[{i}] must have at least one caption, got none; leave out the item")
        if isinstance(some, str) or any(isinstance(item, str) for item in some):
            raise ValueError(f"references[{i}] must be lists of words (see words.words), got {some!r}")
