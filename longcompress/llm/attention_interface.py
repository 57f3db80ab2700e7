"""The attention of any language model of transformers, led to `branch_attention` where rows need it.

transformers looks a model's attention up by name. Ours is registered, and named, when a model first reads
rows with branches or several samples. Without a layout, as in generation, it is what it was before.
"""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from .attention import branch_attention
from .branches import BranchLayout, branch_layout
from .packing import has_state

PREFIX = "longcompress_"  # of the names registered with transformers
APART = 4  # tokens of each of the two samples that a language model is tried with


def masks(
    lm: Any, attention_mask: Tensor, branch: Tensor | None, sample: Tensor | None, backend: str
) -> dict[str, Any]:
    """What a language model's forward takes so that a token sees the video (branch 0) and its own branch of
    its own sample, nothing later. A batch without branches or shared rows needs nothing of ours.

    Args: (B, L) int64, as of `collate`.

    Raises:
        ValueError: the model can't take it.
    """
    if sample is None and (branch is None or int(branch.max()) <= 1):
        # what is padded on the right sees no padding, without any mask
        return {"attention_mask": None if bool(attention_mask[:, 0].all()) else attention_mask}
    _lead(lm)
    branch = torch.zeros_like(attention_mask) if branch is None else branch
    # models hand on a mask of four axes as it is; nothing can be added to an empty one by mistake
    none = torch.empty(1, 1, 0, 0, device=attention_mask.device)
    layout = branch_layout(branch, attention_mask, sample)
    return {"attention_mask": none, "branch_layout": layout, "branch_backend": backend}


def _lead(lm: Any) -> None:
    """Names `_attention` as the attention of a language model, if it can be."""
    decoder = (lm.get_base_model() if hasattr(lm, "peft_config") else lm).get_decoder()
    configs = {id(m.config): m.config for m in decoder.modules() if hasattr(m, "config")}.values()
    if all(config._attn_implementation.startswith(PREFIX) for config in configs):
        return
    if why := _why_not(lm, decoder):
        raise ValueError(
            f"{type(lm).__name__} can't read several questions about a video, or samples that share a row: "
            f"{why}; ask one question a video (max_questions=1) and set row_tokens to 0"
        )
    for config in configs:
        usual = config._attn_implementation.removeprefix(PREFIX)
        AttentionInterface.register(PREFIX + usual, _attention)
        AttentionMaskInterface.register(PREFIX + usual, AttentionMaskInterface()[usual])
        config._attn_implementation = PREFIX + usual


def _why_not(lm: Any, decoder: Any) -> str:
    """Why a language model can't follow a layout, "" if it can."""
    config = decoder.config
    if has_state(lm):
        return "it has layers that carry a state"
    if getattr(config, "use_bidirectional_attention", None) == "vision":
        return "within a frame it attends in both directions"
    if not decoder._supports_attention_backend:
        return "its attention takes no function of ours (transformers' AttentionInterface)"
    kinds = {*(getattr(config, "layer_types", None) or ())} - {"full_attention", "sliding_attention"}
    return f"it has layers of {min(kinds)}" if kinds else ""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *,
    branch_layout: BranchLayout | None = None, branch_backend: Any = "auto", **options: Any,
) -> tuple[Tensor, Any]:  # fmt: skip
    """As transformers calls it: (B, L, H, d) by the layout, or what the model's own attention gives."""
    if branch_layout is None:
        if isinstance(attention_mask, Tensor) and attention_mask.shape[2:] == (0, 0):
            raise ValueError(
                f"{type(module).__name__} isn't handed the layout of its rows; ask one question a video "
                "(max_questions=1) and set row_tokens to 0"
            )
        return _usual(module, query, key, value, attention_mask, **options)
    for name in ("dropout", "s_aux", "position_bias"):
        if (got := options.get(name)) is not None and not (name == "dropout" and got == 0):
            raise ValueError(
                f"{type(module).__name__} attends with {name}, which rows with branches or several samples "
                "have no attention for; set it to 0 in the model's config, or ask one question a video "
                "(max_questions=1) and set row_tokens to 0"
            )
    kind = query.device.type  # autocast, or norms in float32, leave them of several types
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    out = branch_attention(
        query.to(dtype), key.to(dtype), value.to(dtype), branch_layout, branch_backend,
        scale=options.get("scaling"), softcap=options.get("softcap"), window=options.get("sliding_window"),
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), None


def _usual(module: Any, *args: Any, **options: Any) -> tuple[Tensor, Any]:
    """What a module's attention gives that it had before."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    usual = module.config._attn_implementation.removeprefix(PREFIX)
    function: Any = AttentionInterface().get_interface(usual, eager)
    # flash attention looks its name up in the config, which other threads read too: it isn't changed
    named = _View(module, config=_View(module.config, _attn_implementation=usual))
    result: tuple[Tensor, Any] = function(named, *args, **options)
    return result


class _View:
    """An object as it is, but for some attributes."""

    def __init__(self, of: Any, **own: Any) -> None:
        self.__dict__.update(own, _of=of)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


@torch.no_grad()
def check_apart(lm: Any, x: Tensor) -> None:
    """ValueError if a sample sees the sample before it in its row.

    Two rows differ in their first samples; the logits of the second samples must not differ. Embeddings x
    (B, L, D) give width, dtype, device and scale.
    """
    generator = torch.Generator().manual_seed(0)
    before, other, same = torch.randn(3, APART, x.shape[-1], generator=generator).to(x) * x.std()
    rows = torch.stack([torch.cat([before, same]), torch.cat([other, same])])
    index = torch.arange(2 * APART, device=x.device).expand(2, -1)
    inputs = masks(lm, torch.ones_like(index), None, index // APART, "chunked")
    modes = [(module, module.training) for module in lm.modules()]
    lm.eval()
    logits = lm(inputs_embeds=rows, position_ids=index % APART, use_cache=False, **inputs).logits
    for module, mode in modes:
        module.training = mode
    first, second = logits[:, APART:].float()
    if not bool((first - second).abs().max() <= 1e-3 * first.abs().max()):
        raise ValueError(
            f"{type(lm).__name__} lets a sample see the one before it in its row; set row_tokens to 0"
        )
