"""Training of the vision encoder of the small stock model on synthetic frames.

What it puts out lies at the words of what a token shows: its object's and, by PARTS, its letter's.
"""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ...config import MediaConfig
from ...encoders.families import patchify
from ...media import fit_pixels
from ...synthetic.scenes import LETTERS, OBJECTS, frames, letter_patches, make_scene, patches
from ..data.sampler import enter_worker
from ..engine import Engine
from ..stages import last_checkpoint, steps_done
from ..trainer import run
from .encoders import EncoderConfig
from .vl import FRAME_AXIS, GRID, MERGE, PATCH_PX, SIZE_PX, words_of

MEDIA = MediaConfig(size_px=SIZE_PX, scaling="bicubic")
SCENES: dict[str, Any] = {"letters": True, "objects_a_minute": 14.0}  # most frames show two or three objects
STEP_S = 1.0  # between the frames of a pair
PARTS = ((1.0, 0.5), (0.5, 0.5), (0.0, 0.7), (0.5, 0.7))  # object, letter: first features, deepstack 1 to 3


class VisionTask(nn.Module):
    """The encoder of a model, with its loss: squared distance to the words of what each token shows, and
    cross entropy of its likeness to them."""

    objects: Tensor
    letters: Tensor

    def __init__(self, lm: Any, words: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.visual = lm.model.visual
        self.register_buffer("objects", words[0], persistent=False)
        self.register_buffer("letters", words[1], persistent=False)

    def forward(self, media: Tensor, objects: Tensor, letters: Tensor) -> dict[str, Any]:
        """media (B, 2, H, W, 3) uint8; objects and letters (B, 2, P) int64, the last class is none."""
        x = rearrange(media, "b f h w c -> (b f) c h w").float() / 127.5 - 1
        rows, grid = patchify(x, PATCH_PX, MERGE, 2)
        out = self.visual(rows, grid)
        outputs = [out.pooler_output, *out.deepstack_features]  # (B P, D) each
        shares = []
        for labels, num in ((objects, len(OBJECTS)), (letters, len(LETTERS))):
            share = nn.functional.one_hot(rearrange(labels, "b f p -> (b p) f"), num + 1).float().mean(1)
            shares.append(share)  # (B P, num + 1)
        loss, logits = torch.zeros(()), []
        for number, (output, weights) in enumerate(zip(outputs, PARTS, strict=True)):
            target = torch.zeros_like(output)
            if number == 0:
                target[:, FRAME_AXIS] = 2.0
            for words, share, weight in zip((self.objects, self.letters), shares, weights, strict=True):
                if weight:
                    target = target + weight * share[:, :-1] @ words
                    likeness = (
                        output @ words.t() / words.square().sum(1).mean() / weight
                    )  # 1 where it shows it
                    logit = nn.functional.pad(12 * likeness, (0, 1), value=6.0)
                    loss = loss + nn.functional.cross_entropy(logit, share)
                    logits.append(logit)
            loss = loss + 2 * (output - target).square().sum(1).mean() / self.objects.square().sum(1).mean()
        return {"loss": loss, "logits": logits}


class Pairs(IterableDataset[dict[str, Any]]):
    """Endless labelled pairs of frames, a STEP_S apart, of random scenes from seed * 1_000_000 + first on."""

    def __init__(self, seed: int, seconds: float = 40.0, first: int = 0) -> None:
        self.seed, self.seconds, self.first = seed, seconds, first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, num_workers = enter_worker()
        for number in count(self.seed * 1_000_000 + self.first + worker, num_workers):
            scene, random = make_scene(number, self.seconds, **SCENES), np.random.default_rng(number)
            shown = scene.of("video")
            times = [random.uniform(e.start_s - STEP_S / 4, e.end_s) for e in shown for _ in range(4)]
            time_s = np.sort(np.array([*times, *random.uniform(0, self.seconds, 2)]).clip(0, self.seconds))
            both = np.stack([time_s, time_s + STEP_S], 1).ravel()
            pixels = fit_pixels(torch.from_numpy(frames(scene, both)), MEDIA)
            pixels = rearrange(pixels, "(b f) h w c -> b f h w c", f=2)
            seen = torch.from_numpy(patches(scene, both, grid=GRID)).view(len(time_s), 2, -1)
            read = torch.from_numpy(letter_patches(scene, both, grid=GRID)).view(len(time_s), 2, -1)
            for t in random.permutation(len(time_s)):
                yield {"media": pixels[t], "objects": seen[t], "letters": read[t]}


@torch.no_grad()
def score(task: VisionTask, batches: Iterator[dict[str, Tensor]], num: int) -> dict[str, float]:
    """Share of tokens that are right, where both frames of a pair show the same: of objects, background,
    letters and no letter, by the first features, and of letters by the last."""
    task.eval()
    right, total = torch.zeros(5), torch.zeros(5)
    for batch in islice(batches, num):
        logits = task(**batch)["logits"]
        for place, kind, index in ((0, "objects", 0), (2, "letters", 1), (4, "letters", -1)):
            labels = batch[kind]
            label, same = labels[:, 0].flatten(), (labels[:, 0] == labels[:, 1]).flatten()
            correct, some = logits[index].argmax(-1) == label, label < logits[index].shape[1] - 1
            for offset, of in ((0, same & some), (1, same & ~some))[: 2 if place < 4 else 1]:
                right[place + offset] += correct[of].sum()
                total[place + offset] += of.sum()
    names = ("object", "background", "letter", "no_letter", "letter_deep")
    return dict(zip(names, (right / total.clamp_min(1)).tolist(), strict=True))


def train_vision(lm: Any, tokenizer: Any, config: EncoderConfig, seed: int, out: Path) -> dict[str, float]:
    """Train the encoder of a model, from the last checkpoint in `out` on; its score on unseen scenes."""
    task = VisionTask(lm, words_of(lm, tokenizer))
    task.requires_grad_(True)
    args = Engine(device="cpu", report=[]).arguments(
        out, steps=config.steps, lr=config.lr, warmup=50, decay=0.4, save_steps=200, seed=seed,
        per_device_train_batch_size=config.batch, eval_steps=400,
    )  # fmt: skip
    checkpoint = last_checkpoint(out)
    first = 1000 * steps_done(checkpoint)

    def unseen(num: int) -> dict[str, float]:
        scores = score(task, iter(DataLoader(Pairs(seed + 900, config.seconds), batch_size=64)), num)
        task.train()
        return scores

    data = Pairs(seed + 500, config.seconds, first)
    trainer = run(task, data, args, resume=checkpoint, validate=lambda step: unseen(8), muon=True)
    if trainer is None:
        raise KeyboardInterrupt(f"{out}: stopped; the same command goes on from its last checkpoint")
    task.requires_grad_(False).eval()
    return unseen(40)
