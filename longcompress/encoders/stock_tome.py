"""Token merging inside the encoder of a stock video LLM: after every layer the most similar patches of a
frame merge, and before its projector each patch gets the features of its group.

The method is ToMe's, as in `tome`, but for what is matched: states, by their mean over heads, since keys that
rotary positions have turned match near patches, not like ones. A merged token has the mean of its patches'
rotations, so that its score is the mean of theirs.

The model's own forward runs: hooks on its layers merge what comes out of them, and a function under our name
in transformers' AttentionInterface counts a token of size s as s tokens.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface

from ..kernels import Plan, head_mean, pool
from .families import Family, num_patches
from .tome import EXACT, HALF, merged, whole

NAME = "longcompress_sizes"  # of the attention function
WIDTH = 64  # of a head, whose mean over a state is matched
_PASS: ContextVar["_Pass | None"] = ContextVar("pass", default=None)


class _Pass:
    """Frames on their way through the layers, in parts within which patches merge: frames, or their windows.

    Args:
        num_pairs: of a part's patches that merge after each layer, at most half of those left.
        num_patches: of a part.
        by_tree: merge by the Ward tree of a part, not ToMe's pairs.
    """

    def __init__(self, num_pairs: int, num_patches: int, by_tree: bool) -> None:
        self.num_pairs, self.num_patches, self.by_tree = num_pairs, num_patches, by_tree
        self.num_parts = self.first = 0  # tokens of a part before its patches: class tokens
        self.groups: Plan | None = None  # of all patches
        self.num_attended = 0  # tokens that came to the present layer's attention

    def sizes(self, key: Tensor) -> Tensor | None:
        """(B, 1, 1, n) log of the sizes of the next B n tokens, those of key (B, heads, n, d)."""
        shape = len(key), key.shape[2]
        num, self.num_attended = self.num_attended, self.num_attended + shape[0] * shape[1]
        if self.groups is None:
            return None
        sizes = self.groups.mass.view(self.num_parts, -1).log()
        sizes = nn.functional.pad(sizes, (self.first, 0)).flatten()
        return sizes[num : self.num_attended].to(key.dtype).view(shape)[:, None, None]

    def enter(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer gets the positions and lengths of the tokens that are left."""
        x = args[0] if args else kwargs["hidden_states"]
        lengths = kwargs.get("cu_seqlens")
        self.num_attended = 0
        if lengths is not None and (lengths % self.num_patches).any():
            raise ValueError(
                f"video.merge_per_layer needs attention over whole parts of {self.num_patches} patches, got "
                f"sequences that end at {lengths.tolist()[1:5]}, ...; use merge_per_layer 0"
            )
        if self.groups is None:
            if x.dim() == 3:
                self.num_parts, self.first = len(x), x.shape[1] - self.num_patches
            else:  # parts lie one behind the other
                self.num_parts = len(x) // self.num_patches
            return None
        if lengths is not None:
            kwargs["cu_seqlens"] = lengths // self.num_patches * (len(x) // self.num_parts)
        if kwargs.get("position_embeddings") is not None:  # cosine and sine
            kwargs["position_embeddings"] = tuple(
                pool(turn.flatten(0, -2), self.groups).view(*x.shape[:-1], -1)
                for turn in kwargs["position_embeddings"]
            )
        return args, kwargs

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What a layer gave, merged."""
        if self.num_attended != output.shape[:-1].numel():
            raise ValueError(
                f"video.merge_per_layer needs attention by transformers' functions, which saw "
                f"{self.num_attended} of {output.shape[:-1].numel()} tokens in {type(layer).__name__} of "
                f"transformers {transformers.__version__}; use merge_per_layer 0"
            )
        x = output.view(self.num_parts, -1, output.shape[-1])
        pairs = min(self.num_pairs, (x.shape[1] - self.first) // 2)
        if not pairs:
            return output
        patches = x[:, self.first :].flatten(0, 1)
        metric = head_mean(patches, math.gcd(WIDTH, patches.shape[1]))
        x, self.groups = merged(x, metric, pairs, self.groups, self.first, by_tree=self.by_tree)
        return x if output.dim() == 3 else x.flatten(0, 1)

    def spread(self, x: Tensor) -> Tensor:
        """x with all patches: each has the features of its group."""
        if self.groups is None:
            return x
        patches = whole(x.view(self.num_parts, -1, x.shape[-1]), self.groups, self.first)
        return patches if x.dim() == 3 else patches.flatten(0, 1)

    def end(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the last layer gave, with all patches."""
        x, self.groups = self.spread(output), None
        return x

    def read(self, reader: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a module takes that reads a state between layers."""
        return (self.spread(args[0]), *args[1:])


@contextmanager
def merging(
    model: Any, family: Family, num_pairs: int, size_px: int, *, by_tree: bool = False
) -> Iterator[None]:
    """Within it, `family.features` of frames of this size merges pairs of patches after each layer."""
    AttentionInterface.register(NAME, _attend)
    side = _side(model, family, size_px)
    frames = _Pass(num_pairs // (size_px // side) ** 2, num_patches(model, side, side), by_tree)
    layers = list(model.get_submodule(family.layers).children())
    # LLaVA's reads the state of a layer before the last: what comes behind it isn't used
    last = range(len(layers) + 1)[getattr(model.config, "vision_feature_layer", -1)]
    configs = {id(part.config): part.config for part in layers[0].modules() if hasattr(part, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    token = _PASS.set(frames)
    with ExitStack() as stack:
        stack.callback(_PASS.reset, token)
        for config, attention in before:
            stack.callback(setattr, config, "_attn_implementation", attention)
            config._attn_implementation = NAME
        for index, layer in enumerate(layers[:last], 1):
            leave = frames.end if index == last else frames.leave
            for handle in (
                layer.register_forward_pre_hook(frames.enter, with_kwargs=True),
                layer.register_forward_hook(leave, prepend=True),  # transformers records states by hooks too
            ):
                stack.callback(handle.remove)
        for reader in model.get_submodule(family.readers) if family.readers else ():
            stack.callback(reader.register_forward_pre_hook(frames.read).remove)
        yield


@torch.no_grad()
def check_merging(model: Any, family: Family, num_pairs: int, x: Tensor) -> None:
    """ValueError unless pairs of patches can merge in the encoder, tried with pixels x (T, 3, size, size)."""
    kind, size_px = model.config.model_type, x.shape[-1]
    if family.no_merging:
        raise ValueError(f"video.merge_per_layer must be 0 for {kind!r}: {family.no_merging}")
    if not isinstance(getattr(model.config, "vision_feature_layer", -1), int):
        raise ValueError(
            f"video.merge_per_layer must be 0 for this {kind!r}, which reads states of several layers, got "
            f"vision_feature_layer {model.config.vision_feature_layer}"
        )
    side = _side(model, family, size_px)
    if size_px % side or num_pairs % (size_px // side) ** 2:
        raise ValueError(
            f"video.merge_per_layer needs frames of whole windows of {side} pixels and as many pairs in each "
            f"for {kind!r}, got media.size_px {size_px} and merge_per_layer {num_pairs}"
        )
    want = family.features(model, x).float()
    with merging(model, family, 0, size_px):
        got = family.features(model, x).float()
    off = float((got - want).square().mean().sqrt() / want.square().mean().sqrt())
    if not off <= (EXACT if x.dtype in (torch.float32, torch.float64) else HALF):
        raise ValueError(
            f"video.merge_per_layer must be 0 for this {kind!r} encoder: with hooks that merge nothing it "
            f"gives other features in transformers {transformers.__version__} (off by {off:.0e})"
        )


def _side(model: Any, family: Family, size_px: int) -> int:
    """Pixels of the side of a part of a frame within which patches merge."""
    return size_px if family.window is None else min(size_px, family.window(model))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    **options: Any,
) -> Any:  # fmt: skip
    """PyTorch's attention with sizes of tokens. Outside of a pass there are none."""
    frames = _PASS.get()
    if frames is not None:
        assert attention_mask is None, "frames have no padding"
        attention_mask = frames.sizes(key)
    return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **options)
