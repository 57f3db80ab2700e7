"""When a model speaks: MMDuet's own numbers (tests/golden/mmduet), and rules written as loops."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.compression.triggers import TriggerState, fires, step, unsaid
from longcompress.config_live import HEADS, LiveConfig, TriggerConfig

CASES = json.loads((Path(__file__).parents[1] / "golden" / "mmduet" / "triggers.json").read_text())
SCORES = st.lists(st.integers(0, 100).map(lambda k: k / 100), min_size=1, max_size=40)


def config_of(case):
    heads = tuple(name.removesuffix("_score") for name in case["heads"])
    rule = "single" if case["sum"] is None else "sum"
    return TriggerConfig(rule, case[rule], heads)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_triggers_are_theirs(case):
    config, state = config_of(case), TriggerState()
    curves = {name: case[name] for name in HEADS}
    assert fires(config, curves, case["times"]) == case["reply_frames"]
    for time_s, *row in zip(case["times"], *curves.values(), strict=True):
        state, _ = step(config, state, dict(zip(curves, row, strict=True)), time_s)
    assert state.total == pytest.approx(case["sum_left"], abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.sampled_from(["single", "sum", "zscore", "rise"]), st.integers(1, 90), st.integers(1, 9))
def test_rules_are_their_loops(scores, rule, percent, window):
    config = TriggerConfig(rule, percent / 100, ("relevance",), window, warmup=(window + 1) // 2)
    want, total = [], 0.0
    for i, score in enumerate(scores):
        before, total = scores[max(0, i - window) : i], total + score
        if rule == "single":
            is_due = score > config.threshold
        elif rule == "sum":
            is_due = total > config.threshold
        elif len(before) < config.warmup:
            is_due = False
        else:
            unit = pstdev(before) if rule == "zscore" else 1
            is_due = score > fmean(before) + config.threshold * unit
        if is_due:
            want.append(i)
            total = 0.0
    curves = {"informative": [0.0] * len(scores), "relevance": scores}
    assert fires(config, curves, range(len(scores))) == want


def test_bad_triggers():
    with pytest.raises(ValueError, match=r"heads must be some of \('informative', 'relevance'\), each once"):
        TriggerConfig(heads=("informative_score",))
    for heads in ((), ("relevance", "relevance")):
        with pytest.raises(ValueError, match="heads must be some of"):
            TriggerConfig(heads=heads)
    for threshold in (0, -1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r'threshold must be in \(0, 1\] for rule "single" and 1 heads'):
            TriggerConfig("single", threshold)
    assert TriggerConfig("single", 1.5, HEADS).threshold == 1.5
    with pytest.raises(ValueError, match=r'threshold must be in \(0, inf\] for rule "sum"'):
        TriggerConfig("sum", float("inf"))
    with pytest.raises(ValueError, match=r"warmup must be in \[1, window = 4\] frames, got 5"):
        TriggerConfig("rise", 0.5, window=4)
    with pytest.raises(ValueError, match=r"score 'informative' must be in \[0, 1\], got nan"):
        step(TriggerConfig(), TriggerState(), {"informative": float("nan")}, 0.0)
    with pytest.raises(ValueError, match=r"score 'informative' must be in \[0, 1\], got None"):
        step(TriggerConfig(), TriggerState(), {"relevance": 0.5}, 0.0)
    with pytest.raises(ValueError, match="max_frames must be >= 0"):
        LiveConfig(max_frames=-1)
    with pytest.raises(ValueError, match="max_reply_tokens must be >= 1 and repetition_penalty > 0"):
        LiveConfig(repetition_penalty=0)


def frames_of(config, scores, times=None):
    """Where a trigger speaks."""
    return fires(config, {"relevance": scores}, range(len(scores)) if times is None else times)


def test_hold_wants_a_row_of_steps():
    config = TriggerConfig("single", 0.5, ("relevance",), hold=3)
    assert frames_of(config, [0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9]) == [5, 6]


def test_release_tells_an_event_once():
    config = TriggerConfig("single", 0.5, ("relevance",), release=True)
    assert frames_of(config, [0.9, 0.9, 0.9, 0.1, 0.9, 0.9]) == [0, 4]
    held = TriggerConfig("single", 0.5, ("relevance",), release=True, hold=2)
    assert frames_of(held, [0.9, 0.9, 0.9, 0.1, 0.9, 0.9]) == [1, 5]


def test_refractory_counts_seconds_from_the_last_time():
    config = TriggerConfig("single", 0.5, ("relevance",), refractory_s=2.0)
    assert frames_of(config, [0.9] * 6) == [0, 2, 4]
    assert frames_of(config, [0.9] * 6, [0.0, 0.5, 1.0, 1.99, 2.0, 2.5]) == [0, 4]


@pytest.mark.parametrize("fps", [3, 5, 10, 29.97, 30])
def test_steps_that_are_no_binary_fractions_come_no_step_late(fps):
    times = [i / fps for i in range(600)]
    for steps in (1, 2, 6, 9):
        config = TriggerConfig("single", 0.5, ("relevance",), refractory_s=round(steps / fps, 9))
        assert frames_of(config, [0.9] * 600, times) == [*range(0, 600, steps)]
    config = TriggerConfig("single", 0.5, ("relevance",), per_minute=1)
    times = [i * 0.3 for i in range(600)]
    assert frames_of(config, [0.9] * 600, times) == [0, 200, 400]


def test_per_minute_is_a_window_of_sixty_seconds():
    config = TriggerConfig("single", 0.5, ("relevance",), per_minute=2)
    times = [0.0, 10.0, 20.0, 59.0, 60.0, 65.0, 70.0, 125.0]
    assert frames_of(config, [0.9] * 8, times) == [0, 1, 4, 6, 7]


def test_what_was_not_said_counts_for_nothing():
    for config in (
        TriggerConfig("single", 0.5, ("relevance",), release=True, refractory_s=3.0),
        TriggerConfig("single", 0.5, ("relevance",), per_minute=2, release=True),
        TriggerConfig("rise", 0.3, ("relevance",), window=2, warmup=1),
    ):
        scores, times = [0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9], [0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 70.0]
        state, fired = TriggerState(), []
        for i, (score, time_s) in enumerate(zip(scores, times, strict=True)):
            before = state
            state, now = step(config, state, {"relevance": score}, time_s)
            fired += [i] * now
            if now and i in (2, 3):  # the second time it has nothing to say
                state = unsaid(state, [time_s])
                assert state.spoken_s[-1:] == before.spoken_s[-1:] and state.is_released
        assert fired == {"single": [0, 2, 3, 5], "rise": [2, 3, 5, 6]}[config.rule]


def test_what_was_not_said_leaves_a_later_time_alone():
    config = TriggerConfig("single", 0.5, ("relevance",), release=True, refractory_s=3.0)
    state = TriggerState()
    for score, time_s in ((0.9, 0.0), (0.1, 1.0), (0.9, 4.0)):
        state, _ = step(config, state, {"relevance": score}, time_s)
    later = unsaid(state, [0.0])
    assert later == state._replace(spoken_s=(4.0,)) and not later.is_released
    assert unsaid(later, [4.0]) == unsaid(state, [0.0, 4.0]) == later._replace(spoken_s=(), is_released=True)


def test_the_order_of_checks_is_rule_hold_release_refractory_rate():
    """A step that is refused by a later check still counts for the earlier ones."""
    config = TriggerConfig("single", 0.5, ("relevance",), hold=2, release=True, refractory_s=4.0)
    # two in a row at 1; again at 4, too early, and not lost: at 5 it may
    assert frames_of(config, [0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9]) == [1, 5]


def test_a_sum_goes_on_while_it_may_not_speak():
    config = TriggerConfig("sum", 1.0, ("relevance",), refractory_s=3.0)
    assert frames_of(config, [0.6, 0.6, 0.6, 0.6, 0.6, 0.1]) == [1, 4]


def test_heads_are_added_in_one_order():
    scores = {"informative": [0.3, 0.4], "relevance": [0.3, 0.2]}
    assert fires(TriggerConfig("single", 0.59, ("relevance", "informative")), scores, [0, 1]) == [0, 1]
    assert fires(TriggerConfig("single", 0.55, ("informative",)), scores, [0, 1]) == []


def test_a_rise_is_that_of_any_head():
    scores = {"informative": [0.0, 0.0, 0.1, 0.1, 0.9], "relevance": [0.0, 0.1, 0.9, 1.0, 1.0]}
    config = TriggerConfig("rise", 0.7, HEADS, window=2, warmup=1)
    assert fires(config, scores, range(5)) == [2, 4]
    for head, frames in (("relevance", [2]), ("informative", [4])):
        assert fires(replace(config, heads=(head,)), scores, range(5)) == frames
    with pytest.raises(
        ValueError, match=r'threshold must be in \(0, 1\] for rule "rise" and 2 heads, got 1.5'
    ):
        TriggerConfig("rise", 1.5, HEADS)


def test_window_and_warmup_bound_what_is_remembered():
    config = TriggerConfig("rise", 0.3, ("relevance",), window=2, warmup=2)
    assert frames_of(config, [0.9, 0.0, 0.0, 0.5, 0.5, 0.5]) == [3]
    state = TriggerState()
    for i in range(50):
        state, _ = step(config, state, {"relevance": 0.1}, float(i))
    assert len(state.recent) == 2 and len(state.spoken_s) <= 1


def test_bad_fields_are_named():
    for options in ({"hold": 0}, {"per_minute": -1}, {"refractory_s": -1.0}, {"refractory_s": float("inf")}):
        with pytest.raises(ValueError, match="hold must be >= 1 and refractory_s and per_minute >= 0, got"):
            TriggerConfig(**options)
    with pytest.raises(ValueError, match="heads must be some of"):
        TriggerConfig(heads=("relevance", "poll"))
