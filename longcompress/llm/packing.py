"""Several samples in one row of tokens: which of them share a row, and what hides them from each other.

Where each sample is one unbroken sequence, transformers gets no mask but positions that start at 0 in each
sample. From them it makes the mask that the attention needs: dense for sdpa and eager (with their sliding
windows), blocks for flex_attention, and lengths for flash attention, which it reads of a single row only.
Samples with branches need the dense mask of `branch_mask`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .cache import attending

MAX_BRANCH_POSITIONS = 16_384  # of a row with a dense mask: 1 GiB of float32
_APART = 4  # tokens of each of the two samples that a language model is tried with


def first_fit(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows of indices into `lengths`: each goes into the first row with room for it, else a new row.

    A row has at most `max_tokens` tokens; a longer sample has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number, length in enumerate(lengths):
        at = next((i for i, left in enumerate(room) if length <= left), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[at].append(number)
        room[at] -= length
    return rows


def takes_lengths(lm: Any) -> bool:
    """Whether its attention takes lengths of sequences and no dense mask."""
    return "flash" in str(lm.config.get_text_config()._attn_implementation)


def has_state(lm: Any) -> bool:
    """Whether some of its layers carry a state instead of attending: their samples can't be masked, and their
    caches hold one sequence."""
    num_attending, num_layers = attending(lm.config)
    return num_attending < num_layers


def _check_branches(lm: Any) -> None:
    """ValueError where several questions can't stand behind one video, each seeing the video alone."""
    both_ways = getattr(lm.config.get_text_config(), "use_bidirectional_attention", None) == "vision"
    why = "flash attention doesn't take" if takes_lengths(lm) else ""
    why = "layers that carry a state don't take" if has_state(lm) else why
    if why or both_ways:
        raise ValueError(
            f"several questions about a video need a mask that {why or 'hides frames from each other'}; ask "
            'one question a video (max_questions=1), or, with flash attention, set llm.attention to "sdpa"'
        )


def branch_mask(
    lm: Any, branch: Tensor, attention_mask: Tensor, dtype: torch.dtype, sample: Tensor | None = None
) -> Tensor:
    """(B, 1, L, L) additive mask for embeddings of `dtype`, or of autocast's where it is on: a token sees the
    video (branch 0) and its own branch of its own sample, nothing later.

    Raises:
        ValueError: `lm` can't take it, or L is more than MAX_BRANCH_POSITIONS, for the mask grows with its
            square.
    """
    _check_branches(lm)
    kind = branch.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    rows, length = branch.shape
    if length > MAX_BRANCH_POSITIONS:
        num_bytes = rows * length * length * torch.empty(0, dtype=dtype).element_size()
        raise ValueError(
            "several questions about a video need a dense mask, of at most "
            f"{MAX_BRANCH_POSITIONS} positions a row, got {length}, a mask of {num_bytes:,} bytes; "
            "ask one question a video (max_questions=1), or give the video fewer tokens"
        )
    position = torch.arange(length, device=branch.device)
    query, key = rearrange(branch, "b l -> b l 1"), rearrange(branch, "b l -> b 1 l")
    visible = (position <= position[:, None]) & ((key == 0) | (key == query))
    if sample is not None:
        visible &= rearrange(sample, "b l -> b 1 l") == rearrange(sample, "b l -> b l 1")
    visible &= rearrange(attention_mask.bool(), "b l -> b 1 l")
    visible |= position == position[:, None]  # padding sees itself: no row is empty
    mask = torch.zeros(visible.shape, dtype=dtype, device=branch.device)
    return rearrange(mask.masked_fill_(~visible, torch.finfo(dtype).min), "b q k -> b 1 q k")


def packed_logits(lm: Any, x: Tensor, position_ids: Tensor) -> Tensor:
    """(B, L, V) logits of embeddings (B, L, D) of rows of samples, with positions from 0 on in each."""
    rows = len(x)
    if takes_lengths(lm):  # transformers reads them of a single row only
        x, position_ids = rearrange(x, "b l d -> 1 (b l) d"), rearrange(position_ids, "b l -> 1 (b l)")
    logits: Tensor = lm(
        inputs_embeds=x, attention_mask=None, position_ids=position_ids, use_cache=False
    ).logits
    return logits.reshape(rows, -1, logits.shape[-1])


@torch.no_grad()
def check_apart(lm: Any, x: Tensor) -> None:
    """ValueError if a sample sees the sample before it in its row.

    Models with a state do that, and models that make their mask without the positions. Two rows differ in
    their first samples; the logits of the second samples must not differ. Embeddings x (B, L, D) give width,
    dtype, device and scale.
    """
    generator = torch.Generator().manual_seed(0)
    before, other, same = torch.randn(3, _APART, x.shape[-1], generator=generator).to(x) * x.std()
    rows = torch.stack([torch.cat([before, same]), torch.cat([other, same])])
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
