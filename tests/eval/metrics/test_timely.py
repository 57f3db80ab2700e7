"""Timeliness: pairs against an optimal assignment, shares by hand, thresholds by trying all."""

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from longcompress.compression.triggers import fires
from longcompress.config_live import TriggerConfig
from longcompress.eval.metrics.bootstrap import intervals_of
from longcompress.eval.metrics.timely import Curve, Timeline, calibrate, corpus_of, delays


def means(lines, tolerance_s=2.0):
    scores = intervals_of(corpus_of(lines, {key: key for key in lines}, tolerance_s), num_draws=5)
    return {name: score["mean"] for name, score in scores.items()}


def test_pairs_are_as_many_as_an_assignment_has():
    rng, num = random.Random(0), 0
    for _ in range(400):
        due = [(t := rng.randrange(30), t + rng.randrange(5)) for _ in range(rng.randrange(7))]
        replies = [rng.randrange(60) / 2 for _ in range(rng.randrange(9))]
        tolerance = rng.choice([0, 1, 2.5, 6])
        can = np.array([[s <= r <= s + tolerance for s, _ in due] for r in replies], bool)
        can = can.reshape(len(replies), len(due))
        got = delays(due, replies, tolerance)
        assert len(got) == (can[linear_sum_assignment(~can)].sum() if can.size else 0)
        assert all(0 <= x <= tolerance and any(replies[i] - x == s for s, _ in due) for i, x in got.items())
        num += len(got)
    assert num > 200


def test_scores_by_hand():
    # in time at 11; again at 14 of the same event; 28 is early for 30, which has no reply; 50 is false
    got = means({"a": Timeline([(10, 16), (30, 30)], [11, 14, 28, 50], 128.0)})
    assert got == {
        "precision": 1 / 4, "recall": 1 / 2, "f1": 2 / 6, "delay_s": 1.0, "early": 1 / 4, "repeats": 1 / 4,
        "alarms_per_hour": 2 * 3600 / 120, "replies_per_minute": 4 * 60 / 128,
    }  # fmt: skip


def test_nothing_to_count_is_none():
    got = means({"a": Timeline([], [], 10.0)})
    assert got.pop("alarms_per_hour") == got.pop("replies_per_minute") == 0 and set(got.values()) == {None}
    assert means({"a": Timeline([(0, 9)], [], 9.0)})["alarms_per_hour"] is None


def test_intervals_are_over_videos():
    lines = {i: Timeline([(10, 12)], [11.0] * (i % 2), 60.0) for i in range(8)}
    recall = intervals_of(corpus_of(lines, {i: i for i in lines}, 2.0))["recall"]
    assert recall["mean"] == 0.5 and recall["low"] < 0.3 and recall["high"] > 0.7
    assert intervals_of(corpus_of(lines, dict.fromkeys(lines, "one"), 2.0))["recall"]["low"] is None


def curves_of(num=6):
    rng, curves = random.Random(3), {}
    for i in range(num):
        at = rng.randrange(5, 50)
        scores = [rng.uniform(0, 0.7) + 0.3 * (at <= t <= at + 2) for t in range(60)]
        curves[i] = Curve({"relevance": scores}, list(range(60)), [(at, at + 3)], 60.0)
    return curves


@pytest.mark.parametrize("limit", [None, 5.0, 100.0])
def test_calibration_is_the_best_of_all(limit):
    curves, trigger = curves_of(), TriggerConfig("single", 0.5, ("relevance",), refractory_s=3.0)
    thresholds = [x / 20 for x in range(1, 21)]
    rows = []
    for threshold in thresholds:
        config = replace(trigger, threshold=threshold)
        lines = {
            i: Timeline(c.due, [float(x) for x in fires(config, c.scores, c.times_s)], 60.0)
            for i, c in curves.items()
        }
        row = means(lines)
        if limit is None or row["alarms_per_hour"] <= limit:
            rows.append((row["f1" if limit is None else "recall"], threshold))
    video = {i: i for i in curves}
    config = calibrate(trigger, curves, video, 2.0, thresholds=thresholds, max_alarms_per_hour=limit)
    timelines = {i: curve.timeline(config) for i, curve in curves.items()}
    scores = intervals_of(corpus_of(timelines, video, 2.0), num_draws=20)
    assert config == replace(trigger, threshold=max(rows)[1]) and config.refractory_s == 3.0
    assert limit is None or scores["alarms_per_hour"]["mean"] <= limit
    assert scores["recall"]["low"] is not None


def test_errors_say_what_is_wrong():
    line = Timeline([(1, 2)], [1.0], 9.0)
    with pytest.raises(ValueError, match="tolerance_s must be >= 0 and finite, got nan"):
        means({"a": line}, float("nan"))
    for bad in (
        line._replace(replies_s=[10.0]), line._replace(replies_s=[float("nan")]), line._replace(due=[(3, 2)]),
        line._replace(duration_s=0.0, replies_s=[]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"timelines\['a'\] must have replies in \[0, duration_s\]"):
            means({"a": bad})
    whole = Curve({"relevance": [0.5] * 9}, list(range(9)), [(1, 2)], 9.0)
    trigger = TriggerConfig("single", 0.5, ("relevance",))
    for curve, thresholds, limit, text in (
        (whole, [], None, "thresholds must not be empty"),
        (whole, [0.1, 0.2], 1.0, r"none of 2 thresholds up to 0.2 has at most 1.0 false alarms"),
        (replace(whole, due=[]), [0.1], None, "curves must have a due moment"),
        (replace(whole, due=[(0, 9)]), [0.1], 1.0, "curves must have seconds in which no reply is due"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            calibrate(trigger, {0: curve}, {0: 0}, 2.0, thresholds=thresholds, max_alarms_per_hour=limit)
