"""Peak memory of `watch` on films of several lengths, and what a second question costs.

    python -m longcompress.eval.bench_memory --minutes 10 60 180

Every film is watched and asked twice in a process of its own; its peak is that of the whole process,
imports and model included. Making the films needs the `ffmpeg` command.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .bench_media import make_film

QUESTIONS = ("When does the red ball appear?", "When is the bell heard?")


def watch_once(film: str, model: str, budget: int) -> dict[str, float]:
    """Peak MB of this process before and after watching `film`; seconds of watching and of two questions."""
    from ..presets import load
    from ..session import watch

    loaded = load(model)
    before_mb = peak_mb()
    begin = time.perf_counter()
    memory = watch(loaded, film, budget, progress=sys.stderr.isatty())
    watched_s = time.perf_counter() - begin
    watch_mb = peak_mb()
    asked_s = []
    for question in QUESTIONS:
        start = time.perf_counter()
        memory.ask(question)
        asked_s.append(time.perf_counter() - start)
    return {
        "duration_s": memory.duration_s, "tokens": memory.num_tokens, "loaded_mb": before_mb,
        "watch_mb": watch_mb, "all_mb": peak_mb(), "watch_s": watched_s, "first_s": watched_s + asked_s[0],
        "second_s": asked_s[1], "second_share": asked_s[1] / (watched_s + asked_s[0]),
    }  # fmt: skip


def peak_mb() -> float:
    """Most memory this process has held until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints a row for each film, and how far the peaks are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 180], help="lengths of films")
    parser.add_argument("--budget", type=int, default=1024, help="tokens")
    parser.add_argument("--model", default="tiny", help="preset, folder or hub name")
    parser.add_argument("--out", type=Path, help="JSON lines file the figures are added to")
    parser.add_argument("--film", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.film:
        print(json.dumps(watch_once(given.film, given.model, given.budget)))
        return
    if shutil.which("ffmpeg") is None:
        parser.error("the ffmpeg command is needed to make the films: apt-get install ffmpeg")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print("film min  watch s loaded MB watch MB 2nd question", flush=True)
        for minutes in given.minutes:
            film = Path(folder) / "film.mp4"
            make_film(film, minutes)
            own = [sys.executable, "-m", "longcompress.eval.bench_memory", "--film", str(film)]
            own += ["--model", given.model, "--budget", str(given.budget)]
            done = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True)
            row = {"minutes": minutes, "budget": given.budget, **json.loads(done.stdout)}
            rows.append(row)
            print(
                f"{minutes:8.0f} {row['watch_s']:8.1f} {row['loaded_mb']:9.0f} {row['watch_mb']:8.0f} "
                f"{row['second_s']:6.3f} s {row['second_share']:.2%}", flush=True,
            )  # fmt: skip
    peaks = [row["watch_mb"] for row in rows]
    print(f"peaks lie within {max(peaks) / min(peaks) - 1:.1%} of each other")
    if given.out:
        with open(given.out, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
