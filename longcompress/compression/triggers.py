"""When a model speaks by itself: pure functions of the scores of frames (MMDuet's rules, and one of ours)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..config_live import HEADS, TriggerConfig


class TriggerState(NamedTuple):
    """What a trigger remembers.

    Attributes:
        total: scores since the last reply of rule "sum".
        recent: the scores before, `window` at most.
    """

    total: float = 0.0
    recent: tuple[float, ...] = ()


def step(
    config: TriggerConfig, state: TriggerState, scores: Mapping[str, float]
) -> tuple[TriggerState, bool]:
    """(the state after a frame with these scores by head, whether to speak now).

    Raises:
        ValueError: a head is missing, or its score is no number in [0, 1].
    """
    for name in config.heads:
        if not 0 <= scores.get(name, math.nan) <= 1:
            raise ValueError(f"score {name!r} must be in [0, 1], got {scores.get(name)} of {dict(scores)}")
    score = sum(scores[name] for name in HEADS if name in config.heads)
    total, fired = state.total + score, False
    if config.rule == "single":
        fired = score > config.threshold
    elif config.rule == "sum":
        fired = total > config.threshold
        total = 0.0 if fired else total
    elif len(state.recent) >= config.warmup:
        mean = statistics.fmean(state.recent)
        unit = 1.0 if config.rule == "rise" else statistics.pstdev(state.recent)
        fired = score > mean + config.threshold * unit
    return TriggerState(total, (*state.recent, score)[-config.window :]), fired


def fires(config: TriggerConfig, curves: Mapping[str, Sequence[float]]) -> list[int]:
    """The frames at which a trigger speaks; curves are scores of all frames by head."""
    state, frames = TriggerState(), []
    for i, row in enumerate(zip(*curves.values(), strict=True)):
        state, fired = step(config, state, dict(zip(curves, row, strict=True)))
        frames += [i] * fired
    return frames
