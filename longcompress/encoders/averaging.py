"""Means of tokens that follow one another; they run over the ends of blocks."""

from dataclasses import dataclass, field
from typing import Any, Literal

from einops import reduce
from torch import Tensor

from ..types import Encoded, Tokens

GAP_S = 1e-3  # a token that begins this much after the end of the token before doesn't follow it


@dataclass
class Means:
    """Every `size` tokens that follow one another become their mean; fewer wait for more.

    Args:
        size: tokens of a mean.
        tail: whether fewer tokens at the end make a mean too ("kept"), or none ("released").
    """

    size: int
    tail: Literal["kept", "released"] = "kept"
    _waiting: list[Encoded] = field(default_factory=list)

    def copy(self) -> "Means":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        return Means(self.size, self.tail, list(self._waiting))

    def state(self) -> list[Encoded]:
        """The tokens that wait, for `set_state`."""
        return list(self._waiting)

    def set_state(self, state: Any) -> None:
        """Go on from a state that `state` returned."""
        self._waiting = list(state)

    def push(self, encoded: Encoded) -> list[Encoded]:
        """The means that are complete now."""
        if not len(encoded):
            return []
        means = []
        # Behind a gap means begin anew: what waits is the tail of the tokens before the gap.
        if self._waiting:
            gap_s = float(encoded.tokens.start_s[0]) - float(self._waiting[-1].tokens.end_s[-1])
            if abs(gap_s) > GAP_S:
                means += self.flush()
        self._waiting.append(encoded)
        num = sum(map(len, self._waiting))
        whole = num - num % self.size
        if whole:
            joined = Encoded.join(self._waiting)
            means.append(mean_of_each(joined.rows(0, whole), self.size))
            self._waiting = [joined.rows(whole, num)] if num > whole else []
        return means

    def flush(self) -> list[Encoded]:
        """The mean of the tokens that wait, if the tail is kept."""
        waiting, self._waiting = self._waiting, []
        if not waiting or self.tail == "released":
            return []
        joined = Encoded.join(waiting)
        return [mean_of_each(joined, len(joined))]


def mean_of_each(encoded: Encoded, size: int) -> Encoded:
    """The mean of every `size` tokens, with the time of all of them. The metric is linear, so its mean is the
    metric of the mean."""

    def mean(x: Tensor) -> Tensor:
        return reduce(x, "(n size) ... -> n ...", "mean", size=size)

    tokens, summary = encoded.tokens, encoded.summary
    start_s, end_s = tokens.start_s[::size], tokens.end_s[size - 1 :: size]
    means = Tokens(mean(tokens.x), mean(tokens.size), (start_s + end_s) / 2, start_s, end_s)
    return Encoded(means, mean(encoded.metric), None if summary is None else mean(summary))
