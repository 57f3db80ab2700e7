"""When a model speaks by itself: pure functions of the scores of frames (MMDuet's rules, and one of ours)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..config_live import SCORES, TriggerConfig

MINUTE_S = 60.0
ROUNDING_S = 1e-6  # times of steps are sums


class TriggerState(NamedTuple):
    """What a trigger remembers.

    Attributes:
        total: scores since the last reply of rule "sum".
        recent: the scores of all heads before, `window` steps at most.
        held: steps in a row that the rule said yes.
        is_released: it said no since the last reply.
        spoken_s: when it spoke: the last `per_minute` times, and once at least, and two more, which `unsaid`
            may need.
    """

    total: float = 0.0
    recent: tuple[tuple[float, ...], ...] = ()
    held: int = 0
    is_released: bool = True
    spoken_s: tuple[float, ...] = ()


def step(
    config: TriggerConfig, state: TriggerState, scores: Mapping[str, float], time_s: float
) -> tuple[TriggerState, bool]:
    """(the state after a frame at time_s with these scores by head, whether to speak now).

    Raises:
        ValueError: a head is missing, or its score is no number in [0, 1].
    """
    for name in config.heads:
        if not 0 <= scores.get(name, math.nan) <= 1:
            raise ValueError(f"score {name!r} must be in [0, 1], got {scores.get(name)} of {dict(scores)}")
    row = tuple(scores[name] for name in SCORES if name in config.heads)
    score = sum(row)
    total, is_due = state.total + score, False
    if config.rule == "single":
        is_due = score > config.threshold
    elif config.rule == "sum":
        is_due = total > config.threshold
    elif len(state.recent) >= config.warmup and config.rule == "rise":
        before = zip(*state.recent, strict=True)
        is_due = any(x > statistics.fmean(y) + config.threshold for x, y in zip(row, before, strict=True))
    elif len(state.recent) >= config.warmup:
        sums = [sum(y) for y in state.recent]
        is_due = score > statistics.fmean(sums) + config.threshold * statistics.pstdev(sums)
    held, spoken_s, limit = state.held + 1 if is_due else 0, state.spoken_s, config.per_minute
    is_released = state.is_released or not is_due
    fired = held >= config.hold and (is_released or not config.release)
    if fired and spoken_s:
        now_s = time_s + ROUNDING_S
        is_full = limit > 0 and len(spoken_s) >= limit and now_s - spoken_s[-limit] < MINUTE_S
        fired = now_s - spoken_s[-1] >= config.refractory_s and not is_full
    if fired:
        total, is_released = 0.0 if config.rule == "sum" else total, False
        spoken_s = (*spoken_s, time_s)[-max(1, limit) - 2 :]
    return TriggerState(total, (*state.recent, row)[-config.window :], held, is_released, spoken_s), fired


def unsaid(state: TriggerState, fired_s: Sequence[float]) -> TriggerState:
    """The state of a trigger that fired at these times, when the model had nothing to say: it may fire again,
    if it didn't later."""
    is_last = not {*state.spoken_s[-1:]} - {*fired_s}
    spoken_s = tuple(time_s for time_s in state.spoken_s if time_s not in fired_s)
    return state._replace(is_released=state.is_released or is_last, spoken_s=spoken_s)


def fires(
    config: TriggerConfig, curves: Mapping[str, Sequence[float]], times_s: Sequence[float]
) -> list[int]:
    """The frames at which a trigger speaks; curves are scores of all frames by head, times_s their times."""
    state, frames = TriggerState(), []
    for i, (time_s, *row) in enumerate(zip(times_s, *curves.values(), strict=True)):
        state, fired = step(config, state, dict(zip(curves, row, strict=True)), time_s)
        frames += [i] * fired
    return frames
