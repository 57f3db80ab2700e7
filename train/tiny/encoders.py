"""Training of the tiny encoders on synthetic frames and sounds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...encoders import AudioEncoder, VisionEncoder
from ...synthetic.scenes import OBJECTS, SOUNDS, audio, frames, heard, make_scene, patches
from ..data.sampler import Batches
from ..engine import Engine
from ..stages import last_checkpoint, steps_done
from ..trainer import run

BLOCK_S = 10  # of audio
SCENE_PX = 128  # scenes are painted at twice the encoder's side; `half` scales as a decoder would


@dataclass(frozen=True)
class EncoderConfig:
    """Training of an encoder.

    Attributes:
        steps: optimizer steps.
        batch: frames (or blocks of audio) a step.
        lr: highest learning rate.
        seconds: length of the scenes.
    """

    steps: int
    batch: int
    lr: float
    seconds: float = 40.0


class EncoderTask(nn.Module):
    """An encoder and a linear head, with their loss: which object each patch of a frame shows (softmax, the
    last class is background), or which sounds each window of audio has (a sigmoid each)."""

    def __init__(self, encoder: VisionEncoder | AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        num_classes = len(OBJECTS) + 1 if isinstance(encoder, VisionEncoder) else len(SOUNDS)
        self.head = nn.Linear(encoder.width, num_classes)

    def forward(self, media: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if isinstance(self.encoder, VisionEncoder):
            logits = self.head(self.encoder.features(media)[0])  # (T, P, objects + 1)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        else:
            logits = self.head(self.encoder.features(media))  # (B, W, sounds)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return {"loss": loss, "logits": logits}


Samples = Callable[[int], Iterator[dict[str, Any]]]
"""From the number of a scene to what it has to learn from: {"media": ..., labels by name}."""


def scenes(samples: Samples, seed: int, first: int = 0) -> Batches:
    """Endless samples of the scenes from number seed * 1_000_000 + first on; workers take turns."""
    return Batches(samples, seed * 1_000_000 + first, each=True)


def frame_samples(number: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Frames (H, W, 3) uint8 of a scene, each with (P,) the objects that its patches show."""
    scene, random = make_scene(number, seconds), np.random.default_rng(number)
    shown = [h for h in scene.events if h.kind == "video"]
    times = [random.uniform(h.start_s, min(h.end_s, seconds)) for h in shown for _ in range(4)]
    time_s = np.sort(np.array([*times, *random.uniform(0, seconds, 2)]))
    pixels = half(frames(scene, time_s, size_px=SCENE_PX))
    labels = patches(scene, time_s).reshape(len(time_s), -1)
    for t in random.permutation(len(time_s)):
        yield {"media": pixels[t], "labels": torch.from_numpy(labels[t])}


def audio_samples(number: int, seconds: float, rate: int = 1) -> Iterator[dict[str, Any]]:
    """Blocks of BLOCK_S of a scene's audio, each with (BLOCK_S * rate, sounds) shares that sounds fill."""
    scene = make_scene(number, seconds)
    for start_s in np.arange(0, seconds - BLOCK_S + 1e-6, BLOCK_S).tolist():
        at = start_s + np.arange(BLOCK_S * rate) / rate
        samples, shares = audio(scene, start_s, start_s + BLOCK_S), heard(scene, at, at + 1 / rate)
        yield {"media": torch.from_numpy(samples), "labels": torch.from_numpy(shares)}


def learn_scenes(
    task: nn.Module, samples: Samples, config: EncoderConfig, seed: int, out: Path, *,
    validate: Callable[[int], dict[str, float]] | None = None, muon: bool = True, **options: Any,
) -> None:  # fmt: skip
    """Train a task on scenes, from the last checkpoint in `out` on, if it has any; frozen after that.

    Args:
        task, samples: what learns, and of what.
        config, seed: how long; of weights and scenes.
        validate, muon: as of `run`.
        options: of `Engine.arguments`.

    Raises:
        KeyboardInterrupt: SIGTERM came; a checkpoint of the last step was saved.
    """
    checkpoint = last_checkpoint(out)
    args = Engine(device="cpu", report=[]).arguments(
        out, steps=config.steps, lr=config.lr, seed=seed, per_device_train_batch_size=config.batch, **options
    )
    data = scenes(samples, seed + 500, 1000 * steps_done(checkpoint))
    if run(task, data, args, resume=checkpoint, validate=validate, muon=muon) is None:
        raise KeyboardInterrupt(f"{out}: stopped; the same command goes on from its last checkpoint")
    task.requires_grad_(False).eval()


def half(pixels: np.ndarray[Any, Any]) -> Tensor:
    """(T, H, W, 3) uint8 at half the side, by the mean of 2 x 2, as a scaler would give it."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    return nn.functional.avg_pool2d(x, 2).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.no_grad()
def score(task: nn.Module, batches: Iterator[dict[str, Tensor]], num: int) -> dict[str, float]:
    """Share of object and background patches (or sounding and silent windows) that are right."""
    task.eval()
    right, total = torch.zeros(2), torch.zeros(2)
    for batch in islice(batches, num):
        logits, labels = task(**batch)["logits"], batch["labels"]
        if isinstance(task.encoder, VisionEncoder):
            correct, rare = logits.argmax(-1) == labels, labels < len(OBJECTS)
        else:
            sure = (labels < 0.1) | (labels > 0.9)
            correct, rare = ((logits > 0) == (labels > 0.5))[sure], (labels > 0.5)[sure]
        right += torch.stack([correct[rare].sum(), correct[~rare].sum()])
        total += torch.stack([rare.sum(), (~rare).sum()])
    return dict(zip(("something", "nothing"), (right / total.clamp_min(1)).tolist(), strict=True))
