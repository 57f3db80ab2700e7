"""Bootstrap intervals: against loops, against what theory says, the same for one seed."""

import numpy as np
import pytest

from longcompress.eval.metrics.bootstrap import interval, quantiles, ratio_draws

RNG = np.random.default_rng(0)
VIDEO = {i: i // 5 for i in range(200)}  # 40 videos of 5
VALUES = {i: float(v) for i, v in enumerate(np.repeat(RNG.random(40), 5))}  # questions of a video agree


def test_the_interval_is_that_of_a_loop_over_draws():
    rng = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        sampled = rng.integers(40, size=40)
        means.append(np.mean([VALUES[i] for v in sampled for i in VALUES if VIDEO[i] == v]))
        if len(means) == 800:
            break
    got = interval(VALUES, VIDEO)
    assert got["mean"] == pytest.approx(np.mean(list(VALUES.values())))
    assert got["low"] == pytest.approx(np.quantile(means, 0.025), abs=0.015)
    assert got["high"] == pytest.approx(np.quantile(means, 0.975), abs=0.015)
    assert (got["num"], got["num_videos"]) == (200, 40)


def test_its_width_is_what_theory_says():
    got = interval(VALUES, VIDEO)
    by_video = np.array([VALUES[5 * v] for v in range(40)])
    assert (got["high"] - got["low"]) / 2 == pytest.approx(1.96 * by_video.std() / 40**0.5, rel=0.05)


def test_questions_drawn_one_by_one_would_look_too_sure():
    clustered, single = interval(VALUES, VIDEO), interval(VALUES, {key: key for key in VALUES})
    assert single["num_videos"] == 200
    assert clustered["high"] - clustered["low"] > 2 * (single["high"] - single["low"])


def test_videos_of_several_sizes_count_by_their_questions():
    values = {**{f"a{i}": 1.0 for i in range(9)}, "b": 0.0}
    video = {key: key[0] for key in values}
    got = interval(values, video)
    assert got["mean"] == pytest.approx(0.9) and (got["low"], got["high"]) == (0.0, 1.0)


def test_one_seed_gives_one_answer():
    assert interval(VALUES, VIDEO, seed=3) == interval(VALUES, VIDEO, seed=3)
    assert interval(VALUES, VIDEO, seed=3) != interval(VALUES, VIDEO, seed=4)


def test_draws_in_parts_are_draws_at_once(monkeypatch):
    want = interval(VALUES, VIDEO)
    monkeypatch.setattr("longcompress.eval.metrics.bootstrap._CHUNK", 40 * 7)
    assert interval(VALUES, VIDEO) == want


def test_a_paired_difference_sees_what_is_hard_for_both_fall_out():
    better = {i: value + 0.01 for i, value in VALUES.items()}
    got = interval({i: value - VALUES[i] for i, value in better.items()}, VIDEO)
    assert got["mean"] == pytest.approx(0.01) and got["low"] == pytest.approx(0.01) == got["high"]
    assert got["share_above"] == 1.0
    equal = interval(dict.fromkeys(VALUES, 0.0), VIDEO)
    assert equal["share_above"] == 0.5 and equal["low"] == equal["high"] == 0.0


def test_a_ratio_of_sums():
    top = np.array([VALUES[5 * v] for v in range(40)])
    draws = ratio_draws(top, np.ones(40), 1000, 0)
    assert quantiles(draws)["low"] == pytest.approx(interval(VALUES, VIDEO)["low"], abs=0.02)
    assert (ratio_draws(top, np.zeros(40), 10, 0) == 0).all()


def test_one_video_and_none():
    item = interval({1: 0.5, 2: 1.0}, {1: "v", 2: "v"})
    assert item["mean"] == 0.75 and item["low"] is item["high"] is None and item["num_videos"] == 1
    none = interval({}, {})
    assert none["mean"] is none["low"] is None and none["num"] == 0
    assert interval({}, {})["share_above"] is None
    assert len(ratio_draws(np.ones(1), np.ones(1), 10, 0)) == 0
