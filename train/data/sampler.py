"""Global batches as a pure function of indexes, weights, seed and budgets; ranks and workers share them out.

Because a batch is formed before anyone knows how many ranks there are, every number of ranks and workers sees
the same sequence, and to resume is to go on from a batch's number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..shards.index import Index


@dataclass(frozen=True)
class Mixture:
    """Data sets and how often each is drawn.

    Attributes:
        indexes: of the data sets.
        weights: one each, > 0; None: as many draws as it has samples.
    """

    indexes: Sequence[Index]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.indexes or any(not len(index) for index in self.indexes):
            raise ValueError("indexes must be of one data set at least, each with samples")
        if self.weights is not None and (
            len(self.weights) != len(self.indexes) or any(not w > 0 for w in self.weights)
        ):
            raise ValueError(
                f"weights must be a number > 0 for each of {len(self.indexes)} data sets, got {self.weights}"
            )

    def draws(self, seed: int) -> Iterator[tuple[int, int]]:
        """Endless (data set, sample): each data set's epochs, one after the other, in the weights' shares.

        The data set furthest behind its share comes next, so that no stretch of the sequence lacks one.
        """
        weights = np.asarray(self.weights or [len(index) for index in self.indexes], float)
        shares, counts = weights / weights.sum(), np.zeros(len(weights), np.int64)
        orders: list[np.ndarray] = [index.order(seed, 0) for index in self.indexes]
        while True:
            which = int(np.argmax(shares * (counts.sum() + 1) - counts))
            epoch, place = divmod(int(counts[which]), len(self.indexes[which]))
            if place == 0 and epoch:
                orders[which] = self.indexes[which].order(seed, epoch)
            yield which, int(orders[which][place])
            counts[which] += 1


@dataclass(frozen=True)
class Batch:
    """What is learned from in one optimizer step, by all ranks together.

    Attributes:
        number: of the step; the one integer to resume from.
        budget: tokens each video has at most.
        samples: (data set, sample) of each.
        costs: tokens of each video at that budget.
    """

    number: int
    budget: int
    samples: tuple[tuple[int, int], ...]
    costs: tuple[int, ...]

    def of_rank(self, rank: int, world: int) -> tuple[tuple[int, int], ...]:
        """This rank's samples: the longest are dealt first, there and back, so that ranks work alike.

        Raises:
            ValueError: there are fewer samples than ranks.
        """
        if len(self.samples) < world:
            raise ValueError(
                f"batch {self.number} has {len(self.samples)} samples for {world} ranks; raise least"
            )
        order = sorted(range(len(self.samples)), key=lambda i: (-self.costs[i], i))
        mine = [i for place, i in enumerate(order) if _turn(place, world) == rank]
        return tuple(self.samples[i] for i in mine)


def batches(
    mixture: Mixture, *, seed: int, tokens: int, budgets: Sequence[int], least: int = 1, most: int = 0,
    start: int = 0,
) -> Iterator[Batch]:  # fmt: skip
    """Endless batches from number `start` on.

    Args:
        mixture: where samples come from.
        seed: of the order and of the budgets drawn.
        tokens: video tokens that a batch has at most, all ranks together; a batch of `least` may pass it.
        budgets: one is drawn for each batch (one model for all of them, "elastic").
        least: samples a batch has at least; as many as there will ever be ranks.
        most: samples it has at most; 0: as many as `tokens` lets in.
        start: number of the first batch given.

    Raises:
        ValueError: for numbers below 1, no budget, or most below least.
    """
    if tokens < 1 or least < 1 or not budgets or min(budgets) < 1:
        raise ValueError(f"tokens, least and budgets must be >= 1, got {tokens}, {least} and {list(budgets)}")
    if most and most < least:
        raise ValueError(f"most must be 0 or >= least = {least}, got {most}")
    held = [[sum(entry.tokens.values()) for entry in index.entries] for index in mixture.indexes]
    draws, number = mixture.draws(seed), 0
    ahead = next(draws)
    while True:
        budget = int(np.random.default_rng([seed, number]).choice(np.asarray(budgets)))
        samples: list[tuple[int, int]] = []
        costs: list[int] = []
        while True:
            cost = min(budget, held[ahead[0]][ahead[1]])
            if len(samples) >= least and (sum(costs) + cost > tokens or len(samples) == most):
                break
            samples.append(ahead)
            costs.append(cost)
            ahead = next(draws)
        if number >= start:
            yield Batch(number, budget, tuple(samples), tuple(costs))
        number += 1


def _turn(place: int, world: int) -> int:
    """Whose turn it is at a place, dealing there and back: 0 1 2 2 1 0 0 1 2 ..."""
    at = place % (2 * world)
    return at if at < world else 2 * world - 1 - at
