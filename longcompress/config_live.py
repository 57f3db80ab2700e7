"""Options of a model that speaks by itself while a video plays."""

import math
from dataclasses import dataclass, field
from typing import Literal

HEADS = ("informative", "relevance")


@dataclass(frozen=True)
class TriggerConfig:
    """When it speaks. All comparisons are strict.

    Attributes:
        rule: "single": the score of a frame is above the threshold. "sum": the scores since the last reply
            are above it together. "zscore": a score is above the mean of the `window` scores before by more
            than the threshold times their standard deviation, after `warmup` frames. "rise": it is above
            that mean by more than the threshold.
        threshold: in (0, number of heads] for "single" and "rise".
        heads: whose scores are added, of "informative" and "relevance".
        window: frames of "zscore" and "rise".
        warmup: frames before which these say nothing, at most `window`.
    """

    rule: Literal["single", "sum", "zscore", "rise"] = "sum"
    threshold: float = 2.0
    heads: tuple[str, ...] = ("informative",)
    window: int = 20
    warmup: int = 5

    def __post_init__(self) -> None:
        if not self.heads or len({*self.heads}) < len(self.heads) or {*self.heads} - {*HEADS}:
            raise ValueError(f"heads must be some of {HEADS}, each once, got {self.heads}")
        limit = len(self.heads) if self.rule in ("single", "rise") else math.inf
        if not 0 < self.threshold <= limit or self.threshold == math.inf:
            raise ValueError(
                f'threshold must be in (0, {limit}] for rule "{self.rule}" and {len(self.heads)} heads, got '
                f"{self.threshold}"
            )
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup must be in [1, window = {self.window}] frames, got {self.warmup}")


@dataclass(frozen=True)
class LiveConfig:
    """How a conversation about a running video goes (MMDuet).

    Attributes:
        trigger: when the model speaks.
        replies: "drop": what it said is not part of what it reads further; "keep": it is.
        turns: "trained": each turn is opened and closed as in training. "released": as MMDuet's inference
            script does it: without a system prompt if a question comes before the first frame, else without
            the mark that opens the stream, with other ends of turns missing, and a question a frame at most.
        max_frames: the conversation ends after so many frames; 0: never.
        max_reply_tokens: longest reply.
        repetition_penalty: of tokens of earlier replies; 1: none.
    """

    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    replies: Literal["drop", "keep"] = "drop"
    turns: Literal["trained", "released"] = "trained"
    max_frames: int = 0
    max_reply_tokens: int = 200
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.max_frames < 0:
            raise ValueError(f"max_frames must be >= 0, got {self.max_frames}")
        if self.max_reply_tokens < 1 or not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                "max_reply_tokens must be >= 1 and repetition_penalty > 0, got "
                f"{self.max_reply_tokens} and {self.repetition_penalty}"
            )
