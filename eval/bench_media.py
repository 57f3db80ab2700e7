"""How fast videos are read, against the ffmpeg command in the same run.

    python -m longcompress.eval.bench_media --minutes 60

Every row is a process of its own; the best wall of `--repeat` interleaved runs counts. Memory is the peak
above what importing takes. Making the video (unless `--video` names one) and the first row need the `ffmpeg`
command.
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
from typing import Any

_SIZE_PX = 224
_PART_S = 300
_ROWS: dict[str, dict[str, Any]] = {
    "exact, 1 a second": {"audio": False},
    "exact, 1 a second, with audio": {},
    "exact, 1 in 30 s": {"rate_fps": 1 / 30, "audio": False},
    "exact, 1 in 30 s, with audio": {"rate_fps": 1 / 30},
    "nonref, 1 a second": {"decode": "nonref", "audio": False},
    "keyframe, 1 a second": {"decode": "keyframe", "audio": False},
    "audio alone": {"video": False},
}


def make_video(path: Path, minutes: float) -> None:
    """640 x 360 at 25 frames a second in H.264, two scenes in turn, AAC audio, made by ffmpeg."""
    part_s = min(_PART_S, minutes * 60)
    part = path.with_name("part.mp4")
    sources = (
        f"testsrc2=size=640x360:rate=25:duration={part_s}",
        f"gradients=size=640x360:rate=25:speed=0.02:duration={part_s}",
        f"anoisesrc=r=44100:color=pink:amplitude=0.2:d={part_s}",
    )
    mix = "[0:v][1:v]overlay=enable='lt(mod(t,34.8),17)',noise=alls=4:allf=t,format=yuv420p[v]"
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    coded = [
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-b:v",
        "200k",
        "-c:a",
        "aac",
        "-b:a",
        "64k",
        "-ac",
        "2",
    ]
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    subprocess.run(
        [*ffmpeg, *inputs, "-filter_complex", mix, "-map", "[v]", "-map", "2:a", *coded, part], check=True
    )
    copies = max(0, round(minutes * 60 / part_s) - 1)
    subprocess.run([*ffmpeg, "-stream_loop", str(copies), "-i", part, "-c", "copy", path], check=True)
    part.unlink()


def time_ffmpeg(video: Path) -> dict[str, float]:
    """Wall seconds of the ffmpeg command for one frame a second, scaled, to a pipe."""
    scale = f"fps=1:round=up,scale={_SIZE_PX}:{_SIZE_PX}"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(video),
        "-an",
        "-vf",
        scale,
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    ]
    start = time.perf_counter()
    num_bytes, before_s = 0, _cpu_s(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while part := process.stdout.read(1 << 20):
            num_bytes += len(part)
    return {
        "wall_s": time.perf_counter() - start,
        "cpu_s": _cpu_s(resource.RUSAGE_CHILDREN) - before_s,
        "frames": num_bytes // (3 * _SIZE_PX**2),
    }


def time_read(video: str, options: dict[str, Any]) -> dict[str, float]:
    """Wall seconds, peak memory and what came, in this process."""
    from ..config import MediaConfig
    from ..media.reader import read
    from ..types import Frames

    before, before_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, _cpu_s(resource.RUSAGE_SELF)
    start = time.perf_counter()
    frames = samples = 0
    for item in read(video, MediaConfig(size_px=_SIZE_PX, **options)):
        if isinstance(item, Frames):
            frames += len(item)
        else:
            samples += len(item)
    wall_s = time.perf_counter() - start
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    cpu_s = _cpu_s(resource.RUSAGE_SELF) - before_s
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "frames": frames,
        "audio_s": samples / 16000,
        "memory_mb": peak_mb,
    }


def _cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _in_own_process(video: Path, row: str) -> dict[str, float]:
    command = [sys.executable, "-m", "longcompress.eval.bench_media", "--video", str(video), "--row", row]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Prints a table and writes it as JSON where `--out` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video", type=Path, help="a video to read; made if not given")
    parser.add_argument("--minutes", type=float, default=60, help="length of the video that is made")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each row; the fastest counts")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(time_read(str(arguments.video), _ROWS[arguments.row])))
        return
    if shutil.which("ffmpeg") is None:
        parser.error("the ffmpeg command is needed for the comparison: apt-get install ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        video = arguments.video
        if video is None:
            video = Path(folder) / "video.mp4"
            make_video(video, arguments.minutes)
        best: dict[str, dict[str, float]] = {}
        for _ in range(arguments.repeat):
            for row in ("ffmpeg, 1 a second", *_ROWS):
                got = time_ffmpeg(video) if row.startswith("ffmpeg") else _in_own_process(video, row)
                if row not in best or got["wall_s"] < best[row]["wall_s"]:
                    best[row] = got
    base_s = best["ffmpeg, 1 a second"]["wall_s"]
    print(f"{'way':32} {'wall s':>7} {'cpu s':>7} {'vs ffmpeg':>9} {'frames':>8} {'sound s':>7} {'MB':>4}")
    for row, got in best.items():
        got["speedup"] = base_s / got["wall_s"]
        print(
            f"{row:32} {got['wall_s']:7.1f} {got['cpu_s']:7.1f} {got['speedup']:8.2f}x {got['frames']:8} "
            f"{got.get('sound_s', 0):7.0f} {got.get('memory_mb', 0):4.0f}"
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(best, indent=2) + "\n")


if __name__ == "__main__":
    main()
