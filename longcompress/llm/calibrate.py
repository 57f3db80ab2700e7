"""What a language model begins with before anything is learned: video tokens as long as words, time beside them.

A language model tells apart what differs by about as much as its own words do. Features of encoders differ in
length by orders of magnitude, so a projector that begins as torch begins it makes tokens that are lost beside
the time embedding, or that drown everything else; how long they come out is measured on drawn videos.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..config import MediaConfig
from ..encoders import Encoder, Stream
from ..synthetic.scenes import audio, frames, make_scene
from ..types import Audio, Frames
from .causal import CausalLM, together
from .prompt import encode, mark_text

SECONDS: dict[type, float] = {Frames: 16.0, Audio: 30.0}  # of the drawn video that an encoder is shown
MOST_ROWS = 4096  # of the embedding table
MARKS = 64


@torch.no_grad()
def begin(llm: CausalLM, encoders: Mapping[str, Encoder], media: MediaConfig) -> None:
    """Bring fresh projectors and a fresh time embedding to `token_norm` and `time_norm` of the language model's config.

    A projector keeps its directions. Each of its layers is centred, so that what all features have in common
    gives nothing, and scaled: a layer inside to variance 1, the last to the norm wanted.

    Args:
        language model: not trained yet.
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
    ids = torch.linspace(0, num - 1, min(num, MOST_ROWS)).long().to(table.weight.device)
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
    ids = [encode(llm.tokenizer, mark_text(settings, k * settings.timestamp_s)) for k in range(MARKS)]
    device = table.weight.device
    marks = torch.cat([together(table, torch.tensor([i], device=device), settings.numbers) for i in ids])
    seconds = torch.arange(min(settings.max_offset_s, max(1, int(settings.timestamp_s))), device=device)
    every = marks.repeat_interleave(len(seconds), 0)
    second = seconds.repeat(len(marks))
    added = llm.time(every, llm.numbers(), second, second, torch.ones(len(every), device=device))
    return float(added.float().square().sum(1).mean().sqrt())


@torch.no_grad()
def features_of(encoder: Encoder, media: MediaConfig) -> Tensor:
    """(N, C) float32 tokens of a short drawn video, as the encoder gives them."""
    scene = make_scene(
        0, SECONDS[encoder.takes], objects_per_minute=20, sounds_per_minute=20, length_s=(2.0, 6.0)
    )
    stream = Stream(encoder)
    if encoder.takes is Frames:
        time_s = np.arange(0.0, scene.duration_s)
        pixels = torch.from_numpy(frames(scene, time_s, size_px=media.size_px))
        encoded = stream.push(Frames(pixels, torch.from_numpy(time_s), 1.0))
    else:
        samples = torch.from_numpy(audio(scene, 0.0, scene.duration_s, rate_hz=media.rate_hz))
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
