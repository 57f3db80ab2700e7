"""YouCook2 dense captions as TimeChat's, MMDuet's and their successors' evaluators score them."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .bootstrap import Corpus, means_of
from .captions import Meteor, WhichMeteor, meteor
from .dense import THRESHOLDS, dense_of_each, drawn_ciders, harmonic
from .intervals import FloatArray, mean
from .soda import Captioned, soda_c

_AVERAGED = ("precision", "recall", "CIDEr", "METEOR")


def youcook2(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Captioned]],
    *,
    which_meteor: WhichMeteor = "auto",
    compat: Literal["paper"] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """F1, CIDEr, METEOR and SODA_c of dense captions, means over videos.

    Of each video, precision and recall of its events (see `dense.dense_captions`) are averaged over IoU above
    .3, .5, .7 and .9, and F1 is of these averages. CIDEr and METEOR are of the matched items of each video
    at each of the four. Spans with their ends exchanged are read the right way round. A video without
    predictions scores 0 everywhere.

    Args:
        gold: (start_s, end_s, text) of the events of each video.
        predicted: the same of what was predicted.
        which_meteor: as of `captions.meteor`.
        compat: "paper" takes CIDEr's document frequencies from one video's items, unmatched events against
            random letters, and METEOR in SODA_c with its arguments exchanged.
        seed: of the random letters.

    Returns:
        F1, precision, recall, CIDEr, METEOR, SODA_c (None of no videos), meteor (its name), num, num_missing,
        num_empty, num_unknown, num_predictions (the mean of a video).
    """
    if compat not in (None, "paper"):
        raise ValueError(f"compat must be None or 'paper', got {compat!r}")
    theirs, ours = _ordered(gold), _ordered(predicted)
    used = meteor(which_meteor)
    means = list(_means_of_each(theirs, ours, used, compat, seed).values())
    told = soda_c(theirs, ours, which_meteor=which_meteor, swapped=compat == "paper")
    return {
        **{name: mean([video[name] for video in means]) for name in ("F1", *_AVERAGED)},
        "SODA_c": told["SODA_c"],
        "meteor": used.name + ("; in SODA_c with arguments swapped" if compat else ""),
        **{name: told[name] for name in ("num", "num_missing", "num_empty", "num_unknown")},
        "num_predictions": mean([float(len(ours.get(key, ()))) for key in theirs]),
    }


def youcook2_corpus(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Captioned]],
    *,
    which_meteor: WhichMeteor = "auto",
    compat: Literal["paper"] | None = None,
    seed: int = 0,
) -> Corpus:
    """The scores of `youcook2` of drawn videos but for SODA_c, its arguments the same."""
    theirs, ours = _ordered(gold), _ordered(predicted)
    means = _means_of_each(theirs, ours, meteor(which_meteor), compat, seed)
    table = means_of(
        {name: {key: video[name] for key, video in means.items()} for name in ("F1", *_AVERAGED)},
        {key: key for key in means},
    )
    drawn = None if compat else drawn_ciders([theirs], ours, THRESHOLDS)

    def scores(times: FloatArray) -> dict[str, float | None]:
        out = dict(table.scores(times))
        if drawn is not None and times.sum():
            out["CIDEr"] = float((times @ drawn(times)).mean() / times.sum())
        return out

    return Corpus(table.videos, scores)


def _means_of_each(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Captioned]],
    used: Meteor,
    compat: str | None,
    seed: int,
) -> dict[Any, dict[str, float]]:
    """F1 and means over thresholds of each video."""
    each = dense_of_each(
        [gold],
        predicted,
        thresholds=THRESHOLDS,
        used_meteor=used,
        frequencies="video" if compat else "gold",
        letters=random.Random(seed) if compat else None,
    )
    out = {}
    for key, video in each.items():
        means = {
            name: sum(video[f"{name}@{t:g}"] for t in THRESHOLDS) / len(THRESHOLDS) for name in _AVERAGED
        }
        out[key] = means | {"F1": harmonic(means["precision"], means["recall"]) or 0.0}
    return out


def reply_segments(
    replies: Sequence[tuple[float, str]], *, first_start_s: float | None = 0.0
) -> list[Captioned]:
    """Replies given while a video runs, as the events they tell of.

    Equal replies in a row are one. An event reaches from the last time the reply before was given to the last
    time this one was given.

    Args:
        replies: (time_s, text).
        first_start_s: where the first event starts; None leaves it out, as MMDuet's evaluator does.
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


def _ordered(events: Mapping[Any, Sequence[Captioned]]) -> dict[Any, list[Captioned]]:
    """Spans with their earlier time first."""
    return {
        key: [(min(start, end), max(start, end), text) for start, end, text in some]
        for key, some in events.items()
    }
