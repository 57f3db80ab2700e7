"""Seconds from a film to an answer, stage by stage and as users run it: `longcompress bench pipeline`.

    longcompress bench pipeline --minutes 1 10 60 --budgets 256 1024 --out eval/results/pipeline.csv

Stages are those of `stages.py`, each alone. Cold is a fresh process: start, load, watch, first question; its
peaks of memory are those of the whole process. Warm is `watch` in a process that has run it before, and a
second question on its memory. All answers are 32 tokens long. Beside them the same host reads all raw tokens,
none merged, where they fit its context. Nothing is timed unless the stages give the very memory and answer
that `watch` and `ask` give. Films are 640 x 360, 25 pictures a second, H.264 and AAC.
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
from ..media import probe
from ..model import LongCompress
from ..presets import load
from ..session import watch
from .bench_media import make_film
from .bench_memory import QUESTIONS, peak_mb
from .bench_rows import Row, line, median, save
from .stages import (
    LENGTH,
    NEW_TOKENS,
    OURS,
    SHARED,
    STAGES,
    Run,
    Way,
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
    """The figures of films of several lengths; see the top of the file.

    Args:
        model: preset, folder or hub name.
        minutes: lengths of the films; above 5, multiples of 5.
        budgets: tokens of the memories.
        repeat: timed runs.
        cold: fresh processes for each film and budget; as many as `repeat` if not given.
        device: "cpu" or "cuda"; the GPU if there is one.
        work: folder where films are kept for the next time; none are kept if not given.

    Raises:
        ValueError: if a film can't be made, or the stages give another memory or answer than `watch`.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1 run, got {repeat}")
    loaded = load(model, device=device)
    dtype = str(next(loaded.host.lm.parameters()).dtype).removeprefix("torch.")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            film = film_of(Path(work or folder), length)
            ways = ways_of(loaded, film, budgets)
            first = check(loaded, film, ways)
            made = warm_rows(loaded, film, ways, first, repeat)
            for way in ways:
                words = ["--once", str(film), "--model", model, "--device", str(loaded.device)]
                words += ["--provider", way.provider, "--budgets", str(way.budget)]
                runs = range(repeat if cold is None else cold)
                made += cold_rows(way, first, [in_own_process(MODULE, words) for _ in runs])
            for row in made:
                rows.append(replace(row, x=length, settings={"model": model, "dtype": dtype} | row.settings))
                print(line(rows[-1]), flush=True)
    return rows


def film_of(work: Path, minutes: float) -> Path:
    """The film of so many minutes in `work`, made if it isn't there."""
    path = work / f"film_{minutes:g}min.mp4"
    if not path.is_file():
        if shutil.which("ffmpeg") is None:
            raise ValueError("the ffmpeg command is needed to make the films: apt-get install ffmpeg")
        work.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            make_film(part, minutes)
    duration_s = probe(path).duration_s or 0.0
    if abs(duration_s - 60 * minutes) > 1:
        raise ValueError(
            f"{path} must last {minutes:g} min, got {duration_s:.1f} s; above 5 minutes give multiples of 5"
        )
    return path


def warm_rows(model: LongCompress, film: Path, ways: Sequence[Way], first: Run, repeat: int) -> list[Row]:
    """Rows of the stages, of `watch` and of a second question; every run must give what `first` gave."""
    runs = [staged(model, film, ways) for _ in range(repeat)]
    rows: list[Row] = []
    for stage in SHARED:
        if (stage, None) in first.spent:
            took = [run.spent[stage, None] for run in runs]
            rows += _rows(None, stage, "warm", took, first, pictures=first.pictures)
    for way in ways:
        raw = sum(float(tokens.size.sum()) for tokens in first.memories[way].streams.values())
        counts = {"merge": raw, "projector": first.prompts[way], "prefill": first.prompts[way]}
        for stage in STAGES[len(SHARED) :]:
            took = [run.seconds(stage, way) for run in runs]
            rows += _rows(way, stage, "warm", took, first, tokens=counts.get(stage, NEW_TOKENS))
        watched, asked = [], []
        for run in runs:
            check_same(run.memories[way], first.memories[way], f"{film.name}, budget {way.budget}, again")
            begin = time.perf_counter()
            with compressing(model, way):
                memory = watch(model, film, way.budget, progress=False)
            synchronize(model.device)
            watched.append(time.perf_counter() - begin)
            check_same(memory, first.memories[way], f"{film.name}, budget {way.budget}, again")
            memory.ask(QUESTIONS[0], **LENGTH)
            begin = time.perf_counter()
            memory.ask(QUESTIONS[1], **LENGTH)
            asked.append(time.perf_counter() - begin)
        rows += _rows(way, "watch", "warm", watched, first, pictures=first.pictures)
        rows += _rows(way, "ask", "warm", asked, first, tokens=NEW_TOKENS)
    return rows


def cold_rows(way: Way, run: Run, found: list[dict[str, float]]) -> list[Row]:
    """Rows of fresh processes: time of start, load, watch, ask and all of it, and peaks of memory."""
    rows: list[Row] = []
    for what in ("start", "load", "watch", "ask", "whole") if found else ():
        took = [one[f"{what}_s"] for one in found]
        rows += _rows(way, what, "cold", took, run, pictures=run.pictures if what == "watch" else 0)
        for of in ("process", "GPU"):
            if f"{what}_{of}_gb" in found[0]:
                peaks = [one[f"{what}_{of}_gb"] for one in found]
                rows.append(_row(way, what, "cold", ("memory", "GB"), peaks, {**_about(way, run), "of": of}))
    return rows


def _rows(
    way: Way | None,
    what: str,
    mode: str,
    took: list[float],
    run: Run,
    *,
    pictures: int = 0,
    tokens: float = 0,
) -> list[Row]:
    """The time, and the rates that follow from it."""
    told = _about(way, run)
    rows = [_row(way, what, mode, ("time", "s"), took, told)]
    counts = {"tokens/s": ("rate", tokens), "x real time": ("speed", run.duration_s if pictures else 0)}
    counts["frames/s"] = ("rate", 0 if what == "sound tower" else pictures)
    for unit, (metric, count) in counts.items():
        if count:
            rows.append(_row(way, what, mode, (metric, unit), [count / s for s in took], told))
    return rows


def _about(way: Way | None, run: Run) -> dict[str, Any]:
    """Settings of a row; stages that all ways share have none of a budget."""
    told: dict[str, Any] = {"film_s": round(run.duration_s, 2), "new_tokens": NEW_TOKENS}
    if way is not None:
        told |= {"budget": way.budget, "tokens": run.memories[way].num_tokens, "prompt": run.prompts[way]}
    return told


def _row(
    way: Way | None, what: str, mode: str, kind: tuple[str, str], found: list[float], told: dict[str, Any]
) -> Row:
    provider = OURS if way is None else way.provider
    return Row(
        "pipeline", what, provider, mode, *kind, "film_min", math.nan, *median(found), len(found), told
    )


def once(film: str, model: str, way: Way, device: str, begun_s: float) -> dict[str, float]:
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
    with compressing(loaded, way):
        memory = watch(loaded, film, way.budget, progress=False)
    done("watch")
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
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60], help="lengths of the films")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 1024], help="tokens of the memories")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs")
    parser.add_argument("--cold", type=int, help="fresh processes of each; as many as --repeat if not given")
    parser.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    parser.add_argument("--work", help="folder where the films are kept for the next time")
    parser.add_argument("--out", help="CSV file for the figures; its rows of this benchmark are replaced")
    for hidden, kind in (("--once", str), ("--provider", str), ("--begun", float)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        way = Way(given.provider, given.budgets[0])
        print(json.dumps(once(given.once, given.model, way, given.device, given.begun)))
        return
    rows = measure(
        given.model, given.minutes, given.budgets, given.repeat, given.cold, given.device, given.work
    )
    if given.out:
        Path(given.out).parent.mkdir(parents=True, exist_ok=True)
        save(given.out, rows, given.device or ("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
