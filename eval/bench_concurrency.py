"""Many clips at once, each with a question of its own: `longcompress bench concurrency`.

    longcompress bench concurrency --clips 1 2 4 8 16 32 --out eval/results/concurrency.csv

A request is a drawn video nobody has seen and a question about it; all requests are there at the start. Three
ways: "one by one" compresses and asks a video, then the next; "batched" compresses the list, then asks all in one
batch of unequal rows (`ask_each`); "threads" compresses in as many threads as there are cores and asks the same
batch. The list form of `compress` decodes and encodes one video after another today, so "batched" batches the
language model alone, and all its answers come at the end. Every number of clips has a process of its own,
whose peak of memory is read when the batch was answered, before any threads. Nothing is timed unless the
batch answers what the videos answer one at a time; threads are left out where they change an answer or a
memory.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..memory import VideoMemory, ask_each
from ..model import LongCompress
from ..presets import load
from ..session import compress
from ..synthetic.questions import ask
from ..synthetic.scenes import make_scene, read_truth, write_video
from .bench_pipeline import in_own_process, peaks_gb
from .bench_rows import Row, line, median, save
from .stages import synchronize, tensors_of
from .tasks.synthetic import QA_SEED

MODULE = "longcompress.eval.bench_concurrency"
KINDS = ("when_seen", "when_heard", "first_after", "count", "while")  # of questions, in turn
ALONE, BATCHED, THREADS = "one by one", "batched", "threads"


@dataclass(frozen=True)
class Request:
    """A video and what is asked about it."""

    video: str
    question: str


@dataclass(frozen=True)
class Served:
    """What came of requests.

    Attributes:
        answers: to each.
        held: what each memory holds.
        done_s: seconds from the start to each answer.
        compress_s: seconds of compressing all.
    """

    answers: list[str]
    held: list[dict[str, Tensor]]
    done_s: list[float]
    compress_s: float


def one_by_one(model: LongCompress, requests: Sequence[Request], budget: int) -> Served:
    """Each video compressed and asked before the next."""
    answers, held, done_s = [], [], []
    begin, compress_s = time.perf_counter(), 0.0
    for request in requests:
        start = time.perf_counter()
        memory = compress(model, request.video, budget, progress=False)
        synchronize(model.device)
        compress_s += time.perf_counter() - start
        answers.append(memory.ask(request.question).text)
        done_s.append(time.perf_counter() - begin)
        held.append(tensors_of(memory))
    return Served(answers, held, done_s, compress_s)


def batched(model: LongCompress, requests: Sequence[Request], budget: int) -> Served:
    """The list form of `compress`, then one batch of questions."""
    return _compressed_then_asked(
        model, requests, lambda videos: compress(model, videos, budget, progress=False)
    )


def threads(model: LongCompress, requests: Sequence[Request], budget: int) -> Served:
    """As many videos compressed at once as there are cores, then one batch of questions."""

    def compress_all(videos: list[str]) -> list[VideoMemory]:
        with ThreadPoolExecutor(min(len(videos), os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda video: compress(model, video, budget, progress=False), videos))

    return _compressed_then_asked(model, requests, compress_all)


def _compressed_then_asked(
    model: LongCompress, requests: Sequence[Request], compress_all: Callable[[list[str]], list[VideoMemory]]
) -> Served:
    begin = time.perf_counter()
    memories = compress_all([request.video for request in requests])
    synchronize(model.device)
    compress_s = time.perf_counter() - begin
    answers = [answer.text for answer in ask_each(memories, [request.question for request in requests])]
    done_s = [time.perf_counter() - begin] * len(requests)
    return Served(answers, [tensors_of(memory) for memory in memories], done_s, compress_s)


METHODS: dict[str, Callable[[LongCompress, Sequence[Request], int], Served]] = {
    ALONE: one_by_one, BATCHED: batched, THREADS: threads,
}  # fmt: skip


def measure(
    model: str = "tiny", clips: Sequence[int] = (1, 2, 4, 8, 16, 32), seconds: float = 30.0,
    budget: int = 256, repeat: int = 3, device: str | None = None, dtype: str | None = None,
    work: str | None = None,
) -> list[Row]:  # fmt: skip
    """The figures of several numbers of clips; see the top of the file.

    Args:
        model: preset, folder or hub name.
        clips: how many at once.
        seconds: length of each.
        budget: tokens of each memory.
        repeat: timed runs.
        device: "cpu" or "cuda"; the GPU if there is one.
        dtype: of encoders and language model; float32 on a CPU, bfloat16 on a GPU if not given.
        work: folder where the clips are kept for the next time; none are kept if not given.

    Raises:
        ValueError: where the batch answers something else than the videos one at a time.
    """
    if repeat < 1 or min(clips) < 1:
        raise ValueError(f"repeat and clips must be at least 1, got {repeat} and {min(clips)}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        place = work or folder
        requests_of(Path(place), max(clips), seconds)
        words = ["--model", model, "--seconds", str(seconds), "--budget", str(budget), "--work", str(place)]
        words += ["--repeat", str(repeat), "--device", device, *(["--dtype", dtype] if dtype else [])]
        for num in clips:
            said = in_own_process(MODULE, ["--once", str(num), *words])
            if said["left_out"]:
                print(said["left_out"], flush=True)
            for row in said["rows"]:
                rows.append(Row(**row))
                print(line(rows[-1]), flush=True)
    return rows


def requests_of(work: Path, num: int, seconds: float) -> list[Request]:
    """So many drawn clips in `work`, made where they aren't there, each with a question about it."""
    work.mkdir(parents=True, exist_ok=True)
    requests = []
    for i in range(num):
        path = work / f"clip_{seconds:g}s_{i:03d}.mp4"
        if not path.is_file():
            write_video(make_scene(QA_SEED + i, seconds), path)
        scene = read_truth(path)
        random = np.random.default_rng([11, i])
        kinds = [KINDS[i % len(KINDS)], *KINDS]  # the first that the clip has an answer to
        asked = [
            q for kind in kinds
            for q in ask(scene.events, scene.duration_s, num=1, generator=random, kinds=(kind,))
        ]  # fmt: skip
        requests.append(Request(str(path), asked[0].text if asked else "What happens first?"))
    return requests


def serve(
    model: LongCompress, requests: Sequence[Request], budget: int, repeat: int, settings: dict[str, Any]
) -> tuple[list[Row], str]:
    """(rows of so many requests at once, what is to be said of threads where they are left out).

    Raises:
        ValueError: the batch answers something else than the videos one at a time.
    """
    want = one_by_one(model, requests, budget)
    if wrong := differences(requests, batched(model, requests, budget), want):
        raise ValueError(
            f"{len(wrong)} of {len(requests)} clips differ in a batch: {'; '.join(wrong)}; nothing is timed"
        )
    methods, left_out, peaks = [ALONE, BATCHED], "", peaks_gb(model.device)
    if wrong := differences(requests, threads(model, requests, budget), want):
        left_out = f"{len(requests)} clips: threads are left out, they differ for {'; '.join(wrong)}"
    else:
        methods.append(THREADS)
    rows: list[Row] = []
    for name, runs in timed(model, requests, budget, methods, repeat).items():
        rows += _rows(name, runs, settings | {"budget": budget})
        if name == BATCHED:
            for of, peak in peaks.items():
                told = settings | {"budget": budget, "of": of}
                rows.append(_row("watch and ask", name, "all", ("memory", "GB"), len(requests), [peak], told))
    return rows, left_out


def differences(requests: Sequence[Request], got: Served, want: Served) -> list[str]:
    """What is to be said of each clip with another answer or, not to the bit, another memory."""
    wrong = []
    for i, request in enumerate(requests):
        name, held, alone = Path(request.video).name, got.held[i], want.held[i]
        if got.answers[i] != want.answers[i]:
            wrong.append(f"{name} ({request.question}) {got.answers[i]!r}, alone {want.answers[i]!r}")
        elif held.keys() != alone.keys() or not all(torch.equal(held[n], alone[n]) for n in held):
            wrong.append(f"{name} (another memory)")
    return wrong


def timed(
    model: LongCompress, requests: Sequence[Request], budget: int, methods: Sequence[str], repeat: int
) -> dict[str, list[Served]]:
    """Runs of each way, in turns."""
    runs: dict[str, list[Served]] = {name: [] for name in methods}
    for _ in range(repeat):
        for name in methods:
            runs[name].append(METHODS[name](model, requests, budget))
    return runs


def _rows(provider: str, runs: list[Served], settings: dict[str, Any]) -> list[Row]:
    """Rates of the whole and of its two halves, and the time until half and 95 % of the answers are there."""
    clips, whole_s = len(runs[0].answers), [run.done_s[-1] for run in runs]
    ask_s = [s - run.compress_s for s, run in zip(whole_s, runs, strict=True)]
    figures = {
        ("watch and ask", "all", "rate", "requests/s"): [clips / s for s in whole_s],
        ("compress", "all", "rate", "clips/s"): [clips / run.compress_s for run in runs],
        ("ask", "all", "rate", "requests/s"): [clips / s for s in ask_s],
    }
    for mode, share in (("p50", 0.5), ("p95", 0.95)):
        late = [float(np.quantile(run.done_s, share, method="inverted_cdf")) for run in runs]
        figures["watch and ask", mode, "latency", "s"] = late
    return [
        _row(what, provider, mode, (metric, unit), clips, found, settings)
        for (what, mode, metric, unit), found in figures.items()
    ]


def _row(
    what: str, provider: str, mode: str, kind: tuple[str, str], clips: int, found: list[float],
    settings: dict[str, Any],
) -> Row:  # fmt: skip
    return Row(
        "concurrency", what, provider, mode, *kind, "clips", clips, *median(found), len(found), settings
    )


def main() -> None:
    """`measure` with the flags of the command line; prints a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="preset, folder or hub name")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="how many at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each")
    parser.add_argument("--budget", type=int, default=256, help="tokens of each memory")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs")
    parser.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--dtype", help="float32, bfloat16, ...; on a GPU bfloat16 if not given")
    parser.add_argument("--work", help="folder where the clips are kept for the next time")
    parser.add_argument("--out", help="CSV file for the figures; its rows of this benchmark are replaced")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--begun", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        model = load(given.model, device=given.device, dtype=given.dtype)
        requests = requests_of(Path(given.work), given.once, given.seconds)
        dtype = str(next(model.llm.lm.parameters()).dtype).removeprefix("torch.")
        told = {"model": given.model, "dtype": dtype, "seconds": given.seconds}
        rows, left_out = serve(model, requests, given.budget, given.repeat, told)
        print(json.dumps({"rows": [asdict(row) for row in rows], "left_out": left_out}))
        return
    rows = measure(
        given.model, given.clips, given.seconds, given.budget, given.repeat, given.device, given.dtype,
        given.work,
    )  # fmt: skip
    if given.out:
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        save(given.out, rows, given.device or ("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
