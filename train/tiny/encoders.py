"""Training of the tiny encoders on synthetic frames and sounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ...encoders import AudioEncoder, VisionEncoder
from ...synthetic.scenes import OBJECTS, SOUNDS, audio, frames, heard, make_scene, patches
from ..data.sampler import enter_worker

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


class SyntheticData(IterableDataset[dict[str, Any]]):
    """Endless labelled frames (kind "video") or blocks of audio ("audio") of random scenes of some seconds.

    Scene numbers begin at seed * 1_000_000 + first; workers take turns. A second of audio has `rate` labels.
    """

    def __init__(self, kind: str, seed: int, seconds: float, rate: int = 1, first: int = 0) -> None:
        self.kind, self.seed, self.seconds, self.rate, self.first = kind, seed, seconds, rate, first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, num_workers = enter_worker()
        for number in count(self.seed * 1_000_000 + self.first + worker, num_workers):
            scene = make_scene(number, self.seconds)
            random = np.random.default_rng(number)
            yield from self._frames(scene, random) if self.kind == "video" else self._sounds(scene)

    def _frames(self, scene: Any, random: np.random.Generator) -> Iterator[dict[str, Any]]:
        shown = [h for h in scene.events if h.kind == "video"]
        times = [random.uniform(h.start_s, min(h.end_s, self.seconds)) for h in shown for _ in range(4)]
        time_s = np.sort(np.array([*times, *random.uniform(0, self.seconds, 2)]))
        pixels = half(frames(scene, time_s, size_px=SCENE_PX))
        labels = patches(scene, time_s).reshape(len(time_s), -1)
        for t in random.permutation(len(time_s)):
            yield {"media": pixels[t], "labels": torch.from_numpy(labels[t])}

    def _sounds(self, scene: Any) -> Iterator[dict[str, Any]]:
        for start_s in np.arange(0, self.seconds - BLOCK_S + 1e-6, BLOCK_S).tolist():
            at = start_s + np.arange(BLOCK_S * self.rate) / self.rate
            samples, shares = audio(scene, start_s, start_s + BLOCK_S), heard(scene, at, at + 1 / self.rate)
            yield {"media": torch.from_numpy(samples), "labels": torch.from_numpy(shares)}


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
