"""Audio to tokens: the encoder of a Whisper model in windows of fixed length, and means over their ends."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from einops import reduce
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..config import AudioConfig, MediaConfig
from ..kernels import head_mean
from ..types import Audio, Encoded, Tokens
from .checks import check_width, kind_of, load_whole

GAP_S = 1e-3  # a token that begins this much after the end of the token before doesn't follow it

PADDING_S = 0.032  # of audio behind the end of a video; codecs work in frames of up to so much


@dataclass
class Means:
    """Every `size` tokens that follow one another become their mean; fewer wait for more."""

    size: int
    tail: Literal["kept", "released"] = "kept"  # whether fewer tokens at the end make a mean too
    waiting: list[Encoded] = field(default_factory=list)  # the tokens of the next mean

    def push(self, encoded: Encoded) -> list[Encoded]:
        """The means that are complete now."""
        if not len(encoded):
            return []
        means = []
        # Behind a gap means begin anew: what waits is the tail of the tokens before the gap.
        if self.waiting and abs(float(encoded.tokens.start_s[0] - self.waiting[-1].tokens.end_s[-1])) > GAP_S:
            means = self.flush()
        joined = Encoded.join([*self.waiting, encoded])
        whole = len(joined) // self.size * self.size
        if whole:
            means.append(mean_of_each(joined.rows(0, whole), self.size))
        self.waiting = [joined.rows(whole, len(joined))] if whole < len(joined) else []
        return means

    def flush(self) -> list[Encoded]:
        """The mean of the tokens that wait, if the tail is kept."""
        waiting, self.waiting = self.waiting, []
        if not waiting or self.tail == "released":
            return []
        joined = Encoded.join(waiting)
        return [mean_of_each(joined, len(joined))]


def mean_of_each(encoded: Encoded, size: int) -> Encoded:
    """The mean of every `size` tokens, with the time of all of them; also of the metric, which is linear."""

    def mean(x: Tensor) -> Tensor:
        return reduce(x, "(n size) ... -> n ...", "mean", size=size)

    tokens, summary = encoded.tokens, encoded.summary
    start_s, end_s = tokens.start_s[::size], tokens.end_s[size - 1 :: size]
    means = Tokens(mean(tokens.x), mean(tokens.size), (start_s + end_s) / 2, start_s, end_s)
    return Encoded(means, mean(encoded.metric), None if summary is None else mean(summary))


class AudioEncoder(nn.Module):
    """A Whisper encoder. Every `pool` of its positions become a token of the audio stream, their mean.

    With `pool_across` `encode` returns the positions themselves, and `means` averages them over the ends of
    blocks. The extractor makes the log-mel frames of a block, which is its chunk.
    """

    modality = "audio"
    lookahead = 0
    patches = 1

    def __init__(
        self, encoder: WhisperEncoder, extractor: WhisperFeatureExtractor, config: AudioConfig
    ) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.extractor, self.config = extractor, config
        self.width: int = encoder.config.d_model
        self.rate_hz: int = extractor.sampling_rate
        self.block: int = extractor.n_samples
        positions: int = encoder.config.max_source_positions
        if 2 * positions != extractor.nb_max_frames:
            raise ValueError(
                f"extractor must make 2 x {positions} mel frames a block like the encoder wants, "
                f"got {extractor.nb_max_frames}; use the preprocessor_config.json of these weights"
            )
        if positions % config.pool and not config.pool_across:
            raise ValueError(
                f"pool must divide the encoder's {positions} positions a block, got {config.pool}; with "
                "pool_across, means run on over the ends of blocks"
            )
        check_width(config.metric_width, self.width)
        self.pool = 1 if config.pool_across else config.pool  # positions of a row that `encode` returns
        self.rows = positions // self.pool  # of a block
        self.step = self.block // self.rows  # samples of a row
        self.means = Means(config.pool, config.tail) if config.pool_across else None
        self.window = self.step * (config.pool // self.pool)  # samples of a token of the stream
        self.token_hz = self.rate_hz / self.window
        self.num_summaries = int(config.summary)

    @classmethod
    def load(cls, config: AudioConfig, base: str | Path, **kwargs: Any) -> "AudioEncoder":
        """The encoder of the Whisper model (or the Whisper encoder alone) in a folder or on the hub."""
        known = kind_of(base)
        if known.model_type != "whisper":
            raise ValueError(
                f"base {str(base)!r} must be a Whisper model, got one of type {known.model_type!r}; for "
                'BEATs set kind "beats"'
            )
        extractor = WhisperFeatureExtractor.from_pretrained(base)
        alone = "WhisperEncoder" in (known.architectures or ())
        model = load_whole(WhisperEncoder if alone else WhisperModel, base, config.attention, **kwargs)
        return cls(model if alone else model.encoder, extractor, config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `load` reads."""
        self.encoder.save_pretrained(folder)
        self.extractor.save_pretrained(folder)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much audio."""
        if self.config.tail == "kept":
            return math.ceil(duration_s * self.rate_hz / self.window - 1e-9)
        blocks = math.ceil((duration_s - PADDING_S) * self.rate_hz / self.block)
        return blocks * self.rows * self.step // self.window

    @torch.no_grad()
    def encode(self, audio: Audio) -> Encoded:
        """The tokens of at most one block of audio. The encoder sees a full block, filled with silence.
        With tail "released" the silence has tokens too, at the time of the last token of the audio."""
        num = len(audio)
        x = self.features(audio.samples[None])[0]
        num_audible = -(-num // self.step)
        num_rows = num_audible if self.config.tail == "kept" else self.rows
        if self.config.tail == "released" and num < PADDING_S * self.rate_hz:
            num_rows = 0  # codecs pad audio; the scripts cut it at the container's length
        x = x[:num_rows]
        index = torch.arange(num_rows, dtype=torch.float64, device=x.device)
        first = index.clamp_max(num_audible - 1) * self.step
        last = (first + self.step).clamp_max(num)
        start_s, end_s = audio.start_s + first / self.rate_hz, audio.start_s + last / self.rate_hz
        tokens = Tokens(x, torch.ones(num_rows, device=x.device), (start_s + end_s) / 2, start_s, end_s)
        summary = x.mean(0, keepdim=True)[None].expand(num_rows, -1, -1) if self.config.summary else None
        return Encoded(tokens, head_mean(x, self.config.metric_width), summary)

    def features(self, samples: Tensor) -> Tensor:
        """(B, rows, C) tokens of B blocks of samples (B, n <= block) float32."""
        weight = next(self.encoder.parameters())
        mel = self.extractor(
            list(samples.cpu().numpy()), sampling_rate=self.rate_hz, return_tensors="pt", padding="max_length"
        ).input_features
        out = self.encoder(mel.to(weight.device, weight.dtype), output_hidden_states=True)
        # Only the last state has passed the final norm.
        x = out.last_hidden_state if self.config.layer == -1 else out.hidden_states[self.config.layer]
        return reduce(x, "b (n pool) c -> b n c", "mean", pool=self.pool)
