"""Cases of `bench throughput`: features of the published models, beside their encoders one after another.

`features_rows` extracts them as `shards make --preset longvale` does, where encoders run while the video is
decoded. Beside it the same video is decoded first, then CLIP, BEATs and Whisper run one after another in
plain transformers and torch. On a shared machine only the seconds of all cores compare.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from ...checkpoints.architectures import config_of
from ...encoders import AudioEncoder, BeatsEncoder, VisionEncoder
from ...encoders.fbank import beats_filters
from ...encoders.random_encoders import SHAPES, Size, random_encoders
from ...encoders.vision import CLIP_MEAN, CLIP_STD
from ...model import LongCompress
from ...types import Audio, Frames
from ...videos import read_session
from .rows import OURS, Row
from .stages import decode
from .timer import in_own_process, peaks_gb, relative_rms, stopwatch, timed

Preset = Literal["longvale", "vtimellm"]
BATCH_FRAMES, BATCH_WINDOWS = 25, 8  # of the encoders one after another
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}  # relative RMS of the difference
NO_BUDGET = 1 << 40
WINDOW = 512  # frames of BEATs' mel filters
MEAN = 256  # positions of Whisper
SEPARATE = "one after another"  # provider


def features_rows(
    row: Row, video: str, preset: Preset, size: Size, repeat: int, device: str, dtype: str | None
) -> Iterator[Row]:
    """Peak memory in a process of its own, then the times of both; ValueError if their features differ."""
    dtype = dtype or "float32"
    if dtype not in TOLERANCE:
        raise ValueError(f"dtype must be one of {', '.join(TOLERANCE)}, got {dtype!r}")
    settings: dict[str, Any] = {"preset": preset, "size": size, "dtype": dtype}
    row = replace(row, case="extract", provider=OURS, settings=settings)
    for case, peak in in_own_process(extraction_peaks, preset, size, video, torch.get_num_threads()).items():
        yield row.figure([peak], "memory", "GB", case=case)
    model = random_model(preset, size).to(device, getattr(torch, dtype))
    features, video_s = extract(model, video)
    check(features, extract_separately(model, video)[0], TOLERANCE[dtype])
    work = {OURS: lambda: extract(model, video), SEPARATE: lambda: extract_separately(model, video)[1]}
    took = timed(work, repeat, device, warm_up=0, keep_results=True)
    steps = [run.result for run in took[SEPARATE]]
    step_s = {name: median(step[name] for step in steps) for name in steps[0]}
    row = replace(row, settings=settings | {"video_s": video_s, "separate_steps_s": step_s})
    for metric, clock in (("time", "wall_s"), ("time of all cores", "cpu_s")):
        times = {name: [getattr(run, clock) for run in runs] for name, runs in took.items()}
        for name, values in times.items():
            yield row.figure(values, metric, provider=name)
        ratios = [theirs / ours for theirs, ours in zip(times[SEPARATE], times[OURS], strict=True)]
        yield row.figure(ratios, f"{metric}, ratio", "x", provider=SEPARATE)


def extraction_peaks(preset: Preset, size: Size, video: str, threads: int) -> dict[str, float]:
    """Peak GB of this process when the encoders are loaded, and after a video."""
    torch.set_num_threads(threads)
    model = random_model(preset, size)
    loaded = peaks_gb(model.device)["process"]
    extract(model, video)
    return {"load": loaded, "extract": peaks_gb(model.device)["process"]}


def random_model(preset: str, size: Size) -> LongCompress:
    """A published model's encoders, random, without a language model."""
    config, encoders = config_of(preset), random_encoders(size)
    heads = {
        name: replace(getattr(config, name), metric_width=shape.width) for name, shape in SHAPES[size].items()
    }
    config = replace(config, **heads)  # of the metric, which nothing here uses
    video = VisionEncoder(encoders.video, config.video, config.media.size_px, CLIP_MEAN, CLIP_STD)
    if not config.audio.base:
        return LongCompress(config, video, None, None).eval()
    audio = BeatsEncoder(encoders.audio, config.audio)
    speech = AudioEncoder(encoders.speech, encoders.extractor, config.speech)
    return LongCompress(config, video, audio, None, speech=speech).eval()


def extract(model: LongCompress, video: str) -> tuple[dict[str, Tensor], float]:
    """(stream -> (tokens, C) as `shards make` has them, seconds of the video)."""
    session = read_session(model, video, budget=NO_BUDGET, progress=False)
    chunks = session.state().chunks
    features = {
        name: torch.cat([chunk.groups[name].tokens.x for chunk in chunks if name in chunk.groups]).cpu()
        for name in model.streams
    }
    return features, session.encoder.end_s


@torch.no_grad()
def extract_separately(model: LongCompress, video: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(stream -> (tokens, C), seconds of each step): decoding, then one encoder after another."""
    lap, took = stopwatch(model.device), {}
    parts, _ = decode(model, Path(video))
    pixels = torch.cat([part.pixels for part in parts if isinstance(part, Frames)])
    samples = torch.cat([torch.zeros(0), *(part.samples for part in parts if isinstance(part, Audio))])
    took["decode"] = lap()
    features, encodes = {}, {"video": encode_frames, "audio": encode_audio, "speech": encode_speech}
    for name, encoder in model.encoders.items():
        features[name] = encodes[name](encoder, pixels if name == "video" else samples)
        took[name] = lap()
    return features, took


def encode_frames(encoder: Any, pixels: Tensor) -> Tensor:
    """(T, C) projected class tokens of all frames."""
    batches = map(encoder.normal, pixels.split(BATCH_FRAMES))
    return torch.cat([encoder.encoder(pixel_values=batch).image_embeds for batch in batches]).cpu()


def encode_audio(encoder: Any, samples: Tensor) -> Tensor:
    """(A, C) means of BEATs' windows: the filter bank of the whole track, cut and run in batches; what is not
    a whole window at the end comes last, without padding."""
    beats = encoder.encoder
    windows = list(beats_filters(samples.to(next(beats.parameters()).device)).split(WINDOW))
    last = windows.pop() if len(windows[-1]) < WINDOW else None
    batches = [torch.stack(windows[at : at + BATCH_WINDOWS]) for at in range(0, len(windows), BATCH_WINDOWS)]
    if last is not None and len(last) >= beats.config.patch_size:
        batches.append(last[None])
    return torch.cat([beats(batch).mean(1) for batch in batches]).cpu()


def encode_speech(encoder: Any, samples: Tensor) -> Tensor:
    """(A, C) means of 256 positions of Whisper's encoder: 30 s after 30 s, laid end to end."""
    weight = next(encoder.encoder.parameters())
    batches = []
    for part in samples.split(encoder.block):
        mel = encoder.extractor(part.numpy(), sampling_rate=encoder.rate_hz, return_tensors="pt")
        states = encoder.encoder(mel.input_features.to(weight.device, weight.dtype)).last_hidden_state[0]
        batches.append(states[: -(-len(part) // encoder.step)])
    return torch.stack([part.mean(0) for part in torch.cat(batches).split(MEAN)]).cpu()


def check(features: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """ValueError unless both have the same features."""
    for name, y in expected.items():
        x = features[name]
        off = relative_rms(x, y)
        if x.shape != y.shape or not off <= tolerance:
            raise ValueError(
                f"stream {name!r}: features {tuple(x.shape)} and {tuple(y.shape)} are {off:.1e} apart, at "
                f"most {tolerance:.0e} is the same; nothing is timed"
            )
