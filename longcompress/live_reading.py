"""What a live session's language model has read behind a prefix."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .live_prefix import Prefix
from .llm import StockLM
from .llm.cache import Read
from .llm.live import EMBEDDED, Part, embed
from .types import Tokens

Streams = dict[str, Tokens]
FEWEST_STEPS = 4  # that a slice has: with one, what is near would never be caught up with


class Laid(NamedTuple):
    """The part of a step, what it was made after, and the timestamp that is shown last."""

    after: tuple[float | None, tuple[int, ...], int]
    part: Part
    shown_s: float | None


class Reading:
    """The turns of the beginning, the steps that are near, and turns between them.

    Args:
        prefix: what comes before; it is ready.
        ids: of the turns of the beginning.
        is_released: a question takes the place of the system's text, and nothing opens the first frame.
    """

    def __init__(self, prefix: Prefix, ids: Sequence[int], is_released: bool) -> None:
        self.prefix, self.parts, self.reader = prefix, prefix.parts, prefix.reader.fork()
        self.chunks = list(prefix.chunks)  # what was read, each list in a forward of its own
        self.steps: list[Streams] = []
        self._laid: list[Laid | None] = []
        self.ids, self.num_text = list(ids), len(ids)  # and tokens of text that were read in all
        self.num_steps = 0  # that were read
        self.shown_s: float | None = None  # timestamp that is shown last
        # ids that end what is open before another turn, and that come before the next frame
        self.closing, self.opening = list[int](), [] if is_released else self.parts.opening
        self._waiting: list[Part] = [] if is_released and ids else list(prefix.waiting or ())
        self._waiting += [self.parts.text("turns", ids)] if ids else []

    def anew(self, prefix: Prefix, ids: Sequence[int], is_released: bool) -> "Reading":
        """The same steps behind a prefix and turns, not read; without the tokens that it has."""
        reading, is_same = Reading(prefix, ids, is_released), prefix is self.prefix
        for streams, known in zip(self.steps, self._laid, strict=True):
            start_s = min(float(tokens.start_s.min()) for tokens in streams.values())
            if start_s < prefix.start_s and not is_same:
                later = {name: t.take(t.start_s >= prefix.start_s) for name, t in streams.items()}
                streams, known = {name: tokens for name, tokens in later.items() if len(tokens)}, None
            if streams:
                reading.add(streams, known)
        return reading

    @property
    def is_whole(self) -> bool:
        """Whether every step was read."""
        return self.num_steps == len(self.steps)

    def add(self, streams: Streams, known: Laid | None = None) -> None:
        """A step more, to be read."""
        self.steps.append(streams)
        self._laid.append(known)

    @torch.no_grad()
    def go_on(self, num_tokens: int = 0) -> Read:
        """Read in a single forward what waits: FEWEST_STEPS and more up to `num_tokens`, or with 0 all."""
        parts, self._waiting = self._waiting, []
        total, first = sum(len(part.ids) for part in parts), self.num_steps
        while not self.is_whole:
            laid = self._lay_out(self.num_steps)
            total += len(laid.part.ids)
            if 0 < num_tokens < total and self.num_steps - first >= FEWEST_STEPS:
                break
            parts, self.shown_s = [*parts, laid.part], laid.shown_s
            self.closing, self.opening = self.parts.closing, []
            self.num_steps += 1
        return self._read(parts)

    def say(self, ids: Sequence[int], opening: list[int]) -> None:
        """Read a turn, and `opening` before the next frame."""
        ids = [*self.closing, *ids]
        self.closing, self.opening = [], opening
        self.num_text += len(ids) + len(self.parts.opening)
        self._read([self.parts.text("near", ids)])

    def data(self) -> dict[str, Any]:
        """All but the prefix and the language model, for `restore`."""
        return {name: getattr(self, name) for name in (*_DATA, "steps", "chunks")}

    @classmethod
    def restore(cls, prefix: Prefix, data: dict[str, Any]) -> "Reading":
        """The reading of `data`: what was read is read again, as it was."""
        reading = cls(prefix, (), is_released=False)
        for name in _DATA:
            setattr(reading, name, data[name])
        for streams in data["steps"]:
            reading.add(streams)
        for chunk in data["chunks"][len(prefix.chunks) :]:
            reading._read(chunk)
        return reading

    def _lay_out(self, index: int) -> Laid:
        """A step behind what was read. What was embedded once is not embedded again."""
        llm = self.parts.llm
        after = self.shown_s, tuple(self.opening), index if isinstance(llm, StockLM) else 0
        known = self._laid[index]
        if known is None or known.after != after:
            part, shown_s = self.parts.step(self.steps[index], self.shown_s, self.opening, index + 1)
            if not isinstance(llm, StockLM):
                part = part._replace(streams={EMBEDDED: embed(llm, part)})
            self._laid[index] = known = Laid(after, part, shown_s)
        return known

    def _read(self, parts: list[Part]) -> Read:
        self.chunks.append(parts)
        return self.reader.read(parts)


_DATA = ("ids", "num_text", "num_steps", "shown_s", "closing", "opening", "_waiting")
