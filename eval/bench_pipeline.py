"""Seconds from a video to an answer, stage by stage and as users run it: `longcompress bench pipeline`.

    longcompress bench pipeline --minutes 1 10 60 --budgets 256 1024 --out eval/results/pipeline.csv

Stages are those of `stages.py`, each alone. Cold is a fresh process: start, load, watch, first question; its
peaks of memory are those of the whole process. Warm is `compress` in a process that has run it before, and a
second question on its memory. All answers are 32 tokens long. Beside them the same language model reads all raw tokens,
none merged, where they fit its context. Nothing is timed unless the stages give the very memory and answer
that `compress` and `ask` give. Videos are 640 x 360, 25 frames a second, H.264 and AAC.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..files import replacing
from ..media.reader import probe
from ..model import LongCompress
from ..presets import load
from ..session import compress
from .bench_media import make_video
from .bench_memory import QUESTIONS, peak_mb
from .bench_rows import Row, line, median, save
from .stages import (
    LENGTH,
    NEW_TOKENS,
    OURS,
    SHARED,
    STAGES,
    Method,
    Run,
    check,
    check_same,
    compressing,
    staged,
    synchronize,
    ways_of,
)

MODULE = "longcompress.eval.bench_pipeline"


def measure(
    model: str = "tiny", minutes: Sequence[float] = (1, 10, 60), budgets: Sequence[int] = (256, 1024),
    repeat: int = 3, cold: int | None = None, device: str | None = None, work: str | None = None,
) -> list[Row]:  # fmt: skip
    """The figures of videos of several lengths; see the top of the file.

    Args:
        model: preset, folder or hub name.
        minutes: lengths of the videos; above 5, multiples of 5.
        budgets: tokens of the memories.
        repeat: timed runs.
        cold: fresh processes for each video and budget; as many as `repeat` if not given.
        device: "cpu" or "cuda"; the GPU if there is one.
        work: folder where videos are kept for the next time; none are kept if not given.

    Raises:
        ValueError: if a video can't be made, or the stages give another memory or answer than `compress`.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1 run, got {repeat}")
    loaded = load(model, device=device)
    dtype = str(next(loaded.llm.lm.parameters()).dtype).removeprefix("torch.")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            video = video_of(Path(work or folder), length)
            methods = ways_of(loaded, video, budgets)
            first = check(loaded, video, methods)
            made = warm_rows(loaded, video, methods, first, repeat)
            for method in methods:
                words = ["--once", str(video), "--model", model, "--device", str(loaded.device)]
                words += ["--provider", method.provider, "--budgets", str(method.budget)]
                runs = range(repeat if cold is None else cold)
                made += cold_rows(method, first, [in_own_process(MODULE, words) for _ in runs])
            for row in made:
                rows.append(replace(row, x=length, settings={"model": model, "dtype": dtype} | row.settings))
                print(line(rows[-1]), flush=True)
    return rows


def video_of(work: Path, minutes: float) -> Path:
    """The video of so many minutes in `work`, made if it isn't there."""
    path = work / f"video_{minutes:g}min.mp4"
    if not path.is_file():
        if shutil.which("ffmpeg") is None:
            raise ValueError("the ffmpeg command is needed to make the videos: apt-get install ffmpeg")
        work.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            make_video(part, minutes)
    duration_s = probe(path).duration_s or 0.0
    if abs(duration_s - 60 * minutes) > 1:
        raise ValueError(
            f"{path} must last {minutes:g} min, got {duration_s:.1f} s; above 5 minutes give multiples of 5"
        )
    return path


def warm_rows(
    model: LongCompress, video: Path, methods: Sequence[Method], first: Run, repeat: int
) -> list[Row]:
    """Rows of the stages, of `compress` and of a second question; every run must give what `first` gave."""
    runs = [staged(model, video, methods) for _ in range(repeat)]
    rows: list[Row] = []
    for stage in SHARED:
        if (stage, None) in first.spent:
            took = [run.spent[stage, None] for run in runs]
            rows += _rows(None, stage, "warm", took, first, frames=first.frames)
    for method in methods:
        raw = sum(float(tokens.size.sum()) for tokens in first.memories[method].streams.values())
        counts = {"merge": raw, "projector": first.prompts[method], "prefill": first.prompts[method]}
        for stage in STAGES[len(SHARED) :]:
            took = [run.seconds(stage, method) for run in runs]
            rows += _rows(method, stage, "warm", took, first, tokens=counts.get(stage, NEW_TOKENS))
        compressed, asked = [], []
        for run in runs:
            check_same(
                run.memories[method], first.memories[method], f"{video.name}, budget {method.budget}, again"
            )
            begin = time.perf_counter()
            with compressing(model, method):
                memory = compress(model, video, method.budget, progress=False)
            synchronize(model.device)
            compressed.append(time.perf_counter() - begin)
            check_same(memory, first.memories[method], f"{video.name}, budget {method.budget}, again")
            memory.ask(QUESTIONS[0], **LENGTH)
            begin = time.perf_counter()
            memory.ask(QUESTIONS[1], **LENGTH)
            asked.append(time.perf_counter() - begin)
        rows += _rows(method, "compress", "warm", compressed, first, frames=first.frames)
        rows += _rows(method, "ask", "warm", asked, first, tokens=NEW_TOKENS)
    return rows


def cold_rows(method: Method, run: Run, found: list[dict[str, float]]) -> list[Row]:
    """Rows of fresh processes: time of start, load, watch, ask and all of it, and peaks of memory."""
    rows: list[Row] = []
    for what in ("start", "load", "compress", "ask", "whole") if found else ():
        took = [one[f"{what}_s"] for one in found]
        rows += _rows(method, what, "cold", took, run, frames=run.frames if what == "compress" else 0)
        for of in ("process", "GPU"):
            if f"{what}_{of}_gb" in found[0]:
                peaks = [one[f"{what}_{of}_gb"] for one in found]
                rows.append(
                    _row(method, what, "cold", ("memory", "GB"), peaks, {**_about(method, run), "of": of})
                )
    return rows


def _rows(
    method: Method | None,
    what: str,
    mode: str,
    took: list[float],
    run: Run,
    *,
    frames: int = 0,
    tokens: float = 0,
) -> list[Row]:
    """The time, and the rates that follow from it."""
    told = _about(method, run)
    rows = [_row(method, what, mode, ("time", "s"), took, told)]
    counts = {"tokens/s": ("rate", tokens), "x real time": ("speed", run.duration_s if frames else 0)}
    counts["frames/s"] = ("rate", 0 if what == "audio encoder" else frames)
    for unit, (metric, count) in counts.items():
        if count:
            rows.append(_row(method, what, mode, (metric, unit), [count / s for s in took], told))
    return rows


def _about(method: Method | None, run: Run) -> dict[str, Any]:
    """Settings of a row; stages that all ways share have none of a budget."""
    told: dict[str, Any] = {"video_s": round(run.duration_s, 2), "new_tokens": NEW_TOKENS}
    if method is not None:
        told |= {
            "budget": method.budget,
            "tokens": run.memories[method].num_tokens,
            "prompt": run.prompts[method],
        }
    return told


def _row(
    method: Method | None,
    what: str,
    mode: str,
    kind: tuple[str, str],
    found: list[float],
    told: dict[str, Any],
) -> Row:
    provider = OURS if method is None else method.provider
    return Row(
        "pipeline", what, provider, mode, *kind, "video_min", math.nan, *median(found), len(found), told
    )


def once(video: str, model: str, method: Method, device: str, begun_s: float) -> dict[str, float]:
    """Seconds and peaks of GB in this process, which somebody started at begun_s (time.time)."""
    out = {"start_s": time.time() - begun_s}
    begin = time.perf_counter()
    loaded = load(model, device=device)

    def done(what: str) -> None:
        nonlocal begin
        synchronize(loaded.device)
        out[f"{what}_s"] = time.perf_counter() - begin
        out.update({f"{what}_{of}_gb": peak for of, peak in peaks_gb(loaded.device).items()})
        begin = time.perf_counter()

    done("load")
    with compressing(loaded, method):
        memory = compress(loaded, video, method.budget, progress=False)
    done("compress")
    memory.ask(QUESTIONS[0], **LENGTH)
    done("ask")
    return out | {"whole_s": time.time() - begun_s}


def in_own_process(module: str, words: list[str]) -> Any:
    """The JSON that a module's command prints last, run in a fresh process.

    Raises:
        ValueError: it failed, with the last line it had to say.
    """
    own = [sys.executable, "-m", module, *words, "--begun", repr(time.time())]
    done = subprocess.run(own, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(f"{module} failed in a process of its own, saying {said}")
    return json.loads(done.stdout.splitlines()[-1])


def peaks_gb(device: torch.device) -> dict[str, float]:
    """Most memory this process has held until now, and of the GPU's."""
    status = Path("/proc/self/status")  # Linux hands ru_maxrss on from the process that started this one
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    peaks = {"process": (int(found[1]) / 1024 if found else peak_mb()) * 2**20 / 1e9}
    return peaks | ({"GPU": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {})


def main() -> None:
    """`measure` with the flags of the command line; prints a line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="preset, folder or hub name")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60], help="lengths of the videos")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 1024], help="tokens of the memories")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs")
    parser.add_argument("--cold", type=int, help="fresh processes of each; as many as --repeat if not given")
    parser.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--work", help="folder where the videos are kept for the next time")
    parser.add_argument("--out", help="CSV file for the figures; its rows of this benchmark are replaced")
    for hidden, kind in (("--once", str), ("--provider", str), ("--begun", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        method = Method(given.provider, given.budgets[0])
        print(json.dumps(once(given.once, given.model, method, given.device, given.begun)))
        return
    rows = measure(
        given.model, given.minutes, given.budgets, given.repeat, given.cold, given.device, given.work
    )
    if given.out:
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        save(given.out, rows, given.device or ("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
