"""Tokens of a block become fewer by means that run on over the ends of blocks."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..types import Encoded, Tokens

GAP_S = 1e-3  # tokens that begin so long after the end of those before don't follow them


@dataclass
class Means:
    """Every `size` tokens that follow one another become one; those that wait for more are kept.

    Args:
        size: tokens of a mean.
        tail: what becomes of fewer tokens at the end: they make a mean too ("kept"), or none ("released").
    """

    size: int
    tail: Literal["kept", "released"] = "kept"
    _held: list[Encoded] = field(default_factory=list)

    def copy(self) -> "Means":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        return Means(self.size, self.tail, list(self._held))

    def state(self) -> list[Encoded]:
        """What waits, for `set_state`."""
        return list(self._held)

    def set_state(self, state: Any) -> None:
        """Go on from what `state` gave."""
        self._held = list(state)

    def push(self, encoded: Encoded) -> list[Encoded]:
        """The means that are complete now; behind a gap they begin anew."""
        if not len(encoded):
            return []
        out = []
        if self._held and abs(_start_s(encoded) - float(self._held[-1].tokens.end_s[-1])) > GAP_S:
            out += self.flush()
        self._held.append(encoded)
        num = sum(map(len, self._held))
        whole = num - num % self.size
        if whole:
            joined = Encoded.join(self._held)
            out.append(means(joined.rows(0, whole), self.size))
            self._held = [joined.rows(whole, num)] if num > whole else []
        return out

    def flush(self) -> list[Encoded]:
        """What waits, as one mean or none."""
        held, self._held = self._held, []
        if not held or self.tail == "released":
            return []
        joined = Encoded.join(held)
        return [means(joined, len(joined))]


def means(encoded: Encoded, size: int) -> Encoded:
    """Every `size` tokens as one, with the time of all of them; the metric, being linear, and the summary
    likewise."""
    tokens = encoded.tokens
    start_s, end_s = tokens.start_s[::size], tokens.end_s[size - 1 :: size]
    x = tokens.x.unflatten(0, (-1, size)).mean(1)
    made = Tokens(x, tokens.size.unflatten(0, (-1, size)).mean(1), (start_s + end_s) / 2, start_s, end_s)
    summary = None if encoded.summary is None else encoded.summary.unflatten(0, (-1, size)).mean(1)
    return Encoded(made, encoded.metric.unflatten(0, (-1, size)).mean(1), summary)


def _start_s(encoded: Encoded) -> float:
    return float(encoded.tokens.start_s[0])
