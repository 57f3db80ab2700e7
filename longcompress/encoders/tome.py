"""Token merging inside a vision encoder: in every layer the most similar patches merge, before the MLP.

The method is ToMe's (Bolya et al., ICLR 2023, arXiv 2210.09461), written from the paper: patches are matched
by the cosine of their keys (mean over heads), r pairs merge between attention and MLP to their mean by size,
and from then on attention counts a token of size s as s tokens (log s is added to its scores). Class tokens
and registers never merge. The matching and the means are `kernels.plan` and `kernels.pool`.

No layer of the encoder is rewritten: its own modules are called in its own order, with the merge in between.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel

from ..kernels import Plan, head_mean, plan, pool, unpool


class Family(NamedTuple):
    """Names of an encoder's parts in the order its own forward takes them; each half of a layer adds to x."""

    start: tuple[str, ...]  # of the encoder: from pixels to the first layer
    layers: str  # of the encoder
    before: tuple[str, ...]  # of a layer, first half: norm
    attention: str
    after: tuple[str, ...]  # layer scale, drop path
    rest: tuple[str, ...]  # second half: norm, MLP, layer scale, drop path
    key: str = "k_proj"  # of the attention


CLIP = Family(
    ("embeddings", "pre_layrnorm"), "encoder.layers", ("layer_norm1",), "self_attn", (),
    ("layer_norm2", "mlp"),
)  # fmt: skip
DINOV2 = Family(
    ("embeddings",), "encoder.layer", ("norm1",), "attention", ("layer_scale1", "drop_path"),
    ("norm2", "mlp", "layer_scale2", "drop_path"),
)  # fmt: skip
VIT = Family(
    ("embeddings",), "layers", ("layernorm_before",), "attention", ("dropout",),
    ("layernorm_after", "mlp", "dropout"),
)  # fmt: skip
FAMILIES = {
    "clip_vision_model": CLIP,
    "siglip_vision_model": CLIP._replace(start=("embeddings",)),
    "dinov2": DINOV2,
    "dinov2_with_registers": DINOV2,
    "vit": VIT,
}
ATTENTIONS = ("eager", "sdpa")  # implementations that add a mask to the scores
EXACT, HALF = 1e-5, 1e-2  # error relative to the states' RMS, in float32 and in half precision


def merged_states(
    encoder: PreTrainedModel, x: Tensor, num_pairs: int, indices: range, *, by_tree: bool = False
) -> dict[int, Tensor]:
    """(T, tokens, C) hidden states by their index, with all patches: each has the features of its group.

    Args:
        encoder: that `check_encoder` lets pass.
        x: (T, 3, H, W) normalised frames.
        num_pairs: pairs of a frame's patches that merge in each layer, at most half of those left.
        indices: of states, as transformers counts them (0: the embeddings); layers above aren't run.
        by_tree: merge by the Ward tree of the keys, not ToMe's pairs.
    """
    family = FAMILIES[encoder.config.model_type]
    side, heads = encoder.config.patch_size, encoder.config.num_attention_heads
    num_patches = (x.shape[2] // side) * (x.shape[3] // side)
    x = _through(encoder, family.start, x)  # (T, tokens, C)
    first = x.shape[1] - num_patches  # class token and registers, where an encoder has them
    states = {0: x} if 0 in indices else {}
    groups: Plan | None = None
    layers = islice(encoder.get_submodule(family.layers).children(), indices.stop - 1)
    for index, layer in enumerate(layers, 1):
        x, keys = attended(family, layer, x, groups, first)
        pairs = min(num_pairs, (x.shape[1] - first) // 2)
        if pairs:
            metric = head_mean(keys[:, first:].flatten(0, 1), keys.shape[2] // heads)
            x, groups = merged(x, metric, pairs, groups, first, by_tree=by_tree)
        x = x + _through(layer, family.rest, x)
        if index in indices:
            states[index] = whole(x, groups, first)
    return states


def attended(
    family: Family, layer: nn.Module, x: Tensor, groups: Plan | None, first: int
) -> tuple[Tensor, Tensor]:
    """(x (T, tokens, C) after a layer's first half, (T, tokens, heads * d) its keys)."""
    attention, mask = layer.get_submodule(family.attention), None
    if groups is not None:  # log of the number of patches in each token
        mask = x.new_zeros(x.shape[:2])
        mask[:, first:] = groups.mass.log().view(len(x), -1)
        mask = mask[:, None, None]
    keys: list[Tensor] = []
    with attention.get_submodule(family.key).register_forward_hook(lambda *call: keys.append(call[2])):
        y = attention(_through(layer, family.before, x), attention_mask=mask)[0]
    return x + _through(layer, family.after, y), keys[0]


def merged(
    x: Tensor, metric: Tensor, pairs: int, groups: Plan | None, first: int, *, by_tree: bool = False
) -> tuple[Tensor, Plan]:
    """(x (T, tokens - pairs, C), the group of every patch of the grid) after the best pairs of each frame
    merged: of x (T, tokens, C), whose first tokens stay as they are, and metric (T * n, d) of the others."""
    num = x.shape[1] - first
    offsets = num * torch.arange(len(x) + 1, dtype=torch.int32, device="cpu")
    size = None if groups is None else groups.mass
    how: Any = {"schedule": "tree"} if by_tree else {"schedule": [pairs], "score": "cosine"}
    # unchecked, so that no layer waits for a GPU: who merges the features checks those
    chosen = plan(metric, offsets, num - pairs, weight=size, check=False, **how)
    patches = pool(x[:, first:].flatten(0, 1), chosen).unflatten(0, (len(x), num - pairs))
    x = torch.cat([x[:, :first], patches], 1)  # (T, tokens - pairs, C)
    if groups is None:
        return x, chosen
    # Patches of the grid -> tokens before this layer -> tokens after it.
    return x, chosen._replace(group=chosen.group[groups.group.long()], weight=groups.weight)


def whole(x: Tensor, groups: Plan | None, first: int) -> Tensor:
    """(T, first + P, C): each patch of the grid with the features of its group in x (T, tokens, C)."""
    if groups is None:
        return x
    patches = unpool(x[:, first:].flatten(0, 1), groups).unflatten(0, (len(x), -1))
    return torch.cat([x[:, :first], patches], 1)


@torch.no_grad()
def check_encoder(encoder: PreTrainedModel, pixels: Tensor, layer: int) -> None:
    """ValueError unless patches can merge up to hidden state `layer`, tried with pixels (T, 3, H, W)."""
    kind, attention = encoder.config.model_type, encoder.config._attn_implementation
    if kind not in FAMILIES:
        raise ValueError(
            f"merge_per_layer works in encoders of CLIP, SigLIP, DINOv2 and ViT ({', '.join(FAMILIES)}), got "
            f"{kind!r}; use merge_per_layer 0"
        )
    if attention not in ATTENTIONS:
        known = " or ".join(ATTENTIONS)
        raise ValueError(f"merge_per_layer needs an attention that takes a mask, {known}, got {attention!r}")
    states = encoder(pixel_values=pixels, output_hidden_states=True).hidden_states
    at = range(len(states))[layer]
    want, got = states[at].float(), merged_states(encoder, pixels, 0, range(at, at + 1))[at].float()
    off = float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
    if not off <= (EXACT if pixels.dtype in (torch.float32, torch.float64) else HALF):
        raise ValueError(
            f"merge_per_layer: the parts of this {kind!r} encoder, run one by one, don't give state {at} "
            f"(off by {off:.0e}): hooks on its layers, or another order of them in transformers "
            f"{transformers.__version__}; use merge_per_layer 0"
        )


def random_dinov2(size_px: int) -> PreTrainedModel:
    """A DINOv2 of ViT-S/14's size with random weights, to time."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    return Dinov2Model(Dinov2Config(image_size=size_px, **sizes)).eval()


def _through(module: nn.Module, names: Sequence[str], x: Tensor) -> Tensor:
    """x through these parts of `module`, one after the other."""
    for name in names:
        x = module.get_submodule(name)(x)
    return x
