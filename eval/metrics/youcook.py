"""YouCook2 dense captions as TimeChat's, MMDuet's and their successors' evaluators score them."""

from collections.abc import Sequence
from typing import Any

from .bootstrap import Corpus, means_of
from .dense import THRESHOLDS, dense_of_each
from .intervals import Compat, FloatArray, harmonic, mean
from .meteor import meteor, meteor_name
from .soda import Annotator, Captioned, Soda, meteor_of_pairs, soda_c

_AVERAGED = ("precision", "recall", "CIDEr", "METEOR")


def youcook2(
    reference: Annotator, predicted: Annotator, *, compat: Compat = None
) -> tuple[dict[str, Any], dict[Any, Soda], Corpus]:
    """(F1, CIDEr, METEOR and SODA_c of dense captions, SODA_c of each video, all but SODA_c resampled).

    Of each video, precision and recall of its events (see `dense.dense_captions`) are averaged over IoU above
    .3, .5, .7 and .9, and F1 is of these averages. CIDEr and METEOR are of the matched items of each video at
    each of the four. Spans with their ends exchanged are read the right way round.

    A video without predictions scores 0 everywhere. compat="paper" takes CIDEr's document frequencies from
    one video's items, and METEOR in SODA_c with its arguments exchanged.

    Returns:
        F1, precision, recall, CIDEr, METEOR, SODA_c (None of no videos, the last two without METEOR's
        program), meteor (its name, or the remedy), num_predictions (the mean of a video), counts.
    """
    theirs, ours = _ordered(reference), _ordered(predicted)
    columns, ciders = dense_of_each([theirs], ours, compat)
    means: dict[str, dict[Any, float]] = {"F1": {}}
    for name in _AVERAGED:
        of_thresholds = [columns[f"{name}@{t:g}"] for t in THRESHOLDS]
        means[name] = {
            key: sum(at[key] for at in of_thresholds) / len(THRESHOLDS) for key in of_thresholds[0]
        }
    for key, precision in means["precision"].items():
        means["F1"][key] = harmonic(precision, means["recall"][key]) or 0.0
    table = means_of(means, {key: key for key in theirs})
    soda, each = soda_c(theirs, ours, meteor_of_pairs(swapped=compat == "paper"))

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
    return metrics, each, corpus


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
