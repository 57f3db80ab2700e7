"""Shards read from end to end by webdataset, in large requests, instead of sample by sample."""

import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import group_by_keys, tar_file_expander

from .index import Index


class ShardStream(IterableDataset[dict[str, Any]]):
    """Each iteration is a pass: every sample once, as webdataset hands it out, over all ranks and workers.

    What can't be read is an item too: `__key__`, `__url__` and `__error__`, the ValueError or OSError.

    Args:
        index: of the shards; what a tar holds must be what it says.
        seed: of the order, which differs from pass to pass.
        shuffle: samples that are shuffled among each other, all held in memory; 0: shards and samples in
            their order.
        rank, world: number of this process, and of all that read; shards are dealt to them and their workers.

    Raises:
        ValueError: on iterating, where there are fewer shards than readers.
    """

    def __init__(
        self, index: Index, seed: Sequence[int] = (0,), *, shuffle: int = 64, rank: int = 0, world: int = 1
    ) -> None:
        if shuffle < 0:
            raise ValueError(f"shuffle must be >= 0 samples, got {shuffle}")
        self.index, self.seed, self.shuffle, self.passes = index, list(seed), shuffle, 0
        self.rank, self.world = rank, world
        self.keys: list[list[str]] = [[] for _ in index.shards]
        for entry in index.entries:
            self.keys[entry.shard].append(entry.key)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        readers = self.world * of
        if len(self.keys) < readers:
            raise ValueError(
                f"{self.index.folder}: {readers} readers ({self.world} ranks x {of} workers) need a shard "
                f"each, got {len(self.keys)}; make smaller shards with `longcompress shards repack "
                "--shard-mb`, take fewer engine.workers, or reader indexed"
            )
        generator = np.random.default_rng([*self.seed, self.passes])
        self.passes += 1
        order = np.arange(len(self.keys))
        if self.shuffle:
            order = generator.permutation(len(order))
        own = order[self.rank * of + number :: readers].tolist()
        stages: list[Any] = [partial(self.samples, own)]
        if self.shuffle:
            seed = int(generator.integers(1 << 32)) + self.rank * of + number
            stages.append(webdataset.shuffle(self.shuffle, initial=self.shuffle, seed=seed))
        return iter(webdataset.DataPipeline(*stages))

    def samples(self, shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The samples of shards of these numbers, and an error for each that didn't arrive."""
        for number in shards:
            url, missing = self.index.url(number), set(self.keys[number])
            hint = "index the folder again, or get the shard again"
            try:
                with self.index.open(number) as file:
                    for item in group_by_keys(tar_file_expander([{"url": url, "stream": file}])):
                        key = item["__key__"].rpartition("/")[2]
                        if key not in missing:
                            raise ValueError(
                                f"{url}: sample {key!r} is not in the index, or there twice; {hint}"
                            )
                        missing.remove(key)
                        yield item | {"__key__": key}
                if missing:
                    raise ValueError(f"{url} lacks {len(missing)} samples of the index; {hint}")
            except (OSError, ValueError, tarfile.TarError) as error:
                fault = _plain(error, url)
                for key in sorted(missing):
                    yield {"__key__": key, "__url__": url, "__error__": fault}


def _plain(error: Exception, url: str) -> OSError | ValueError:
    """An error with the shard's name, without the objects that webdataset adds to its arguments."""
    error.args = error.args[:1] if getattr(error, "strerror", None) is None else error.args
    text = str(error).partition(" @ <")[0]
    if isinstance(error, tarfile.TarError):
        return ValueError(f"{url} is no tar, or was cut: {text}; get the shard again")
    kind = OSError if isinstance(error, OSError) else ValueError
    return kind(text if url in text else f"{url}: {text}")
