"""Several samples in one row of tokens: which share a row, and how each is kept from seeing the others.

Where each sample is one unbroken sequence, transformers is given no mask but positions that begin anew with
each sample. From them it makes the mask of its own that the attention needs: a dense one for sdpa and eager
(sliding windows kept), blocks for flex_attention, and for flash attention lengths, which it reads of a single
row only. Samples with branches need the dense mask of `branch_mask`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_APART = 4  # tokens of each of the two samples that a language model is tried with


def first_fit(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Rows of numbers: each goes into the first row that it fits into, else into a new one.

    Args:
        lengths: tokens of each.
        most: tokens a row has at most; one longer than that has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number, length in enumerate(lengths):
        at = next((i for i, left in enumerate(room) if length <= left), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(most)
        rows[at].append(number)
        room[at] -= length
    return rows


def takes_lengths(lm: Any) -> bool:
    """Whether its attention takes lengths of sequences and no dense mask."""
    return "flash" in str(lm.config.get_text_config()._attn_implementation)


def branch_mask(
    branch: Tensor, attention_mask: Tensor, dtype: torch.dtype, sample: Tensor | None = None
) -> Tensor:
    """(B, 1, L, L) additive mask: a token sees the video (branch 0) and its own branch of its own sample,
    nothing later."""
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    mine = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    if sample is not None:
        mine &= sample[:, None, :] == sample[:, :, None]
    seen = causal & mine & attention_mask.bool()[:, None, :]
    seen = seen | torch.eye(
        length, dtype=torch.bool, device=branch.device
    )  # padding sees itself: no empty row
    return torch.zeros(seen.shape, dtype=dtype, device=branch.device).masked_fill(
        ~seen, torch.finfo(dtype).min
    )[:, None]


def packed_logits(lm: Any, x: Tensor, position_ids: Tensor) -> Tensor:
    """(B, L, V) logits of rows of samples, each of which sees itself only.

    Args:
        lm: the language model.
        x: (B, L, D) input embeddings.
        position_ids: (B, L), from 0 on in each sample.
    """
    rows, length = position_ids.shape
    if takes_lengths(lm):  # which transformers reads of a single row only
        x, position_ids = x.reshape(1, rows * length, -1), position_ids.reshape(1, -1)
    logits: Tensor = lm(
        inputs_embeds=x, attention_mask=None, position_ids=position_ids, use_cache=False
    ).logits
    return logits.reshape(rows, length, -1)


@torch.no_grad()
def check_apart(lm: Any, x: Tensor) -> None:
    """ValueError if a sample sees the one before it in its row.

    So it is with models that have a state, and with those that don't hand positions to the mask; nothing else
    would show it. Two rows differ in their first samples; the second ones' logits must not.

    Args:
        lm: the language model.
        x: (B, L, D) embeddings, for their width, type, device and scale.
    """
    generator = torch.Generator().manual_seed(0)
    one, other, same = torch.randn(3, _APART, x.shape[-1], generator=generator).to(x) * x.std()
    rows = torch.stack([torch.cat([one, same]), torch.cat([other, same])])
    position = torch.arange(_APART, device=x.device).repeat(2, 2)
    modes = [(module, module.training) for module in lm.modules()]
    lm.eval()
    first, second = packed_logits(lm, rows, position)[:, _APART:].float()
    for module, mode in modes:
        module.training = mode
    if not bool((first - second).abs().max() <= 1e-3 * first.abs().max()):
        raise ValueError(
            f"{type(lm).__name__} lets a sample see the one before it in its row; set row_tokens to 0"
        )
