"""Attention of rows of samples with branches, in memory linear in their length, by four backends."""

import functools
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers.utils import is_flash_attn_2_available

from .branches import BranchLayout, Tables, visible
from .chunked import chunked_attention
from .varlen import flash_kernel, varlen_attention, xformers_kernel

Backend = Literal["chunked", "flex", "xformers", "flash"]
PACKAGES = {"xformers": "xformers", "flash": "flash_attn"}
BLOCK = 128  # tokens of flex attention's blocks


def branch_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BranchLayout, backend: Backend | Literal["auto"] = "auto", *,
    scale: float | None = None, softcap: float | None = None, window: int | None = None,
) -> Tensor:  # fmt: skip
    """(B, H, L, d) attention in which a token sees what `layout` says, in memory linear in L.

    Args:
        q: (B, H, L, d) queries.
        k, v: (B, K, L, d) keys and values; a head of them serves H / K heads of queries.
        layout: of these B rows of L tokens.
        backend: "chunked" (plain torch, the reference, anywhere), "flex" (torch's flex_attention),
            "xformers", "flash" (flash-attn 2), or "auto", as `backend_for` has it.
        scale: of the scores, None: 1 / sqrt(d).
        softcap: scores s become softcap tanh(s / softcap).
        window: number of tokens that a token sees, itself with them.

    Raises:
        ValueError: tensors of other rows, or softcap or window with "xformers" or "flash".
        ImportError: the backend's package isn't installed.
    """
    if q.shape[::2][:2] != (layout.rows, layout.length) or k.shape[2] != layout.length:
        raise ValueError(
            f"layout is of {layout.rows} rows of {layout.length} tokens, got q (B, H, L, d) of "
            f"{tuple(q.shape)}, k of {tuple(k.shape)}; a model that adds tokens of its own can't share rows"
        )
    bends = softcap is not None or window is not None
    if backend == "auto":
        backend = backend_for(q.device.type, q.dtype, bends)
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be auto or one of {', '.join(get_args(Backend))}, got {backend!r}")
    package = PACKAGES.get(backend)
    if package and find_spec(package) is None:
        hint = f"pip install {package.replace('_', '-')}"
        raise ImportError(f"backend {backend!r} needs the package {package}, which is not installed: {hint}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "chunked":
        return chunked_attention(q, k, v, layout, scale, softcap, window)
    if backend == "flex":
        return _flex(q, k, v, layout, scale, softcap, window)
    if bends:
        what = "a softcap" if window is None else "a sliding window"
        raise ValueError(
            f'backend {backend!r} has no {what[2:]}, and the model has {what}; use "flex" or "chunked"'
        )
    kernel = flash_kernel if backend == "flash" else xformers_kernel
    return varlen_attention(q, k, v, layout, scale, kernel)


def backend_for(device: str, dtype: torch.dtype, bends: bool = False) -> Backend:
    """What "auto" stands for on a type of device.

    On a GPU flash-attn where it is installed, for half precision without softcap or window (`bends`), else
    flex attention where Triton is; else chunks.
    """
    if device != "cuda":
        return "chunked"
    if dtype in (torch.float16, torch.bfloat16) and not bends and is_flash_attn_2_available():
        return "flash"
    return "flex" if find_spec("triton") else "chunked"


def _flex(
    q: Tensor, k: Tensor, v: Tensor, layout: BranchLayout, scale: float, softcap: float | None,
    window: int | None,
) -> Tensor:  # fmt: skip
    """By flex attention, compiled on a GPU."""

    def bent(score: Tensor, *_: Tensor) -> Tensor:
        assert softcap is not None
        return softcap * torch.tanh(score / softcap)

    out: Tensor = _flex_function(q.device.type)(
        q, k, v, block_mask=block_mask(layout, q.device, window), scale=scale,
        score_mod=None if softcap is None else bent, enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return out


@functools.cache
def _flex_function(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention if device == "cpu" else torch.compile(flex_attention)


def block_mask(layout: BranchLayout, device: torch.device, window: int | None = None) -> Any:
    """flex attention's mask of a layout; only pairs of blocks are written down."""
    from torch.nn.attention.flex_attention import BlockMask

    if ("mask", device, window) not in layout._cache:
        tables = Tables(*(table.flatten() for table in layout.tables(device)))
        length = layout.length

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            at, of = (Tables(*(table[row * length + place] for table in tables)) for place in (query, key))
            return visible(at, of, window)

        seen, pairs = layout.pairs(BLOCK)
        whole = (seen == pairs) & (window is None)
        layout._cache["mask", device, window] = BlockMask.from_kv_blocks(
            *_ordered((seen > 0) & ~whole, device), *_ordered(whole, device), BLOCK, sees, (length, length)
        )
    return layout._cache["mask", device, window]


def _ordered(chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(number of chosen blocks of keys, their indices first of all indices) of blocks (B, n, n)."""
    index = chosen.int().argsort(stable=True, dim=-1, descending=True)
    return chosen.sum(-1).int()[:, None].to(device), index.int()[:, None].to(device)
