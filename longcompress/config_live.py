"""Options of a model that speaks by itself while a video plays."""

import math
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Literal

HEADS = ("informative", "relevance")
POLL = "poll"  # the score of a question that is asked again and again, in place of the heads'
SCORES = (*HEADS, POLL)


@dataclass(frozen=True)
class TriggerConfig:
    """When it speaks. All comparisons are strict.

    Each request has a trigger of its own, which begins with it (LiveConfig.turns "released": all have one).
    First the rule says yes or no of a step. Then it must have said so for `hold` steps in a row, then (with
    `release`) no since it last spoke, then `refractory_s` must have passed, then `per_minute` must have room.

    Attributes:
        rule: "single": the score of a frame is above the threshold. "sum": the scores since the last reply
            are above it together. "zscore": a score is above the mean of the `window` scores before by more
            than the threshold times their standard deviation, after `warmup` frames. "rise": the score of
            one of the heads is above its mean of the `window` before by more than the threshold.
        threshold: in (0, number of heads] for "single", (0, 1] for "rise".
        heads: whose scores are added, but for "rise", of "informative" and "relevance"; or "poll" alone: the
            model is asked about each request after each step (LiveConfig.poll), which needs no heads.
        window: frames of "zscore" and "rise".
        warmup: frames before which these say nothing, at most `window`.
        hold: steps in a row that the rule says yes.
        release: the rule must have said no before it may speak again: an event is told once.
        refractory_s: seconds from when it spoke until it may again.
        per_minute: it speaks so many times in 60 seconds; 0: without limit.
    """

    rule: Literal["single", "sum", "zscore", "rise"] = "sum"
    threshold: float = 2.0
    heads: tuple[str, ...] = ("informative",)
    window: int = 20
    warmup: int = 5
    hold: int = 1
    release: bool = False
    refractory_s: float = 0.0
    per_minute: int = 0

    def __post_init__(self) -> None:
        is_known = self.heads and len({*self.heads}) == len(self.heads) and not {*self.heads} - {*HEADS}
        if not is_known and self.heads != (POLL,):
            raise ValueError(f'heads must be some of {HEADS}, each once, or "poll", got {self.heads}')
        if self.hold < 1 or self.per_minute < 0 or not 0 <= self.refractory_s < math.inf:
            raise ValueError(
                "hold must be >= 1 and refractory_s and per_minute >= 0, got "
                f"{self.hold}, {self.refractory_s} and {self.per_minute}"
            )
        if not 0 < self.threshold <= self.limit or self.threshold == math.inf:
            raise ValueError(
                f'threshold must be in (0, {self.limit}] for rule "{self.rule}" and {len(self.heads)} heads, '
                f"got {self.threshold}"
            )
        if not 1 <= self.warmup <= self.window:
            raise ValueError(f"warmup must be in [1, window = {self.window}] frames, got {self.warmup}")

    @property
    def limit(self) -> float:
        """The highest threshold of the rule."""
        return {"single": len(self.heads), "rise": 1}.get(self.rule, math.inf)


POLLED = TriggerConfig("single", 0.5, (POLL,), release=True)  # of a model without heads


@dataclass(frozen=True)
class LiveConfig:
    """How a conversation about a running video goes: of MMDuet, and of a live `Session`.

    Attributes:
        trigger: when the model speaks.
        replies: "drop": what it said is not part of what it reads further; "keep": it is; "log": from the
            next time on that the context is read anew (sessions).
        turns: "trained": each turn is opened and closed as in training. "released": as MMDuet's inference
            script does it: without a system prompt if a request comes before the first frame, else without
            the mark that opens the stream, with other ends of turns missing, a request a frame at most, and
            replies that nobody asked for. It needs near_s 0.
        max_frames: the conversation ends after so many steps; 0: never.
        max_reply_tokens: longest reply.
        repetition_penalty: of tokens of earlier replies; 1: none.
        near_s: when the steps that are read raw last longer, the older half is read merged from then on; 0:
            all of them stay, up to max_frames.
        past: tokens that all before these steps merge into; 0: nothing of it is read.
        slice_tokens: of the past and of near behind it, read after each step before they take the place of
            what is read now; 0: all at once, in a step that takes longer.
        text_tokens: of all requests and kept replies in the context; a question may have as many.
        step_tokens: tokens of a reply that are made after each step; 0: all of it at once, while the video
            waits.
        heads_of: what the scores of heads are about: the "last" request that stands, as MMDuet's are, or
            "all". Then each is asked where they rise, and one that repeats itself or has `nothing` to say has
            not spoken.
        nothing: a reply of just these words is not said; empty: all are said.
        nothing_at: nor is one that begins as `nothing` does with at least this probability; 1: only its words
            count. Lower, there are fewer replies, false ones above all.
        late_s: nor is one that ends in a second, behind words (as "red ball 24" does), which lies more than
            this before what was seen, or after it. Replies are then told when they are whole. 0: all are
            said.
        poll: what is asked where trigger.heads is "poll"; {request} is the text that stands, {now} the
            second.
        poll_yes, poll_no: how the answer begins, or not. The score is the probability of yes against no, or
            where poll_yes is empty of all that isn't no.
        patience_s: a stream that lags behind the others by more is taken to be silent until then.
    """

    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    replies: Literal["drop", "keep", "log"] = "drop"
    turns: Literal["trained", "released"] = "trained"
    max_frames: int = 0
    max_reply_tokens: int = 200
    repetition_penalty: float = 1.0
    near_s: float = 20.0
    past: int = 1024
    slice_tokens: int = 192
    text_tokens: int = 512
    step_tokens: int = 8
    heads_of: Literal["last", "all"] = "last"
    nothing: str = ""
    nothing_at: float = 1.0
    late_s: float = 0.0
    poll: str = "{request} Is that so now? Answer yes or no."
    poll_yes: str = "Yes"
    poll_no: str = "No"
    patience_s: float = 0.5

    def for_heads(self, has_heads: bool) -> "LiveConfig":
        """The same where there are heads, or another trigger was chosen; else polled."""
        return self if has_heads or self.trigger != TriggerConfig() else replace(self, trigger=POLLED)

    def __post_init__(self) -> None:
        if self.max_frames < 0:
            raise ValueError(f"max_frames must be >= 0, got {self.max_frames}")
        if self.max_reply_tokens < 1 or not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                "max_reply_tokens must be >= 1 and repetition_penalty > 0, got "
                f"{self.max_reply_tokens} and {self.repetition_penalty}"
            )
        for name in ("past", "slice_tokens", "text_tokens", "step_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0 tokens, got {getattr(self, name)}")
        if not (0 <= self.near_s < math.inf and self.patience_s >= 0 and 0 <= self.late_s < math.inf):
            raise ValueError(
                f"near_s, patience_s and late_s must be >= 0 seconds, got {self.near_s}, {self.patience_s} "
                f"and {self.late_s}"
            )
        if not self.near_s and not self.max_frames:
            raise ValueError("near_s 0 keeps every step: it needs max_frames > 0, got 0")
        is_plain = POLL not in self.trigger.heads and self.heads_of == "last"
        if self.turns == "released" and (self.near_s or not is_plain or self.nothing or self.late_s):
            raise ValueError(
                'turns "released" needs near_s 0, the scores of heads, heads_of "last", nothing "" and '
                f"late_s 0, got near_s {self.near_s}, trigger.heads {self.trigger.heads}, {self.heads_of!r}, "
                f"{self.nothing!r} and {self.late_s}"
            )
        if not 0 < self.nothing_at <= 1 or (self.nothing_at < 1 and not self.nothing):
            raise ValueError(
                "nothing_at must be a probability above 0, and 1 where nothing is empty, got "
                f"{self.nothing_at} and {self.nothing!r}"
            )
        try:
            parts = [part[1:] for part in Formatter().parse(self.poll) if part[1] is not None]
        except ValueError:  # a brace that is alone
            parts = []
        known = {("request", "", None), ("now", "", None)}
        if not self.poll_no or ("request", "", None) not in parts or {*parts} - known:
            raise ValueError(
                "poll must hold {request} and no other field but {now}, other braces twice, and poll_no must "
                f"not be empty, got {self.poll!r} and {self.poll_no!r}"
            )
        if self.nothing != self.nothing.strip():
            raise ValueError(f"nothing must have no white space around it, got {self.nothing!r}")
