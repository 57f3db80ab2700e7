"""The layers of BEATs: attention with a bias by the distance of two patches, which each query scales.

Written from BEATs (Chen et al., arXiv 2212.09058) and what it is built from: gated relative position bias
(WavLM, arXiv 2110.13900), bucketed distances (T5, arXiv 1910.10683), deep norm (arXiv 2203.00555). Letters:
A windows of audio, P patches, C channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional

GATES, GATE_TERMS = 2, 4  # numbers of a gate, and terms that each is the sum of


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a BEATs encoder; the defaults are those of the released iter3+ files."""

    patch_size: int = 16  # frames, and bands; patches don't overlap
    patch_width: int = 512  # channels of a patch before it is widened
    width: int = 768  # channels of a token
    layers: int = 12
    heads: int = 12
    hidden_width: int = 3072  # inside the MLP
    position_kernel: int = 128  # tokens in the kernel of the position convolution
    position_groups: int = 16  # of its channels
    buckets: int = 320  # of distances, in both directions together
    max_distance: int = 800  # in tokens; larger distances share a bucket

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("heads", "position_groups"):
            if self.width % getattr(self, name):
                raise ValueError(f"{name} must divide width = {self.width}, got {getattr(self, name)}")
        if self.buckets % 4 or self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"buckets must be a multiple of 4 and max_distance more than a quarter of it, "
                f"got buckets {self.buckets}, max_distance {self.max_distance}"
            )

    @classmethod
    def from_released(cls, cfg: Mapping[str, Any]) -> Self:
        """The sizes in the `cfg` of a released file; the others are those of the iter3+ files."""
        for name, want in RELEASED_KIND.items():
            if cfg.get(name, want) != want:
                raise ValueError(f"cfg[{name!r}] must be {want!r} as in BEATs' files, got {cfg[name]!r}")
        for name in RELEASED_SIZES:
            if name in cfg and type(cfg[name]) is not int:
                raise ValueError(f"cfg[{name!r}] must be a whole number, got {cfg[name]!r}")
        return cls(**{own: cfg[name] for name, own in RELEASED_SIZES.items() if name in cfg})


RELEASED_SIZES = {
    "input_patch_size": "patch_size", "embed_dim": "patch_width", "encoder_embed_dim": "width",
    "encoder_layers": "layers", "encoder_attention_heads": "heads", "encoder_ffn_embed_dim": "hidden_width",
    "conv_pos": "position_kernel", "conv_pos_groups": "position_groups", "num_buckets": "buckets",
    "max_distance": "max_distance",
}  # fmt: skip
"""Entry of a released file's `cfg` -> field."""
RELEASED_KIND = {
    "activation_fn": "gelu", "conv_bias": False, "layer_norm_first": False, "deep_norm": True,
    "relative_position_embedding": True, "gru_rel_pos": True,
}  # fmt: skip
"""Entries of `cfg` that name the architecture; entries about training don't matter."""


def distance_buckets(num: int, config: BeatsConfig, device: torch.device | str = "cpu") -> Tensor:
    """(P, P) int64 bucket of the distance from each token (row) to each token (column), P = num.

    Half of the buckets are for tokens before, half for tokens behind. In each half, the first buckets hold
    one distance, and the others are even in the logarithm of the distance, up to max_distance.
    """
    index = torch.arange(num, device=device)
    distance = index[None, :] - index[:, None]
    half, near = config.buckets // 2, config.buckets // 4
    far = (distance.abs().clamp_min(near).float() / near).log() / math.log(config.max_distance / near)
    far = near + (far * (half - near)).long()
    bucket = torch.where(distance.abs() < near, distance.abs(), far.clamp_max(half - 1))
    return bucket + half * (distance > 0)


class BeatsAttention(nn.Module):
    """Attention whose bias by distance each query scales for itself, head by head."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gate = nn.Linear(width // self.heads, GATES * GATE_TERMS)
        self.gate_scale = nn.Parameter(torch.ones(1, config.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        """(A, P, C) from x (A, P, C), the bias (heads, P, P) by distance, query by key, and padding (A, P)
        bool, tokens that nobody attends to, or None."""
        query, key, value = (
            rearrange(part(x), "a p (h d) -> a h p d", h=self.heads)
            for part in (self.query, self.key, self.value)
        )  # (A, heads, P, C / heads)
        mask = self.scaling(query) * bias  # (A, heads, P, P)
        if padding is not None:  # not -inf: a window of nothing but padding stays finite
            mask = mask.masked_fill(padding[:, None, None], torch.finfo(mask.dtype).min)
        x = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(x, "a h p d -> a p (h d)"))

    def scaling(self, query: Tensor) -> Tensor:
        """(A, heads, P, 1) factor of the bias for each query (A, heads, P, C / heads)."""
        gates = reduce(self.gate(query), "a h p (gates terms) -> a h p gates", "sum", gates=GATES)
        first, second = gates.sigmoid().split(1, 3)
        return first * (second * self.gate_scale - 1) + 2


class BeatsLayer(nn.Module):
    """A transformer layer with its norms last and, by deep norm, a larger weight of the residual."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.residual = (2 * config.layers) ** 0.25
        self.attention = BeatsAttention(config)
        self.attention_norm = nn.LayerNorm(config.width)
        self.enter = nn.Linear(config.width, config.hidden_width)
        self.leave = nn.Linear(config.hidden_width, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        """(A, P, C); arguments as in `BeatsAttention`."""
        x = self.attention_norm(self.residual * x + self.attention(x, bias, padding))
        return self.norm(self.residual * x + self.leave(functional.gelu(self.enter(x))))
