"""Cases of `bench throughput`: many clips at once, each with a question of its own.

All requests are there at the start. "one by one" compresses and asks a clip, then the next. "batched"
compresses one clip after another, then asks all in one batch of unequal rows. "threads" compresses in as many
threads as there are cores, then asks the same batch. A provider is timed only if it gives the memories and
answers of "one by one".
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...memory import VideoMemory, ask_each
from ...model import LongCompress
from ...presets import load
from ...synthetic.questions import ask
from ...synthetic.scenes import make_scene, write_video
from ...videos import compress
from .rows import Row
from .stages import differences
from .timer import in_own_process, peaks_gb, stopwatch, timed

KINDS = ("when_seen", "when_heard", "first_after", "count", "while")  # of questions, in turn
FIRST_SEED = 10_000_000  # of clips nobody trained on
ONE_BY_ONE, BATCHED, THREADS = "one by one", "batched", "threads"


class Request(NamedTuple):
    """A clip and a question about it."""

    video: str
    question: str


class Served(NamedTuple):
    """The results of requests: answers, memories, seconds until each answer, seconds of compressing all."""

    answers: list[str]
    memories: list[VideoMemory]
    done_s: list[float]
    compress_s: float


def one_by_one(model: LongCompress, requests: Sequence[Request], budget: int) -> Served:
    """Each clip compressed and asked before the next."""
    answers, memories, done_s, compress_s = [], [], [], 0.0
    lap, passed_s = stopwatch(model.device), 0.0
    for request in requests:
        memories.append(compress(model, request.video, budget=budget, progress=False))
        clip_s = lap()
        answers.append(memories[-1].ask(request.question).text)
        compress_s, passed_s = compress_s + clip_s, passed_s + clip_s + lap()
        done_s.append(passed_s)
    return Served(answers, memories, done_s, compress_s)


def batched(model: LongCompress, requests: Sequence[Request], budget: int, *, workers: int = 1) -> Served:
    """All clips compressed, by several threads at once, then one batch of questions."""
    lap = stopwatch(model.device)
    read = lambda request: compress(model, request.video, budget=budget, progress=False)  # noqa: E731
    with ThreadPoolExecutor(workers) as pool:
        memories = list(pool.map(read, requests)) if workers > 1 else [read(r) for r in requests]
    compress_s = lap()
    answers = [answer.text for answer in ask_each(memories, [request.question for request in requests])]
    return Served(answers, memories, [compress_s + lap()] * len(requests), compress_s)


PROVIDERS: dict[str, Callable[[LongCompress, Sequence[Request], int], Served]] = {
    ONE_BY_ONE: one_by_one, BATCHED: batched, THREADS: partial(batched, workers=os.cpu_count() or 1),
}  # fmt: skip


def request_rows(
    row: Row, how: dict[str, Any], folder: Path, seconds: float, budget: int, repeat: int
) -> Iterator[Row]:
    """The figures of `row.x` clips at once, measured in a process of its own."""
    requests = make_requests(folder, int(row.x), seconds)
    row = replace(row, settings=row.settings | {"seconds": seconds, "budget": budget})
    yield from in_own_process(serve_in_this_process, row, how, requests, budget, repeat)


def make_requests(folder: Path, num: int, seconds: float) -> list[Request]:
    """Synthetic clips in `folder`, made where they aren't there, each with a question about it."""
    folder.mkdir(parents=True, exist_ok=True)
    requests = []
    for i in range(num):
        path = folder / f"clip_{seconds:g}s_{i:03d}.mp4"
        scene = make_scene(FIRST_SEED + i, seconds)
        if not path.is_file():
            write_video(scene, path)
        random = np.random.default_rng([11, i])
        kinds = [KINDS[i % len(KINDS)], *KINDS]  # the first that the clip has an answer to
        asked = (ask(scene.events, seconds, num=1, generator=random, kinds=(kind,)) for kind in kinds)
        question = next((questions[0].text for questions in asked if questions), "What happens first?")
        requests.append(Request(str(path), question))
    return requests


def serve_in_this_process(row: Row, how: dict[str, Any], *arguments: Any) -> list[Row]:
    """The rows of `serve` of a model that is loaded for it."""
    return list(serve(row, load(**how), *arguments))


def serve(
    row: Row, model: LongCompress, requests: Sequence[Request], budget: int, repeat: int
) -> Iterator[Row]:
    """The rows of every provider; one that gives other answers or memories has a row with its error."""
    work = {name: partial(provider, model, requests, budget) for name, provider in PROVIDERS.items()}
    expected = work[ONE_BY_ONE]()
    row = replace(row, case="compress and ask")
    for name in (BATCHED, THREADS):
        if wrong := changed(requests, work[name](), expected):
            error = f"{len(wrong)} of {len(requests)} clips differ: {'; '.join(wrong)}; nothing is timed"
            yield row.failed(error, provider=name)
            del work[name]
        if name == BATCHED:  # before any threads
            for of, peak in peaks_gb(model.device).items():
                yield row.figure([peak], f"memory of the {of}", "GB", provider=name)
    for name, runs in timed(work, repeat, model.device, warm_up=0, keep_results=True).items():
        # rates of the whole and of both halves, and the time until 50 and 95 % of the answers are there
        served, row = [run.result for run in runs], replace(row, provider=name)
        for case, seconds in (
            ("compress and ask", [run.done_s[-1] for run in served]),
            ("compress", [run.compress_s for run in served]),
            ("ask", [run.done_s[-1] - run.compress_s for run in served]),
        ):
            yield row.figure((len(requests) / s for s in seconds), "rate", "requests/s", case=case)
        for metric, quantile in (("p50", 0.5), ("p95", 0.95)):
            times = (float(np.quantile(run.done_s, quantile, method="inverted_cdf")) for run in served)
            yield row.figure(times, metric, "s")


def changed(requests: Sequence[Request], served: Served, expected: Served) -> list[str]:
    """A text for each clip with another answer or, not to the bit, another memory."""
    wrong = []
    for i, (video, question) in enumerate(requests):
        answer, other = served.answers[i], expected.answers[i]
        if answer != other:
            wrong.append(f"{Path(video).name} ({question}) {answer!r}, alone {other!r}")
        elif different := differences(served.memories[i], expected.memories[i]):
            wrong.append(f"{Path(video).name} (another memory: {different})")
    return wrong
