"""The scale of newly initialised projectors and time embeddings: video tokens as long as words.

A language model tells vectors apart that differ about as much as its own words do. Features of encoders
differ in norm by orders of magnitude. With torch's initialisation their tokens are much shorter than the time
embedding, or much longer than words. Their norm is measured on seeded noise and tones, and set.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import MediaConfig
from ..encoders import Encoder, Stream
from ..types import Audio, Frames
from .causal import CausalLM, together
from .projector import Residual
from .prompt import encode, timestamp_text
from .stock import StockLM

NUM_FRAMES = 16  # of noise for a video encoder
AUDIO_S = 30.0  # of tones for an audio encoder
MAX_ROWS = 4096  # of the embedding table
NUM_TIMESTAMPS = 64


@torch.no_grad()
def init_heads(llm: CausalLM, encoders: Mapping[str, Encoder], media: MediaConfig) -> None:
    """Scale new projectors and a new time embedding to `token_norm` and `time_norm` of LLMConfig.

    A projector keeps its directions. Each layer is centred, so that the common part of all features gives
    zero, and scaled: an inner layer to variance 1, the last to the norm of the config. `media` has the size
    of frames and the rate of samples.
    """
    settings, unit = llm.settings, embedding_norm(llm)
    for name in llm.names if settings.token_norm else ():
        x = features_of(encoders[name], media).to(next(llm.project[name].parameters()).device)
        project: Any = llm.project[name]
        if isinstance(project, Residual):  # the last layer of its MLP stays zero
            _centred(project.skip, x, settings.token_norm * unit)
            project = project.mlp
        *inner, last = [layer for layer in project.modules() if isinstance(layer, nn.Linear)]
        for layer in inner:
            x = nn.functional.gelu(_centred(layer, x, layer.out_features**0.5))
        if project is llm.project[name]:
            _centred(last, x, settings.token_norm * unit)
    if llm.time is not None and settings.time_norm:
        llm.time.gain.mul_(settings.time_norm * unit / time_norm(llm))


@torch.no_grad()
def embedding_norm(llm: CausalLM | StockLM) -> float:
    """The median norm of the language model's own embeddings, as it reads them."""
    table = llm.lm.get_input_embeddings()
    num = table.weight.shape[0]
    ids = torch.linspace(0, num - 1, min(num, MAX_ROWS)).long().to(table.weight.device)
    return float(table(ids).float().norm(dim=1).median())


@torch.no_grad()
def time_norm(llm: CausalLM) -> float:
    """The RMS norm of the time embedding of a token of size 1, over all seconds of the first timestamps."""
    if llm.time is None:
        raise ValueError("language model must have a time embedding (llm.time in its config), got none")
    settings, table = llm.settings, llm.lm.get_input_embeddings()
    starts_s = [k * settings.timestamp_s for k in range(NUM_TIMESTAMPS)]
    ids = [encode(llm.tokenizer, timestamp_text(settings, start_s)) for start_s in starts_s]
    device = table.weight.device
    timestamps = torch.cat([together(table, torch.tensor([i], device=device), settings.numbers) for i in ids])
    seconds = torch.arange(min(settings.max_offset_s, max(1, int(settings.timestamp_s))), device=device)
    every = timestamps.repeat_interleave(len(seconds), 0)
    second = seconds.repeat(len(timestamps))
    added = llm.time(every, llm.numbers(), second, second, torch.ones(len(every), device=device))
    return float(added.float().square().sum(1).mean().sqrt())


@torch.no_grad()
def features_of(encoder: Encoder, media: MediaConfig) -> Tensor:
    """(N, C) float32 tokens of seeded noise frames (video) or tones in noise (audio)."""
    generator = torch.Generator().manual_seed(0)
    stream = Stream(encoder)
    if encoder.modality == "video":
        # blotches of colour with fine noise on top: smooth areas and edges at every scale
        blotches = torch.rand(NUM_FRAMES, 3, 8, 8, generator=generator)
        pixels = nn.functional.interpolate(blotches, (media.size_px, media.size_px), mode="bilinear")
        pixels = pixels + 0.05 * torch.randn(pixels.shape, generator=generator)
        frames = rearrange((255 * pixels).clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")
        encoded = stream.push(Frames(frames, torch.arange(NUM_FRAMES, dtype=torch.float64), 1.0))
    else:
        # a tone, a hiss, both or silence, another every second, over a faint hum
        time_s = torch.arange(int(AUDIO_S * media.rate_hz)) / media.rate_hz
        second = time_s.long()
        pitch_hz = 100 * 2 ** (5 * torch.rand(int(second[-1]) + 1, generator=generator))
        tone, hiss = (torch.rand(2, len(pitch_hz), generator=generator) > 0.5).float() * 0.3
        noise = torch.randn(len(time_s), generator=generator)
        samples = tone[second] * torch.sin(2 * torch.pi * pitch_hz[second] * time_s) + hiss[second] * noise
        samples = (samples + 0.01 * torch.sin(2 * torch.pi * 50 * time_s)).clamp(-1, 1)
        encoded = stream.push(Audio(samples, 0.0, media.rate_hz))
    return torch.cat([part.tokens.x.float() for part in [*encoded, *stream.flush()]])


def _centred(layer: nn.Linear, x: Tensor, norm: float) -> Tensor:
    """(N, out) output of the layer for x (N, in), once changed to mean 0 and RMS norm `norm` over N."""
    centre = x.mean(0)
    out = (x - centre) @ layer.weight.t()
    layer.weight.mul_(norm / out.square().sum(1).mean().sqrt().clamp_min(1e-12))
    layer.bias.copy_(-(layer.weight @ centre))
    return (x - centre) @ layer.weight.t()
