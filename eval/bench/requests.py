"""Cases of `bench throughput`: many clips at once, each with a question of its own.

All requests are there at the start. "one by one" compresses and asks a clip, then the next. "batched"
compresses one clip after another, then asks all in one batch of unequal rows. "threads" compresses in as many
threads as there are cores, then asks the same batch. A provider is timed only if it gives the memories and
answers of "one by one".
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...memory import VideoMemory, ask_each
from ...model import LongCompress
from ...presets import load
from ...session import compress
from ...synthetic.questions import ask
from ...synthetic.scenes import make_scene, write_video
from .rows import Job, Row, failed_row, make_row
from .stages import differences
from .timer import in_own_process, peaks_gb, synchronize, timed

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
    served = Served([], [], [], 0.0)
    start_s = time.perf_counter()
    for request in requests:
        clip_start_s = time.perf_counter()
        memory = compress(model, request.video, budget=budget, progress=False)
        synchronize(model.device)
        served = served._replace(compress_s=served.compress_s + time.perf_counter() - clip_start_s)
        served.answers.append(memory.ask(request.question).text)
        served.done_s.append(time.perf_counter() - start_s)
        served.memories.append(memory)
    return served


def batched(model: LongCompress, requests: Sequence[Request], budget: int, *, workers: int = 1) -> Served:
    """All clips compressed, by several threads at once, then one batch of questions."""
    start_s = time.perf_counter()
    read = lambda request: compress(model, request.video, budget=budget, progress=False)  # noqa: E731
    with ThreadPoolExecutor(workers) as pool:
        memories = list(pool.map(read, requests)) if workers > 1 else [read(r) for r in requests]
    synchronize(model.device)
    compress_s = time.perf_counter() - start_s
    answers = [answer.text for answer in ask_each(memories, [request.question for request in requests])]
    return Served(answers, memories, [time.perf_counter() - start_s] * len(requests), compress_s)


PROVIDERS: dict[str, Callable[[LongCompress, Sequence[Request], int], Served]] = {
    ONE_BY_ONE: one_by_one, BATCHED: batched, THREADS: partial(batched, workers=os.cpu_count() or 1),
}  # fmt: skip


def request_rows(
    name: str, device: str, dtype: str | None, folder: Path, clips: int, seconds: float, budget: int,
    repeat: int, settings: Mapping[str, Any],
) -> Iterator[Row]:  # fmt: skip
    """The figures of `clips` clips at once, measured in a process of its own."""
    make_requests(folder, clips, seconds)
    arguments = (name, device, dtype, str(folder), clips, seconds, budget, repeat, dict(settings))
    yield from (Row(**values) for values in in_own_process(serve_in_this_process, *arguments))


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
        questions = [
            q for kind in kinds
            for q in ask(scene.events, scene.duration_s, num=1, generator=random, kinds=(kind,))
        ]  # fmt: skip
        requests.append(Request(str(path), questions[0].text if questions else "What happens first?"))
    return requests


def serve_in_this_process(
    name: str, device: str, dtype: str | None, folder: str, clips: int, seconds: float, budget: int,
    repeat: int, settings: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of `serve`, as dictionaries."""
    model, requests = load(name, device=device, dtype=dtype), make_requests(Path(folder), clips, seconds)
    settings |= {"seconds": seconds, "budget": budget}
    return [asdict(row) for row in serve(model, requests, budget, repeat, settings)]


def serve(
    model: LongCompress, requests: Sequence[Request], budget: int, repeat: int, settings: dict[str, Any]
) -> Iterator[Row]:
    """The rows of every provider; one that gives other answers or memories has a row with its error."""
    expected = one_by_one(model, requests, budget)
    providers = {ONE_BY_ONE: PROVIDERS[ONE_BY_ONE]}
    job = Job("requests", "compress and ask", "", "clips", len(requests), settings=settings)
    for name in (BATCHED, THREADS):
        if wrong := changed(requests, PROVIDERS[name](model, requests, budget), expected):
            error = f"{len(wrong)} of {len(requests)} clips differ: {'; '.join(wrong)}; nothing is timed"
            yield failed_row(job._replace(provider=name), error)
        else:
            providers[name] = PROVIDERS[name]
        if name == BATCHED:  # before any threads
            for of, peak in peaks_gb(model.device).items():
                yield make_row(job, [peak], f"memory of the {of}", "GB", provider=name)
    work = {n: partial(lambda f, _: f(model, requests, budget), f) for n, f in providers.items()}
    for name, runs in timed(work, repeat, model.device, warm_up=0, keep_results=True).items():
        # rates of the whole and of both halves, and the time until 50 and 95 % of the answers are there
        served = [run.result for run in runs]
        rates = {
            "compress and ask": [run.done_s[-1] for run in served],
            "compress": [run.compress_s for run in served],
            "ask": [run.done_s[-1] - run.compress_s for run in served],
        }
        for case, seconds in rates.items():
            values = [len(requests) / s for s in seconds]
            yield make_row(job, values, "rate", "requests/s", case=case, provider=name)
        for metric, quantile in (("p50", 0.5), ("p95", 0.95)):
            values = [float(np.quantile(run.done_s, quantile, method="inverted_cdf")) for run in served]
            yield make_row(job, values, metric, "s", provider=name)


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
