"""Audio to tokens: BEATs in windows of 5.12 s, each the mean of its patches."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AudioConfig, MediaConfig
from ..kernels import head_mean
from ..types import Audio, Encoded, Tokens
from .beats import Beats
from .fbank import FRAME, RATE_HZ, STEP, beats_filters, num_frames
from .features import check_width

WINDOW = 512  # frames of the mel filters
HALF = WINDOW // 2  # frames below which the released scripts leave the last window out


class BeatsEncoder(nn.Module):
    """BEATs whose windows, each averaged over its patches, are an audio stream.

    The last frames of a window reach into the next: its audio is shown with so much of what follows (`look`)
    that windows are those of the whole track's mel filters.

    Args:
        encoder: BEATs.
        config: tail, summary, metric.
    """

    modality = "audio"
    block = WINDOW * STEP
    look = FRAME - STEP
    means = None
    patches = 1
    rate_hz = RATE_HZ
    window = block  # samples a token stands for

    def __init__(self, encoder: Beats, config: AudioConfig) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.config = config
        self.width = encoder.config.width
        check_width(config.metric_width, self.width)
        self.num_summaries = int(config.summary)
        self.least = HALF if config.tail == "released" else encoder.config.patch_size  # frames of a window

    @classmethod
    def load(cls, config: AudioConfig, base: str | Path, **kwargs: Any) -> "BeatsEncoder":
        """The encoder in a released .pt file, or in a folder that `save_pretrained` wrote."""
        return cls(Beats.from_pretrained(base, **kwargs), config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `load` reads."""
        self.encoder.save_pretrained(folder)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Tokens of so many seconds of audio."""
        whole, rest = divmod(num_frames(math.floor(duration_s * self.rate_hz + 1e-6)), WINDOW)
        return whole + (rest >= self.least)

    def tokens_a_second(self, duration_s: float, media: MediaConfig) -> float:
        """How fast tokens come."""
        return self.rate_hz / self.window

    @torch.no_grad()
    def encode(self, audio: Audio) -> Encoded:
        """The token of at most one block of audio and the look behind it; none of audio that is too short
        for one."""
        if audio.rate_hz != self.rate_hz:
            raise ValueError(f"audio must come at {self.rate_hz} samples a second, got {audio.rate_hz}")
        if not 0 < len(audio) <= self.block + self.look:
            raise ValueError(f"audio must be 1 to {self.block + self.look} samples, got {len(audio)}")
        x = self.features(audio.samples[None])  # (1 or 0, C)
        num, end_s = len(x), audio.start_s + min(len(audio), self.block) / self.rate_hz
        start_s, end = (
            torch.full((num,), t, dtype=torch.float64, device=x.device) for t in (audio.start_s, end_s)
        )
        tokens = Tokens(x, torch.ones(num, device=x.device), (start_s + end) / 2, start_s, end)
        return Encoded(tokens, self.metric(x), x[:, None] if self.config.summary else None)

    def metric(self, x: Tensor) -> Tensor:
        """(N, d) float32: mean over heads of x (N, C)."""
        return head_mean(x, self.config.metric_width)

    def features(self, samples: Tensor) -> Tensor:
        """(A, C) tokens of A windows of samples (A, n) float32; (0, C) where they are too short for one."""
        weight = next(self.encoder.parameters())
        clip_cache = beats_filters(samples.to(weight.device))  # (A, L, 128)
        num = clip_cache.shape[1]
        if num < self.least:
            return weight.new_zeros(0, self.width)
        clip_cache = nn.functional.pad(clip_cache, (0, 0, 0, WINDOW - num))
        padding = None
        if num < WINDOW and self.config.tail == "kept":
            padding = (torch.arange(WINDOW, device=clip_cache.device) >= num).expand(len(clip_cache), -1)
        x = self.encoder(clip_cache, padding)  # (A, P, C), zero where it is padding
        seen = x.shape[1] if padding is None else self.encoder.num_patches(num)
        return x.sum(1) / seen
