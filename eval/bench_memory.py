"""Peak memory of `compress` on videos of several lengths, and what a second question costs.

    python -m longcompress.eval.bench_memory --minutes 10 60 180

Every video is compressed and asked twice in a process of its own; its peak is that of the whole process,
imports and model included. Making the videos needs the `ffmpeg` command.
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

from .bench_media import make_video

QUESTIONS = ("When does the red ball appear?", "When is the bell heard?")


def compress_once(video: str, model: str, budget: int) -> dict[str, float]:
    """Peak MB of this process before and after compressing `video`; seconds of compressing and of two questions."""
    from ..presets import load
    from ..session import compress

    loaded = load(model)
    before_mb = peak_mb()
    begin = time.perf_counter()
    memory = compress(loaded, video, budget, progress=sys.stderr.isatty())
    compressed_s = time.perf_counter() - begin
    compress_mb = peak_mb()
    asked_s = []
    for question in QUESTIONS:
        start = time.perf_counter()
        memory.ask(question)
        asked_s.append(time.perf_counter() - start)
    return {
        "duration_s": memory.duration_s, "tokens": memory.num_tokens, "loaded_mb": before_mb,
        "compress_mb": compress_mb, "all_mb": peak_mb(), "compress_s": compressed_s, "first_s": compressed_s + asked_s[0],
        "second_s": asked_s[1], "second_share": asked_s[1] / (compressed_s + asked_s[0]),
    }  # fmt: skip


def peak_mb() -> float:
    """Most memory this process has held until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints a row for each video, and how far the peaks are apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 180], help="lengths of videos")
    parser.add_argument("--budget", type=int, default=1024, help="tokens")
    parser.add_argument("--model", default="tiny", help="preset, folder or hub name")
    parser.add_argument("--out", type=Path, help="JSON lines file the figures are added to")
    parser.add_argument("--video", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.video:
        print(json.dumps(compress_once(given.video, given.model, given.budget)))
        return
    if shutil.which("ffmpeg") is None:
        parser.error("the ffmpeg command is needed to make the videos: apt-get install ffmpeg")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        print("video min  watch s loaded MB watch MB 2nd question", flush=True)
        for minutes in given.minutes:
            video = Path(folder) / "video.mp4"
            make_video(video, minutes)
            own = [sys.executable, "-m", "longcompress.eval.bench_memory", "--video", str(video)]
            own += ["--model", given.model, "--budget", str(given.budget)]
            done = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True)
            row = {"minutes": minutes, "budget": given.budget, **json.loads(done.stdout)}
            rows.append(row)
            print(
                f"{minutes:8.0f} {row['watch_s']:8.1f} {row['loaded_mb']:9.0f} {row['watch_mb']:8.0f} "
                f"{row['second_s']:6.3f} s {row['second_share']:.2%}", flush=True,
            )  # fmt: skip
    peaks = [row["compress_mb"] for row in rows]
    print(f"peaks lie within {max(peaks) / min(peaks) - 1:.1%} of each other")
    if given.out:
        with open(given.out, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
