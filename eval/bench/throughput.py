"""From a video to an answer: `longcompress bench throughput`.

    longcompress bench throughput --out eval/results/throughput.csv --minutes 1 10 60 --budgets 256 1024

Groups of cases: stages (decode, encode, merge, prefill, answer, each alone), memory (a fresh process: start,
load, compress, answers, peaks), requests (many clips at once), media (decoding beside the ffmpeg command),
features (extraction beside the encoders one after another). Videos are 640 x 360, 25 frames a second, H.264
and AAC; making them needs the ffmpeg command, which the package imageio-ffmpeg brings where there is none.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from ...encoders.random_encoders import Size
from ...presets import load
from .features import Preset, features_rows
from .media import media_rows, video_of
from .requests import request_rows
from .rows import Recorder, Row
from .stages import memory_rows, providers_of, stage_rows

Group = Literal["stages", "memory", "requests", "media", "features"]


def bench_throughput(
    out: str | None = None, cases: list[Group] | None = None, model: str = "tiny",
    minutes: list[float] | None = None, budgets: list[int] | None = None, clips: list[int] | None = None,
    seconds: float = 30.0, repeat: int = 3, device: str | None = None, dtype: str | None = None,
    threads: int | None = None, preset: Preset = "longvale", size: Size = "middle", work: str | None = None,
) -> int:  # fmt: skip
    """Time each step from a video to an answer; exit code 1 if a case failed.

    Args:
        out: CSV file of the figures; its rows of the same groups are replaced.
        cases: groups of cases; stages, memory and requests if not given.
        model: preset, folder or hub name.
        minutes: lengths of the videos, 1, 10 and 60 if not given; above 5, multiples of 5.
        budgets: tokens of the memories, 256 and 1024 if not given; requests use the first.
        clips: requests at once; 1 to 32 if not given.
        seconds: length of each clip.
        repeat: timed runs of each.
        device: "cpu" or "cuda"; the GPU if there is one.
        dtype: float32, bfloat16, ...; float32 on a CPU, bfloat16 on a GPU if not given.
        threads: of torch.
        preset: whose features are extracted.
        size: of the random encoders that extract them: small, middle, or the papers'.
        work: folder where videos are kept for the next time; none are kept if not given.
    """
    if repeat < 1 or min(clips or [1]) < 1:
        raise ValueError(f"repeat and clips must be at least 1, got {repeat} and {min(clips or [1])}")
    if threads:
        torch.set_num_threads(threads)
    groups: list[Group] = cases or ["stages", "memory", "requests"]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    budgets = budgets or [256, 1024]
    recorder = Recorder(out, device, groups)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(work or folder)
        how: dict[str, Any] = {"name": model, "device": device, "dtype": dtype}
        loaded = cache(lambda: load(**how))

        def measure(row: Row) -> Iterable[Row]:
            """The rows of a group of cases: row.x is the minutes of the video or the number of clips."""
            video = place if row.suite == "requests" else video_of(place, row.x)
            if row.suite == "media":
                return media_rows(row, video, repeat)
            if row.suite == "features":
                return features_rows(row, str(video), preset, size, repeat, device, dtype)
            kind = str(next(loaded().llm.lm.parameters()).dtype).removeprefix("torch.")
            row = replace(row, settings={"model": model, "dtype": kind})
            if row.suite == "requests":
                return request_rows(row, how, place, seconds, budgets[0], repeat)
            if row.suite == "stages":
                return stage_rows(row, loaded(), video, budgets, repeat)
            return memory_rows(row, how, video, providers_of(loaded(), video, budgets), repeat)

        for length in minutes or [1.0, 10.0, 60.0]:
            for group in (group for group in groups if group != "requests"):
                recorder.run(Row(group, "all cases", x_name="minutes", x=length), measure)
        for num in (clips or [1, 2, 4, 8, 16, 32]) if "requests" in groups else []:
            recorder.run(Row("requests", "all cases", x_name="clips", x=num), measure)
    return int(recorder.num_failed > 0)
