"""Dense captions by the protocol of ActivityNet Captions: found at four temporal IoU, then told."""

import random
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from .bleu import bleu
from .bootstrap import Corpus
from .captions import Meteor, WhichMeteor, meteor
from .cider import Documents, cider, documents
from .intervals import FloatArray, mean, tiou_matrix
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
    gold: Sequence[Annotator],
    predicted: Annotator,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    which_meteor: WhichMeteor = "auto",
    max_predictions: int = 1000,
    compat: Literal["paper"] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Dense-caption scores at each threshold, and their means over thresholds.

    At a threshold t, each pair of a predicted and a gold event with IoU >= t is an item, of one annotator's
    events after another's; a predicted event in no pair is an item with a word that matches nothing. The
    items of a video are scored like a corpus of captions, videos are averaged. Localisation precision is
    the share of a video's predicted events with an IoU > t to any gold event, recall the share of gold events
    with one to any predicted event; of several annotators each takes the best; F1@t is of their means
    over videos. IoU has 1e-8 added to the union, as in the official evaluator, so that >= and > are the same
    for round numbers.

    CIDEr's document frequencies are of all gold captions. In the official evaluator they are of the items of
    one video, by which a video with one item always has CIDEr 0.

    Args:
        gold: (start_s, end_s, text) of the events of each video, a mapping for each annotator.
        predicted: the same of what was predicted, the most certain first.
        thresholds: the t.
        which_meteor: as of `captions.meteor`.
        max_predictions: predicted events of a video beyond so many are not looked at.
        compat: "paper" does as the evaluator copied into VTimeLLM's and LongVALE's code: CIDEr's document
            frequencies of one video, random letters as the word that matches nothing, characters beyond ASCII
            read as spaces, videos without an entry left out (those with an empty list score 0). The
            original (densevid_eval) scores those 0: give it an empty list for each.
        seed: of the random letters.

    Returns:
        CIDEr, METEOR, ROUGE-L, BLEU-1 .. 4, precision, recall, F1, each also as NAME@t (None of no videos);
        meteor (its name); num (videos), num_missing, num_empty, num_unknown, num_over (predictions not looked
        at).
    """
    if compat not in (None, "paper"):
        raise ValueError(f"compat must be None or 'paper', got {compat!r}")
    if isinstance(gold, Mapping):
        raise ValueError("gold must be a sequence of mappings, one an annotator; got a mapping; give [gold]")
    videos = list(dict.fromkeys(key for annotator in gold for key in annotator))
    scored = [key for key in videos if compat is None or key in predicted]
    used = meteor(which_meteor)
    each = dense_of_each(
        [_of(annotator, scored, compat) for annotator in gold],
        {key: some[:max_predictions] for key, some in _of(predicted, scored, compat).items()},
        thresholds=thresholds,
        used_meteor=used,
        frequencies="video" if compat else "gold",
        letters=random.Random(seed) if compat else None,
    )
    return {
        **over_videos(list(each.values()), thresholds),
        "meteor": used.name,
        "num": len(each),
        **_num_lost(videos, predicted),
        "num_over": sum(max(len(predicted.get(key, ())) - max_predictions, 0) for key in scored),
    }


def over_videos(each: Sequence[Mapping[str, float]], thresholds: Sequence[float]) -> dict[str, float | None]:
    """Means over videos of what `dense_of_each` gives, F1 from those, and means over thresholds."""
    names = [f"{name}@{t:g}" for name in (*TEXT_METRICS, "precision", "recall") for t in thresholds]
    return over_thresholds({name: mean([video[name] for video in each]) for name in names}, thresholds)


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
    gold: Sequence[Annotator],
    predicted: Annotator,
    *,
    thresholds: Sequence[float],
    used_meteor: Meteor,
    frequencies: Literal["gold", "video"],
    letters: random.Random | None = None,
) -> dict[Any, dict[str, float]]:
    """The scores of each video of the gold, as NAME@t; all 0 where nothing was predicted.

    Args:
        gold: a mapping for each annotator.
        predicted: what was predicted.
        thresholds: the t.
        used_meteor: which METEOR.
        frequencies: CIDEr's document frequencies, of all "gold" captions or of the items of one "video".
        letters: random letters for the word that matches nothing; a fixed word if not given.
    """
    read: dict[str, list[str]] = {}
    for some in _events([*gold, predicted]):
        read.setdefault(some[2], words(some[2]))
    corpus = documents([[read[event[2]]] for event in _events(gold)]) if frequencies == "gold" else None
    out: dict[Any, dict[str, float]] = {}
    for key in dict.fromkeys(key for annotator in gold for key in annotator):
        ours = list(predicted.get(key, ()))
        theirs = [list(annotator[key]) for annotator in gold if key in annotator]
        overlaps = [tiou_matrix(ours, some, _EPSILON) for some in theirs]
        out[key] = {}
        for t in thresholds:
            items = [
                (read[told], [_word_of(letters)] if right is None else read[right])
                for told, right in items_at(ours, theirs, overlaps, t)
            ]
            scores = _told(items, used_meteor, corpus) | _found(overlaps, t)
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
        out += [(event[2], one) for one in right or [None]]
    return out


def dense_corpus(
    gold: Sequence[Annotator],
    predicted: Annotator,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    which_meteor: WhichMeteor = "auto",
    max_predictions: int = 1000,
    compat: Literal["paper"] | None = None,
    seed: int = 0,
) -> Corpus:
    """The scores of `dense_captions` of drawn videos, its arguments the same."""
    scored = [
        key for key in dict.fromkeys(k for some in gold for k in some) if compat is None or key in predicted
    ]
    theirs = [_of(annotator, scored, compat) for annotator in gold]
    ours = {key: some[:max_predictions] for key, some in _of(predicted, scored, compat).items()}
    each = dense_of_each(
        theirs,
        ours,
        thresholds=thresholds,
        used_meteor=meteor(which_meteor),
        frequencies="video" if compat else "gold",
        letters=random.Random(seed) if compat else None,
    )
    names = [f"{name}@{t:g}" for name in (*TEXT_METRICS, "precision", "recall") for t in thresholds]
    table = np.array([[video[name] for name in names] for video in each.values()]).reshape(-1, len(names))
    drawn = None if compat else drawn_ciders(theirs, ours, thresholds)

    def scores(times: FloatArray) -> dict[str, float | None]:
        num = float(times.sum())
        if not num:
            return over_thresholds(dict.fromkeys(names), thresholds)
        means: dict[str, float | None] = dict(zip(names, (times @ table / num).tolist(), strict=True))
        if drawn is not None:
            values = (times @ drawn(times) / num).tolist()
            means |= {f"CIDEr@{t:g}": value for t, value in zip(thresholds, values, strict=True)}
        return over_thresholds(means, thresholds)

    return Corpus(tuple(each), scores)


def drawn_ciders(
    gold: Sequence[Annotator], predicted: Annotator, thresholds: Sequence[float]
) -> Callable[[FloatArray], FloatArray]:
    """(videos,) how often each is drawn, to (videos, thresholds) CIDEr by the frequencies of those."""
    videos = list(dict.fromkeys(key for annotator in gold for key in annotator))
    place = {key: i for i, key in enumerate(videos)}
    read: dict[str, list[str]] = {}
    for some in _events([*gold, predicted]):
        read.setdefault(some[2], words(some[2]))
    pairs: dict[tuple[str, str], int] = {}
    patches, items, shares = [], [], []
    for key in videos:
        ours = list(predicted.get(key, ()))
        theirs = [list(annotator[key]) for annotator in gold if key in annotator]
        overlaps = [tiou_matrix(ours, some, _EPSILON) for some in theirs]
        for column, t in enumerate(thresholds):
            found = items_at(ours, theirs, overlaps, t)
            for told, right in found:
                if right is not None:  # what matches nothing is an item too, of score 0
                    patches.append(place[key] * len(thresholds) + column)
                    items.append(pairs.setdefault((told, right), len(pairs)))
                    shares.append(1 / len(found))
    told_of = [(key, event[2]) for annotator in gold for key, some in annotator.items() for event in some]
    ciders = Ciders(
        [read[told] for told, _ in pairs],
        [[read[right]] for _, right in pairs],
        [[read[text]] for _, text in told_of],
        [place[key] for key, _ in told_of],
        len(videos),
    )
    at, of, weights = np.array(patches, np.int64), np.array(items, np.int64), np.array(shares)

    def drawn(times: FloatArray) -> FloatArray:
        summed = np.bincount(at, weights * ciders(times)[of], len(videos) * len(thresholds))
        return summed.astype(np.float64).reshape(len(videos), len(thresholds))

    return drawn


def harmonic(precision: float | None, recall: float | None) -> float | None:
    """2 P R / (P + R), 0 where both are 0; None of nothing."""
    if precision is None or recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _told(
    items: Sequence[tuple[list[str], list[str]]], used: Meteor, corpus: Documents | None
) -> dict[str, float]:
    """The text metrics of one video's (hypothesis, reference) items."""
    if not items:
        return dict.fromkeys(TEXT_METRICS, 0.0)
    hypotheses, references = [item[0] for item in items], [[item[1]] for item in items]
    return {
        "CIDEr": mean(cider(hypotheses, references, corpus)) or 0.0,
        "METEOR": used.score(hypotheses, references)[0],
        "ROUGE-L": mean(rouge_l(hypotheses, references)) or 0.0,
        **{f"BLEU-{n}": value for n, value in enumerate(bleu(hypotheses, references), 1)},
    }


def _found(overlaps: Sequence[FloatArray], threshold: float) -> dict[str, float]:
    """Localisation precision and recall of one video, each the best over annotators."""
    matched = [overlap > threshold for overlap in overlaps]
    return {
        "precision": max(float(some.any(1).mean()) if some.shape[0] else 0.0 for some in matched),
        "recall": max(float(some.any(0).mean()) if some.shape[1] else 0.0 for some in matched),
    }


def _num_lost(videos: Sequence[Any], predicted: Annotator) -> dict[str, int]:
    known = set(videos)
    return {
        "num_missing": sum(key not in predicted for key in videos),
        "num_empty": sum(not predicted[key] for key in videos if key in predicted),
        "num_unknown": sum(key not in known for key in predicted),
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
