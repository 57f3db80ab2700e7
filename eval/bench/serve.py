"""The server under load: `longcompress bench serve`.

    longcompress bench serve --out eval/results/serve.csv --clients 1 8 32 --seconds 30

All clients begin at the same time. "distinct": each has a video of its own. "repeated": all have the same
video. Cold: no video was read before. Warm: the same requests again. Beside them, one by one: a client that
sends the distinct requests one after another to a server of its own. The server is a process of its own.

`--soak-minutes 30` instead sends requests without end, and gives the slope of the server's memory behind the
first fifth of the time, and the number of answers. A request without an answer ends it.
"""

import base64
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from .requests import Request, make_requests
from .rows import Recorder, Row
from .timer import resident_mb

CHAT = "/chat/completions"
WARM_UP = 0.2  # of a soak's time, in which memory may grow
MANY, TOKEN_GB = 10, 2e-6  # of a soak: rounds whose files have room, and about what a token takes in them


def bench_serve(
    out: str | None = None, model: str = "tiny", clients: list[int] | None = None, seconds: float = 30.0,
    budget: int = 256, soak_minutes: float = 0.0, work: str | None = None,
) -> int:  # fmt: skip
    """Time requests of many clients; exit code 1 if one of them had no answer.

    Args:
        out: CSV file of the figures; its rows of the same groups are replaced.
        model: preset, folder or hub name.
        clients: at a time; 1, 2, 4, ... 64 if not given. A soak has the first number, else 4.
        seconds: length of each video.
        budget: tokens of the memories.
        soak_minutes: 0 for the load; otherwise how long requests are sent without end.
        work: folder where videos are kept for the next time; none are kept if not given.
    """
    suite = "soak" if soak_minutes else "serve"
    recorder = Recorder(out, "cpu", [suite])
    settings = {"model": model, "seconds": seconds, "budget": budget}
    with tempfile.TemporaryDirectory() as folder:
        videos = Path(work or folder)
        if soak_minutes:
            row = Row(suite, "soak", x_name="minutes", x=soak_minutes, settings=settings)
            recorder.run(row, _soak, videos, (clients or [4])[0])
        else:
            for num in clients or [1, 2, 4, 8, 16, 32, 64]:
                row = Row(suite, "load", x_name="clients", x=num, settings=settings)
                recorder.run(row, _load, videos)
    return int(recorder.num_failed > 0)


@contextmanager
def server(model: str, loaded: int = 64, memories_gb: float = 10.0) -> Iterator[tuple[httpx.Client, int]]:
    """A client, and the process id, of a server with an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--client-requests", "64", "--client-minute", "1000000"]
        flags += ["--loaded", str(loaded), "--memories-gb", str(memories_gb)]
        words = ["serve", "--model", model, "--port", "0", "--folder", folder, *flags]
        command = [sys.executable, "-m", "longcompress", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().split()[-1]
                limits = httpx.Limits(max_connections=64)
                with httpx.Client(base_url=address, timeout=3600, trust_env=False, limits=limits) as client:
                    yield client, process.pid
            finally:
                process.terminate()


def body(request: Request, budget: int) -> dict[str, Any]:
    """The JSON of a request: its video as a data URL."""
    url = "data:video/mp4;base64," + base64.b64encode(Path(request.video).read_bytes()).decode()
    content = [{"type": "text", "text": request.question}, {"type": "video_url", "video_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": content}], "longcompress": {"budget": budget}}


def send(client: httpx.Client, bodies: Sequence[dict[str, Any]], workers: int) -> tuple[list[float], float]:
    """(seconds until each answer, seconds in all); RuntimeError for a request without an answer."""

    def ask(body: dict[str, Any]) -> float:
        start_s = time.perf_counter()
        response = client.post(CHAT, json=body)
        if response.status_code != 200 or not response.json()["choices"][0]["message"]["content"]:
            raise RuntimeError(f"status {response.status_code}: {response.text[:200]}")
        return time.perf_counter() - start_s

    start_s = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        times = list(pool.map(ask, bodies))
    return times, time.perf_counter() - start_s


def _figures(row: Row, times: list[float], all_s: float, pid: int, **changes: Any) -> Iterator[Row]:
    yield row.figure([len(times) / all_s], "rate", "requests/s", **changes)
    for metric, quantile in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        value = float(np.quantile(times, quantile, method="inverted_cdf"))
        yield row.figure([value], metric, "s", **changes)
    yield row.figure([resident_mb(pid)], "memory", "MB", **changes)


def _load(row: Row, videos: Path) -> Iterator[Row]:
    num, model, budget = int(row.x), row.settings["model"], row.settings["budget"]
    bodies = [
        {"model": model} | body(request, budget)
        for request in make_requests(videos, num, row.settings["seconds"])
    ]
    for case, sent, workers in (
        ("distinct", bodies, num), ("repeated", bodies[:1] * num, num), ("distinct", bodies, 1),
    ):  # fmt: skip
        with server(model) as (client, pid):
            for kind in ("cold", "warm"):
                provider = f"{kind}, one by one" if workers == 1 else kind
                yield from _figures(row, *send(client, sent, workers), pid, case=case, provider=provider)
        if num == 1:
            return


def _soak(row: Row, videos: Path, workers: int) -> Iterator[Row]:
    """Requests about a few videos with a budget that changes without a trend. Those of the round before are
    sent again, so that memories are read, kept, loaded and removed all the time."""
    model, budget = row.settings["model"], row.settings["budget"]
    requests = make_requests(videos, workers, row.settings["seconds"])
    times: list[float] = []
    memory: list[tuple[float, float]] = []  # hours, MB
    before: list[dict[str, Any]] = []
    with server(model, loaded=workers + 1, memories_gb=MANY * workers * budget * TOKEN_GB) as (client, pid):
        start_s = time.monotonic()
        while (passed_s := time.monotonic() - start_s) < 60 * row.x:
            budgets = budget + 37 * len(memory) % 100
            bodies = [{"model": model} | body(r, budgets) for r in requests]
            round_s, _ = send(client, [*bodies, *before], workers)
            before = bodies
            times += round_s
            memory.append((passed_s / 3600, resident_mb(pid)))
        all_s = time.monotonic() - start_s
        behind = [point for point in memory if point[0] * 3600 > WARM_UP * all_s]
        hours, held = np.array(behind).T
        slope = float(np.polyfit(hours, held, 1)[0])
        yield from _figures(row, times, all_s, pid)
        yield row.figure([slope], "slope of memory", "MB/hour")
        yield row.figure([float(len(times))], "requests", "answers")
