"""How many tokens a live context can have."""

import math
from collections.abc import Mapping
from typing import Any

from .config_live import LiveConfig
from .encoders import tokens_a_second
from .live_reading import FEWEST_STEPS
from .llm.live import Parts
from .model import LongCompress


def bound_of(
    model: LongCompress, config: LiveConfig, parts: Parts, max_step: Mapping[str, int], step_s: float
) -> int:
    """The most tokens that the cache can have; ValueError where the model's context has fewer.

    Args:
        model: with its language model.
        config: how far the context reaches.
        parts: of the language model's prompt.
        max_step: the most tokens of each stream that a step has.
        step_s: length of a step.
    """
    settings, num_text = model.llm.settings, parts.step_tokens
    encoders: list[Any] = [encoder for name, encoder in model.encoders.items() if name in max_step]
    blocks = [(e.block + e.lookahead) / e.rate_hz for e in encoders if e.modality == "audio"]
    past, head = config.past if config.near_s else 0, len(parts.past(None).ids)
    if past:
        model.check_budget(past, list(max_step))
        few = min(settings.min_timestamps, past // (2 * max(1, num_text)))
        past += (max(1, few, int(settings.timestamp_share * past / max(1, num_text))) + 2) * num_text
    # near goes on while the past is merged and read ahead
    num_slices = math.ceil((head + past) / config.slice_tokens) if config.slice_tokens else 1
    near_s = config.near_s + model.config.segments.length_s + max(blocks, default=0.0)
    near_steps = math.ceil(near_s / step_s) + 6 + num_slices
    if config.slice_tokens:  # and while it is caught up with
        steps = max(FEWEST_STEPS, config.slice_tokens // (sum(max_step.values()) + num_text))
        near_steps += math.ceil(near_steps / (steps - 1))
    num_steps = near_steps if config.near_s else config.max_frames
    ends = 2 * (len(parts.opening) + len(parts.closing))
    near = num_steps * (sum(max_step.values()) + num_text)
    bound = head + past + config.text_tokens + near + ends
    need = bound + config.text_tokens + config.max_reply_tokens
    if (context := model.llm.context or math.inf) < need:
        raise ValueError(
            f"live needs up to {need:,} tokens, the language model's context has {context:,}; lower "
            "live.past, live.near_s (or live.max_frames), live.text_tokens or live.max_reply_tokens"
        )
    return bound


def tokens_a_step(model: LongCompress, stream: str, step_s: float) -> int:
    """The most tokens of a stream that a step has."""
    encoder = model.encoders[stream]
    if encoder.modality == "video":
        return encoder.patches
    return math.floor(tokens_a_second(encoder, step_s, model.config.media) * step_s + 1e-6) + 1
