"""Features of the published models from videos, against their encoders run one after another.

`longcompress bench features` reads a video as `shards make --preset longvale` does: frames and audio go to
the encoders as they are decoded. Beside it, in the same run, on the same video and taking turns: all of it
decoded first, by the same reader, then CLIP, BEATs and Whisper one after another, as plain transformers and
torch run them. Nothing is timed unless both give the same features. Both are told in seconds on the wall and
of all cores together: where others use the machine, only the latter says what either takes. Also, each in a
process of its own, the most memory that videos of several lengths take, with encoders of size "small".
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from ..checkpoints.architectures import config_of
from ..config import ModelConfig
from ..encoders import AudioEncoder, BeatsEncoder, VisionEncoder
from ..encoders.fbank import beats_filters
from ..encoders.random_encoders import SHAPES, Size, random_encoders
from ..encoders.vision import CLIP_MEAN, CLIP_STD
from ..media.reader import read
from ..model import LongCompress
from ..session import compressed
from ..types import Frames
from .bench_media import make_video
from .bench_memory import peak_mb

FRAMES, WINDOWS = 25, 8  # a batch of the plain run
SAME = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}  # RMS of the difference, relative
ENDLESS = 1 << 40
WINDOW = 512  # frames of BEATs' mel filters
MEAN = 256  # positions of Whisper
CHILD = "import json, sys; from longcompress.eval.bench_features import peak; peak(*json.loads(sys.argv[1]))"


def measure(
    preset: Literal["longvale", "vtimellm"] = "longvale", size: Size = "middle", video: str = "",
    minutes: float = 4.0, repeat: int = 5, threads: int = 2, device: str = "cpu", dtype: str = "float32",
    memory: list[float] | None = None, out: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """Time it.

    Args:
        preset: whose features.
        size: of the encoders, whose weights are random: small, middle, or the papers'.
        video: a video; none: one is made by the ffmpeg command, 640 x 360 with audio.
        minutes: its length then.
        repeat: runs of each after the one that is compared; medians count.
        threads: of torch.
        device: cpu or cuda.
        dtype: of the encoders.
        memory: lengths in minutes of videos whose most memory is measured; none: it isn't.
        out: JSON lines file that the figures are added to.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be >= 1, got {repeat}")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = [_peak_of(preset, length, Path(folder), threads) for length in memory or []]
        if not video:
            video = str(Path(folder) / "video.mp4")
            note(f"making a video of {minutes:g} min")
            make_video(Path(video), minutes)
        model = random_model(preset, size).to(device, kind_of(dtype))
        got, seconds = ours(model, video)
        check(got, plain(model, video)[0], kind_of(dtype))
        steps: list[dict[str, float]] = []
        work = {"ours": lambda: ours(model, video), "plain": lambda: steps.append(plain(model, video)[1])}
        took = timed(work, repeat)
    each = {name: median(step[name] for step in steps) for name in steps[0]}
    row: dict[str, Any] = {
        "preset": preset, "size": size, "video_s": seconds, "repeat": repeat, "threads": threads,
        "device": device, "dtype": dtype, "torch": torch.__version__,
        "plain_parts_s": each,
    }  # fmt: skip
    for clock in ("wall", "cpu"):
        runs = {name: [one[clock] for one in times] for name, times in took.items()}
        row |= {f"{name}_{clock}_s": median(times) for name, times in runs.items()}
        row[f"plain_over_ours_{clock}"] = median(
            p / o for p, o in zip(runs["plain"], runs["ours"], strict=True)
        )
        row |= {f"{name}_{clock}_runs_s": times for name, times in runs.items()}
    rows.append(row)
    show(row)
    if out:
        with open(out, "a", encoding="utf8") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
    return rows


def random_model(preset: str, size: Size) -> LongCompress:
    """A published model's encoders, random, without a language model."""
    config, encoders = config_of(preset), random_encoders(size)
    heads = {name: replace(getattr(config, name), width=shape.width) for name, shape in SHAPES[size].items()}
    config = replace(config, **heads)  # the metric, which nothing here asks
    video = VisionEncoder(encoders.video, config.video, config.media.size_px, CLIP_MEAN, CLIP_STD)
    if not config.audio.base:
        return LongCompress(config, video, None, None).eval()
    audio = BeatsEncoder(encoders.audio, config.audio)
    speech = AudioEncoder(encoders.speech, encoders.extractor, config.speech)
    return LongCompress(config, video, audio, None, speech=speech).eval()


def ours(model: LongCompress, video: str) -> tuple[dict[str, Tensor], float]:
    """(stream -> (tokens, C) as `shards make` has them, seconds of video)."""
    session, _ = compressed(model, video, ENDLESS, progress=False)
    pieces = session.held().pieces
    found = {
        name: torch.cat([p.groups[name].tokens.x for p in pieces if name in p.groups]).cpu()
        for name in model.streams
    }
    return found, session.stats()["seen_s"]


@torch.no_grad()
def plain(model: LongCompress, video: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(stream -> (tokens, C), seconds of each step): decoding, then one encoder after another."""
    begin = time.perf_counter()
    took: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal begin
        took[name], begin = time.perf_counter() - begin, time.perf_counter()

    pixels, samples = decoded(video, model.config)
    lap("decode")
    found = {"video": see(model, pixels)}
    lap("video")
    if model.audio is not None:
        found["audio"] = hear(model.audio, samples)
        lap("audio")
    if model.speech is not None:
        found["speech"] = listen(model.speech, samples)
        lap("speech")
    return found, took


def decoded(video: str, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """((T, H, W, 3) uint8 frames, (n,) float32 samples) of a whole video."""
    pixels, samples = [], []
    with read(video, replace(config.media, audio=bool(config.audio.base))) as parts:
        for part in parts:
            if isinstance(part, Frames):
                pixels.append(part.pixels)
            else:
                samples.append(part.samples)
    return torch.cat(pixels), torch.cat(samples) if samples else torch.zeros(0)


def see(model: LongCompress, pixels: Tensor) -> Tensor:
    """(T, C) projected class tokens of all frames."""
    assert model.video is not None
    encoder = model.video.encoder
    weight = next(encoder.parameters())
    mean, std = (torch.tensor(v, device=weight.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    found = []
    for part in pixels.split(FRAMES):
        x = (part.to(weight.device).permute(0, 3, 1, 2).float() / 255 - mean) / std
        found.append(encoder(pixel_values=x.to(weight.dtype)).image_embeds)
    return torch.cat(found).cpu()


def hear(encoder: Any, samples: Tensor) -> Tensor:
    """(A, C) means of BEATs' windows: the filter bank of the whole track, cut and run in batches; what is not
    a whole window at the end comes last, without padding."""
    weight = next(encoder.encoder.parameters())
    clip_cache = beats_filters(samples.to(weight.device))
    num = len(clip_cache) // WINDOW
    whole = clip_cache[: num * WINDOW].unflatten(0, (num, WINDOW))
    found = [encoder.encoder(part).mean(1) for part in whole.split(WINDOWS) if len(part)]
    rest = clip_cache[num * WINDOW :]
    if len(rest) >= encoder.encoder.config.patch_size:
        found.append(encoder.encoder(rest[None]).mean(1))
    return torch.cat(found).cpu()


def listen(encoder: Any, samples: Tensor) -> Tensor:
    """(A, C) means of 256 positions of Whisper's encoder: 30 s after 30 s, laid end to end."""
    weight = next(encoder.encoder.parameters())
    found = []
    for part in samples.split(encoder.block):
        mel = encoder.extractor(part.numpy(), sampling_rate=encoder.rate_hz, return_tensors="pt")
        states = encoder.encoder(mel.input_features.to(weight.device, weight.dtype)).last_hidden_state[0]
        found.append(states[: -(-len(part) // encoder.step)])
    x = torch.cat(found)
    return torch.stack([part.mean(0) for part in x.split(MEAN)]).cpu()


def check(got: Mapping[str, Tensor], want: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """ValueError unless both ways give the same features."""
    for name, y in want.items():
        x = got[name].float()
        off = float((x - y.float()).square().mean().sqrt() / y.float().square().mean().sqrt())
        if x.shape != y.shape or not off <= SAME[dtype]:
            raise ValueError(
                f"stream {name!r}: features {tuple(x.shape)} and {tuple(y.shape)} are {off:.1e} apart, at "
                f"most {SAME[dtype]:.0e} is the same; nothing is timed"
            )


def timed(work: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of each run on the wall and of all cores; the ways take turns, and turns in beginning."""
    took: dict[str, list[dict[str, float]]] = {name: [] for name in work}
    for number in range(1, repeat + 1):  # both ran once already, to be compared
        for name in list(work) if number % 2 else list(work)[::-1]:
            begin, cores = time.perf_counter(), time.process_time()
            work[name]()
            took[name].append({"wall": time.perf_counter() - begin, "cpu": time.process_time() - cores})
        note(f"round {number} of {repeat}")
    return took


def _peak_of(preset: str, minutes: float, folder: Path, threads: int) -> dict[str, Any]:
    """The most memory of a video of this length, in a process of its own."""
    video = folder / f"{minutes:g}.mp4"
    make_video(video, minutes)
    own = [sys.executable, "-c", CHILD, json.dumps([preset, str(video), threads])]
    done = subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True)
    video.unlink()
    row: dict[str, Any] = json.loads(done.stdout)
    note(
        f"{minutes:g} min: {row['peak_mb']:.0f} MB at most, {row['loaded_mb']:.0f} before the video, "
        f"{row['wall_s']:.1f} s"
    )
    return {"preset": preset, "size": "small", "minutes": minutes, **row}


def peak(preset: str, video: str, threads: int) -> None:
    """Prints the most memory that this process held, before and after a video, as JSON."""
    torch.set_num_threads(threads)
    model = random_model(preset, "small")
    loaded_mb = peak_mb()
    begin = time.perf_counter()
    tokens = {name: len(x) for name, x in ours(model, video)[0].items()}
    wall_s = time.perf_counter() - begin
    told = {"loaded_mb": loaded_mb, "peak_mb": peak_mb(), "wall_s": wall_s, "tokens": tokens}
    print(json.dumps(told))


def kind_of(dtype: str) -> torch.dtype:
    """torch's dtype of this name."""
    kind = getattr(torch, dtype, None)
    if kind not in SAME:
        names = ", ".join(str(one).removeprefix("torch.") for one in SAME)
        raise ValueError(f"dtype must be one of {names}, got {dtype!r}")
    assert isinstance(kind, torch.dtype)
    return kind


def show(row: Mapping[str, Any]) -> None:
    """Prints a row."""
    steps = ", ".join(f"{name} {value:.2f}" for name, value in row["plain_parts_s"].items())
    for clock in ("wall", "cpu"):
        for name in ("ours", "plain"):
            times, middle = sorted(row[f"{name}_{clock}_runs_s"]), row[f"{name}_{clock}_s"]
            print(
                f"{clock:4}  {name:5}  {middle:7.2f} s ({times[0]:.2f} to {times[-1]:.2f}), "
                f"{1e3 * middle / row['film_s']:.1f} ms a second of video"
            )
        print(f"{clock:4}  plain over ours, median of the rounds: {row[f'plain_over_ours_{clock}']:.2f}")
    print(f"steps of plain on the wall: {steps}")


def note(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
