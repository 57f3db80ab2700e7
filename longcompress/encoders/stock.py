"""The encoders inside a stock video LLM: frames or audio to tokens as its language model reads them.

They are views of a model that the language model owns: without parameters here, projection inside. Features
that later layers take (deepstack) lie beside the first in the same row.
"""

import math
from contextlib import ExitStack
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from ..config import AudioConfig, MediaConfig, VisionConfig
from ..kernels import head_mean
from ..types import Audio, Encoded, Frames, Tokens
from .families import Family
from .stock_tome import check_merging, merging
from .vision import batch_size, changed, frame_tokens

Norm = tuple[tuple[float, ...], tuple[float, ...]]
BLOCK_S = 30.0  # of audio, at most; its encoders attend within windows of 2 or 8 s
MIN_AUDIO_S = 0.1  # shorter audio gives no token: silence fills it up


def encoder_state(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers of all but the language model, by name."""
    parts = [part for part in (model.get_decoder(), model.get_output_embeddings()) if part is not None]
    known = {id(value) for part in parts for value in part.state_dict(keep_vars=True).values()}
    state = model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if id(value) not in known}


class StockVision(nn.Module):
    """The video encoder and projector of a stock video LLM.

    Args:
        model: of a family's class.
        family: its data.
        config: batch_size, a multiple of the frames of a token, metric_width, metric, reuse_below and
            merge_per_layer are read.
        size_px: side of frames.
        norm: mean and deviation (3,) of each colour (0 to 1).
    """

    modality = "video"
    lookahead = 0
    means = None
    num_summaries = 0

    def __init__(
        self, model: Any, family: Family, config: VisionConfig, size_px: int, norm: Norm | None = None
    ) -> None:
        super().__init__()
        # in tuples: its parameters are the language model's
        self._model, self._weight = (model,), (next(iter(encoder_state(model).values())),)
        self.family, self.norm = family, norm or family.norm
        self.frames_per_token = family.frames_per_token
        self.llm_width: int = model.get_input_embeddings().weight.shape[1]
        self.width = self.llm_width * (1 + family.deepstack)
        self.set_size(size_px)
        self.config = config

    @property
    def config(self) -> VisionConfig:
        """What of its config can change."""
        return self._config

    @config.setter
    def config(self, config: VisionConfig) -> None:
        if config.batch_size % self.frames_per_token:
            raise ValueError(
                f"video.batch_size must be a multiple of {self.frames_per_token}, the frames of a token, got "
                f"{config.batch_size}"
            )
        if config.pool != 1:
            raise ValueError(f"video.pool must be 1 with a stock model, got {config.pool}")
        vision = self.model.config.vision_config
        is_plain = hasattr(vision, "spatial_merge_size") and not getattr(vision, "window_size", None)
        if config.metric == "states" and not is_plain:
            raise ValueError(
                f'video.metric must be "heads" or "random" for {type(self.model).__name__}, whose encoder '
                'has its states in another order than its tokens, got "states"'
            )
        if config.merge_per_layer:
            probe = torch.arange(2 * self.frames_per_token * self.size_px**2 * 3) % 251
            probe = probe.byte().view(-1, self.size_px, self.size_px, 3)
            check_merging(self.model, self.family, config.merge_per_layer, self.normal(probe))
        self._config, self.block = config, config.batch_size
        self.metric_width = math.gcd(config.metric_width, self.llm_width)
        if config.metric == "random":
            seeded = torch.Generator().manual_seed(0)
            self._projection = torch.randn(self.llm_width, self.metric_width, generator=seeded)

    @property
    def model(self) -> Any:
        """The whole model."""
        return self._model[0]

    def set_size(self, size_px: int) -> None:
        """Take frames of size_px x size_px; ValueError where the model can't."""
        side = self.family.side(self.model)
        if size_px % side or (self.family.fixed and size_px != side):
            need = f"{side}" if self.family.fixed else f"a multiple of {side}"
            raise ValueError(f"media.size_px must be {need} pixels for this model, got {size_px}")
        self.size_px = size_px
        self.grid = self.family.grid(self.model, size_px, size_px)
        self.patches = self.grid[0] * self.grid[1]

    def state(self) -> dict[str, Tensor]:
        """What gives its tokens their meaning."""
        return encoder_state(self.model)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much video."""
        return math.ceil(media.num_frames(duration_s) / self.frames_per_token) * self.patches

    @torch.no_grad()
    def encode(self, frames: Frames) -> Encoded:
        """The tokens of 1 to batch_size frames; the last one fills the batch, which is always full."""
        num, step = len(frames), self.frames_per_token
        steps = math.ceil(num / step)
        last = frames.pixels[-1:].expand(steps * step - num, -1, -1, -1)
        pixels = rearrange(torch.cat([frames.pixels, last]), "(t f) h w c -> t (f h) w c", f=step)
        encode, source = changed(pixels, self.config.reuse_below)
        size = batch_size(len(encode), self.block // step, self.config.reuse_below)
        pixels = torch.cat([pixels[encode], pixels[encode[-1:]].expand(size - len(encode), -1, -1, -1)])
        x, metric = self.features(rearrange(pixels, "t (f h) w c -> (t f) h w c", f=step))
        rows = source[:, None] * self.patches + torch.arange(self.patches)
        rows = rearrange(rows, "t p -> (t p)").to(x.device)
        x, metric = x[rows], metric[rows]
        first = torch.arange(steps) * step
        start_s = frames.time_s[first]
        end_s = frames.time_s[(first + step - 1).clamp_max(num - 1)] + frames.step_s
        tokens = frame_tokens(x, start_s, end_s, self.grid)
        return Encoded(tokens, metric, patches=self.patches, reused=(steps - len(encode)) * step)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(T / frames_per_token * patches, C) tokens of pixels (T, size_px, size_px, 3) uint8, and their
        metric (..., d) float32."""
        x, config = self.normal(pixels), self.config
        states: list[Tensor] = []
        with ExitStack() as stack:
            if config.merge_per_layer:
                by_tree = config.merge_layer_by == "tree"
                stack.enter_context(
                    merging(self.model, self.family, config.merge_per_layer, self.size_px, by_tree=by_tree)
                )
            if config.metric == "states":
                hook = self.model.model.visual.register_forward_hook(
                    lambda module, inputs, output: states.append(output.last_hidden_state)
                )
                stack.callback(hook.remove)
            tokens = self.family.features(self.model, x)
        if states:
            mean_states = reduce(states[0], "(n m) c -> n c", "mean", n=len(tokens))  # patches of a token
            return tokens, head_mean(mean_states, math.gcd(config.metric_width, mean_states.shape[1]))
        first = tokens[:, : self.llm_width].contiguous()  # what enters the language model first
        if config.metric == "heads":
            return tokens, head_mean(first, self.metric_width)
        return tokens, first.float() @ self._projection.to(first.device) / self.llm_width**0.5

    def normal(self, pixels: Tensor) -> Tensor:
        """(T, 3, H, W) normalised pixels in the encoder's dtype, from pixels (T, H, W, 3) uint8."""
        (weight,) = self._weight
        x = rearrange(pixels.to(weight.device), "t h w c -> t c h w").float() / 255
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in self.norm)
        return ((x - mean) / std).to(weight.dtype)


class StockAudio(nn.Module):
    """The audio encoder and projector of a stock video LLM that hears.

    Args:
        model, family: as of StockVision.
        config: metric_width is read.
        extractor: makes log-mel frames of samples.
    """

    modality = "audio"
    lookahead = 0
    patches = 1
    means = None
    num_summaries = 0

    def __init__(
        self, model: Any, family: Family, config: AudioConfig, extractor: WhisperFeatureExtractor
    ) -> None:
        super().__init__()
        self._model, self._weight = (model,), (next(iter(encoder_state(model).values())),)
        self.extractor = extractor
        rate = family.ids_per_s(model)
        assert rate is not None
        self.token_hz = float(rate)
        self.rate_hz: int = extractor.sampling_rate
        sizes = model.config.audio_config  # attention stays within a window, which a block must not cut
        window = getattr(sizes, "n_window_infer", 2 * sizes.n_window) * extractor.hop_length
        self.block = round(min(BLOCK_S, extractor.chunk_length) * self.rate_hz) // window * window
        silence = math.ceil(extractor.n_fft / extractor.hop_length)  # in hops: the last frames see it
        self._length = self.block + silence * extractor.hop_length
        self.width: int = model.get_input_embeddings().weight.shape[1]
        self.metric_width = math.gcd(config.metric_width, self.width)

    @property
    def model(self) -> Any:
        """The whole model."""
        return self._model[0]

    def state(self) -> dict[str, Tensor]:
        """What gives its tokens their meaning."""
        return encoder_state(self.model)

    def num_tokens(self, duration_s: float, media: MediaConfig) -> int:
        """Number of tokens of this much audio, about."""
        return math.ceil(duration_s * self.token_hz)

    @torch.no_grad()
    def encode(self, audio: Audio) -> Encoded:
        """The tokens of at most a block of audio."""
        missing = max(0, round(MIN_AUDIO_S * self.rate_hz) - len(audio))
        mel = self.extractor(
            nn.functional.pad(audio.samples, (0, missing)).cpu().numpy(), sampling_rate=self.rate_hz,
            return_tensors="pt", return_attention_mask=True, padding="max_length", max_length=self._length,
        )  # fmt: skip
        x = self.features(mel.input_features, mel.attention_mask)
        index = torch.arange(len(x), dtype=torch.float64, device=x.device)
        start_s = audio.start_s + (index / self.token_hz).clamp_max(len(audio) / self.rate_hz - 1e-3)
        end_s = (start_s + 1 / self.token_hz).clamp_max(audio.end_s)
        tokens = Tokens(x, torch.ones(len(x), device=x.device), (start_s + end_s) / 2, start_s, end_s)
        return Encoded(tokens, head_mean(x, self.metric_width))

    def features(self, mel: Tensor, mask: Tensor) -> Tensor:
        """(N, C) tokens of log-mel frames (1, mels, n) where mask (1, n) is 1."""
        (weight,) = self._weight
        out = self.model.get_audio_features(mel.to(weight.device, weight.dtype), mask.to(weight.device))
        x = out.last_hidden_state if out.pooler_output is None else out.pooler_output
        return x.reshape(-1, self.width)
