"""YouCook2 dense captions as TimeChat's, MMDuet's and their successors' evaluators score them."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .captions import WhichMeteor, meteor
from .dense import THRESHOLDS, dense_of_each, harmonic
from .intervals import mean
from .soda import Captioned, soda_c


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
    each = dense_of_each(
        [theirs],
        ours,
        thresholds=THRESHOLDS,
        used_meteor=used,
        frequencies="video" if compat else "gold",
        letters=random.Random(seed) if compat else None,
    )
    means = [
        {
            name: sum(video[f"{name}@{t:g}"] for t in THRESHOLDS) / len(THRESHOLDS)
            for name in ("precision", "recall", "CIDEr", "METEOR")
        }
        for video in each.values()
    ]
    told = soda_c(theirs, ours, which_meteor=which_meteor, swapped=compat == "paper")
    return {
        "F1": mean([harmonic(video["precision"], video["recall"]) or 0.0 for video in means]),
        **{
            name: mean([video[name] for video in means])
            for name in ("precision", "recall", "CIDEr", "METEOR")
        },
        "SODA_c": told["SODA_c"],
        "meteor": used.name + ("; in SODA_c with arguments swapped" if compat else ""),
        **{name: told[name] for name in ("num", "num_missing", "num_empty", "num_unknown")},
        "num_predictions": mean([float(len(ours.get(key, ()))) for key in theirs]),
    }


def reply_segments(
    replies: Sequence[tuple[float, str]], *, first_start_s: float | None = 0.0
) -> list[Captioned]:
    """Replies given while a film runs, as the events they tell of.

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
