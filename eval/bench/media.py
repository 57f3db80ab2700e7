"""The videos that `bench throughput` reads, made by the ffmpeg command."""

import shutil
import subprocess
from pathlib import Path

from ...files import replacing
from ...media.reader import probe

PART_S = 300


def video_of(folder: Path, minutes: float) -> Path:
    """The path of a video of this length in `folder`, made if it isn't there.

    Raises:
        ValueError: there is no ffmpeg command, or the file has another length.
    """
    path = folder / f"video_{minutes:g}min.mp4"
    if not path.is_file():
        if shutil.which("ffmpeg") is None:
            raise ValueError("the ffmpeg command is needed to make the videos: apt-get install ffmpeg")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            make_video(part, minutes)
    duration_s = probe(path).duration_s or 0.0
    if abs(duration_s - 60 * minutes) > 1:
        raise ValueError(
            f"{path} must last {minutes:g} min, got {duration_s:.1f} s; above 5 minutes give multiples of 5"
        )
    return path


def make_video(path: Path, minutes: float) -> None:
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
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    graph = ["-filter_complex", mix, "-map", "[v]", "-map", "2:a"]
    subprocess.run([*ffmpeg, *inputs, *graph, *codecs, part], check=True)
    copies = max(0, round(minutes * 60 / part_s) - 1)
    subprocess.run([*ffmpeg, "-stream_loop", str(copies), "-i", part, "-c", "copy", path], check=True)
    part.unlink()
