"""Samples in the order in which they arrive become examples, for readers that can't be asked for a sample."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from torch.utils.data import IterableDataset

from ...model import LongCompress
from ..shards.sample import Needs, Sample, decode
from .dataset import NUM_SPARE, BadSample, ExampleMaker, Loaded, QuestionConfig
from .sampler import BatchSizes, enter_worker, longest_first, mixture


class StreamData(IterableDataset[Loaded]):
    """A rank's parts of batches, as `ShardData` gives them; each worker forms its own.

    Args:
        sources: data sets, each iterated again and again. An item is what webdataset hands out, mapped by
            `decode` or not; each reads for its rank and worker alone, as webdataset's splitters do.
        weights: of each.
        sizes: of the batches of all ranks together.
        start: number of the first batch.
        model, questions, world, accumulate, text_steps, on_error: as of `ShardData`.
    """

    def __init__(
        self, sources: Sequence[Iterable[Any]], weights: Sequence[float], sizes: BatchSizes,
        model: LongCompress, questions: QuestionConfig, *, start: int = 0, world: int = 1,
        accumulate: int = 1, text_steps: int = 0,
        on_error: Literal["quarantine", "stop"] = "quarantine",
    ) -> None:  # fmt: skip
        self.sources, self.weights, self.start, self.accumulate = sources, weights, start, accumulate
        self.sizes, self.on_error = sizes.part(world * accumulate), on_error
        self.examples = ExampleMaker(model, questions, sizes.seed, text_steps)
        self.needs = Needs.of(model)
        self.bad: list[BadSample] = []  # since the last batch

    def __iter__(self) -> Iterator[Loaded]:
        worker, num_workers = enter_worker()
        samples = self.samples()
        places = itertools.count(worker, num_workers)
        numbers = (self.start + place // self.accumulate for place in places)
        for number, budget, batch, costs in self.sizes.form(samples, numbers):
            loaded = Loaded(number)
            for i in longest_first(costs):
                self.add(loaded, batch[i], budget)
            for _ in range(NUM_SPARE):  # a step waits for every rank, so each must bring a sample
                if loaded.keys:
                    break
                self.add(loaded, next(samples)[0], budget)
            loaded.bad, self.bad = self.bad, []
            yield loaded

    def add(self, loaded: Loaded, sample: Sample, budget: int) -> None:
        """Add a sample's example, or leave it out."""
        try:
            self.examples.add(loaded, sample.record["key"], sample, budget)
        except ValueError as error:
            self.leave_out(sample.record["key"], error)

    def samples(self) -> Iterator[tuple[Sample, int]]:
        """Endless samples, each with the number of its tokens; what can't be used is left out."""
        passes = [self.passes(source) for source in self.sources]
        for which in mixture(self.weights):
            sample = next(passes[which])
            yield sample, sum(stream["tokens"] for stream in sample.features["streams"].values())

    def passes(self, source: Iterable[Any]) -> Iterator[Sample]:
        """A source's samples, pass after pass; ValueError after a pass without any that can be used."""
        while True:
            num, num_bad, last = 0, 0, ""
            for item in source:
                named = item.record if isinstance(item, Sample) else item if isinstance(item, dict) else {}
                key = str(named.get("key", named.get("__key__")))
                try:
                    sample = self.read(item)
                except (ValueError, OSError) as error:
                    self.leave_out(key, error)
                    num_bad, last = num_bad + 1, f", the last: {error}"
                    continue
                num += 1
                yield sample
            if not num:
                raise ValueError(
                    f"a pass over the data gave no sample that can be used, {num_bad} that can't{last}; it "
                    "must be possible to iterate it again and again"
                )

    def read(self, item: Any) -> Sample:
        """A sample of an item; ValueError or OSError if it is none, or not of this model."""
        if isinstance(item, dict) and "__error__" in item:
            raise item["__error__"]
        sample = item if isinstance(item, Sample) else decode(item)
        self.needs.check(sample.features, sample.where)
        return sample

    def leave_out(self, key: str, error: Exception) -> None:
        """Note a sample that can't be used, or raise, as `on_error` says."""
        if self.on_error == "stop":
            raise error
        self.bad.append(BadSample(key, str(error)))
