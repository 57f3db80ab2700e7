"""Made-up videos whose tracks start, pause, jump, restart and stand still as they like, through `compress`.

`make fuzz N=2000 SEED=1` runs many, goes on where it stopped, and prints the seeds that failed. A seed makes
the same video each time. Per track, tokens must cover exactly what was there, and a flash or a beep must be
in the tokens of its second.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tqdm import tqdm

from longcompress.config import MergeConfig
from longcompress.videos import compress

from models import model as make_model

RAW = 1 << 20  # tokens; more than any video here has
FILLED_S = 60.0  # shorter pauses of audio are filled with silence
DARK, BRIGHT, QUIET, LOUD = 60, 255, 0.05, 0.8
KINDS = {  # suffix -> video codec, audio codec, its sample format
    "mkv": ("libx264", "pcm_s16le", "s16"), "mp4": ("libx264", "aac", "fltp"),
    "ts": ("libx264", "mp2", "s16"), "avi": ("mpeg4", "pcm_s16le", "s16"),
    "webm": ("libvpx", "libopus", "flt"),
}  # fmt: skip
STEPS_S = (0.02, 1001 / 30000, 0.04, 0.1, 0.5, 1.0, 1.7)


@dataclass
class Piece:
    """Frames and audio between two restarts of a file's clock, in seconds from the piece's start."""

    offset_s: float  # what its first stamp is
    stamps: list[int] = field(default_factory=list)  # when its frames begin, in ms
    audio: list[tuple[float, float]] = field(default_factory=list)  # where there is audio
    flashes: list[int] = field(default_factory=list)  # numbers of white frames
    beeps: list[tuple[float, float]] = field(default_factory=list)

    @property
    def end_s(self) -> float:
        """Where its longest track ends, but for what the last frame lasts."""
        return max([stamp / 1000 for stamp in self.stamps[-1:]] + [end_s for _, end_s in self.audio[-1:]])


@dataclass
class Case:
    """A video."""

    seed: int
    suffix: str
    rate_hz: int
    pieces: list[Piece]


def make_case(seed: int, longest_s: float) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    suffix = str(rng.choice(list(KINDS)))
    length_s = float(math.exp(rng.uniform(0, math.log(longest_s))))
    rates = (16000, 44100, 48000) if suffix in ("mkv", "mp4", "ts", "avi") else (48000,)
    case = Case(seed, suffix, int(rng.choice(rates)), [])
    if suffix == "ts" and rng.random() < 0.4:  # recordings of one receiver, put together
        offset_s = float(rng.uniform(0, 2000))
        for _ in range(int(rng.integers(2, 5))):
            piece = _piece(rng, suffix, max(2.0, length_s / 3), offset_s, is_together=True)
            case.pieces.append(piece)
            jumps_s = (100.0 + rng.uniform(0, 3000), -rng.uniform(piece.end_s + 5, 3000 + piece.end_s))
            offset_s += piece.end_s + float(rng.choice(jumps_s))
            offset_s = max(offset_s, 0.0)
            if abs(offset_s - piece.offset_s - piece.end_s) < 3:
                break
        return case
    case.pieces.append(_piece(rng, suffix, length_s, 0.0, is_together=False))
    return case


def _piece(
    rng: np.random.Generator, suffix: str, length_s: float, offset_s: float, is_together: bool
) -> Piece:
    # players close longer gaps of MPEG-TS, and so do we
    longest_pause_s = min(length_s, 50.0) if suffix == "ts" else length_s
    piece = Piece(offset_s)
    step_s = float(rng.choice(STEPS_S))
    is_constant = suffix == "avi" or rng.random() < 0.3
    at_s = (
        0.0 if is_together or suffix == "avi" else float(rng.choice([0, rng.uniform(0, longest_pause_s / 2)]))
    )
    while at_s < length_s and len(piece.stamps) < 4000:
        piece.stamps.append(round(1000 * at_s))
        if not is_constant:
            step_s = float(rng.choice(STEPS_S))
            if rng.random() < 0.02:  # a recorder that writes only what changes
                step_s = float(rng.uniform(1, longest_pause_s)) if longest_pause_s > 1 else 1.0
        at_s += step_s
    at_s = 0.0 if is_together or suffix == "avi" else float(rng.choice([0, rng.uniform(0, longest_pause_s)]))
    while at_s < length_s and (is_together or rng.random() < 0.8):
        end_s = min(length_s, at_s + float(rng.uniform(0.5, length_s)))
        if end_s - at_s > 0.2:
            piece.audio.append((at_s, end_s))
        at_s = end_s + float(rng.choice([rng.uniform(0.2, 5), rng.uniform(0.2, longest_pause_s)]))
        if is_together or suffix == "avi":  # AVI has no stamps
            break
    if not is_together and rng.random() < 0.15 and suffix not in ("ts", "avi"):
        _jump(piece, float(rng.uniform(0, length_s)), float(rng.uniform(60, 3000)))
    piece.stamps = sorted(set(piece.stamps)) or [0]
    if piece.audio and not is_together and rng.random() < 0.05:
        piece.stamps = []
    piece.flashes = [int(k) for k in rng.permutation(len(piece.stamps))[: int(rng.integers(0, 4))]]
    for start_s, end_s in piece.audio:
        if end_s - start_s > 3:
            at_s = float(rng.uniform(start_s, end_s - 1))
            piece.beeps.append((at_s, at_s + 1))
    return piece


def _jump(piece: Piece, from_s: float, jump_s: float) -> None:
    """Move what comes at from_s or later: a clock that was set ahead, or a pause of both tracks."""
    piece.stamps = [stamp + (round(1000 * jump_s) if stamp >= 1000 * from_s else 0) for stamp in piece.stamps]
    piece.audio = [
        (start_s + jump_s, end_s + jump_s) if start_s >= from_s else (start_s, end_s)
        for start_s, end_s in piece.audio
    ]


def write(case: Case, folder: Path) -> Path:
    """The case as a file."""
    path = folder / f"{case.seed}.{case.suffix}"
    with path.open("wb") as whole:
        for number, piece in enumerate(case.pieces):
            part = _write_piece(case, piece, folder / f"{case.seed}_{number}.{case.suffix}")
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
            part.unlink()
        if case.suffix == "ts":  # stuffing: FFmpeg knows no TS by a few packets
            whole.write((b"\x47\x1f\xff\x10" + b"\xff" * 184) * 10)
    return path


def _write_piece(case: Case, piece: Piece, path: Path) -> Path:
    video_codec, audio_codec, sample_format = KINDS[case.suffix]
    with av.open(str(path), "w") as container:
        video = audio = None
        tick = Fraction(1, 1000)
        if piece.stamps:
            options = {"preset": "ultrafast", "tune": "zerolatency"} if video_codec == "libx264" else {}
            if video_codec == "libvpx":
                options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "b:v": "200k"}
            rate = 25
            if case.suffix == "avi":  # frames have numbers, not stamps
                steps = {b - a for a, b in zip(piece.stamps, piece.stamps[1:], strict=False)} or {40}
                rate = Fraction(1000, round(float(np.median(list(steps)))))
                tick = 1 / Fraction(rate)
            video = container.add_stream(video_codec, rate=rate, options=options)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            video.codec_context.time_base = tick
        if piece.audio:
            audio = container.add_stream(audio_codec, rate=case.rate_hz, layout="mono")
        frames, sounds = (
            _frames(piece, tick, case.suffix == "avi"),
            _sounds(case, piece, audio, sample_format),
        )
        for _, stream_kind, frame in sorted([*frames, *sounds], key=lambda item: item[0]):
            stream = video if stream_kind == "video" else audio
            container.mux(stream.encode(frame))
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


def _frames(piece: Piece, tick: Fraction, is_numbered: bool) -> Iterator[tuple[float, str, av.VideoFrame]]:
    for number, stamp in enumerate(piece.stamps):
        level = BRIGHT if number in piece.flashes else DARK + number % 8
        pixels = np.full((32, 32, 3), level, np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number if is_numbered else round(stamp + 1000 * piece.offset_s), tick
        yield stamp / 1000, "video", frame


def _sounds(
    case: Case, piece: Piece, stream: av.AudioStream | None, sample_format: str
) -> Iterator[tuple[float, str, av.AudioFrame]]:
    if stream is None:
        return
    size, rate_hz = stream.codec_context.frame_size or 1024, case.rate_hz
    for start_s, end_s in piece.audio:
        for k in range(int((end_s - start_s) * rate_hz / size)):
            time_s = start_s + (k * size + np.arange(size)) / rate_hz
            loud = np.full(size, QUIET)
            for beep_s, quiet_s in piece.beeps:
                loud[(time_s >= beep_s) & (time_s < quiet_s)] = LOUD
            wave = loud * np.sin(2 * np.pi * 440 * time_s)
            values = (wave * 32767).astype(np.int16) if sample_format == "s16" else wave.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(values[None], format=sample_format, layout="mono")
            frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
            frame.pts = round((start_s + piece.offset_s) * rate_hz) + k * size
            yield frame.pts / rate_hz - piece.offset_s, "audio", frame


def plain_model():
    """A model that keeps raw tokens and whose features say how bright a frame and how loud a window is."""
    model = make_model(merge=MergeConfig(tokens_per_segment={"*": RAW}))
    eyes, ears = model.video, model.audio

    def brightness(pixels):
        mean = pixels.float().mean((1, 2, 3)) / 255
        num, width = eyes.patches, eyes.width
        return mean[:, None, None].repeat(1, num, width), torch.zeros(len(mean), 2, width)

    def loudness(samples):
        whole = torch.nn.functional.pad(samples, (0, ears.block - samples.shape[1]))
        loud = whole.unflatten(1, (-1, ears.window)).abs().amax(2)
        return loud[..., None].repeat(1, 1, ears.width)

    eyes.features, ears.features = brightness, loudness
    return model


def faults_of(case: Case, model, folder: Path) -> list[str]:
    """What is wrong with the memory of a case."""
    path = write(case, folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        memory = compress(model, path, budget=RAW, progress=False)
    path.unlink()
    faults = [str(w.message) for w in caught if "left out" in str(w.message)]
    stamps, flashes, audio, beeps = _on_one_clock(case)
    if stamps:
        slack = 0.1 * len(case.pieces)  # a piece begins where the last frame before ends
        faults += _video_faults(memory.streams["video"], model.video.patches, stamps, flashes, slack)
    if audio:
        faults += _audio_faults(memory.streams["audio"], audio, beeps)
    return faults


def _on_one_clock(case: Case) -> tuple[list[float], list[tuple[float, float]], list, list]:
    """When frames begin, when flashes are shown, where audio is and beeps are; from the media's start."""
    stamps, shown, audio, beeps = [], [], [], []
    first = case.pieces[0]
    at_s = -min([s / 1000 for s in first.stamps[:1]] + [start_s for start_s, _ in first.audio[:1]])
    for piece in case.pieces:
        first_number = len(stamps)
        stamps += [at_s + stamp / 1000 for stamp in piece.stamps]
        shown += [first_number + number for number in piece.flashes]
        audio += [(at_s + start_s, at_s + end_s) for start_s, end_s in piece.audio]
        beeps += [(at_s + start_s, at_s + end_s) for start_s, end_s in piece.beeps]
        at_s += piece.end_s
    stamps_after = [*stamps[1:], *(stamp + max(STEPS_S) for stamp in stamps[-1:])]
    flashes = [(stamps[k], stamps_after[k]) for k in shown]
    return stamps, flashes, audio, beeps


def _video_faults(
    tokens, patches: int, stamps: list[float], flashes: list[tuple[float, float]], slack: float
) -> list[str]:
    faults = []
    first_s, last_s = stamps[0], stamps[-1]
    num = round(float(tokens.size.sum())) / patches
    low = math.floor(last_s - 0.1) - math.ceil(first_s) + 1
    high = math.floor(last_s + 2) - math.ceil(first_s - 1) + 1
    if not low <= num <= high:
        faults.append(f"video: {num} frames, expected {low} to {high} from {first_s:.3f} to {last_s:.3f} s")
    if not first_s - 1 < float(tokens.start_s.min()) <= first_s + 0.1 + 1:
        faults.append(f"video begins at {float(tokens.start_s.min()):.3f}, not at {first_s:.3f} s")
    bright = {round(s) for s in tokens.start_s[tokens.x.mean(1) > 0.5].tolist()}
    # a frame is sampled if an instant is within its time
    sampled = {
        k for a, b in flashes if b <= last_s for k in range(math.ceil(a + slack), math.ceil(b - slack))
    }
    if missing := [k for k in sampled if not {k - 1, k, k + 1} & bright]:
        faults.append(f"flashes at {missing} s are in no token; bright are {sorted(bright)[:20]}")
    if wrong := [k for k in bright if not any(a - 1.1 <= k <= b + 1.1 for a, b in flashes)]:
        faults.append(f"bright tokens at {wrong} s, flashes at {flashes}")
    return faults


def _audio_faults(tokens, audio: list[tuple[float, float]], beeps: list[tuple[float, float]]) -> list[str]:
    faults = []
    runs: list[list[float]] = []  # with the silence that fills short pauses
    for start_s, end_s in audio:
        if runs and start_s - runs[-1][1] <= FILLED_S:
            runs[-1][1] = end_s
        else:
            runs.append([start_s, end_s])
    expected = sum(end_s - start_s for start_s, end_s in runs)
    num = float(tokens.size.sum())
    slack = 0.2 + 0.1 * len(audio)
    if not expected - slack <= num <= expected + 1.2 * len(runs) + slack:
        faults.append(f"audio: {num:.0f} tokens, expected {expected:.1f} of {runs}")
    if abs(float(tokens.end_s.max()) - runs[-1][1]) > slack:
        faults.append(f"audio ends at {float(tokens.end_s.max()):.3f}, not at {runs[-1][1]:.3f} s")
    loud = tokens.x.mean(1) > (QUIET + LOUD) / 2
    times = list(zip(tokens.start_s[loud].tolist(), tokens.end_s[loud].tolist(), strict=True))
    if missing := [b for b in beeps if not any(s < b[1] + 1 and e > b[0] - 1 for s, e in times)]:
        faults.append(f"beeps at {missing} s are in no token; loud are {times[:20]}")
    if wrong := [t for t in times if not any(t[0] < e + 1 and t[1] > s - 1 for s, e in beeps)]:
        faults.append(f"loud tokens at {wrong} s, beeps at {beeps}")
    return faults


def run(seeds: range, longest_s: float, log: Path | None = None) -> dict[int, list[str]]:
    """Seed -> its faults, of the seeds that failed; `log` is gone on with."""
    model = plain_model()
    done = {}
    if log is not None and log.exists():
        done = {entry["seed"]: entry["faults"] for entry in map(json.loads, log.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as folder:
        for seed in tqdm([s for s in seeds if s not in done], unit="video", disable=None):
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
