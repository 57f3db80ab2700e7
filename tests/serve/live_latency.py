"""How long a frame takes to its scores over the socket, with `tiny` and a request that stands:

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests python tests/serve/live_latency.py

CPU time is that of all threads, also the client's, so it holds on a machine with other work.
"""

import tempfile
import time

import numpy as np
import torch

import longcompress as lc
from longcompress.media.thumbnails import to_jpeg
from longcompress.synthetic.scenes import frames, make_scene

from serving import Live, running

SECONDS, WARM = 120, 5


def main() -> None:
    """Print quantiles in milliseconds."""
    torch.set_num_threads(1)
    pixels = frames(make_scene(3, float(SECONDS)), np.arange(0, SECONDS, 1.0), size_px=320)
    rows = {"wall": [], "CPU": [], "CPU of the session": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(lc.load("tiny", device="cpu"), folder) as (app, client),
    ):
        alone, spent = app.engine.alone, []

        async def timed(call):
            def inside():
                start_s = time.thread_time()
                out = call()
                spent.append(time.thread_time() - start_s)
                return out

            return await alone(inside)

        app.engine.alone = timed
        with Live(client) as live:
            live.settings(scores=True, media=["video"])
            live.text("When is the red ball seen?", "may")
            for second, row in enumerate(pixels):
                jpeg = to_jpeg(row, 320, 320)
                start_s, cpu_s = time.perf_counter(), time.process_time()
                live.frame(jpeg, float(second))
                live.until("longcompress.scores")
                times = time.perf_counter() - start_s, time.process_time() - cpu_s, spent[-1]
                for values, elapsed_s in zip(rows.values(), times, strict=True):
                    values.append(1000 * elapsed_s)
    for name, values in rows.items():
        p50, p95, p99 = np.quantile(values[WARM:], (0.5, 0.95, 0.99))
        print(f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    main()
