"""Training of the vision encoder of the small stock model on synthetic frames.

What it puts out lies at the words of what a token shows: its object's and, by PARTS, its letter's.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...config import MediaConfig
from ...encoders.families import patchify
from ...media import fit_pixels
from ...synthetic.scenes import LETTERS, OBJECTS, frames, letter_patches, make_scene, patches
from .encoders import EncoderConfig, learn_scenes, scenes
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


def pair_samples(number: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Pairs (2, H, W, 3) of frames of a scene, a STEP_S apart, with (2, P) objects and letters in them."""
    scene, random = make_scene(number, seconds, **SCENES), np.random.default_rng(number)
    times = [random.uniform(e.start_s - STEP_S / 4, e.end_s) for e in scene.of("video") for _ in range(4)]
    time_s = np.sort(np.array([*times, *random.uniform(0, seconds, 2)]).clip(0, seconds))
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
    samples = partial(pair_samples, seconds=config.seconds)

    def unseen(num: int) -> dict[str, float]:
        scores = score(task, iter(DataLoader(scenes(samples, seed + 900), batch_size=64)), num)
        task.train()
        return scores

    learn_scenes(
        task, samples, config, seed, out, validate=lambda step: unseen(8), warmup=50, decay=0.4,
        save_steps=200, eval_steps=400,
    )  # fmt: skip
    return unseen(40)
