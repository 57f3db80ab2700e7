"""Shares are exact; the estimate says what comes out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.compression.estimate import Flow, Shape, estimate
from longcompress.compression.state import allocate, check_budget
from longcompress.config import MergeConfig, ModelConfig
from longcompress.config_llm import LLMConfig


def shape(duration_s: float, patches: int = 16, *, heard: bool = True, context: int | None = None) -> Shape:
    """So many patches of a frame, and a token of audio, each second; two global tokens."""
    flows = {
        "video": Flow(round(duration_s) * patches, patches, 128),
        "audio": Flow(round(duration_s), 1.0, 64),
    }
    if not heard:
        del flows["audio"]
    return Shape(flows, round(duration_s), 2, context=context)


SHAPE = shape(9, 4)
parts = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=30)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(parts, st.integers(0, 2000))
def test_shares_sum_exactly_and_stay_within_bounds(parts, extra):
    weights, max_tokens = [w for w, _ in parts], [m for _, m in parts]
    total = len(parts) + extra
    got = allocate(weights, total, max_tokens=max_tokens)
    assert sum(got) == min(total, sum(max_tokens))
    assert all(1 <= g <= m for g, m in zip(got, max_tokens, strict=True))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 300))
def test_shares_follow_the_weights_by_largest_remainder(weights, total):
    total = max(total, len(weights))
    got = allocate(weights, total, max_tokens=[10**6] * len(weights), min_tokens=0)
    ideal = [total * w / sum(weights) for w in weights]
    assert all(abs(g - i) < 1 for g, i in zip(got, ideal, strict=True))
    up = [i for i in range(len(weights)) if got[i] > int(ideal[i] + 1e-9)]
    down = [i for i in range(len(weights)) if i not in up]
    rest = [i - int(i + 1e-9) for i in ideal]
    assert all(rest[u] >= rest[d] - 1e-9 for u in up for d in down)


def test_equal_remainders_go_to_the_lower_index():
    assert allocate([1, 1, 1], 5, max_tokens=[9, 9, 9]) == [2, 2, 1]
    assert allocate([0, 0], 4, max_tokens=[9, 9]) == [2, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: allocate([1, 1], 1, max_tokens=[3, 3]), "total must be at least 2"),
        (lambda: allocate([1], 1, max_tokens=[3, 3]), "max_tokens must have 1 entries"),
        (lambda: check_budget(True, 1), "whole number of tokens"),
        (lambda: check_budget(2, 5), "at least 5"),
        (lambda: estimate(-1.0, budget=9, config=ModelConfig(), shape=SHAPE), "duration_s must be"),
        (lambda: estimate(float("inf"), budget=9, config=ModelConfig(), shape=SHAPE), "duration_s must be"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("duration_s", [0.0, 1.0, 59.9, 60.0, 3600.0, 36000.0])
@pytest.mark.parametrize("budget", [16, 100, 4096])
def test_marks_take_at_most_an_eighth(duration_s, budget):
    seconds = LLMConfig(timestamp_s=10.0, min_timestamps=0).timestamp_step_s(duration_s, budget, 2)
    assert seconds % 10.0 == 0
    assert -(-duration_s // seconds) * 2 <= max(2, budget / 8)


@pytest.mark.parametrize(("budget", "num_text", "want_s"), [
    (96, 3, 2.0), (48, 3, 4.0), (48, 7, 8.0), (12, 7, 24.0), (4096, 3, 2.0),
])  # fmt: skip
def test_a_small_budget_says_a_few_times_all_the_same(budget, num_text, want_s):
    """Of 24 s: twelve timestamps two seconds apart, or as many as half of the budget holds."""
    assert LLMConfig().timestamp_step_s(24.0, budget, num_text) == want_s
    long_s = LLMConfig().timestamp_step_s(3600.0, budget, num_text)
    assert -(-3600.0 // long_s) <= max(12, budget / 8 / num_text)
    assert LLMConfig(kind="stock", time=False, timestamp_s=0.0).timestamp_step_s(24.0, 48, 7) == 8.0


def test_an_estimate_knows_what_closed_segments_keep():
    # 10 s of 16 patches: 160 tokens, brought to 48; by quarters to 120, 90, 68, 51 while 48 are left
    for schedule, full, half in (("tree", 48, 48), (0.25, 51, 60)):  # the end has 80, brought to 48 or 60
        merge = MergeConfig(schedule, tokens_per_segment={"video": 48, "*": 10})
        got = estimate(105.0, budget=100_000, config=ModelConfig(merge=merge), shape=shape(105))
        assert got.raw_tokens == 105 * 17
        assert got.video_tokens == 10 * full + half
        assert got.audio_tokens == 105 and got.tokens == 10 * full + half + 105 + 2


def test_an_estimate_adds_up():
    got = estimate(600.0, budget=1000, config=ModelConfig(), shape=shape(600, context=4096))
    assert got.frames == 600 and got.windows == 600 and got.segments == 60
    assert got.tokens == 1000 == got.video_tokens + got.audio_tokens + got.global_tokens
    assert got.prompt_tokens == got.tokens + got.timestamps and got.fits
    small = estimate(3.0, budget=1000, config=ModelConfig(), shape=shape(3, heard=False))
    assert small.tokens == 3 * 16 + 2 and small.audio_tokens == 0
