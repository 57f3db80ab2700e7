"""Options of the language model."""

import math
from dataclasses import dataclass
from typing import Literal

from .config_values import positive


@dataclass(frozen=True)
class LLMConfig:
    """The language model.

    Attributes:
        base: as in VisionConfig.
        kind: "causal": a language model, behind encoders and projectors of their own. "stock": a video LLM
            of transformers, whose own encoders and projectors make the tokens (`encoders.families`); its
            prompt is its processor's, so that timestamp, projector, time, next_question, order, numbers and
            the norms have no effect.
        timestamp_s: seconds between timestamps, where these fit into timestamp_share of the budget; otherwise
            a multiple. 0, for "stock": between frames.
        timestamp_share: of the budget, that the text of timestamps may take beside it.
        min_timestamps: a small budget gets so many too, where half of it holds them.
        timestamp: its text; {start} is its whole second, {clock} the same as h:mm:ss, {tens} its tens of
            seconds.
        projector: "linear" (LLaVA, LongVLM); "mlp": linear, GELU, linear (LLaVA-1.5); "residual": the sum of
            both, the MLP's last layer starting at zero; or "none" where the encoder's tokens are projected
            already (VisionConfig.tokens).
        heads: two linear layers without bias that say of a frame's last token how informative it is, and how
            relevant to what was asked (MMDuet; `llm.heads`).
        time: add to each token embeddings of its timestamp, first and last second and size.
        max_offset_s: seconds after its timestamp that a token can tell apart.
        system: system prompt for chat templates; "": none.
        question: text of the user's turn, after the video; {question} is replaced. "": {question} alone,
            between two line breaks where the tokenizer has no chat template.
        next_question: likewise of a later turn of a dialogue, after the answer before; "": as `question`.
        events: question that `events()` asks of each window; {start} and {end} in whole seconds.
        events_window_s: length of a window.
        time_format: numbers in answers are "seconds", or "hundredths" of the video, 00..99 as in VTimeLLM;
            then `events()` asks `events` once, unchanged, of the whole video.
        max_new_tokens: longest answer.
        attention: transformers' attn_implementation.
        order: "time": timestamp, tokens, timestamp, tokens, ..., streams side by side. "blocks": global
            tokens, then stream after stream (frame, audio, speech), without timestamps, as in LongVLM,
            VTimeLLM and LongVALE; needs time False.
        numbers: how a timestamp or second that the tokenizer writes with several tokens becomes an embedding:
            "places": each token with the signs of its place; "mean": their mean, in which 12 equals 21, as
            `tiny` was trained.
        token_norm: norm of video tokens after newly initialised projectors, without their common part, in
            norms of the language model's own embeddings; 0: torch's initialisation, as in the papers.
        time_norm: likewise of what `time` adds to each token; 0: gain 1.
        text_after: where the positions of text behind a video go on, of "stock" models with time in their
            positions: after all of the "video"; or after the larger side of its "grid", inside its own time,
            as transformers 5 does for Qwen2-VL and Qwen2.5-VL.
        text: how a text of a time (subtitles) is written; {text}, {start} and {clock} are replaced. It
            follows the timestamp of its time; where the prompt has none, all texts follow the video.
        text_tokens: of all texts of a video; where they have more, every second, third, ... is taken; 0:
            none. They are beside the budget.
        clock_scale: of positions in time of such models; below 1 where a video passes the trained range.
    """

    base: str = ""
    kind: Literal["causal", "stock"] = "causal"
    timestamp_s: float = 2.0
    timestamp_share: float = 0.125
    min_timestamps: int = 12
    timestamp: str = "{start}s"
    projector: Literal["linear", "mlp", "residual", "none"] = "linear"
    heads: bool = False
    time: bool = True
    max_offset_s: int = 64
    system: str = ""
    question: str = ""
    next_question: str = ""
    events: str = (
        "What happens between {start} and {end} seconds? Give each event with its first and last second."
    )
    events_window_s: float = 30.0
    time_format: Literal["seconds", "hundredths"] = "seconds"
    max_new_tokens: int = 256
    attention: str = "sdpa"
    order: Literal["time", "blocks"] = "time"
    numbers: Literal["places", "mean"] = "places"
    token_norm: float = 1.0
    time_norm: float = 0.4
    text_after: Literal["video", "grid"] = "video"
    text: str = "[{clock}] {text}\n"
    text_tokens: int = 1024
    clock_scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "max_offset_s", "events_window_s", "max_new_tokens", "clock_scale", "timestamp_share")
        if self.kind == "causal" or self.timestamp_s:
            positive(self, "timestamp_s")
        if self.text_tokens < 0 or "{text}" not in self.text:
            raise ValueError(
                f"text must hold {{text}} and text_tokens be >= 0, got {self.text!r} and {self.text_tokens}"
            )
        for name in ("token_norm", "time_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0 norms of embeddings, got {getattr(self, name)}")
        if self.order == "blocks" and self.time:
            raise ValueError(
                'time must be False with order "blocks": without timestamps there is nothing to count '
                'seconds from; set llm.time to False, or llm.order to "time"'
            )

    def timestamp_step_s(
        self, duration_s: float, budget: int, num_text: int = 1, frame_s: float = 1.0
    ) -> float:
        """Seconds between timestamps of num_text tokens each: the smallest multiple of timestamp_s (where it
        is 0, of frame_s) with at most timestamp_share * budget text tokens, or min_timestamps timestamps."""
        unit_s = self.timestamp_s or frame_s
        num_text = max(1, num_text)
        few = min(self.min_timestamps, budget // (2 * num_text))
        room = max(1, few, int(self.timestamp_share * budget / num_text))
        return unit_s * max(1, math.ceil(math.ceil(duration_s / unit_s - 1e-9) / room))


def clock(seconds: float) -> str:
    """h:mm:ss of the whole seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
