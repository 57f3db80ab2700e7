"""ROUGE-L: the longest common subsequence of words."""

from collections.abc import Sequence

from .ngrams import References, Words

_BETA = 1.2


def rouge_l(hypotheses: Sequence[Words], references: Sequence[References]) -> list[float]:
    """ROUGE-L of each item, in [0, 1]; of a corpus it is their mean.

    With L the length of the longest common subsequence of hypothesis and reference, P is the greatest L /
    (words of the hypothesis) and R the greatest L / (words of the reference) over references, each by itself;
    the score is (1 + b^2) P R / (R + b^2 P) with b = 1.2. It is 0 without a common word, and for a
    hypothesis without words.
    """
    return [_score(item, some) for item, some in zip(hypotheses, references, strict=True)]


def _score(hypothesis: Words, references: References) -> float:
    lengths = [common_length(hypothesis, item) for item in references]
    if not any(lengths):
        return 0.0
    precision = max(lengths) / len(hypothesis)
    recall = max(length / len(item) for length, item in zip(lengths, references, strict=True) if item)
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def common_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for i, other in enumerate(b, 1):
            diagonal, row[i] = row[i], diagonal + 1 if word == other else max(row[i], row[i - 1])
    return row[-1]
