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
from .checks import check_width
from .fbank import FRAME, RATE_HZ, STEP, beats_filters, num_frames

WINDOW = 512  # frames of the mel filters
HALF = WINDOW // 2  # the released scripts leave a last window of fewer frames out


class BeatsEncoder(nn.Module):
    """BEATs whose windows, each averaged over its patches, are an audio stream.

    The last mel frames of a window reach into the next window. The encoder therefore sees `lookahead` samples
    more, and windows are those of the whole track's mel filters.
    """

    modality = "audio"
    block = WINDOW * STEP
    lookahead = FRAME - STEP
    means = None
    patches = 1
    rate_hz = RATE_HZ
    window = block  # samples of a token
    token_hz = RATE_HZ / window

    def __init__(self, encoder: Beats, config: AudioConfig) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.config = config
        self.width = encoder.config.width
        check_width(config.metric_width, self.width)
        self.num_summaries = int(config.summary)
        self.min_frames = HALF if config.tail == "released" else encoder.config.patch_size  # of a window

    @classmethod
    def load(cls, config: AudioConfig, base: str | Path, **kwargs: Any) -> "BeatsEncoder":
        """The encoder in a released .pt file, or in a folder that `save_pretrained` wrote."""
        return cls(Beats.from_pretrained(base, **kwargs), config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `load` reads."""
        self.encoder.save_pretrained(folder)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much audio."""
        whole, rest = divmod(num_frames(math.floor(duration_s * self.rate_hz + 1e-6)), WINDOW)
        return whole + (rest >= self.min_frames)

    @torch.no_grad()
    def encode(self, audio: Audio) -> Encoded:
        """The token of at most one block of audio and its lookahead; no token if the audio is too short."""
        x = self.features(audio.samples[None])  # (1 or 0, C)
        num, end_s = len(x), audio.start_s + min(len(audio), self.block) / self.rate_hz
        times = torch.tensor([audio.start_s, end_s], dtype=torch.float64, device=x.device)
        start, end = times[:, None].expand(2, num).clone()
        tokens = Tokens(x, torch.ones(num, device=x.device), (start + end) / 2, start, end)
        metric = head_mean(x, self.config.metric_width)
        return Encoded(tokens, metric, x[:, None] if self.config.summary else None)

    def features(self, samples: Tensor) -> Tensor:
        """(A, C) tokens of A windows of samples (A, n) float32; (0, C) if they are too short."""
        weight = next(self.encoder.parameters())
        mel = beats_filters(samples.to(weight.device))  # (A, L, 128)
        num = mel.shape[1]
        if num < self.min_frames:
            return weight.new_zeros(0, self.width)
        mel = nn.functional.pad(mel, (0, 0, 0, WINDOW - num))
        padding = None
        if num < WINDOW and self.config.tail == "kept":
            padding = (torch.arange(WINDOW, device=mel.device) >= num).expand(len(mel), -1)
        x = self.encoder(mel, padding)  # (A, P, C), zero where it is padding
        num_patches = x.shape[1] if padding is None else self.encoder.num_patches(num)
        return x.sum(1) / num_patches
