"""Dense captions by the protocol of ActivityNet Captions: located at four temporal IoU, then captioned."""

import random
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .bleu import bleu
from .bootstrap import Corpus
from .cider import Documents, cider, documents
from .intervals import FloatArray, check_compat, entry_counts, mean, tiou_matrix
from .meteor import Meteor, meteor, meteor_name
from .resample import Ciders
from .rouge import rouge_l
from .soda import Captioned
from .words import ascii_only, words

Annotator = Mapping[Any, Sequence[Captioned]]
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
TEXT_METRICS = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
_EPSILON = 1e-8  # the evaluators divide by the union and this: an IoU of just 0.5 is no match at 0.5
_MATCHES_NOTHING = "qzxjkvbqwzxj"


def dense_captions(
    reference: Sequence[Annotator],
    predicted: Annotator,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    max_predictions: int = 1000,
    compat: Literal["paper"] | None = None,
    seed: int = 0,
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
        predicted: the same of the predictions, the most certain first.
        thresholds: the t.
        max_predictions: further predicted events of a video are ignored.
        compat: "paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: CIDEr's document
            frequencies of one video, random letters as the word that matches nothing, characters beyond ASCII
            read as spaces, videos without an entry left out (those with an empty list score 0).
        seed: of the random letters.

    Returns:
        CIDEr, METEOR, ROUGE-L, BLEU-1 .. 4, precision, recall, F1, each also as NAME@t (None of no videos,
        METEOR without its program); meteor (its name, or the remedy); num (videos), num_missing, num_empty,
        num_unknown, num_over (ignored predictions).
    """
    check_compat(compat)
    if isinstance(reference, Mapping):
        raise ValueError(
            "reference must be a sequence of mappings, one an annotator; got a mapping; give [reference]"
        )
    videos = list(dict.fromkeys(key for annotator in reference for key in annotator))
    scored = [key for key in videos if compat is None or key in predicted]
    theirs = [_of(annotator, scored, compat) for annotator in reference]
    ours = {key: events[:max_predictions] for key, events in _of(predicted, scored, compat).items()}
    each = dense_of_each(
        theirs,
        ours,
        thresholds=thresholds,
        frequencies="video" if compat else "reference",
        letters=random.Random(seed) if compat else None,
    )
    names = [f"{name}@{t:g}" for name in (*TEXT_METRICS, "precision", "recall") for t in thresholds]

    def corpus() -> Corpus:
        known = [name for name in names if not each or name in next(iter(each.values()))]
        table = np.array([[video[name] for name in known] for video in each.values()])
        table = table.reshape(-1, len(known))
        ciders = None if compat else resampled_ciders(theirs, ours, thresholds)

        def scores(times: FloatArray) -> dict[str, float | None]:
            num = float(times.sum())
            means: dict[str, float | None] = dict.fromkeys(names)
            if not num:
                return over_thresholds(means, thresholds)
            means |= dict(zip(known, (times @ table / num).tolist(), strict=True))
            if ciders is not None:
                values = (times @ ciders(times) / num).tolist()
                means |= {f"CIDEr@{t:g}": value for t, value in zip(thresholds, values, strict=True)}
            return over_thresholds(means, thresholds)

        return Corpus(tuple(each), scores)

    means = {name: mean([video[name] for video in each.values() if name in video]) for name in names}
    metrics = {
        **over_thresholds(means, thresholds),
        "meteor": meteor_name(),
        "num": len(each),
        **entry_counts(videos, predicted),
        "num_over": sum(max(len(predicted.get(key, ())) - max_predictions, 0) for key in scored),
    }
    return metrics, corpus


def over_thresholds(
    means: Mapping[str, float | None], thresholds: Sequence[float]
) -> dict[str, float | None]:
    """Means over videos, NAME@t, with F1 of precision and recall, and with all means over thresholds."""
    out = dict(means)
    for t in thresholds:
        out[f"F1@{t:g}"] = harmonic(out[f"precision@{t:g}"], out[f"recall@{t:g}"])
    for name in (*TEXT_METRICS, "precision", "recall", "F1"):
        values = [out[f"{name}@{t:g}"] for t in thresholds]
        out[name] = mean([value for value in values if value is not None])
    return out


def dense_of_each(
    reference: Sequence[Annotator],
    predicted: Annotator,
    *,
    thresholds: Sequence[float],
    frequencies: Literal["reference", "video"],
    letters: random.Random | None = None,
) -> dict[Any, dict[str, float]]:
    """The scores of each video of the reference, as NAME@t; all 0 of no predictions. No METEOR without Java.

    CIDEr's document frequencies are of all "reference" captions or of the items of a "video". The word that
    matches nothing is of random `letters`, or a fixed word.
    """
    text_of = {event[2]: words(event[2]) for event in _events([*reference, predicted])}
    corpus = None
    if frequencies == "reference":
        corpus = documents([[text_of[event[2]]] for event in _events(reference)])
    program = meteor()
    out: dict[Any, dict[str, float]] = {}
    for key in dict.fromkeys(key for annotator in reference for key in annotator):
        ours = list(predicted.get(key, ()))
        theirs = [list(annotator[key]) for annotator in reference if key in annotator]
        overlaps = [tiou_matrix(ours, events, _EPSILON) for events in theirs]
        out[key] = {}
        for t in thresholds:
            items = [
                (text_of[text], [_word_of(letters)] if right is None else text_of[right])
                for text, right in items_at(ours, theirs, overlaps, t)
            ]
            scores = _text_scores(items, program, corpus) | _localisation(overlaps, t)
            out[key] |= {f"{name}@{t:g}": value for name, value in scores.items()}
    return out


def items_at(
    ours: Sequence[Captioned], theirs: Sequence[Sequence[Captioned]], overlaps: Sequence[FloatArray], t: float
) -> list[tuple[str, str | None]]:
    """What is scored of one video at a threshold: predicted texts, each with a right one, None for none."""
    out: list[tuple[str, str | None]] = []
    for i, event in enumerate(ours):
        right: list[str | None] = [
            some[j][2]
            for some, overlap in zip(theirs, overlaps, strict=True)
            for j in np.flatnonzero(overlap[i] >= t).tolist()
        ]
        out += [(event[2], item) for item in right or [None]]
    return out


def resampled_ciders(
    reference: Sequence[Annotator], predicted: Annotator, thresholds: Sequence[float]
) -> Callable[[FloatArray], FloatArray]:
    """(videos,) how often each is in the sample, to (videos, thresholds) CIDEr by its frequencies."""
    videos = list(dict.fromkeys(key for annotator in reference for key in annotator))
    place = {key: i for i, key in enumerate(videos)}
    text_of = {event[2]: words(event[2]) for event in _events([*reference, predicted])}
    pairs: dict[tuple[str, str], int] = {}
    patches, items, weights = [], [], []
    for key in videos:
        ours = list(predicted.get(key, ()))
        theirs = [list(annotator[key]) for annotator in reference if key in annotator]
        overlaps = [tiou_matrix(ours, events, _EPSILON) for events in theirs]
        for column, t in enumerate(thresholds):
            matches = items_at(ours, theirs, overlaps, t)
            for text, right in matches:
                if right is not None:  # what matches nothing is an item too, of score 0
                    patches.append(place[key] * len(thresholds) + column)
                    items.append(pairs.setdefault((text, right), len(pairs)))
                    weights.append(1 / len(matches))
    captions = [(key, event[2]) for each in reference for key, events in each.items() for event in events]
    ciders = Ciders(
        [text_of[text] for text, _ in pairs],
        [[text_of[right]] for _, right in pairs],
        [[text_of[text]] for _, text in captions],
        [place[key] for key, _ in captions],
        len(videos),
    )
    at, of, weight = np.array(patches, np.int64), np.array(items, np.int64), np.array(weights)

    def ciders_of(times: FloatArray) -> FloatArray:
        summed = np.bincount(at, weight * ciders(times)[of], len(videos) * len(thresholds))
        return summed.astype(np.float64).reshape(len(videos), len(thresholds))

    return ciders_of


def harmonic(precision: float | None, recall: float | None) -> float | None:
    """2 P R / (P + R), 0 where both are 0; None of nothing."""
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


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


def _word_of(letters: random.Random | None) -> str:
    if letters is None:
        return _MATCHES_NOTHING
    return "".join(letters.choice(string.ascii_lowercase) for _ in range(letters.randint(10, 20)))


def _of(events: Annotator, keys: Sequence[Any], compat: str | None) -> dict[Any, list[Captioned]]:
    """The events of these videos, in ASCII if asked for."""
    return {
        key: [(start, end, ascii_only(text) if compat else text) for start, end, text in events[key]]
        for key in keys
        if key in events
    }


def _events(of: Iterable[Annotator]) -> list[Captioned]:
    return [event for events in of for some in events.values() for event in some]
