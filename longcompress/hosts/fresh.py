"""What a host begins with before anything is learned: film tokens as long as words, time beside them.

A language model tells apart what differs by about as much as its own words do. Features of towers differ in
length by orders of magnitude, so a projector that begins as torch begins it makes tokens that are lost beside
the time embedding, or that drown everything else; how long they come out is measured on drawn films.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..config import MediaConfig
from ..encoders import Stream, Tower
from ..scenes import frames, make_scene, sound
from ..types import Frames, Sound
from .causal import CausalHost, together
from .prompt import encode, mark_text

SECONDS: dict[type, float] = {Frames: 16.0, Sound: 30.0}  # of the drawn film that a tower is shown
MOST_ROWS = 4096  # of the embedding table
MARKS = 64


@torch.no_grad()
def begin(host: CausalHost, towers: Mapping[str, Tower], media: MediaConfig) -> None:
    """Bring fresh projectors and a fresh time embedding to `token_norm` and `time_norm` of the host's config.

    A projector keeps its directions. Each of its layers is centred, so that what all features have in common
    gives nothing, and scaled: a layer inside to variance 1, the last to the norm wanted.

    Args:
        host: not trained yet.
        towers: of its streams.
        media: how they are shown a film.
    """
    settings, unit = host.settings, embedding_norm(host)
    for name in host.names if settings.token_norm else ():
        x = features_of(towers[name], media).to(next(host.project[name].parameters()).device)
        inner, last = _layers(host.project[name])
        for layer in inner:
            x = nn.functional.gelu(_centred(layer, x, layer.out_features**0.5))
        _centred(last, x, settings.token_norm * unit)
    if host.time is not None and settings.time_norm:
        host.time.gain.mul_(settings.time_norm * unit / time_norm(host))


@torch.no_grad()
def embedding_norm(host: CausalHost) -> float:
    """The median norm of the language model's own embeddings, as it reads them."""
    table = host.lm.get_input_embeddings()
    num = table.weight.shape[0]
    ids = torch.linspace(0, num - 1, min(num, MOST_ROWS)).long().to(table.weight.device)
    return float(table(ids).float().norm(dim=1).median())


@torch.no_grad()
def time_norm(host: CausalHost) -> float:
    """The RMS norm of what time adds to a token of size 1, over all seconds of the first marks.

    Raises:
        ValueError: the host has no time embedding.
    """
    if host.time is None:
        raise ValueError("host must have a time embedding (host.time in its config), got none")
    settings, table = host.settings, host.lm.get_input_embeddings()
    ids = [encode(host.tokenizer, mark_text(settings, k * settings.mark_s)) for k in range(MARKS)]
    device = table.weight.device
    marks = torch.cat([together(table, torch.tensor([i], device=device), settings.numbers) for i in ids])
    seconds = torch.arange(min(settings.max_offset_s, max(1, int(settings.mark_s))), device=device)
    every = marks.repeat_interleave(len(seconds), 0)
    second = seconds.repeat(len(marks))
    added = host.time(every, host.numbers(), second, second, torch.ones(len(every), device=device))
    return float(added.float().square().sum(1).mean().sqrt())


@torch.no_grad()
def features_of(tower: Tower, media: MediaConfig) -> Tensor:
    """(N, C) float32 tokens of a short drawn film, as the tower gives them."""
    scene = make_scene(
        0, SECONDS[tower.takes], pictures_per_minute=20, sounds_per_minute=20, length_s=(2.0, 6.0)
    )
    stream = Stream(tower)
    if tower.takes is Frames:
        time_s = np.arange(0.0, scene.duration_s)
        pixels = torch.from_numpy(frames(scene, time_s, size_px=media.size_px))
        encoded = stream.push(Frames(pixels, torch.from_numpy(time_s), 1.0))
    else:
        samples = torch.from_numpy(sound(scene, 0.0, scene.duration_s, rate_hz=media.rate_hz))
        encoded = stream.push(Sound(samples, 0.0, media.rate_hz))
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
