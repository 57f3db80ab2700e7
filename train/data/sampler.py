"""The batches of a training: a pure function of the indexes, the weights and a seed.

A batch is formed before anyone knows how many ranks there are. So every number of ranks and workers sees the
same sequence, and a training resumes from a batch's number alone.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..shards.index import Index

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The samples of one optimizer step, of all ranks together."""

    number: int  # of the step; a training resumes from this integer
    budget: int  # maximum tokens of each video
    samples: tuple[tuple[int, int], ...]  # (data set, sample) of each
    costs: tuple[int, ...]  # tokens of each video at that budget

    def of_rank(self, rank: int, world: int) -> tuple[tuple[int, int], ...]:
        """This rank's samples: the longest are dealt first, there and back, to give ranks equal work."""
        turns = [*range(world), *reversed(range(world))]  # 0 1 2 2 1 0
        order = enumerate(longest_first(self.costs))
        return tuple(self.samples[i] for at, i in order if turns[at % len(turns)] == rank)


def longest_first(costs: Sequence[int]) -> list[int]:
    """Places of samples of these tokens in the order in which a rank has them."""
    return sorted(range(len(costs)), key=lambda i: (-costs[i], i))


@dataclass(frozen=True)
class BatchSizes:
    """How samples become batches; the fields are `BatchSampler`'s."""

    seed: int
    max_tokens: int
    budgets: Sequence[int]
    min_videos: int = 1
    max_videos: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.min_videos < 1 or not self.budgets or min(self.budgets) < 1:
            raise ValueError(
                f"max_tokens, min_videos and budgets must be >= 1, got {self.max_tokens}, {self.min_videos} "
                f"and {list(self.budgets)}"
            )
        if self.max_videos and self.max_videos < self.min_videos:
            need = f"0 or >= min_videos = {self.min_videos}"
            raise ValueError(f"max_videos must be {need}, got {self.max_videos}")

    def part(self, parts: int) -> "BatchSizes":
        """Sizes of one of `parts` equal parts of a batch; ValueError if videos can't be dealt to them."""
        if self.min_videos % parts or self.max_videos % parts:
            raise ValueError(
                f"reader webdataset: min_videos and max_videos must be multiples of ranks x accumulate = "
                f"{parts}, got {self.min_videos} and {self.max_videos}; change them, or use reader indexed"
            )
        tokens, videos = max(1, self.max_tokens // parts), self.min_videos // parts
        return replace(self, max_tokens=tokens, min_videos=videos, max_videos=self.max_videos // parts)

    def form(
        self, samples: Iterator[tuple[T, int]], numbers: Iterable[int]
    ) -> Iterator[tuple[int, int, list[T], list[int]]]:
        """(number, budget, samples, their tokens) of the batches of these numbers, of endless (sample, tokens
        that are stored of it)."""
        following, stored = next(samples)
        for number in numbers:
            budget = int(np.random.default_rng([self.seed, number]).choice(np.asarray(self.budgets)))
            batch: list[T] = []
            costs: list[int] = []
            while True:
                cost = min(budget, stored)
                full = len(batch) == self.max_videos or sum(costs) + cost > self.max_tokens
                if len(batch) >= self.min_videos and full:
                    break  # `following` opens the next batch
                batch.append(following)
                costs.append(cost)
                following, stored = next(samples)
            yield number, budget, batch, costs


@dataclass(frozen=True)
class BatchSampler:
    """Endless batches from number `start` on."""

    indexes: Sequence[Index]  # of the data sets
    seed: int  # of the order and of the budgets
    max_tokens: int  # of a batch over all ranks; one of `min_videos` may pass it
    budgets: Sequence[int]  # one is sampled for each batch (one model for all budgets, "elastic")
    min_videos: int = 1  # at least the number of ranks of any run
    max_videos: int = 0  # 0: `max_tokens` alone decides
    start: int = 0
    weights: Sequence[float] | None = None  # of each data set, > 0; None: the number of its samples

    def __post_init__(self) -> None:
        if not self.indexes or any(not len(index) for index in self.indexes):
            raise ValueError("indexes must be of one data set at least, each with samples")
        weights_of(self.indexes, self.weights)
        self.sizes()

    def sizes(self) -> BatchSizes:
        """Of the batches."""
        return BatchSizes(self.seed, self.max_tokens, self.budgets, self.min_videos, self.max_videos)

    def samples(self) -> Iterator[tuple[int, int]]:
        """Endless (data set, sample): each data set's epochs, one after the other, mixed by weight."""
        counts = np.zeros(len(self.indexes), np.int64)
        orders: list[np.ndarray] = [index.order(self.seed, 0) for index in self.indexes]
        for which in mixture(weights_of(self.indexes, self.weights)):
            epoch, place = divmod(int(counts[which]), len(self.indexes[which]))
            if place == 0 and epoch:  # this set has been read through: a new order for its next epoch
                orders[which] = self.indexes[which].order(self.seed, epoch)
            yield which, int(orders[which][place])
            counts[which] += 1

    def __iter__(self) -> Iterator[Batch]:
        stored = [[sum(entry.tokens.values()) for entry in index.entries] for index in self.indexes]
        samples = ((at, stored[at[0]][at[1]]) for at in self.samples())
        for number, budget, batch, costs in self.sizes().form(samples, itertools.count()):
            if number >= self.start:  # batches before it are formed too: each begins where the last ended
                yield Batch(number, budget, tuple(batch), tuple(costs))


def weights_of(indexes: Sequence[Index], weights: Sequence[float] | None) -> Sequence[float]:
    """The weights of data sets, or else the numbers of their samples; ValueError if they don't fit."""
    if weights is not None and (len(weights) != len(indexes) or not all(w > 0 for w in weights)):
        need = f"a number > 0 for each of {len(indexes)} data sets"
        raise ValueError(f"weights must be {need}, got {weights}")
    return weights or [len(index) for index in indexes]


def mixture(weights: Sequence[float]) -> Iterator[int]:
    """Endless numbers of data sets: the set furthest behind its weight comes next, so that no stretch of the
    sequence lacks a set."""
    shares, counts = np.asarray(weights, float), np.zeros(len(weights), np.int64)
    rates = shares / shares.sum()
    while True:
        which = int(np.argmax(rates * (counts.sum() + 1) - counts))
        yield which
        counts[which] += 1


def enter_worker() -> tuple[int, int]:
    """(number of this worker process, number of workers), and torch of a worker has one thread from now on.

    Outside of a worker it is (0, 1), and the threads of the process, which trains, stay as they are.
    """
    worker = get_worker_info()
    if worker is None:
        return 0, 1
    torch.set_num_threads(1)
    return worker.id, worker.num_workers


class Batches(IterableDataset[Any]):
    """make(first), make(first + 1), ... without end, or all that is in each of these; workers take turns.

    Args:
        make: the batch of a step, a pure function of its number.
        first: step to start at.
        each: what `make` returns is not a batch but an iterable of several.
    """

    def __init__(self, make: Callable[[int], Any], first: int = 0, *, each: bool = False) -> None:
        self.make, self.first, self.each = make, first, each

    def __iter__(self) -> Iterator[Any]:
        worker, num_workers = enter_worker()
        batches = map(self.make, itertools.count(self.first + worker, num_workers))
        return itertools.chain.from_iterable(batches) if self.each else batches


def stage_at(stages: Sequence[Any], number: int) -> Any:
    """The stage, of those with a number of `steps`, that step `number` is of; the last one has no end."""
    for stage in stages:
        if number < stage.steps:
            return stage
        number -= stage.steps
    return stages[-1]
