"""Sound to tokens: the encoder of a Whisper model, in windows of fixed length."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..config import SoundConfig
from ..kernels import head_mean
from ..types import Encoded, Sound, Tokens
from .features import check_whole, check_width


class SoundEncoder(nn.Module):
    """A Whisper encoder whose positions, averaged `pool` at a time, are the sound stream.

    Args:
        tower: the encoder.
        extractor: makes its log-mel pictures; its chunk length is the block.
        config: layer, pooling, metric.
    """

    def __init__(
        self, tower: WhisperEncoder, extractor: WhisperFeatureExtractor, config: SoundConfig
    ) -> None:
        super().__init__()
        self.tower = tower.eval().requires_grad_(False)
        self.extractor = extractor
        self.config = config
        self.width: int = tower.config.d_model
        self.rate_hz: int = extractor.sampling_rate
        self.block: int = extractor.n_samples
        positions: int = tower.config.max_source_positions
        if 2 * positions != extractor.nb_max_frames:
            raise ValueError(
                f"extractor must make 2 x {positions} mel frames a block like the encoder wants, "
                f"got {extractor.nb_max_frames}; use the preprocessor_config.json of these weights"
            )
        if positions % config.pool:
            raise ValueError(
                f"pool must divide the encoder's {positions} positions a block, got {config.pool}"
            )
        check_width(config.width, self.width)
        self.window = self.block // (positions // config.pool)  # samples a token stands for
        self.num_summaries = int(config.summary)

    @classmethod
    def load(cls, config: SoundConfig, base: str | Path, **kwargs: Any) -> "SoundEncoder":
        """The encoder of the Whisper model (or the Whisper encoder alone) in a folder or on the hub."""
        extractor = WhisperFeatureExtractor.from_pretrained(base)
        alone = "WhisperEncoder" in (AutoConfig.from_pretrained(base).architectures or ())
        kwargs |= {"attn_implementation": config.attention, "output_loading_info": True}
        model, found = (WhisperEncoder if alone else WhisperModel).from_pretrained(base, **kwargs)
        check_whole(base, found)
        return cls(model if alone else model.encoder, extractor, config)

    @torch.no_grad()
    def encode(self, sound: Sound) -> Encoded:
        """The tokens of at most one block of sound; the encoder always sees a full one, silence behind the
        end."""
        num = len(sound)
        if sound.rate_hz != self.rate_hz:
            raise ValueError(f"sound must come at {self.rate_hz} samples a second, got {sound.rate_hz}")
        if not 0 < num <= self.block:
            raise ValueError(f"sound must be 1 to {self.block} samples, got {num}")
        x = self.features(sound.samples[None])[0]
        left = -(-num // self.window)
        x = x[:left]
        first = torch.arange(left, dtype=torch.float64, device=x.device) * self.window
        last = (first + self.window).clamp_max(num)
        start_s, end_s = sound.start_s + first / self.rate_hz, sound.start_s + last / self.rate_hz
        tokens = Tokens(x, torch.ones(left, device=x.device), (start_s + end_s) / 2, start_s, end_s)
        summary = x.mean(0, keepdim=True)[None].expand(left, -1, -1) if self.config.summary else None
        return Encoded(tokens, self.metric(x), summary)

    def metric(self, x: Tensor) -> Tensor:
        """(N, d) float32: mean over heads of x (N, C)."""
        return head_mean(x, self.config.width)

    def features(self, samples: Tensor) -> Tensor:
        """(B, positions / pool, C) tokens of B blocks of samples (B, n <= block) float32."""
        weight = next(self.tower.parameters())
        mel = self.extractor(
            list(samples.cpu().numpy()), sampling_rate=self.rate_hz, return_tensors="pt", padding="max_length"
        ).input_features
        out = self.tower(mel.to(weight.device, weight.dtype), output_hidden_states=True)
        # the last entry has the final norm; others are taken as they leave their layer
        x = out.last_hidden_state if self.config.layer == -1 else out.hidden_states[self.config.layer]
        return x.unflatten(1, (-1, self.config.pool)).mean(2)
