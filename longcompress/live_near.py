"""The steps that a live context reads raw, and their parts of the prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .llm import StockLM
from .llm.live import EMBEDDED, Part, Parts, embed
from .types import Tokens

Streams = dict[str, Tokens]


class Laid(NamedTuple):
    """The part of a step, what it was made after, and the timestamp that is shown last."""

    after: tuple[float | None, tuple[int, ...], int]
    part: Part
    shown_s: float | None


class Near:
    """Steps, the oldest first.

    Args:
        parts: of the language model's prompt.
        steps: stream -> tokens of each.
    """

    def __init__(self, parts: Parts, steps: Sequence[Streams] = ()) -> None:
        self.parts, self.steps = parts, list(steps)
        self._laid: list[Laid | None] = [None] * len(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def num_tokens(self) -> int:
        """Tokens of all."""
        return sum(len(tokens) for streams in self.steps for tokens in streams.values())

    def add(self, streams: Streams) -> None:
        """A step more."""
        self.steps.append(streams)
        self._laid.append(None)

    def behind(self, start_s: float) -> "Near":
        """The same without the tokens that start before."""
        near = Near(self.parts)
        for streams, known in zip(self.steps, self._laid, strict=True):
            if min(float(tokens.start_s.min()) for tokens in streams.values()) < start_s:
                streams, known = {name: t.take(t.start_s >= start_s) for name, t in streams.items()}, None
                streams = {name: tokens for name, tokens in streams.items() if len(tokens)}
            if streams:
                near.steps.append(streams)
                near._laid.append(known)
        return near

    @torch.no_grad()
    def part(self, index: int, shown_s: float | None, before: Sequence[int]) -> tuple[Part, float | None]:
        """(the part of a step behind the ids `before`, the timestamp that is shown last), where shown_s was
        the last before. What was embedded once is not embedded again."""
        llm = self.parts.llm
        after = shown_s, tuple(before), index if isinstance(llm, StockLM) else 0
        known = self._laid[index]
        if known is None or known.after != after:
            part, shown_s = self.parts.step(self.steps[index], shown_s, before, index + 1)
            if not isinstance(llm, StockLM):
                part = part._replace(streams={EMBEDDED: embed(llm, part)})
            self._laid[index] = known = Laid(after, part, shown_s)
        return known.part, known.shown_s
