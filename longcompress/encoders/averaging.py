"""Means of tokens that follow one another; they run over the ends of blocks."""

from dataclasses import dataclass, field
from typing import Literal

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
        waiting: the tokens of the next mean.
    """

    size: int
    tail: Literal["kept", "released"] = "kept"
    waiting: list[Encoded] = field(default_factory=list)

    def push(self, encoded: Encoded) -> list[Encoded]:
        """The means that are complete now."""
        if not len(encoded):
            return []
        means = []
        # Behind a gap means begin anew: what waits is the tail of the tokens before the gap.
        if self.waiting:
            gap_s = float(encoded.tokens.start_s[0]) - float(self.waiting[-1].tokens.end_s[-1])
            if abs(gap_s) > GAP_S:
                means += self.flush()
        self.waiting.append(encoded)
        num = sum(map(len, self.waiting))
        whole = num - num % self.size
        if whole:
            joined = Encoded.join(self.waiting)
            means.append(mean_of_each(joined.rows(0, whole), self.size))
            self.waiting = [joined.rows(whole, num)] if num > whole else []
        return means

    def flush(self) -> list[Encoded]:
        """The mean of the tokens that wait, if the tail is kept."""
        waiting, self.waiting = self.waiting, []
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
