"""METEOR of words that are equal or have equal stems: built in, without synonyms or paraphrases."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .intervals import FloatArray
from .ngrams import References, Words, check_items
from .stem import stem

# METEOR 1.5 for English, universal parameters; the weight of a match by equal stems.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STEM_WEIGHT = 0.6
_BEAM = 40

_FUNCTION_WORDS = """
    a an the this that these those some any no each all both
    i you he she it we they me him her us them my your his its our their who which what there
    am is are was were be been being have has had do does did will would can could shall should may might
    and or but if then than as so because while when where
    of in on at by for with from to into onto over under up down out off about after before between through
    not n't 's 're 've 'll 'd 'm
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


class Counts(NamedTuple):
    """What the score of one caption, or the summed counts of many, is made of.

    Attributes:
        words: of the hypothesis and of the reference.
        functions: function words among them.
        exact: matched words of hypothesis and reference that are equal and no function words.
        exact_functions: the same, that are function words.
        stems: matched words of equal stem only, no function words.
        stem_functions: the same, that are function words.
        chunks: runs of matched words that stand side by side in both; 0 if one run is all of both.
        matches: matched words.
    """

    words: tuple[int, int] = (0, 0)
    functions: tuple[int, int] = (0, 0)
    exact: tuple[int, int] = (0, 0)
    exact_functions: tuple[int, int] = (0, 0)
    stems: tuple[int, int] = (0, 0)
    stem_functions: tuple[int, int] = (0, 0)
    chunks: int = 0
    matches: int = 0


def meteor_of_stems(
    hypotheses: Sequence[Words], references: Sequence[References]
) -> tuple[float, list[float]]:
    """(METEOR of the corpus, METEOR of each item), in [0, 1].

    A word matches an equal word (weight 1) or one of equal stem (weight .6), each word once; `align` says
    which if there is a choice, and a chunk is a run of matches side by side in both captions. P is the weight
    of the matches over the words of the hypothesis, R over those of the reference, where a function word
    counts .25 and another .75. The score is P R / (.85 P + .15 R) times 1 - .6 (chunks / matches)^.2, where a
    caption that is one chunk in all has none. It is not symmetric: .85 leans to R.

    Of several references the best counts. The corpus is scored once, on the summed counts of its items, as
    METEOR's own program does; without items it scores 0. Where METEOR's program is run with its exact and
    stem matchers, these parameters and `FUNCTION_WORDS`, it gives the same; its default adds synonyms and
    paraphrases, so that these numbers are not comparable with published ones.
    """
    chosen = best_counts(hypotheses, references)
    return score(total(chosen)), [score(one) for one in chosen]


def best_counts(hypotheses: Sequence[Words], references: Sequence[References]) -> list[Counts]:
    """The counts of each item, against that of its references that scores best."""
    check_items(hypotheses, references)
    return [
        max((count(hypothesis, one) for one in some), key=score)
        for hypothesis, some in zip(hypotheses, references, strict=True)
    ]


def stem_counts(
    hypotheses: Sequence[Words], references: Sequence[References]
) -> tuple[FloatArray, Callable[[FloatArray], float]]:
    """(items, 14) what METEOR of a corpus is made of, to be summed; and what makes (14,) sums a score."""
    rows = [[*np.ravel(one[:6]), *one[6:]] for one in best_counts(hypotheses, references)]
    return np.array(rows, np.float64).reshape(-1, 14), _score_of_sums


def _score_of_sums(sums: FloatArray) -> float:
    numbers = [round(one) for one in sums.tolist()]
    pair = [(numbers[i], numbers[i + 1]) for i in range(0, 12, 2)]
    return score(Counts(pair[0], pair[1], pair[2], pair[3], pair[4], pair[5], numbers[12], numbers[13]))


def total(many: Sequence[Counts]) -> Counts:
    """The sums of all counts."""

    def both(name: str) -> tuple[int, int]:
        pairs = [getattr(one, name) for one in many]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    return Counts(
        both("words"),
        both("functions"),
        both("exact"),
        both("exact_functions"),
        both("stems"),
        both("stem_functions"),
        chunks=sum(one.chunks for one in many),
        matches=sum(one.matches for one in many),
    )


def score(counts: Counts) -> float:
    """METEOR from its counts; 0 without a match."""
    if not counts.matches:
        return 0.0
    precision, recall = (
        (
            _DELTA * (counts.exact[side] + _STEM_WEIGHT * counts.stems[side])
            + (1 - _DELTA) * (counts.exact_functions[side] + _STEM_WEIGHT * counts.stem_functions[side])
        )
        / (_DELTA * (counts.words[side] - counts.functions[side]) + (1 - _DELTA) * counts.functions[side])
        for side in (0, 1)
    )
    penalty = _GAMMA * (counts.chunks / counts.matches) ** _BETA
    return precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall) * (1 - penalty)


def count(hypothesis: Words, reference: Words) -> Counts:
    """The counts of one caption against one reference."""
    matched = align(hypothesis, reference)
    sums = {(exact, function): [0, 0] for exact in (True, False) for function in (True, False)}
    chunks, last = 0, (-2, -2)
    for i, j in matched:
        for side, word in enumerate((hypothesis[i], reference[j])):
            sums[hypothesis[i] == reference[j], word in FUNCTION_WORDS][side] += 1
        chunks += (i, j) != (last[0] + 1, last[1] + 1)
        last = (i, j)
    if chunks == 1 and len(matched) == len(hypothesis) == len(reference):
        chunks = 0
    kinds = [(hyp, ref) for hyp, ref in sums.values()]
    functions = [sum(word in FUNCTION_WORDS for word in words) for words in (hypothesis, reference)]
    return Counts(
        words=(len(hypothesis), len(reference)),
        functions=(functions[0], functions[1]),
        exact_functions=kinds[0],
        exact=kinds[1],
        stem_functions=kinds[2],
        stems=kinds[3],
        chunks=chunks,
        matches=len(matched),
    )


_Chain: TypeAlias = "tuple[tuple[int, int], _Chain] | None"


class _Partial(NamedTuple):
    """An alignment of the first words of the reference; it is better the less its first three numbers are."""

    minus_exact: int = 0
    chunks: int = 0  # ended ones
    distance: int = 0
    open_at: int = -1  # place in the hypothesis that would carry the last chunk on; -1 if it has ended
    used: int = 0  # bits: places of the hypothesis
    matched: "_Chain" = None  # the last match, and those before it

    def cost(self) -> tuple[int, int, int]:
        return self.minus_exact, self.chunks, self.distance

    def skip(self, distance: int = 0) -> "_Partial":
        chunks = self.chunks + (self.open_at >= 0)
        return self._replace(chunks=chunks, distance=self.distance + distance, open_at=-1)

    def match(self, i: int, j: int, is_exact: bool, distance: int) -> "_Partial":
        return _Partial(
            self.minus_exact - is_exact,
            self.chunks + (self.open_at >= 0 and self.open_at != i),
            self.distance + distance,
            i + 1,
            self.used | 1 << i,
            ((i, j), self.matched),
        )


def align(hypothesis: Words, reference: Words) -> tuple[tuple[int, int], ...]:
    """Pairs (place in the hypothesis, place in the reference) of the matched words, in the reference's order.

    Two words that match each other and no others are matched. Of all ways to match the rest, the one with the
    most equal words is taken, of these the one in the fewest chunks, of these the one over the least
    distance: so a match by stem that another could replace is left out where it would add a chunk. Like
        METEOR's
    program, this goes through the reference word by word with the 40 best so far.
    """
    equal: dict[str, list[int]] = {}
    for i, word in enumerate(hypothesis):
        equal.setdefault(word, []).append(i)
    alike: dict[str, list[int]] = {}
    if list(hypothesis) != list(reference):
        for i, word in enumerate(hypothesis):
            alike.setdefault(stem(word), []).append(i)
    choices = []
    for word in reference:
        same = equal.get(word, [])
        by_stem = [i for i in alike.get(stem(word), ()) if hypothesis[i] != word]
        choices.append([(i, True) for i in same] + [(i, False) for i in by_stem])
    wanted = Counter(i for some in choices for i, _ in some)
    sure = [len(some) == 1 and wanted[some[0][0]] == 1 for some in choices]
    beam = [_Partial(used=sum(1 << some[0][0] for some, only in zip(choices, sure, strict=True) if only))]
    for j, (some, only) in enumerate(zip(choices, sure, strict=True)):
        grown = []
        for state in sorted(beam, key=_Partial.cost)[:_BEAM]:
            if only:
                grown.append(state.match(some[0][0], j, some[0][1], abs(some[0][0] - j)))
                continue
            passed = 0
            for i, exact in some:
                if not state.used >> i & 1:
                    grown.append(state.match(i, j, exact, passed))
                    passed += abs(i - j)
            grown.append(state.skip(passed))
        beam = grown
    chain = min((state.skip() for state in beam), key=_Partial.cost).matched
    matched = []
    while chain is not None:
        pair, chain = chain
        matched.append(pair)
    return tuple(reversed(matched))
