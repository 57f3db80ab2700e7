"""Sound to tokens: BEATs in windows of 5.12 s, each the mean of its patches."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import MediaConfig, SoundConfig
from ..kernels import head_mean
from ..types import Encoded, Sound, Tokens
from .beats import Beats
from .fbank import FRAME, RATE_HZ, STEP, beats_bank, num_frames
from .features import check_width

WINDOW = 512  # frames of the filter bank
HALF = WINDOW // 2  # frames below which the released scripts leave the last window out


class BeatsEncoder(nn.Module):
    """BEATs whose windows, each averaged over its patches, are a sound stream.

    The last frames of a window reach into the next: its sound is shown with so much of what follows (`look`)
    that windows are those of the whole track's filter bank.

    Args:
        tower: BEATs.
        config: tail, summary, metric.
    """

    takes = Sound
    block = WINDOW * STEP
    look = FRAME - STEP
    means = None
    cells = 1
    rate_hz = RATE_HZ
    window = block  # samples a token stands for

    def __init__(self, tower: Beats, config: SoundConfig) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.config = config
        self.width = tower.config.width
        check_width(config.width, self.width)
        self.num_summaries = int(config.summary)
        self.least = HALF if config.tail == "released" else tower.config.patch_size  # frames of a window

    @classmethod
    def load(cls, config: SoundConfig, base: str | Path, **kwargs: Any) -> "BeatsEncoder":
        """The encoder in a released .pt file, or in a folder that `save_pretrained` wrote."""
        return cls(Beats.from_pretrained(base, **kwargs), config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `load` reads."""
        self.tower.save_pretrained(folder)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Tokens of so many seconds of sound."""
        whole, rest = divmod(num_frames(math.floor(duration_s * self.rate_hz + 1e-6)), WINDOW)
        return whole + (rest >= self.least)

    def tokens_a_second(self, duration_s: float, media: MediaConfig) -> float:
        """How fast tokens come."""
        return self.rate_hz / self.window

    @torch.no_grad()
    def encode(self, sound: Sound) -> Encoded:
        """The token of at most one block of sound and the look behind it; none of sound that is too short
        for one."""
        if sound.rate_hz != self.rate_hz:
            raise ValueError(f"sound must come at {self.rate_hz} samples a second, got {sound.rate_hz}")
        if not 0 < len(sound) <= self.block + self.look:
            raise ValueError(f"sound must be 1 to {self.block + self.look} samples, got {len(sound)}")
        x = self.features(sound.samples[None])  # (1 or 0, C)
        num, end_s = len(x), sound.start_s + min(len(sound), self.block) / self.rate_hz
        start_s, end = (
            torch.full((num,), t, dtype=torch.float64, device=x.device) for t in (sound.start_s, end_s)
        )
        tokens = Tokens(x, torch.ones(num, device=x.device), (start_s + end) / 2, start_s, end)
        return Encoded(tokens, self.metric(x), x[:, None] if self.config.summary else None)

    def metric(self, x: Tensor) -> Tensor:
        """(N, d) float32: mean over heads of x (N, C)."""
        return head_mean(x, self.config.width)

    def features(self, samples: Tensor) -> Tensor:
        """(A, C) tokens of A windows of samples (A, n) float32; (0, C) where they are too short for one."""
        weight = next(self.tower.parameters())
        bank = beats_bank(samples.to(weight.device))  # (A, L, 128)
        num = bank.shape[1]
        if num < self.least:
            return weight.new_zeros(0, self.width)
        bank = nn.functional.pad(bank, (0, 0, 0, WINDOW - num))
        padding = None
        if num < WINDOW and self.config.tail == "kept":
            padding = (torch.arange(WINDOW, device=bank.device) >= num).expand(len(bank), -1)
        x = self.tower(bank, padding)  # (A, P, C), zero where it is padding
        seen = x.shape[1] if padding is None else self.tower.num_patches(num)
        return x.sum(1) / seen
