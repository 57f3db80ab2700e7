"""YouCook2 dense captions as TimeChat's, MMDuet's and their successors' evaluators score them."""

from collections.abc import Callable, Sequence
from typing import Any

from .bootstrap import Corpus, means_of
from .dense import THRESHOLDS, dense_of_each, resampled_ciders
from .intervals import Compat, FloatArray, check_compat, harmonic, mean
from .meteor import meteor, meteor_name
from .soda import Annotator, Captioned, Soda, meteor_of_pairs, soda_c

_AVERAGED = ("precision", "recall", "CIDEr", "METEOR")


def youcook2(
    reference: Annotator, predicted: Annotator, *, compat: Compat = None
) -> tuple[dict[str, Any], dict[Any, Soda], Callable[[], Corpus]]:
    """(F1, CIDEr, METEOR and SODA_c of dense captions, SODA_c of each video, what makes them a `Corpus`).

    Of each video, precision and recall of its events (see `dense.dense_captions`) are averaged over IoU above
    .3, .5, .7 and .9, and F1 is of these averages. CIDEr and METEOR are of the matched items of each video at
    each of the four. Spans with their ends exchanged are read the right way round.

    A video without predictions scores 0 everywhere. compat="paper" takes CIDEr's document frequencies from
    one video's items, and METEOR in SODA_c with its arguments exchanged.

    Returns:
        F1, precision, recall, CIDEr, METEOR, SODA_c (None of no videos, the last two without METEOR's
        program), meteor (its name, or the remedy), num_predictions (the mean of a video), counts. The corpus
        has all but SODA_c.
    """
    check_compat(compat)
    theirs, ours = _ordered(reference), _ordered(predicted)
    means = _means_of_each(theirs, ours, compat)
    soda, each = soda_c(theirs, ours, meteor_of_pairs(swapped=compat == "paper"))

    def of_all(name: str) -> dict[Any, float]:
        return {key: video[name] for key, video in means.items() if name in video}

    def corpus() -> Corpus:
        table = means_of({name: of_all(name) for name in ("F1", *_AVERAGED)}, {key: key for key in means})
        ciders = None if compat else resampled_ciders([theirs], ours)

        def scores(times: FloatArray) -> dict[str, float | None]:
            out = dict(table.scores(times))
            if ciders is not None and times.sum():
                out["CIDEr"] = float((times @ ciders(times)).mean() / times.sum())
            return out

        return Corpus(table.videos, scores)

    metrics = {
        **{name: mean(of_all(name).values()) for name in ("F1", *_AVERAGED)},
        "SODA_c": soda["SODA_c"],
        "meteor": meteor_name() + ("; in SODA_c with arguments swapped" if compat and meteor() else ""),
        **{name: soda[name] for name in ("num", "num_missing", "num_empty", "num_unknown")},
        "num_predictions": mean([float(len(ours.get(key, ()))) for key in theirs]),
    }
    return metrics, each, corpus


def _means_of_each(reference: Annotator, predicted: Annotator, compat: Compat) -> dict[Any, dict[str, float]]:
    """F1 and means over thresholds of each video."""
    out = {}
    for key, video in dense_of_each([reference], predicted, compat).items():
        means = {
            name: sum(video[f"{name}@{t:g}"] for t in THRESHOLDS) / len(THRESHOLDS)
            for name in _AVERAGED
            if f"{name}@{THRESHOLDS[0]:g}" in video
        }
        out[key] = means | {"F1": harmonic(means["precision"], means["recall"]) or 0.0}
    return out


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
