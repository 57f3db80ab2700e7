"""SODA_c: dense captions as a story, matched in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .intervals import Compat, FloatArray, entry_counts, harmonic, mean, tiou_matrix
from .meteor import NOT_COMPUTED, meteor, meteor_name
from .words import ascii_only, words_of_each

Captioned = tuple[float, float, str]  # start_s, end_s, text
Annotator = Mapping[Any, Sequence[Captioned]]  # the events of each video
PairScorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


class Soda(NamedTuple):
    """SODA_c of one video, each in [0, 1] where the scorer's values are."""

    precision: float
    recall: float
    f1: float


def meteor_of_pairs(*, swapped: bool = False) -> PairScorer | None:
    """METEOR of (prediction, reference) pairs of texts, the scorer of SODA_c; None where it can't run.

    `swapped` hands the prediction over as the reference and the reference as the hypothesis, as the SODA
    evaluators of the papers do. METEOR is not symmetric. `__name__` stands beside the numbers.
    """
    if (program := meteor()) is None:
        return None

    def scores(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        words = words_of_each(text for pair in pairs for text in pair)
        predicted, reference = ([words[pair[side]] for pair in pairs] for side in (0, 1))
        if swapped:
            predicted, reference = reference, predicted
        return program(predicted, [[item] for item in reference])[1]

    scores.__name__ = meteor_name(swapped=swapped)
    return scores


def soda_c(
    reference: Annotator, predicted: Annotator, scorer: PairScorer | None, *, compat: Compat = None
) -> tuple[dict[str, Any], dict[Any, Soda]]:
    """(mean SODA_c over videos, SODA_c of each video).

    Of one video (`soda_of_each`), events are put in the order of their starts. A predicted and a reference
    event that are matched earn their temporal IoU times the score of their texts. Each event is matched at
    most once, and matches don't cross; the matching that earns most counts. The sum over the number of
    predicted events is the precision, over that of reference events the recall. f1 is their harmonic mean.

    The scorer takes (prediction, reference) texts to scores, see `meteor_of_pairs`; without it the scores are
    None. compat="paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: characters beyond
    ASCII are read as spaces, videos without an entry are left out (an empty list scores 0).
    """
    keys = [key for key in reference if compat is None or key in predicted]
    each = {}
    if scorer is not None:
        each = soda_of_each(events_of(reference, keys, compat), events_of(predicted, keys, compat), scorer)
    metrics = {
        "SODA_c": mean([soda.f1 for soda in each.values()]),
        "SODA_c_precision": mean([soda.precision for soda in each.values()]),
        "SODA_c_recall": mean([soda.recall for soda in each.values()]),
        "scorer": NOT_COMPUTED if scorer is None else getattr(scorer, "__name__", type(scorer).__name__),
        "num": len(keys),
        **entry_counts(reference, predicted),
    }
    return metrics, each


def soda_of_each(reference: Annotator, predicted: Annotator, scorer: PairScorer) -> dict[Any, Soda]:
    """SODA_c of each video of the reference; all 0 where nothing was predicted, or nothing is to be found.

    The scorer is called once, with each pair of texts once, and only with pairs whose spans overlap.
    """
    overlaps, overlapping = {}, {}
    for key in reference:
        ours, theirs = (
            sorted(some.get(key, ()), key=lambda event: event[0]) for some in (predicted, reference)
        )
        overlaps[key] = tiou_matrix(ours, theirs)
        overlapping[key] = [(ours[i][2], theirs[j][2]) for i, j in np.argwhere(overlaps[key] > 0).tolist()]
    pairs = list(dict.fromkeys(pair for some in overlapping.values() for pair in some))
    scores = dict(zip(pairs, scorer(pairs) if pairs else [], strict=True))
    out = {}
    for key, overlap in overlaps.items():
        overlap[overlap > 0] *= [scores[pair] for pair in overlapping[key]]
        earned = in_order(overlap)
        precision, recall = (earned / max(num, 1) for num in overlap.shape)
        out[key] = Soda(precision, recall, harmonic(precision, recall) or 0.0)
    return out


def in_order(earned: FloatArray) -> float:
    """The most that matches earn which don't cross: increasing in both, (n, m) what each pair earns.

    A row at a time: the best of the first i rows and j columns is that of one row less, or with a match of i
    and some column up to j on top of the best of all before both.
    """
    best = np.zeros(earned.shape[1] + 1)
    for row in earned:
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], best[:-1] + row))
    return float(best[-1])


def events_of(annotator: Annotator, keys: Sequence[Any], compat: Compat) -> dict[Any, list[Captioned]]:
    """The events of these videos, in ASCII for the papers."""
    read = ascii_only if compat else str
    return {key: [(a, b, read(text)) for a, b, text in annotator[key]] for key in keys if key in annotator}
