"""Speed of reading shards and memory: webdataset's plain loader beside our bytes and our examples."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import webdataset
from torch.utils.data import DataLoader

from ..model import LongCompress
from .data.dataset import QuestionConfig, ShardData
from .data.sampler import BatchSampler, BatchSizes
from .data.streaming import StreamData
from .shards.index import Entry, Index
from .shards.stream import ShardStream

Step = tuple[int, int]  # samples and their bytes
PAGE = os.sysconf("SC_PAGE_SIZE")


def repeated(index: Index, num: int) -> Index:
    """An index of `num` samples that are those of `index` again and again, each under a key of its own."""
    entries = list(islice(cycle(index.entries), num))
    return replace(index, entries=tuple(replace(e, key=f"{e.key}-{i}") for i, e in enumerate(entries)))


def bench(
    index: Index, model: LongCompress | None, *, samples: int, workers: int, rounds: int, budget: int,
    repeat: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Figures as a JSON object: speeds of all loaders, beside webdataset's, and memory along an epoch.

    Arguments are the command's (`longcompress shards bench`); without a model only bytes are read.
    """
    if min(samples, workers, rounds) < 1:
        raise ValueError(f"samples, workers and rounds must be >= 1, got {samples}, {workers} and {rounds}")
    if not isinstance(index.folder, Path):
        raise ValueError(f"bench reads a folder, got {index.folder}")
    epoch = repeated(index, samples)
    ours: dict[str, Callable[[Index, int], Iterator[Step]]] = {"bytes": by_ranges}
    if model is not None:
        ours["examples"] = partial(compressed, model=model, budget=budget)
        ours["streamed"] = partial(streamed, model=model, budget=budget, stored=index)
    loaders = {"webdataset": plain} | ours
    speeds = compare({name: partial(loader, epoch, workers) for name, loader in loaders.items()}, rounds)
    base = speeds["webdataset"]["samples_per_s"]
    memory = {}
    if repeat:
        long = repeated(index, repeat)
        memory = {name: memory_along(loader(long, workers), repeat) for name, loader in ours.items()}
    return {
        "samples": samples, "stored": len(index), "workers": workers, "rounds": rounds, "budget": budget,
        "mb_per_sample": round(statistics.fmean(map(num_bytes, epoch.entries)) / 1e6, 3),
        "hours_per_sample": round(statistics.fmean(e.duration_s for e in epoch.entries) / 3600, 3),
        "speeds": speeds,
        "of_webdataset": {name: round(speeds[name]["samples_per_s"] / base, 3) for name in ours},
        "memory": memory,
    }  # fmt: skip


def plain(index: Index, workers: int) -> Iterator[Step]:
    """webdataset's own reading of the tars from end to end, undecoded, again and again."""
    # absolute paths, which it just opens: of other names it may run a command or ask a server
    urls = [str((Path(str(index.folder)) / shard.name).absolute()) for shard in index.shards] * workers
    stream = webdataset.WebDataset(urls, shardshuffle=False).repeat()
    for sample in islice(DataLoader(stream, batch_size=None, num_workers=workers), len(index)):
        yield 1, sum(len(value) for name, value in sample.items() if not name.startswith("__"))


def by_ranges(index: Index, workers: int) -> Iterator[Step]:
    """`Index.read` in the order of an epoch, undecoded."""
    order: list[int] = index.order(0, 0).tolist()
    for members in DataLoader(cast(Any, index), batch_size=None, sampler=order, num_workers=workers):
        yield 1, sum(map(len, members.values()))


def compressed(index: Index, workers: int, *, model: LongCompress, budget: int) -> Iterator[Step]:
    """The whole loader: examples of videos compressed to `budget`, about eight a batch."""
    batches = BatchSampler([index], 0, 8 * budget, (budget,))
    return _examples(ShardData(batches, model, QuestionConfig()), index, len(index), workers)


def streamed(
    index: Index, workers: int, *, model: LongCompress, budget: int, stored: Index
) -> Iterator[Step]:
    """As many of these examples as `index` has samples, by reader webdataset from the `stored` shards."""
    of, num = range(workers), len(stored.shards)  # each worker needs a shard
    entries = tuple(replace(entry, shard=entry.shard + i * num) for i in of for entry in stored.entries)
    stream = ShardStream(replace(stored, shards=stored.shards * workers, entries=entries), shuffle=0)
    sizes = BatchSizes(0, 8 * budget, (budget,))
    return _examples(StreamData([stream], [1.0], sizes, model, QuestionConfig()), stored, len(index), workers)


def _examples(data: ShardData | StreamData, index: Index, num: int, workers: int) -> Iterator[Step]:
    """The steps of a loader until `num` samples have come."""
    sizes, count = {entry.key: num_bytes(entry) for entry in index.entries}, 0
    for loaded in DataLoader(data, batch_size=None, num_workers=workers):
        keys = [*loaded.keys, *(bad.key for bad in loaded.bad)]
        count += len(keys)
        yield len(keys), sum(sizes[key] for key in keys)
        if count >= num:
            return


def num_bytes(entry: Entry) -> int:
    """Of all members of a sample."""
    return sum(member.num_bytes for member in entry.members.values())


def compare(loaders: Mapping[str, Callable[[], Iterator[Step]]], rounds: int) -> dict[str, dict[str, Any]]:
    """name -> samples_per_s and mb_per_s (10^6), medians of the runs, and samples a second of each run."""
    # loaders take turns, so that all meet the same noise; starting up isn't counted
    runs: dict[str, list[np.ndarray]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, start in loaders.items():
            steps = start()
            next(steps)
            start_s = time.perf_counter()
            counts = np.array(list(steps))  # (steps, 2): samples, bytes
            runs[name].append(counts.sum(0) / (time.perf_counter() - start_s))
    out = {}
    for name, speeds in runs.items():
        samples, size = np.median(speeds, 0).tolist()
        out[name] = {
            "samples_per_s": round(samples, 2), "mb_per_s": round(size / 1e6, 1),
            "runs": [round(float(speed), 2) for speed, _ in speeds],
        }  # fmt: skip
    return out


def memory_along(steps: Iterator[Step], samples: int) -> dict[str, float]:
    """Resident MB (10^6) of this process and its workers along an epoch, and its first and last tenth."""
    count, rows = 0, []
    for num, _ in steps:
        count += num
        pages = 0
        for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        rows.append((count, round(pages * PAGE / 1e6, 1)))
    first = max(mb for at, mb in rows if at <= max(rows[0][0], samples / 10))
    last = max((mb for at, mb in rows if at >= 0.9 * samples), default=0.0)
    return {"samples": count, "first_mb": first, "last_mb": last, "peak_mb": max(mb for _, mb in rows)}


def table(figures: dict[str, Any]) -> Sequence[str]:
    """Lines of a table of `bench`'s figures."""
    lines = [
        f"{figures['samples']} samples of {figures['mb_per_sample']} MB ({figures['hours_per_sample']} h), "
        f"{figures['workers']} workers, median of {figures['rounds']} runs that took turns",
        f"{'loader':<12}{'samples/s':>12}{'MB/s':>10}{'of webdataset':>16}",
    ]
    for name, speed in figures["speeds"].items():
        ratio = figures["of_webdataset"].get(name, 1.0)
        lines.append(f"{name:<12}{speed['samples_per_s']:>12}{speed['mb_per_s']:>10}{ratio:>16.0%}")
    return lines + [
        f"{name}: {memory['first_mb']:.0f} MB in the first tenth of {memory['samples']} samples, "
        f"{memory['last_mb']:.0f} MB in the last, at most {memory['peak_mb']:.0f} MB (with workers)"
        for name, memory in figures["memory"].items()
    ]
