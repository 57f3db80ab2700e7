"""How fast shards are read, and in what memory: a plain webdataset loader, our bytes, our examples."""

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ...model import LongCompress
from ..data.dataset import QuestionSampling, ShardData
from ..data.sampler import Mixture
from .index import Index

Step = tuple[int, int]  # samples and bytes that came
PAUSE_S = 0.02
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Speed:
    """What a loader gave.

    Attributes:
        loader: its name.
        samples_per_s: median over the runs.
        mb_per_s: likewise, of the members' bytes (10^6) as they lie in the shards.
        runs: samples a second of each run.
    """

    loader: str
    samples_per_s: float
    mb_per_s: float
    runs: list[float]


@dataclass(frozen=True)
class Growth:
    """Resident memory of a loader's process and workers along an epoch, in MB (10^6).

    Attributes:
        loader: its name.
        samples: of the epoch.
        first_mb: most in its first tenth.
        last_mb: most in its last tenth.
        peak_mb: most at any time.
    """

    loader: str
    samples: int
    first_mb: float
    last_mb: float
    peak_mb: float


def repeated(index: Index, num: int) -> Index:
    """An index of `num` samples that are those of `index` again and again, each under a key of its own.

    For measuring only, and never saved: its entries share their bytes.
    """
    entries = list(islice(cycle(index.entries), num))
    return replace(index, entries=tuple(replace(e, key=f"{e.key}-{i}") for i, e in enumerate(entries)))


def bench(
    index: Index, model: LongCompress | None, *, samples: int, workers: int, rounds: int, budget: int,
    repeat: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Figures as a JSON object: speeds of all loaders, their share of webdataset's, memory along an epoch.

    Args:
        index: of shards in a folder.
        model: compresses features; None: bytes only.
        samples: of a run; those of the index are repeated to as many.
        workers: loader processes of each loader.
        rounds: runs of each loader; they take turns.
        budget: tokens that videos are compressed to.
        repeat: samples, had likewise, of the epoch that memory of our loaders is measured along; 0: not.

    Raises:
        ValueError: numbers below 1, or an index below a URL.
        ImportError: webdataset is not installed.
    """
    if min(samples, workers, rounds) < 1:
        raise ValueError(f"samples, workers and rounds must be >= 1, got {samples}, {workers} and {rounds}")
    if not isinstance(index.folder, Path):
        raise ValueError(f"bench reads a folder, got {index.folder}")
    epoch, long = repeated(index, samples), repeated(index, repeat)
    loaders: dict[str, Callable[[], Iterator[Step]]] = {
        "webdataset": lambda: plain(index, samples, workers),
        "bytes": lambda: by_ranges(epoch, workers),
    }
    if model is not None:
        loaders["examples"] = lambda: compressed(epoch, model, workers, budget)
    along: dict[str, Callable[[], Iterator[Step]]] = {}
    if repeat:
        along["bytes"] = lambda: by_ranges(long, workers)
        if model is not None:
            along["examples"] = lambda: compressed(long, model, workers, budget)
    speeds = compare(loaders, rounds)
    held = [sum(member.num_bytes for member in entry.members.values()) for entry in epoch.entries]
    return {
        "samples": samples, "stored": len(index), "workers": workers, "rounds": rounds, "budget": budget,
        "mb_per_sample": round(statistics.fmean(held) / 1e6, 3),
        "hours_per_sample": round(statistics.fmean(e.duration_s for e in epoch.entries) / 3600, 3),
        "speeds": [vars(speed) for speed in speeds.values()],
        "of_webdataset": {
            name: round(speed.samples_per_s / speeds["webdataset"].samples_per_s, 3)
            for name, speed in speeds.items()
            if name != "webdataset"
        },
        "memory": [vars(growth(name, make(), repeat)) for name, make in along.items()],
    }  # fmt: skip


def plain(index: Index, samples: int, workers: int) -> Iterator[Step]:
    """webdataset's own reading of the tars from end to end, undecoded, as often as makes so many samples.

    WDS_SECURE=1 forbids what runs code, and with it webdataset's own opening of files: we hand it open ones.
    """
    assert isinstance(index.folder, Path)
    os.environ["WDS_SECURE"] = "1"  # read when webdataset is imported
    try:
        import webdataset
    except ImportError as error:
        raise ImportError(
            f"the bench needs webdataset ({error}): pip install 'longcompress[bench]'"
        ) from error
    paths = [str(index.folder / shard.name) for shard in index.shards]
    times = -(-samples // len(index)) + 1
    stream = webdataset.DataPipeline(
        webdataset.SimpleShardList(paths * (times * workers)), webdataset.split_by_worker, _opened,
        webdataset.tariterators.tar_file_expander, webdataset.tariterators.group_by_keys,
    )  # fmt: skip
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    for sample in islice(loader, samples):
        yield 1, sum(len(value) for name, value in sample.items() if not name.startswith("__"))


def by_ranges(index: Index, workers: int, seed: int = 0) -> Iterator[Step]:
    """`Index.read` in the order of an epoch, undecoded."""
    order: list[int] = index.order(seed, 0).tolist()
    loader = DataLoader(Bytes(index), batch_size=None, sampler=order, num_workers=workers)
    for members in loader:
        yield 1, sum(map(len, members.values()))


def compressed(index: Index, model: LongCompress, workers: int, budget: int, seed: int = 0) -> Iterator[Step]:
    """The whole loader: examples of videos compressed to `budget`, some eight a batch."""
    held = {e.key: sum(member.num_bytes for member in e.members.values()) for e in index.entries}
    data = ShardData(
        Mixture([index]), model, QuestionSampling(), seed=seed, tokens=8 * budget, budgets=(budget,)
    )
    loader, came = DataLoader(data, batch_size=None, num_workers=workers), 0
    for loaded in loader:
        keys = [*loaded.keys, *(bad.key for bad in loaded.bad)]
        came += len(keys)
        yield len(keys), sum(held[key] for key in keys)
        if came >= len(index):
            return


class Bytes(Dataset[dict[str, bytes]]):
    """Members of samples by number."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, bytes]:
        return self.index.read(number)


def compare(loaders: dict[str, Callable[[], Iterator[Step]]], rounds: int) -> dict[str, Speed]:
    """name -> speed. Loaders take turns, so that all meet the same noise; starting up isn't counted."""
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, make in loaders.items():
            steps = make()
            next(steps)
            begin_s, samples, num_bytes = time.perf_counter(), 0, 0
            for more, size in steps:
                samples, num_bytes = samples + more, num_bytes + size
            elapsed_s = time.perf_counter() - begin_s
            runs[name].append((samples / elapsed_s, num_bytes / elapsed_s / 1e6))
    return {
        name: Speed(
            name,
            round(statistics.median(speed for speed, _ in found), 2),
            round(statistics.median(mb for _, mb in found), 1),
            [round(speed, 2) for speed, _ in found],
        )
        for name, found in runs.items()
    }


def growth(name: str, steps: Iterator[Step], samples: int) -> Growth:
    """Resident memory while a loader gives an epoch of so many samples."""
    came = 0
    with _sampled(lambda: came) as seen:
        for more, _ in steps:
            came += more
    first = [mb for at, mb in seen if 0 < at <= samples / 10]
    last = [mb for at, mb in seen if 0.9 * samples <= at < samples]
    peak = max(mb for _, mb in seen)
    return Growth(name, came, max(first, default=peak), max(last, default=peak), peak)


@contextmanager
def _sampled(progress: Callable[[], int]) -> Iterator[list[tuple[int, float]]]:
    """A growing list of (progress, resident MB of this process and its children), Linux only."""
    seen: list[tuple[int, float]] = []
    done = threading.Event()

    def compress() -> None:
        while True:
            seen.append((progress(), _resident_mb()))
            if done.wait(PAUSE_S):
                return

    thread = threading.Thread(target=compress)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _resident_mb() -> float:
    total = 0
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return round(total * PAGE / 1e6, 1)


def _opened(urls: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for given in urls:
        with open(given["url"], "rb") as stream:
            yield given | {"stream": stream}


def table(told: dict[str, Any]) -> Sequence[str]:
    """Lines of a table of `bench`'s figures."""
    head = f"{told['samples']} samples of {told['mb_per_sample']} MB ({told['hours_per_sample']} h), "
    lines = [
        head + f"{told['workers']} workers, median of {told['rounds']} runs that took turns",
        f"{'loader':<12}{'samples/s':>12}{'MB/s':>10}{'of webdataset':>16}",
    ]
    for speed in told["speeds"]:
        share = told["of_webdataset"].get(speed["loader"], 1.0)
        lines.append(
            f"{speed['loader']:<12}{speed['samples_per_s']:>12}{speed['mb_per_s']:>10}{share:>16.0%}"
        )
    for one in told["memory"]:
        lines.append(
            f"{one['loader']}: {one['first_mb']:.0f} MB in the first tenth of {one['samples']} samples, "
            f"{one['last_mb']:.0f} MB in the last, at most {one['peak_mb']:.0f} MB (with workers)"
        )
    return lines
