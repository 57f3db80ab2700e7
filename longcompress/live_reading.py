"""What a live session's language model has read behind a prefix."""

from collections.abc import Sequence
from typing import Any

from .live_near import Near
from .live_prefix import Prefix
from .llm.cache import Read
from .llm.live import Part

FEWEST_STEPS = 4  # that a slice has: with one, near would never be caught up with


class Reading:
    """The turns of the beginning, the steps that are near, and turns between them.

    Args:
        prefix: what comes before; it is ready.
        near: the steps.
        ids: of the turns of the beginning.
        is_released: a question takes the place of the system's text, and nothing opens the first frame.
    """

    def __init__(self, prefix: Prefix, near: Near, ids: Sequence[int], is_released: bool) -> None:
        self.prefix, self.near, self.parts = prefix, near, prefix.parts
        self.reader = prefix.reader.fork()
        self.chunks = list(prefix.chunks)  # what was read, each list in a forward of its own
        self.ids, self.num_text = list(ids), len(ids)  # and tokens of text that were read in all
        self.num_steps = 0  # that were read
        self.shown_s: float | None = None  # timestamp that is shown last
        # ids that end what is open before another turn, and that come before the next frame
        self.closing, self.opening = list[int](), [] if is_released else self.parts.opening
        self._waiting: list[Part] = [] if is_released and ids else list(prefix.waiting or ())
        self._waiting += [self.parts.text("turns", ids)] if ids else []

    @property
    def is_whole(self) -> bool:
        """Whether every step was read."""
        return self.num_steps == len(self.near)

    def go_on(self, num_tokens: int = 0) -> Read:
        """Read in a single forward what waits: FEWEST_STEPS and more up to `num_tokens`, or with 0 all."""
        parts, self._waiting = self._waiting, []
        total, first = sum(len(part.ids) for part in parts), self.num_steps
        while not self.is_whole:
            part, shown_s = self.near.part(self.num_steps, self.shown_s, self.opening)
            total += len(part.ids)
            if 0 < num_tokens < total and self.num_steps - first >= FEWEST_STEPS:
                break
            parts, self.shown_s = [*parts, part], shown_s
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
        """All but the prefix and near, for `restore`."""
        return {"chunks": self.chunks} | {name: getattr(self, name) for name in _DATA}

    @classmethod
    def restore(cls, prefix: Prefix, near: Near, data: dict[str, Any]) -> "Reading":
        """The reading of `data`: what was read is read again, as it was."""
        reading = cls(prefix, near, data["ids"], is_released=False)
        for name in _DATA:
            setattr(reading, name, data[name])
        for chunk in data["chunks"][len(prefix.chunks) :]:
            reading._read(chunk)
        return reading

    def _read(self, parts: list[Part]) -> Read:
        self.chunks.append(parts)
        return self.reader.read(parts)


_DATA = ("ids", "num_text", "num_steps", "shown_s", "closing", "opening", "_waiting")
