"""Dense captions: the protocols of ActivityNet Captions and of YouCook2, and SODA_c."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .bootstrap import Corpus, means_of
from .captions import BLEUS, bleu, cider, resampled_cider, rouge_l
from .intervals import (
    Annotator,
    Captioned,
    Columns,
    Compat,
    FloatArray,
    Metrics,
    entry_counts,
    harmonic,
    mean,
    tiou_matrix,
)
from .meteor import NOT_COMPUTED, meteor, meteor_name
from .words import Words, ascii_only, words_of_each

PairScorer = Callable[[Sequence[tuple[str, str]]], Sequence[float]]
Pairs = list[tuple[str, str | None]]  # predicted texts, each with a right one, None for none
Matched = Mapping[Any, tuple[list[FloatArray], list[Pairs]]]  # by video: see `_matched`
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
TEXT_METRICS = ("CIDEr", "METEOR", "ROUGE-L", *BLEUS)
_AVERAGED = ("precision", "recall", "CIDEr", "METEOR")  # over thresholds, for YouCook2
MAX_PREDICTIONS = 1000  # of a video
_EPSILON = 1e-8  # the evaluators divide by the union and this: an IoU of just 0.5 is no match at 0.5
_MATCHES_NOTHING = ["qzxjkvbqwzxj"]


def dense_captions(
    reference: Sequence[Annotator], predicted: Annotator, *, compat: Compat = None
) -> tuple[Metrics, Corpus]:
    """(dense-caption scores at each threshold with their means, the same scores of resampled videos).

    At a threshold t, each pair of a predicted and a reference event with IoU >= t is an item, of one
    annotator's events after another's. A predicted event in no pair is an item with a word that matches
    nothing. The items of a video are scored like a corpus of captions, videos are averaged. Localisation
    precision is the share of a video's predicted events with an IoU > t to any reference event, recall the
    share of reference events with one to any predicted event; of several annotators each takes the best. F1@t
    is of their means over videos. IoU has 1e-8 added to the union, as in the official evaluator, so that >=
    and > are the same for round numbers.

    CIDEr's document frequencies are of all reference captions. In the official evaluator they are of the
    items of one video, by which a video with one item always has CIDEr 0.

    Args:
        reference: (start_s, end_s, text) of the events of each video, a mapping for each annotator.
        predicted: the same of the predictions, the most certain first; no more than 1,000 of a video count.
        compat: "paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: CIDEr's document
            frequencies of one video, characters beyond ASCII read as spaces, videos without an entry left out
            (those with an empty list score 0). Its random letters, where ours is a fixed word, are no
            difference.

    Returns:
        CIDEr, METEOR, ROUGE-L, BLEU-1 .. 4, precision, recall, F1, each also as NAME@t (None of no videos,
        METEOR without its program); meteor (its name, or the remedy); num (videos), num_over (ignored
        predictions), and other counts.
    """
    videos = list(dict.fromkeys(key for annotator in reference for key in annotator))
    scored = [key for key in videos if compat is None or key in predicted]
    theirs = [events_of(annotator, scored, compat) for annotator in reference]
    ours = {key: events[:MAX_PREDICTIONS] for key, events in events_of(predicted, scored, compat).items()}
    columns, ciders = dense_of_each(theirs, ours, compat)
    table = means_of(columns, {key: key for key in scored})

    def scores(times: FloatArray) -> dict[str, float | None]:
        means = dict(table.scores(times))
        if ciders is not None and times.sum():
            values = (times @ ciders(times) / times.sum()).tolist()
            means |= {f"CIDEr@{t:g}": value for t, value in zip(THRESHOLDS, values, strict=True)}
        for t in THRESHOLDS:
            means[f"F1@{t:g}"] = harmonic(means[f"precision@{t:g}"], means[f"recall@{t:g}"])
        for name in (*TEXT_METRICS, "precision", "recall", "F1"):
            known = [means[f"{name}@{t:g}"] for t in THRESHOLDS]
            means[name] = mean([value for value in known if value is not None])
        return means

    corpus = Corpus(table.videos, scores)
    metrics = {
        **corpus.whole(),
        "meteor": meteor_name(),
        "num": len(scored),
        **entry_counts(videos, predicted),
        "num_over": sum(max(len(predicted.get(key, ())) - MAX_PREDICTIONS, 0) for key in scored),
    }
    return metrics, corpus


def dense_of_each(
    reference: Sequence[Annotator], predicted: Annotator, compat: Compat
) -> tuple[Columns, Callable[[FloatArray], FloatArray] | None]:
    """(NAME@t -> the score of each video of the reference, how CIDEr changes with the videos).

    All is 0 of no predictions, METEOR of nothing without Java. CIDEr's document frequencies are of all
    reference captions, for the papers of the items of a video. The function takes (videos,), how often each
    is in a sample, to (videos, thresholds); None for the papers.
    """
    matched = _matched(reference, predicted)
    words = words_of_each(event[2] for _, event in _events([*reference, predicted]))
    columns: Columns = {
        f"{name}@{t:g}": {} for name in (*TEXT_METRICS, "precision", "recall") for t in THRESHOLDS
    }
    for key, (overlaps, of_thresholds) in matched.items():
        for t, pairs in zip(THRESHOLDS, of_thresholds, strict=True):
            hypotheses = [words[text] for text, _ in pairs]
            references = [_MATCHES_NOTHING if right is None else words[right] for _, right in pairs]
            scores = _text_scores(hypotheses, references) | _localisation(overlaps, t)
            if compat:
                scores["CIDEr"] = mean(cider(hypotheses, [[item] for item in references])) or 0.0
            for name, value in scores.items():
                columns[f"{name}@{t:g}"][key] = value
    if compat:
        return columns, None
    ciders = _resampled_ciders(matched, reference, words)
    for t, column in zip(THRESHOLDS, ciders(np.ones(len(matched))).T.tolist(), strict=True):
        columns[f"CIDEr@{t:g}"] = dict(zip(matched, column, strict=True))
    return columns, ciders


def _resampled_ciders(
    matched: Matched, reference: Sequence[Annotator], words: Mapping[str, Words]
) -> Callable[[FloatArray], FloatArray]:
    """(videos,) how often each is in the sample, to (videos, thresholds) CIDEr by its frequencies."""
    different: dict[tuple[str, str], int] = {}
    cells, items, weights = [], [], []
    for cell, pairs in enumerate(pairs for _, some in matched.values() for pairs in some):
        for text, right in pairs:
            if right is not None:  # what matches nothing is an item too, of score 0
                cells.append(cell)
                items.append(different.setdefault((text, right), len(different)))
                weights.append(1 / len(pairs))
    place = {key: i for i, key in enumerate(matched)}
    captions = [(place[key], event[2]) for key, event in _events(reference)]
    ciders = resampled_cider(
        [words[text] for text, _ in different],
        [[words[right]] for _, right in different],
        [[words[text]] for _, text in captions],
        [at for at, _ in captions],
        len(matched),
    )
    at, of, weight = np.array(cells, np.int64), np.array(items, np.int64), np.array(weights, np.float64)

    def ciders_of(times: FloatArray) -> FloatArray:
        summed = np.bincount(at, weight * ciders(times)[of], len(matched) * len(THRESHOLDS))
        return summed.astype(np.float64).reshape(-1, len(THRESHOLDS))

    return ciders_of


def _matched(reference: Sequence[Annotator], predicted: Annotator) -> Matched:
    """Of each video the IoU with each annotator's events, and what is scored at each threshold."""
    out: dict[Any, tuple[list[FloatArray], list[Pairs]]] = {}
    for key in dict.fromkeys(key for annotator in reference for key in annotator):
        ours = predicted.get(key, ())
        theirs = [annotator[key] for annotator in reference if key in annotator]
        overlaps = [tiou_matrix(ours, events, _EPSILON) for events in theirs]
        # (our event, the right text) of each two events that overlap so much, of one annotator after another.
        texts = [event[2] for events in theirs for event in events]
        overlap = np.concatenate(overlaps, 1)
        of_thresholds: list[Pairs] = [
            [
                (event[2], right)
                for event, row in zip(ours, overlap, strict=True)
                for right in [texts[j] for j in np.flatnonzero(row >= t)] or [None]
            ]
            for t in THRESHOLDS
        ]
        out[key] = overlaps, of_thresholds
    return out


def _text_scores(hypotheses: Sequence[Words], references: Sequence[Words]) -> dict[str, float]:
    """METEOR, where it can run, ROUGE-L and BLEU of one video's items."""
    program, rights = meteor(), [[item] for item in references]
    bleus = bleu(hypotheses, rights) if hypotheses else [0.0] * len(BLEUS)
    return {
        **({"METEOR": program(hypotheses, rights)[0] if hypotheses else 0.0} if program else {}),
        "ROUGE-L": mean(rouge_l(hypotheses, rights).tolist()) or 0.0,
        **dict(zip(BLEUS, bleus, strict=True)),
    }


def _localisation(overlaps: Sequence[FloatArray], threshold: float) -> dict[str, float]:
    """Localisation precision and recall of one video, each the best over annotators."""
    matched = [overlap > threshold for overlap in overlaps]
    return {
        "precision": max(float(some.any(1).mean()) if some.shape[0] else 0.0 for some in matched),
        "recall": max(float(some.any(0).mean()) if some.shape[1] else 0.0 for some in matched),
    }


def _events(annotators: Iterable[Annotator]) -> list[tuple[Any, tuple[float, float, str]]]:
    """(video, event) of all."""
    return [(key, event) for each in annotators for key, events in each.items() for event in events]


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
) -> tuple[Metrics, Columns]:
    """(mean SODA_c over videos, the same of each video).

    Of one video (`soda_of_each`), events are put in the order of their starts. A predicted and a reference
    event that are matched earn their temporal IoU times the score of their texts. Each event is matched at
    most once, and matches don't cross; the matching that earns most counts. The sum over the number of
    predicted events is the precision, over that of reference events the recall. f1 is their harmonic mean.

    The scorer takes (prediction, reference) texts to scores, see `meteor_of_pairs`; without it the scores are
    None. compat="paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: characters beyond
    ASCII are read as spaces, videos without an entry are left out (an empty list scores 0).
    """
    keys = [key for key in reference if compat is None or key in predicted]
    columns: Columns = {"SODA_c": {}, "SODA_c_precision": {}, "SODA_c_recall": {}}
    if scorer is not None:
        each = soda_of_each(events_of(reference, keys, compat), events_of(predicted, keys, compat), scorer)
        for key, (precision, recall, f1) in each.items():
            for column, value in zip(columns.values(), (f1, precision, recall), strict=True):
                column[key] = value
    metrics = {
        **{name: mean(column.values()) for name, column in columns.items()},
        "scorer": NOT_COMPUTED if scorer is None else getattr(scorer, "__name__", type(scorer).__name__),
        "num": len(keys),
        **entry_counts(reference, predicted),
    }
    return metrics, columns


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


def youcook2(
    reference: Annotator, predicted: Annotator, *, compat: Compat = None
) -> tuple[Metrics, Columns, Corpus]:
    """(F1, CIDEr, METEOR and SODA_c of dense captions, SODA_c of each video, all but SODA_c resampled).

    This is what TimeChat's, MMDuet's and their successors' evaluators compute.

    Of each video, precision and recall of its events (see `dense_captions`) are averaged over IoU above
    .3, .5, .7 and .9, and F1 is of these averages. CIDEr and METEOR are of the matched items of each video at
    each of the four. Spans with their ends exchanged are read the right way round.

    A video without predictions scores 0 everywhere. compat="paper" takes CIDEr's document frequencies from
    one video's items, and METEOR in SODA_c with its arguments exchanged.

    Returns:
        F1, precision, recall, CIDEr, METEOR, SODA_c (None of no videos, the last two without METEOR's
        program), meteor (its name, or the remedy), num_predictions (the mean of a video), counts.
    """
    theirs, ours = _ordered(reference), _ordered(predicted)
    scored, ciders = dense_of_each([theirs], ours, compat)
    means: Columns = {"F1": {}}
    for name in _AVERAGED:
        at_each = [scored[f"{name}@{t:g}"] for t in THRESHOLDS]
        means[name] = {key: sum(column[key] for column in at_each) / len(at_each) for key in at_each[0]}
    for key, precision in means["precision"].items():
        means["F1"][key] = harmonic(precision, means["recall"][key]) or 0.0
    table = means_of(means, {key: key for key in theirs})
    soda, columns = soda_c(theirs, ours, meteor_of_pairs(swapped=compat == "paper"))

    def scores(times: FloatArray) -> dict[str, float | None]:
        out = dict(table.scores(times))
        if ciders is not None and times.sum():
            out["CIDEr"] = float((times @ ciders(times)).mean() / times.sum())
        return out

    corpus = Corpus(table.videos, scores)
    metrics = {
        **corpus.whole(),
        "SODA_c": soda["SODA_c"],
        "meteor": meteor_name() + ("; in SODA_c with arguments swapped" if compat and meteor() else ""),
        **{name: soda[name] for name in ("num", "num_missing", "num_empty", "num_unknown")},
        "num_predictions": mean([float(len(ours.get(key, ()))) for key in theirs]),
    }
    return metrics, {"SODA_c": columns["SODA_c"]} if columns["SODA_c"] else {}, corpus


def reply_segments(
    replies: Sequence[tuple[float, str]], *, first_start_s: float | None = 0.0
) -> list[Captioned]:
    """Replies during a video, (time_s, text), as the events they tell of.

    Equal replies in a row are one. An event reaches from the last time the reply before was given to the last
    time this one was given. The first starts at `first_start_s`; None leaves it out, as MMDuet's evaluator
    does.
    """
    out: list[Captioned] = []
    before_s = first_start_s
    for i, (time_s, text) in enumerate(replies):
        if i + 1 < len(replies) and replies[i + 1][1] == text:
            continue
        if before_s is not None:
            out.append((before_s, time_s, text))
        before_s = time_s
    return out


def _ordered(events: Annotator) -> dict[Any, list[Captioned]]:
    """Spans with their earlier time first."""
    return {
        key: [(min(start, end), max(start, end), text) for start, end, text in some]
        for key, some in events.items()
    }
