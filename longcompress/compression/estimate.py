"""The estimate of tokens and bytes before decoding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import MergeConfig, ModelConfig
from .merging import num_kept
from .state import allocate, check_budget


@dataclass(frozen=True)
class Estimate:
    """Tokens, bytes and timestamps of a video, from its header alone.

    Attributes:
        duration_s: seconds, as the header says.
        frames: sampled frames.
        windows: tokens of audio and speech before merging.
        segments: number of segments.
        raw_tokens: tokens of all streams before merging.
        tokens: of the memory: the budget, or the tokens that closed segments keep if these are fewer.
        video_tokens, audio_tokens, global_tokens: parts of `tokens` (allocation "even"); audio: with speech.
        timestamps: number in the prompt; their text takes tokens of its own.
        timestamp_s: seconds from a timestamp to the next.
        memory_bytes: size of the memory file, about.
        held_tokens: tokens buffered at most while compressing.
        prompt_tokens: video tokens and text of timestamps.
        context: positions of the language model (None: not known).
        fits: whether the prompt fits into the context (None: not known).
        stream_tokens: stream -> its tokens, without global ones.
    """

    duration_s: float
    frames: int
    windows: int
    segments: int
    raw_tokens: int
    tokens: int
    video_tokens: int
    audio_tokens: int
    global_tokens: int
    timestamps: int
    timestamp_s: float
    memory_bytes: int
    held_tokens: int
    prompt_tokens: int
    context: int | None
    fits: bool | None
    stream_tokens: dict[str, int]


@dataclass(frozen=True)
class Flow:
    """A stream of a video: its tokens before merging, about how many a second, and their channels."""

    tokens: int
    rate: float
    width: int


@dataclass(frozen=True)
class Shape:
    """The numbers of a video's streams and of the model that an estimate needs.

    Attributes:
        flows: stream -> its Flow.
        frames: sampled frames.
        global_tokens: of these streams.
        timestamp_tokens: text tokens of a timestamp; 0 for a prompt without.
        token_s: seconds of a video token before merging.
        context: positions of the language model (None: not known).
    """

    flows: Mapping[str, Flow]
    frames: int = 0
    global_tokens: int = 0
    timestamp_tokens: int = 1
    token_s: float = 1.0
    context: int | None = None


def check_duration(duration_s: float) -> None:
    """ValueError unless duration_s is a length."""
    if not duration_s >= 0 or not math.isfinite(duration_s):
        raise ValueError(f"duration_s must be a number of seconds >= 0, got {duration_s}")


def estimate(duration_s: float, *, budget: int, config: ModelConfig, shape: Shape) -> Estimate:
    """The estimate of compressing `duration_s` seconds to this budget.

    Raises:
        ValueError: if duration_s is negative or the budget too small for one token of each stream.
    """
    check_duration(duration_s)
    flows = {k: flow for k, flow in shape.flows.items() if flow.tokens}
    cut, length = config.segments, config.segments.length_s
    num = math.ceil(duration_s / length)
    inside = {k: flow.rate * length for k, flow in flows.items()}
    if cut.cut == "frames":
        num = max(1, math.ceil(shape.frames / cut.frames)) if flows else 0
        inside = {k: flow.tokens * cut.frames / max(shape.frames, cut.frames) for k, flow in flows.items()}
    max_tokens = [_closed(flow.tokens, inside[k], config.merge, k) for k, flow in flows.items()]
    num_globals = shape.global_tokens if flows else 0
    check_budget(budget, num_globals + len(flows))
    room = min(budget - num_globals, sum(max_tokens))
    weights = [config.budget.stream_weight(k) for k in flows]
    parts = dict(zip(flows, allocate(weights, room, max_tokens=max_tokens), strict=True))
    seconds = config.llm.timestamp_step_s(duration_s, budget, shape.timestamp_tokens, shape.token_s)
    has_timestamps = duration_s and config.llm.order == "time" and shape.timestamp_tokens
    timestamps = math.ceil(duration_s / seconds) if has_timestamps else 0
    tokens = room + num_globals
    prompt = tokens + timestamps * shape.timestamp_tokens
    size = {"": 4, "bfloat16": 2, "int8": 1 + 4 / 64}[config.memory.dtype]  # bytes of a channel, on a CPU
    num_bytes = sum(int(n * (size * flows[k].width + 52)) for k, n in parts.items())
    num_bytes += num_globals * 4 * max((flow.width for flow in flows.values()), default=0)
    raw = sum(flow.tokens for flow in flows.values())
    seen = flows["video"].tokens if "video" in flows else 0
    return Estimate(
        duration_s=duration_s, frames=shape.frames, windows=raw - seen,
        segments=num, raw_tokens=raw, tokens=tokens,
        video_tokens=parts.get("video", 0), audio_tokens=room - parts.get("video", 0),
        global_tokens=num_globals, timestamps=timestamps, timestamp_s=seconds, memory_bytes=num_bytes,
        held_tokens=int(config.budget.buffer_ratio * budget), prompt_tokens=prompt, context=shape.context,
        fits=None if shape.context is None else prompt < shape.context, stream_tokens=parts,
    )  # fmt: skip


def _closed(raw: int, in_segment: float, merge: MergeConfig, stream: str) -> int:
    """Tokens of a stream that closed segments keep, `in_segment` raw ones in each."""
    full = max(1, round(in_segment))
    return raw // full * num_kept(full, stream, merge) + num_kept(raw % full, stream, merge)
