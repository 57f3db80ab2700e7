"""Made-up videos whose tracks start, pause, jump and stand still as they like, through `compress`.

`make fuzz N=2000 SEED=1` runs many, goes on where it stopped, and prints the seeds that failed. A seed always
makes the same video. Per track, tokens must cover exactly what was there.
"""

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from longcompress.session import compress

from models import model as make_model

RATE_HZ, FILLED_S = 48000, 60.0
KINDS = {  # suffix -> video codec, audio codec, its sample format
    "mkv": ("libx264", "pcm_s16le", "s16"), "mp4": ("libx264", "aac", "fltp"),
    "ts": ("libx264", "mp2", "s16"),
}  # fmt: skip


@dataclass
class Case:
    """A video: when its frames begin, in ms, and where there is audio, in seconds."""

    seed: int
    suffix: str
    stamps: list[int]
    audio: list[tuple[float, float]]


def make_case(seed: int, longest_s: float) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    suffix = str(rng.choice(list(KINDS)))
    length_s = float(math.exp(rng.uniform(0, math.log(longest_s))))
    # players close longer gaps of MPEG-TS, and so do we
    longest_pause_s = min(length_s, 50.0) if suffix == "ts" else length_s
    stamps, at_s = [], float(rng.choice([0.0, rng.uniform(0, longest_pause_s / 2)]))
    while at_s < length_s and len(stamps) < 4000:
        stamps.append(round(1000 * at_s))
        pause = rng.random() < 0.02  # a recorder that writes only what changes
        at_s += (
            float(rng.uniform(1, longest_pause_s)) if pause else float(rng.choice([0.04, 0.1, 0.5, 1.0, 1.7]))
        )
    audio, at_s = [], float(rng.choice([0.0, rng.uniform(0, longest_pause_s)]))
    while at_s < length_s and rng.random() < 0.8:
        end_s = min(length_s, at_s + float(rng.uniform(0.5, length_s)))
        audio.append((at_s, end_s))
        at_s = end_s + float(rng.choice([rng.uniform(0.2, 5), rng.uniform(0.2, longest_pause_s)]))
    stamps = [] if audio and rng.random() < 0.05 else sorted(set(stamps))
    return Case(seed, suffix, stamps if stamps or audio else [0], audio)


def write(case: Case, path: Path) -> Path:
    """The case as a file."""
    video_codec, audio_codec, sample_format = KINDS[case.suffix]
    with av.open(str(path), "w") as container:
        video = audio = None
        if case.stamps:
            video = container.add_stream(
                video_codec, rate=25, options={"preset": "ultrafast", "tune": "zerolatency"}
            )
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
        if case.audio:
            audio = container.add_stream(audio_codec, rate=RATE_HZ, layout="mono")
        items = sorted([*_frames(case), *_sounds(case, audio, sample_format)], key=lambda item: item[0])
        for _, kind, frame in items:
            stream = video if kind == "video" else audio
            container.mux(stream.encode(frame))
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


def _frames(case: Case) -> Iterator[tuple[float, str, av.VideoFrame]]:
    for number, stamp in enumerate(case.stamps):
        pixels = np.full((32, 32, 3), number * 7 % 256, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = stamp, Fraction(1, 1000)
        yield stamp / 1000, "video", frame


def _sounds(case: Case, stream, sample_format: str) -> Iterator[tuple[float, str, av.AudioFrame]]:
    if stream is None:
        return
    size = stream.codec_context.frame_size or 1024
    for start_s, end_s in case.audio:
        for k in range(int((end_s - start_s) * RATE_HZ / size)):
            wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(size) / RATE_HZ)
            values = wave.astype(np.float32) if sample_format == "fltp" else (wave * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values[None], format=sample_format, layout="mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = round(start_s * RATE_HZ) + k * size
            yield frame.pts / RATE_HZ, "audio", frame


def faults_of(case: Case, model, folder: Path) -> list[str]:
    """What is wrong with the memory of a case."""
    path = write(case, folder / f"{case.seed}.{case.suffix}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        memory = compress(model, path, budget=1 << 20, progress=False)
    path.unlink()
    faults = [str(w.message) for w in caught if "left out" in str(w.message)]
    origin_s = min([stamp / 1000 for stamp in case.stamps[:1]] + [start_s for start_s, _ in case.audio[:1]])
    if case.stamps:
        tokens, patches = memory.streams["video"], model.video.patches
        first_s, last_s = (case.stamps[0] / 1000 - origin_s, case.stamps[-1] / 1000 - origin_s)
        num = round(float(tokens.size.sum())) / patches
        low, high = (
            math.floor(last_s) - math.ceil(first_s) + 1,
            math.floor(last_s + 1) - math.ceil(first_s - 1) + 1,
        )
        if not low <= num <= high:
            faults.append(f"video: {num} frames, wanted {low} to {high} from {first_s:.3f} to {last_s:.3f} s")
        if not first_s - 1 < float(tokens.start_s.min()) <= first_s + 0.1 + 1:
            faults.append(f"video begins at {float(tokens.start_s.min()):.3f}, not at {first_s:.3f} s")
    if case.audio:
        runs: list[list[float]] = []  # with the silence that fills short pauses
        for start_s, end_s in case.audio:
            if runs and start_s - runs[-1][1] <= FILLED_S:
                runs[-1][1] = end_s - origin_s
            else:
                runs.append([start_s - origin_s, end_s - origin_s])
        tokens = memory.streams["audio"]
        want = sum(end_s - start_s for start_s, end_s in runs)
        num = float(tokens.size.sum())
        if not want - 0.2 <= num <= want + 1.2 * len(runs) + 0.2:
            faults.append(f"audio: {num:.0f} tokens, wanted {want:.1f} of {runs}")
        if abs(float(tokens.end_s.max()) - runs[-1][1]) > 0.2:
            faults.append(f"audio ends at {float(tokens.end_s.max()):.3f}, not at {runs[-1][1]:.3f} s")
    return faults


def run(seeds: range, longest_s: float, log: Path | None = None) -> dict[int, list[str]]:
    """Seed -> its faults, of the seeds that failed; `log` is gone on with."""
    model = make_model()
    done = {}
    if log is not None and log.exists():
        done = {entry["seed"]: entry["faults"] for entry in map(json.loads, log.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            if seed in done:
                continue
            try:
                done[seed] = faults_of(make_case(seed, longest_s), model, Path(folder))
            except Exception as error:
                done[seed] = [f"{type(error).__name__}: {error}"]
            if done[seed]:
                print(f"seed {seed}: {'; '.join(done[seed])}", file=sys.stderr, flush=True)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps({"seed": seed, "faults": done[seed]}) + "\n")
    return {seed: done[seed] for seed in seeds if done[seed]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest-s", type=float, default=1200.0)
    parser.add_argument("--log", type=Path, default=Path("fuzz.jsonl"))
    words = parser.parse_args()
    failed = run(range(words.seed, words.seed + words.num), words.longest_s, words.log)
    print(f"{words.num} videos, {len(failed)} failed: {sorted(failed)}")
    sys.exit(bool(failed))
