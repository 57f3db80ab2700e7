"""Whether a model speaks in time: its replies against the moments at which they were due.

A reply is in time from a due moment's start until `tolerance_s` later, borders included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ...compression.triggers import fires
from ...config_live import TriggerConfig
from .bootstrap import Corpus
from .intervals import FloatArray, Interval, as_spans

HOUR_S = 3600.0


class Timeline(NamedTuple):
    """One request in a video: when a reply is due, when replies came, how long it lasts."""

    due: Sequence[Interval]
    replies_s: Sequence[float]
    duration_s: float


@dataclass(frozen=True)
class Curve:
    """Scores of one request in a video, by head, at times_s; when replies are due, how long it lasts."""

    scores: Mapping[str, Sequence[float]]
    times_s: Sequence[float]
    due: Sequence[Interval]
    duration_s: float

    def timeline(self, trigger: TriggerConfig) -> Timeline:
        """What a trigger makes of it."""
        frames = fires(trigger, self.scores, self.times_s)
        return Timeline(self.due, [self.times_s[i] for i in frames], self.duration_s)


def delays(due: Sequence[Interval], replies_s: Sequence[float], tolerance_s: float) -> dict[int, float]:
    """Reply -> seconds from its due moment's start: as many pairs as there can be, each of both in one.

    All windows are equally long, so in time order each reply takes the earliest that is still open.
    """
    starts, pairs, at = sorted(start for start, _ in due), dict[int, float](), 0
    for i in sorted(range(len(replies_s)), key=lambda i: replies_s[i]):
        while at < len(starts) and starts[at] + tolerance_s < replies_s[i]:
            at += 1
        if at < len(starts) and starts[at] <= replies_s[i]:
            pairs[i], at = replies_s[i] - starts[at], at + 1
    return pairs


def corpus_of(
    timelines: Mapping[Any, Timeline], video: Mapping[Any, Any], tolerance_s: float, end: str = ""
) -> Corpus:
    """Scores of requests of resampled videos, by name, each name with `end` behind it.

    Args:
        timelines: by request.
        video: of each request.
        tolerance_s: how late a reply may come.

    Returns:
        precision, recall, f1; delay_s, the mean of replies in time; early, the share of replies at most
        tolerance_s before a due moment and in no other; repeats, the share within a due moment that has its
        reply already; alarms_per_hour, replies in an hour in which none is due (their seconds alone count);
        replies_per_minute. None where nothing is there to count.

    Raises:
        ValueError: a number is not finite, a due moment ends before it starts, or a time is outside.
    """
    if not 0 <= tolerance_s < np.inf:
        raise ValueError(f"tolerance_s must be >= 0 and finite, got {tolerance_s}")
    videos = tuple(dict.fromkeys(video[key] for key in timelines))
    counts = np.zeros((len(videos), 9))
    for key, timeline in timelines.items():
        counts[videos.index(video[key])] += _count(timeline, tolerance_s, key)

    def scores(times: FloatArray) -> dict[str, float | None]:
        hits, due, replies, delay, early, repeats, alarms, quiet_s, seconds = (times @ counts).tolist()
        values = {
            "precision": _ratio(hits, replies), "recall": _ratio(hits, due),
            "f1": _ratio(2 * hits, replies + due), "delay_s": _ratio(delay, hits),
            "early": _ratio(early, replies), "repeats": _ratio(repeats, replies),
            "alarms_per_hour": _ratio(alarms * HOUR_S, quiet_s),
            "replies_per_minute": _ratio(replies * 60, seconds),
        }  # fmt: skip
        return {name + end: value for name, value in values.items()}

    return Corpus(videos, scores)


def calibrate(
    trigger: TriggerConfig, curves: Mapping[Any, Curve], video: Mapping[Any, Any], tolerance_s: float, *,
    thresholds: Sequence[float], max_alarms_per_hour: float | None = None,
) -> TriggerConfig:  # fmt: skip
    """The trigger with the best of `thresholds` on these curves.

    The best F1 or, with max_alarms_per_hour, the best recall among those with no more false alarms in a quiet
    hour; of equals the highest threshold. Scores on these curves know of the choice: test on other videos.

    Raises:
        ValueError: there is no threshold, none is quiet enough, nothing is due, or there is no quiet second
            to count alarms in.
    """
    if not thresholds:
        raise ValueError("thresholds must not be empty")
    values = []
    for threshold in set(thresholds):
        config = replace(trigger, threshold=threshold)
        lines = {key: curve.timeline(config) for key, curve in curves.items()}
        row: Mapping[str, Any] = corpus_of(lines, video, tolerance_s).whole()
        if row["recall"] is None:
            raise ValueError("curves must have a due moment; without any no threshold is better than another")
        if max_alarms_per_hour is not None:
            if row["alarms_per_hour"] is None:
                raise ValueError("curves must have seconds in which no reply is due, to count alarms in")
            if row["alarms_per_hour"] > max_alarms_per_hour:
                continue
        values.append((row["f1" if max_alarms_per_hour is None else "recall"], threshold))
    if not values:
        raise ValueError(
            f"none of {len(set(thresholds))} thresholds up to {max(thresholds)} has at most "
            f"{max_alarms_per_hour} false alarms a quiet hour; add higher ones"
        )
    return replace(trigger, threshold=max(values)[1])


def _count(timeline: Timeline, tolerance_s: float, key: Any) -> FloatArray:
    """(9,) what `corpus_of` sums."""
    due, duration_s = as_spans(timeline.due, f"due of {key!r}"), timeline.duration_s
    replies = np.array(timeline.replies_s, np.float64)
    is_inside = bool(((replies >= 0) & (replies <= duration_s)).all() and (due >= 0).all())
    if not is_inside or not 0 < duration_s < np.inf or (due[:, 1] < due[:, 0]).any():
        raise ValueError(
            f"timelines[{key!r}] must have replies in [0, duration_s] and due moments (start_s >= 0, "
            f"end_s >= start_s), got {timeline!r:.200}"
        )
    pairs = delays(timeline.due, timeline.replies_s, tolerance_s)
    ends = np.maximum(due[:, 1], due[:, 0] + tolerance_s)
    others = np.array([x for i, x in enumerate(timeline.replies_s) if i not in pairs], np.float64)[:, None]
    is_due = ((due[:, 0] <= others) & (others <= ends)).any(1)
    is_early = ((due[:, 0] - tolerance_s <= others) & (others < due[:, 0])).any(1) & ~is_due
    quiet_s, at = duration_s, 0.0
    for start, end in sorted(zip(due[:, 0].tolist(), ends.tolist(), strict=True)):
        start, end = max(start, at), min(end, duration_s)
        quiet_s, at = quiet_s - max(0.0, end - start), max(at, end)
    return np.array([
        len(pairs), len(due), len(replies), sum(pairs.values()), is_early.sum(), is_due.sum(),
        (~is_due).sum(), quiet_s, duration_s,
    ])  # fmt: skip


def _ratio(top: float, bottom: float) -> float | None:
    return top / bottom if bottom > 0 else None
