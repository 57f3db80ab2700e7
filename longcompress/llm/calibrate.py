"""The scale of newly initialised projectors and time embeddings: video tokens as long as words.

A language model tells apart vectors that differ by about as much as its own words do. Features of encoders
differ in norm by orders of magnitude. With torch's initialisation their tokens are lost beside the time
embedding, or they drown everything else. So their norm is measured on seeded noise and tones, and set.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from ..config import MediaConfig
from ..encoders import Encoder, Stream
from ..types import Audio, Frames
from .causal import CausalLM, together
from .prompt import encode, mark_text

NUM_FRAMES = 16  # noise frames that a vision encoder is shown
AUDIO_S = 30.0  # tones that an audio encoder is given
MAX_ROWS = 4096  # of the embedding table
NUM_TIMESTAMPS = 64


@torch.no_grad()
def init_heads(llm: CausalLM, encoders: Mapping[str, Encoder], media: MediaConfig) -> None:
    """Scale new projectors and a new time embedding to `token_norm` and `time_norm` of the language
    model's config.

    A projector keeps its directions. Each of its layers is centred, so that what all features have in common
    gives nothing, and scaled: a layer inside to variance 1, the last to the norm wanted.

    Args:
        llm: not trained yet.
        encoders: of its streams.
        media: how they are shown a video.
    """
    settings, unit = llm.settings, embedding_norm(llm)
    for name in llm.names if settings.token_norm else ():
        x = features_of(encoders[name], media).to(next(llm.project[name].parameters()).device)
        inner, last = _layers(llm.project[name])
        for layer in inner:
            x = nn.functional.gelu(_centred(layer, x, layer.out_features**0.5))
        _centred(last, x, settings.token_norm * unit)
    if llm.time is not None and settings.time_norm:
        llm.time.gain.mul_(settings.time_norm * unit / time_norm(llm))


@torch.no_grad()
def embedding_norm(llm: CausalLM) -> float:
    """The median norm of the language model's own embeddings, as it reads them."""
    table = llm.lm.get_input_embeddings()
    num = table.weight.shape[0]
    ids = torch.linspace(0, num - 1, min(num, MAX_ROWS)).long().to(table.weight.device)
    return float(table(ids).float().norm(dim=1).median())


@torch.no_grad()
def time_norm(llm: CausalLM) -> float:
    """The RMS norm of what time adds to a token of size 1, over all seconds of the first marks.

    Raises:
        ValueError: the language model has no time embedding.
    """
    if llm.time is None:
        raise ValueError("language model must have a time embedding (llm.time in its config), got none")
    settings, table = llm.settings, llm.lm.get_input_embeddings()
    ids = [
        encode(llm.tokenizer, mark_text(settings, k * settings.timestamp_s)) for k in range(NUM_TIMESTAMPS)
    ]
    device = table.weight.device
    marks = torch.cat([together(table, torch.tensor([i], device=device), settings.numbers) for i in ids])
    seconds = torch.arange(min(settings.max_offset_s, max(1, int(settings.timestamp_s))), device=device)
    every = marks.repeat_interleave(len(seconds), 0)
    second = seconds.repeat(len(marks))
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


def _layers(project: nn.Module) -> tuple[list[nn.Linear], nn.Linear]:
    """(the inner layers of a projector, its last one)."""
    found = [layer for layer in project.modules() if isinstance(layer, nn.Linear)]
    return found[:-1], found[-1]


def _centred(layer: nn.Linear, x: Tensor, norm: float) -> Tensor:
    """(N, out) what the layer makes of x from now on: of mean 0 and RMS norm `norm` over these N."""
    centre = x.mean(0)
    out = (x - centre) @ layer.weight.t()
    layer.weight.mul_(norm / out.square().sum(1).mean().sqrt().clamp_min(1e-12))
    layer.bias.copy_(-(layer.weight @ centre))
    return (x - centre) @ layer.weight.t()
