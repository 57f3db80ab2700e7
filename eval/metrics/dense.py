"""Dense captions by the protocol of ActivityNet Captions: located at four temporal IoU, then captioned."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .bleu import bleu
from .bootstrap import Corpus, means_of
from .cider import Documents, cider, documents
from .intervals import Compat, FloatArray, check_compat, entry_counts, harmonic, mean, tiou_matrix
from .meteor import Meteor, meteor, meteor_name
from .resample import Ciders
from .rouge import rouge_l
from .soda import Annotator, events_of
from .words import words_of_each

Items = list[tuple[str, str | None]]  # predicted texts, each with a right one, None for none
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
TEXT_METRICS = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
NAMES = [f"{name}@{t:g}" for name in (*TEXT_METRICS, "precision", "recall") for t in THRESHOLDS]
MAX_PREDICTIONS = 1000  # of a video
_EPSILON = 1e-8  # the evaluators divide by the union and this: an IoU of just 0.5 is no match at 0.5
_MATCHES_NOTHING = "qzxjkvbqwzxj"


def dense_captions(
    reference: Sequence[Annotator], predicted: Annotator, *, compat: Compat = None
) -> tuple[dict[str, Any], Callable[[], Corpus]]:
    """(dense-caption scores at each threshold with their means, what makes the same scores a `Corpus`).

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
    check_compat(compat)
    videos = list(dict.fromkeys(key for annotator in reference for key in annotator))
    scored = [key for key in videos if compat is None or key in predicted]
    theirs = [events_of(annotator, scored, compat) for annotator in reference]
    ours = {key: events[:MAX_PREDICTIONS] for key, events in events_of(predicted, scored, compat).items()}
    each = dense_of_each(theirs, ours, compat)
    # Without Java there is no METEOR.
    columns = {name: {key: video[name] for key, video in each.items() if name in video} for name in NAMES}

    def corpus() -> Corpus:
        table = means_of(columns, {key: key for key in each})
        ciders = None if compat else resampled_ciders(theirs, ours)

        def scores(times: FloatArray) -> dict[str, float | None]:
            means = dict(table.scores(times))
            if ciders is not None and times.sum():
                values = (times @ ciders(times) / times.sum()).tolist()
                means |= {f"CIDEr@{t:g}": value for t, value in zip(THRESHOLDS, values, strict=True)}
            return over_thresholds(means)

        return Corpus(table.videos, scores)

    means = {name: mean(column.values()) for name, column in columns.items()}
    metrics = {
        **over_thresholds(means),
        "meteor": meteor_name(),
        "num": len(each),
        **entry_counts(videos, predicted),
        "num_over": sum(max(len(predicted.get(key, ())) - MAX_PREDICTIONS, 0) for key in scored),
    }
    return metrics, corpus


def over_thresholds(means: Mapping[str, float | None]) -> dict[str, float | None]:
    """Means over videos, NAME@t, with F1 of precision and recall, and with all means over thresholds."""
    out = dict(means)
    for t in THRESHOLDS:
        out[f"F1@{t:g}"] = harmonic(out[f"precision@{t:g}"], out[f"recall@{t:g}"])
    for name in (*TEXT_METRICS, "precision", "recall", "F1"):
        values = [out[f"{name}@{t:g}"] for t in THRESHOLDS]
        out[name] = mean([value for value in values if value is not None])
    return out


def dense_of_each(
    reference: Sequence[Annotator], predicted: Annotator, compat: Compat
) -> dict[Any, dict[str, float]]:
    """The scores of each video of the reference, as NAME@t; all 0 of no predictions. No METEOR without Java.

    CIDEr's document frequencies are of all reference captions; for the papers of the items of a video.
    """
    words = words_of_each(_texts([*reference, predicted]))
    corpus = None if compat else documents([[words[text]] for text in _texts(reference)])
    program = meteor()
    out: dict[Any, dict[str, float]] = {}
    for key, (overlaps, matches) in _matched(reference, predicted).items():
        out[key] = {}
        for t, pairs in zip(THRESHOLDS, matches, strict=True):
            items = [
                (words[text], [_MATCHES_NOTHING] if right is None else words[right]) for text, right in pairs
            ]
            scores = _text_scores(items, program, corpus) | _localisation(overlaps, t)
            out[key] |= {f"{name}@{t:g}": value for name, value in scores.items()}
    return out


def resampled_ciders(
    reference: Sequence[Annotator], predicted: Annotator
) -> Callable[[FloatArray], FloatArray]:
    """(videos,) how often each is in the sample, to (videos, thresholds) CIDEr by its frequencies."""
    matched = _matched(reference, predicted)
    shape = len(matched), len(THRESHOLDS)
    words = words_of_each(_texts([*reference, predicted]))
    different: dict[tuple[str, str], int] = {}
    patches, items, weights = [], [], []
    for patch, pairs in enumerate(pairs for _, matches in matched.values() for pairs in matches):
        for text, right in pairs:
            if right is not None:  # what matches nothing is an item too, of score 0
                patches.append(patch)
                items.append(different.setdefault((text, right), len(different)))
                weights.append(1 / len(pairs))
    place = {key: i for i, key in enumerate(matched)}
    captions = [(place[key], event[2]) for each in reference for key, some in each.items() for event in some]
    ciders = Ciders(
        [words[text] for text, _ in different],
        [[words[right]] for _, right in different],
        [[words[text]] for _, text in captions],
        [at for at, _ in captions],
        len(matched),
    )
    at, of, weight = np.array(patches, np.int64), np.array(items, np.int64), np.array(weights)

    def ciders_of(times: FloatArray) -> FloatArray:
        summed = np.bincount(at, weight * ciders(times)[of], shape[0] * shape[1])
        return summed.astype(np.float64).reshape(shape)

    return ciders_of


def _matched(
    reference: Sequence[Annotator], predicted: Annotator
) -> dict[Any, tuple[list[FloatArray], list[Items]]]:
    """Of each video the IoU with each annotator's events, and what is scored at each threshold."""
    out: dict[Any, tuple[list[FloatArray], list[Items]]] = {}
    for key in dict.fromkeys(key for annotator in reference for key in annotator):
        ours = predicted.get(key, ())
        theirs = [annotator[key] for annotator in reference if key in annotator]
        overlaps = [tiou_matrix(ours, events, _EPSILON) for events in theirs]
        matches: list[Items] = [[] for _ in THRESHOLDS]
        for t, items in zip(THRESHOLDS, matches, strict=True):
            for i, event in enumerate(ours):
                right: list[str | None] = [
                    events[j][2]
                    for events, overlap in zip(theirs, overlaps, strict=True)
                    for j in np.flatnonzero(overlap[i] >= t).tolist()
                ]
                items += [(event[2], text) for text in right or [None]]
        out[key] = overlaps, matches
    return out


def _text_scores(
    items: Sequence[tuple[list[str], list[str]]], program: Meteor | None, corpus: Documents | None
) -> dict[str, float]:
    """The text metrics of one video's (hypothesis, reference) items."""
    if not items:
        return {name: 0.0 for name in TEXT_METRICS if program or name != "METEOR"}
    hypotheses, references = [item[0] for item in items], [[item[1]] for item in items]
    return {
        "CIDEr": mean(cider(hypotheses, references, corpus)) or 0.0,
        **({"METEOR": program(hypotheses, references)[0]} if program else {}),
        "ROUGE-L": mean(rouge_l(hypotheses, references)) or 0.0,
        **{f"BLEU-{n}": value for n, value in enumerate(bleu(hypotheses, references), 1)},
    }


def _localisation(overlaps: Sequence[FloatArray], threshold: float) -> dict[str, float]:
    """Localisation precision and recall of one video, each the best over annotators."""
    matched = [overlap > threshold for overlap in overlaps]
    return {
        "precision": max(float(some.any(1).mean()) if some.shape[0] else 0.0 for some in matched),
        "recall": max(float(some.any(0).mean()) if some.shape[1] else 0.0 for some in matched),
    }


def _texts(annotators: Iterable[Annotator]) -> list[str]:
    return [text for annotator in annotators for events in annotator.values() for _, _, text in events]
