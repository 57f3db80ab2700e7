"""SODA_c: dense captions as a story, matched in order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from .captions import WhichMeteor, meteor, meteor_of_pairs
from .intervals import FloatArray, IntArray, mean, tiou_matrix
from .words import ascii_only

Captioned = tuple[float, float, str]  # start_s, end_s, what happens
PairScorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]


class Soda(NamedTuple):
    """SODA_c of one video, each in [0, 1] where the scorer's values are."""

    precision: float
    recall: float
    f1: float


def soda_c(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Captioned]],
    *,
    scorer: PairScorer | None = None,
    which_meteor: WhichMeteor = "auto",
    swapped: bool | None = None,
    compat: Literal["paper"] | None = None,
) -> dict[str, Any]:
    """Mean SODA_c over videos.

    Of one video (`soda_of_each`), events are put in the order of their starts. A predicted and a gold event
    that are matched earn their temporal IoU times the score of their texts. Each event is matched at most
    once, and matches don't cross; the matching that earns most counts. What it earns over the number of
    predicted events is the precision, over that of gold events the recall, and f1 their harmonic mean.

    Args:
        gold: (start_s, end_s, text) of the events of each video, in any order.
        predicted: the same of what was predicted.
        scorer: (prediction, gold) texts to scores; METEOR if not given.
        which_meteor: which one, as of `captions.meteor`.
        swapped: METEOR with its arguments exchanged, as the papers call it; by default what `compat` does.
        compat: "paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: METEOR's arguments
            exchanged, characters beyond ASCII read as spaces, videos that were not predicted left out
            (those with an empty list score 0 all the same).

    Returns:
        SODA_c (the mean f1), SODA_c_precision, SODA_c_recall (None of no videos), scorer (its name), num,
        num_missing (videos of the gold without an entry), num_empty (with an empty list), num_unknown.
    """
    if compat not in (None, "paper"):
        raise ValueError(f"compat must be None or 'paper', got {compat!r}")
    is_swapped = compat == "paper" if swapped is None else swapped
    if scorer is None:
        name = meteor(which_meteor).name + (", arguments swapped" if is_swapped else "")

        def scorer(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
            return meteor_of_pairs(pairs, which_meteor, swapped=is_swapped)
    elif swapped is not None:
        raise ValueError(f"swapped is for METEOR, got {swapped} with a scorer of your own; leave it out")
    else:
        name = getattr(scorer, "__name__", type(scorer).__name__)
    keys = [key for key in gold if compat is None or key in predicted]
    if compat == "paper":
        gold, predicted = ({k: _in_ascii(v) for k, v in some.items()} for some in (gold, predicted))
    each = soda_of_each({key: gold[key] for key in keys}, predicted, scorer)
    return {
        "SODA_c": mean([one.f1 for one in each.values()]),
        "SODA_c_precision": mean([one.precision for one in each.values()]),
        "SODA_c_recall": mean([one.recall for one in each.values()]),
        "scorer": name,
        "num": len(each),
        "num_missing": sum(key not in predicted for key in gold),
        "num_empty": sum(not predicted[key] for key in gold if key in predicted),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def soda_of_each(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Captioned]],
    scorer: PairScorer,
) -> dict[Any, Soda]:
    """SODA_c of each video of the gold; all 0 where nothing was predicted, or nothing is to be found.

    The scorer is called once, with each pair of texts once, and only with pairs whose spans overlap.
    """
    overlaps: dict[Any, FloatArray] = {}
    wanted: dict[Any, IntArray] = {}
    texts: dict[str, int] = {}
    for key in gold:
        ours, theirs = (
            sorted(some, key=lambda event: event[0]) for some in (predicted.get(key, ()), gold[key])
        )
        overlaps[key] = tiou_matrix(ours, theirs)
        first, second = (
            np.array([texts.setdefault(event[2], len(texts)) for event in some], np.int64)
            for some in (ours, theirs)
        )
        # One number a pair of texts.
        wanted[key] = ((first << 32)[:, None] | second[None, :])[overlaps[key] > 0]
    pairs = np.unique(np.concatenate([*wanted.values(), np.zeros(0, np.int64)]))
    scores = _scores(scorer, list(texts), pairs)
    out = {}
    for key, overlap in overlaps.items():
        overlap[overlap > 0] *= scores[np.searchsorted(pairs, wanted[key])]
        out[key] = _soda(in_order(overlap), *overlap.shape)
    return out


def _scores(scorer: PairScorer, texts: Sequence[str], pairs: IntArray) -> FloatArray:
    """What the scorer says of pairs of texts, each one number: place << 32 | place."""
    asked = [(texts[pair >> 32], texts[pair & 0xFFFFFFFF]) for pair in pairs.tolist()]
    scores = np.array(list(scorer(asked)) if asked else [], np.float64)
    if scores.shape != pairs.shape or not np.isfinite(scores).all():
        raise ValueError(
            f"scorer must give a finite number for each of {len(pairs)} pairs, got {scores.size} values, "
            f"{np.sum(~np.isfinite(scores))} of them not finite"
        )
    return scores


def in_order(earned: FloatArray) -> float:
    """The most that matches earn which don't cross: increasing in both, (n, m) what each pair earns.

    A row at a time: the best of the first i rows and j columns is that of one row less, or with a match of i
    and some column up to j on top of the best of all before both.
    """
    best = np.zeros(earned.shape[1] + 1)
    for row in earned:
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], best[:-1] + row))
    return float(best[-1])


def _soda(earned: float, num_predicted: int, num_gold: int) -> Soda:
    if earned <= 0 or not num_predicted or not num_gold:
        return Soda(0.0, 0.0, 0.0)
    precision, recall = earned / num_predicted, earned / num_gold
    return Soda(precision, recall, 2 * precision * recall / (precision + recall))


def _in_ascii(events: Sequence[Captioned]) -> list[Captioned]:
    return [(start_s, end_s, ascii_only(text)) for start_s, end_s, text in events]
