"""From what is pushed into a live session to its context: steps, their tokens, texts at their time."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .compression.state import MergeState
from .config_live import LiveConfig
from .context import LiveContext
from .encode import SegmentEncoder
from .media.steps import Step, Steps
from .model import LongCompress
from .session_events import Dropped, SessionEvent
from .types import Audio, Encoded, Frames, Segment, Tokens

ROUNDING_S = 1e-6
Add = Callable[[Iterable[Segment]], list[SessionEvent]]


class LiveFeed:
    """Steps in, events out. Media go on to the encoder a step at a time, so nothing depends on how they were
    pushed, and nothing on what comes after a step.

    Args:
        model: what encodes and speaks.
        config: of the context.
        media: as of Session.
        patience_s: as of Session.

    Raises:
        ValueError: the model takes frames at no fixed rate, or its segments have no longest length.
    """

    def __init__(
        self, model: LongCompress, config: LiveConfig, media: Sequence[str] | None, patience_s: float
    ) -> None:
        if model.config.media.frames:
            raise ValueError(
                "live needs media.rate_fps, got media.frames, which spreads frames over a whole video; "
                'model.change({"media": {"frames": 0}})'
            )
        if model.config.segments.cut == "frames":
            raise ValueError('live needs segments.cut "fixed" or "change", got "frames"')
        self.model, self.config = model, config
        self.encoder = SegmentEncoder(model, media, tap=self._take)
        frame_s = 1 / model.config.media.rate_fps
        has_video = "video" in self.encoder.media and model.video is not None
        self.step_s = frame_s * (model.video.frames_per_token if has_video else 1)  # type: ignore[union-attr]
        self.steps = Steps(self.step_s, frame_s, self.encoder.media, patience_s)
        self.context = LiveContext(model, config, self.encoder.streams, self.step_s)
        # of a token of each audio stream
        self._window_s = {
            name: 1 / encoder.tokens_a_second(self.step_s, model.config.media)
            for name, encoder in model.encoders.items()
            if name in self.encoder.streams and encoder.modality == "audio"
        }
        self._taken: dict[str, list[Tokens]] = {}  # of this step
        self._read_s: dict[str, float] = {}  # stream -> end of the last token that was read
        self._texts: list[tuple[float, str, bool]] = []  # (second, text, must be answered) still to come
        self._now_s = 0.0  # end of the last step

    def push(self, part: Frames | Audio, add: Add) -> list[SessionEvent]:
        """Take in media that aren't late; `add` puts segments into the session's memory."""
        if len(part):
            if isinstance(part, Audio):
                self.encoder.check_rate(part)
            self.steps.push(part)
        return self._due(add)

    def reach(self, media: Sequence[str], time_s: float, add: Add) -> list[SessionEvent]:
        """Nothing of these media before time_s comes any more."""
        for name in media:
            self.steps.reach(name, time_s)
        return self._due(add)

    def push_text(self, text: str, time_s: float | None, must: bool) -> list[SessionEvent]:
        """A question or a request, now or when the video comes to time_s."""
        if time_s is not None and not math.isfinite(time_s):
            raise ValueError(f"time_s must be a number of seconds, got {time_s}")
        context, at_s = self.context, self._now_s if time_s is None else time_s
        # in released form requests are read with frames, one with each
        if at_s > self._now_s + ROUNDING_S or (context.is_released and not must):
            self._texts = sorted([*self._texts, (at_s, text, must)], key=lambda item: item[0])
            return []
        return self._say_text(text, must)

    def withdraw(self, request: int) -> list[SessionEvent]:
        """See LiveContext."""
        return self.context.withdraw(request, self._now_s)

    def cancel(self) -> list[SessionEvent]:
        """See LiveContext."""
        return self.context.cancel(self._now_s)

    def flush(self, add: Add) -> list[SessionEvent]:
        """Read all that waits, and say all that is due; texts of later are left out."""
        events = self._due(add, flush=True)
        segments = self.encoder.flush()
        events += add(segments)
        if rest := self._tokens(is_last=True):
            start_s = min(float(tokens.start_s[0]) for tokens in rest.values())
            events += self.context.see(rest, start_s, self._now_s)
        events += [] if self.context.is_released else self._say_texts(self._now_s)
        events += [Dropped("turn", t, t, "the video ended before it") for t, _, _ in self._texts]
        self._texts = []
        return events + self.context.finish(self._now_s)

    def stats(self) -> dict[str, float]:
        """Of the context."""
        return self.context.stats()

    def state(self) -> dict[str, Any]:
        """All but the model, for `set_state`."""
        return {
            "config": self.config, "steps": self.steps.state(), "context": self.context.state(),
            "read_s": self._read_s, "texts": self._texts, "now_s": self._now_s,
            "patience_s": self.steps.patience_s,
        }  # fmt: skip

    def set_state(self, state: dict[str, Any], empty: MergeState) -> None:
        """Go on from what `state` gave."""
        self.steps.set_state(state["steps"])
        self.steps.patience_s = state["patience_s"]
        self._read_s, self._texts, self._now_s = state["read_s"], state["texts"], state["now_s"]
        self.context.set_state(state["context"], empty)

    def _due(self, add: Add, *, flush: bool = False) -> list[SessionEvent]:
        """Read the steps that are complete."""
        return [event for step in self.steps.due(flush=flush) for event in self._step(step, add)]

    def _step(self, step: Step, add: Add) -> list[SessionEvent]:
        events = self._say_texts(step.start_s)
        for part in step.parts:
            events += add(self.encoder.push(part))
        events += add(self.encoder.pass_by(step.end_s))
        self._now_s = step.end_s
        if streams := self._tokens():
            return events + self.context.see(streams, step.start_s, step.end_s)
        return events

    def _say_texts(self, until_s: float) -> list[SessionEvent]:
        """Texts whose time has come; those that can't be read are dropped."""
        events: list[SessionEvent] = []
        while self._texts and self._texts[0][0] <= until_s + ROUNDING_S:
            (time_s, text, must), *self._texts = self._texts
            try:
                events += self._say_text(text, must)
            except ValueError as error:
                events.append(Dropped("turn", time_s, time_s, str(error)))
            if self.context.is_released and not must:
                break
        return events

    def _say_text(self, text: str, must: bool) -> list[SessionEvent]:
        context = self.context
        return context.ask(text, self._now_s) if must else context.request(text, self._now_s)

    def _take(self, name: str, encoded: Encoded) -> None:
        """The encoder's tap."""
        if len(encoded):
            self._taken.setdefault(name, []).append(encoded.tokens)

    def _tokens(self, *, is_last: bool = False) -> dict[str, Tokens]:
        """Stream -> the tokens of this step that weren't read: those that are final, and of audio those whose
        own time has come, encoded with what there is."""
        taken, self._taken = self._taken, {}
        out: dict[str, Tokens] = {}
        early = {} if is_last else self.encoder.early()
        for name in self.encoder.streams:
            parts = taken.get(name, [])
            if name in early:
                tokens = early[name].tokens
                is_whole = tokens.end_s - tokens.start_s > (1 - ROUNDING_S) * self._window_s[name]
                rises = torch.cat([is_whole.new_ones(1), tokens.start_s.diff() > 0])
                parts = [*parts, tokens.take(is_whole & rises)]
            if not parts:
                continue
            tokens = Tokens.join(parts)
            tokens = tokens.take(tokens.start_s > self._read_s.get(name, -math.inf) - ROUNDING_S)
            if len(tokens):
                self._read_s[name] = float(tokens.end_s[-1])
                out[name] = tokens
        return out
