"""A threshold for a model that speaks by itself, chosen on some videos and tested on others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...config_live import TriggerConfig
from ..metrics.bootstrap import intervals_of
from ..metrics.timely import Curve, calibrate, corpus_of
from ..tasks.synthetic_alerts import Due
from ..tasks.task import Example

NUM_THRESHOLDS = 200


def curves_of(
    examples: Sequence[Example], lines: Mapping[str, Mapping[str, Any]], heads: Sequence[str]
) -> dict[str, Curve]:
    """The curve of each example that was played (lines of `run_live`), of the scores that count, by the ends
    of steps: a reply comes when its step has been read.

    Raises:
        ValueError: a line lacks the score of a head, or nothing was played.
    """
    curves = {}
    for example in examples:
        line = lines.get(example.id, {"failed": ""})
        if "failed" in line or not line["debug_data"]:
            continue
        rows, due = line["debug_data"], example.truth
        assert isinstance(due, Due)
        if missing := [head for head in heads if f"{head}_score" not in rows[0]]:
            raise ValueError(f"trigger.heads {missing} have no score in {example.id}; got {sorted(rows[0])}")
        scores = {head: [row[f"{head}_score"] for row in rows] for head in heads}
        duration_s = max(line["video_duration"], example.duration_s or 0.0)
        starts_s = np.array([row["time"] for row in rows])
        step_s = float(np.median(np.diff(starts_s))) if len(rows) > 1 else duration_s
        times_s = (starts_s + step_s).clip(max=duration_s).tolist()
        curves[example.id] = Curve(scores, times_s, due.moments, duration_s)
    if not curves:
        raise ValueError("no video was played to its end: there is no score to choose a threshold by")
    return curves


def thresholds_of(trigger: TriggerConfig, curves: Mapping[str, Curve]) -> list[float]:
    """Thresholds to try: for "single" and "rise" scores that came up, for others a grid."""
    if trigger.rule in ("single", "rise"):
        rows = [np.array([*curve.scores.values()]) for curve in curves.values()]
        known = [row.sum(0) if trigger.rule == "single" else row.max(0) for row in rows]
        levels = np.quantile(np.concatenate(known), np.linspace(0, 1, NUM_THRESHOLDS))
        return sorted({float(x) for x in levels if 0 < x <= trigger.limit} | {float(trigger.limit)})
    low, high = {"sum": (0.05, 50.0), "zscore": (0.1, 10.0)}[trigger.rule]
    return np.geomspace(low, high, NUM_THRESHOLDS).tolist()


def halves(examples: Sequence[Example]) -> tuple[set[str], set[str]]:
    """(videos to choose by, videos to test with), in turn.

    Raises:
        ValueError: there is only one video.
    """
    videos = list(dict.fromkeys(example.video for example in examples))
    if len(videos) < 2:
        raise ValueError(f"calibration needs at least 2 videos, one of them to test with, got {len(videos)}")
    return set(videos[::2]), set(videos[1::2])


def choose(
    trigger: TriggerConfig, examples: Sequence[Example], curves: Mapping[str, Curve], *,
    tolerance_s: float = 2.0, max_alarms_per_hour: float | None = None, num_draws: int = 1000,
) -> tuple[TriggerConfig, dict[str, Any]]:  # fmt: skip
    """(the trigger with the threshold that is best on half the videos, a report).

    Args:
        trigger: all but its threshold stays.
        examples: what was asked, of two videos or more.
        curves: by id of the example.
        tolerance_s: how late a reply may come.
        max_alarms_per_hour: false alarms in a quiet hour; None: the best F1.
        num_draws: of the intervals.

    Returns:
        The report has trigger, num_chosen and num_tested (requests), chosen and tested: the scores of
        `corpus_of` on either half, with their intervals.

    Raises:
        ValueError: as `calibrate`, or a half has no video that was played.
    """
    video = {example.id: example.video for example in examples if example.id in curves}
    parts = []
    for videos in halves([example for example in examples if example.id in curves]):
        parts.append({key: curve for key, curve in curves.items() if video[key] in videos})
    chosen = calibrate(
        trigger, parts[0], video, tolerance_s, thresholds=thresholds_of(trigger, parts[0]),
        max_alarms_per_hour=max_alarms_per_hour,
    )  # fmt: skip
    report: dict[str, Any] = {
        "trigger": asdict(chosen), "tolerance_s": tolerance_s, "max_alarms_per_hour": max_alarms_per_hour,
        "num_chosen": len(parts[0]), "num_tested": len(parts[1]),
    }  # fmt: skip
    for name, part in zip(("chosen", "tested"), parts, strict=True):
        timelines = {key: curve.timeline(chosen) for key, curve in part.items()}
        report[name] = intervals_of(corpus_of(timelines, video, tolerance_s), num_draws=num_draws)
    return chosen, report
