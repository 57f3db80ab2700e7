"""Cases of `bench throughput`: how fast videos are read, beside the ffmpeg command."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...config import MediaConfig
from ...files import replacing
from ...media.reader import probe, read
from ...types import Frames
from .rows import OURS, Row
from .timer import timed

SIZE_PX = 224
PART_S = 300
FFMPEG = "ffmpeg"
EXACT = "exact, 1 frame a second"
# Case -> changes of MediaConfig. The first three are what the ffmpeg command does too.
READS: dict[str, dict[str, Any]] = {
    EXACT: {"audio": False},
    "audio alone": {"video": False},
    f"{EXACT}, with audio": {},
    "exact, 1 frame in 30 s": {"rate_fps": 1 / 30, "audio": False},
    "exact, 1 frame in 30 s, with audio": {"rate_fps": 1 / 30},
    "nonref, 1 frame a second": {"decode": "nonref", "audio": False},
    "keyframe, 1 frame a second": {"decode": "keyframe", "audio": False},
}
# Case -> what the ffmpeg command writes: frames to a pipe, samples to nowhere.
FRAMES = ["-map", "0:v", "-vf", f"fps=1:round=up,scale={SIZE_PX}:{SIZE_PX}"]
FRAMES += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
SAMPLES = ["-map", "0:a", "-ac", "1", "-ar", str(MediaConfig().rate_hz), "-f", "f32le", os.devnull]
WRITES = dict(zip(READS, (FRAMES, SAMPLES, [*FRAMES, *SAMPLES]), strict=False))


def video_of(folder: Path, minutes: float) -> Path:
    """The path of a video of this length in `folder`, made if it isn't there, which needs ffmpeg."""
    path = folder / f"video_{minutes:g}min.mp4"
    if not path.is_file():
        program = ffmpeg_program()
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            make_video(part, minutes, program)
    duration_s = probe(path).duration_s or 0.0
    if abs(duration_s - 60 * minutes) > 1:
        raise ValueError(
            f"{path} must last {minutes:g} min, got {duration_s:.1f} s; above 5 minutes give multiples of 5"
        )
    return path


def make_video(path: Path, minutes: float, program: str) -> None:
    """640 x 360 at 25 frames a second in H.264, two scenes in turn, AAC audio, made by ffmpeg."""
    part_s = min(PART_S, minutes * 60)
    part = path.with_name("part.mp4")
    sources = (
        f"testsrc2=size=640x360:rate=25:duration={part_s}",
        f"gradients=size=640x360:rate=25:speed=0.02:duration={part_s}",
        f"anoisesrc=r=44100:color=pink:amplitude=0.2:d={part_s}",
    )
    mix = "[0:v][1:v]overlay=enable='lt(mod(t,34.8),17)',noise=alls=4:allf=t,format=yuv420p[v]"
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    codecs = "-c:v libx264 -preset veryfast -b:v 200k -c:a aac -b:a 64k -ac 2".split()  # noqa: SIM905
    ffmpeg = [program, "-v", "error", "-y"]
    graph = ["-filter_complex", mix, "-map", "[v]", "-map", "2:a"]
    subprocess.run([*ffmpeg, *inputs, *graph, *codecs, part], check=True)
    copies = max(0, round(minutes * 60 / part_s) - 1)
    subprocess.run([*ffmpeg, "-stream_loop", str(copies), "-i", part, "-c", "copy", path], check=True)
    part.unlink()


def ffmpeg_program() -> str:
    """The ffmpeg command of PATH, else that of the package imageio-ffmpeg; ValueError where neither is."""
    if program := shutil.which("ffmpeg"):
        return program
    try:
        import imageio_ffmpeg
    except ImportError:
        remedy = "apt-get install ffmpeg, or pip install imageio-ffmpeg"
        raise ValueError(f"an ffmpeg command is needed in PATH, got none: {remedy}") from None
    return str(imageio_ffmpeg.get_ffmpeg_exe())


def media_rows(row: Row, video: Path, repeat: int) -> Iterator[Row]:
    """Seconds on the wall and of all cores of each way to read a video, which must give as many frames."""
    work = {(FFMPEG, name): partial(read_with_ffmpeg, video, words) for name, words in WRITES.items()}
    work |= {(OURS, name): partial(count_frames, video, options) for name, options in READS.items()}
    theirs, ours = (work[provider, EXACT]() for provider in (FFMPEG, OURS))
    if abs(theirs - ours) > 1:
        raise ValueError(f"{video.name}: {ours} frames, ffmpeg has {theirs}; nothing is timed")
    for (provider, name), took in timed(work, repeat, "cpu", warm_up=0).items():
        own = replace(row, case=name, provider=provider)
        yield own.figure(run.wall_s for run in took)
        yield own.figure((run.cpu_s for run in took), "time of all cores")


def read_with_ffmpeg(video: Path, words: list[str]) -> int:
    """Number of frames that the ffmpeg command writes to a pipe."""
    command = [ffmpeg_program(), "-v", "fatal", "-y", "-i", str(video), *words]
    num_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while part := process.stdout.read(1 << 20):
            num_bytes += len(part)
    if process.returncode:
        raise ValueError(f"{video.name}: ffmpeg ended with code {process.returncode}")
    return num_bytes // (3 * SIZE_PX**2)


def count_frames(video: Path, options: dict[str, Any]) -> int:
    """Number of frames that `media.read` gives, all parts read."""
    with read(video, MediaConfig(size_px=SIZE_PX, **options)) as parts:
        return sum(len(part) for part in parts if isinstance(part, Frames))
