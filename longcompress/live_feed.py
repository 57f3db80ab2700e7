"""From what is pushed into a live session to its context: steps, and texts at their time."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .compression.state import MergeState
from .config_live import LiveConfig
from .context import LiveContext
from .live_steps import ROUNDING_S, ReadStep, StepEncoder
from .model import LongCompress
from .session_events import Dropped, SessionEvent
from .types import Audio, Frames, Segment

Add = Callable[[Iterable[Segment]], list[SessionEvent]]


class LiveFeed:
    """Media and texts in, events out.

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
        self.config = config
        self.read = StepEncoder(model, media, patience_s)
        self.encoder, self.steps = self.read.encoder, self.read.steps
        self.context = LiveContext(model, config, self.encoder.streams, self.read.step_s)
        self._texts: list[tuple[float, str, bool]] = []  # (second, text, must be answered) still to come
        self._now_s = 0.0  # end of the last step

    def push(self, part: Frames | Audio, add: Add) -> list[SessionEvent]:
        """Take in media that aren't late; `add` puts segments into the session's memory."""
        self.read.push(part)
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
        segments, rest = self.read.flush()
        events += add(segments)
        if rest:
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
            "config": self.config, "context": self.context.state(), "texts": self._texts,
            "now_s": self._now_s, **self.read.state(),
        }  # fmt: skip

    def set_state(self, state: dict[str, Any], empty: MergeState) -> None:
        """Go on from what `state` gave."""
        self.read.set_state(state)
        self._texts, self._now_s = state["texts"], state["now_s"]
        self.context.set_state(state["context"], empty)

    def _due(self, add: Add, *, flush: bool = False) -> list[SessionEvent]:
        """Read the steps that are complete."""
        return [event for read in self.read.due(flush=flush) for event in self._step(read, add)]

    def _step(self, read: ReadStep, add: Add) -> list[SessionEvent]:
        step = read.step
        events = [*self._say_texts(step.start_s), *add(read.segments)]
        self._now_s = step.end_s
        if read.tokens:
            return events + self.context.see(read.tokens, step.start_s, step.end_s)
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
