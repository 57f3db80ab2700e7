"""Which samples share a row of tokens, their batch, and which language models have no masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .cache import attending


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


def batch_of(
    examples: Sequence[dict[str, Tensor]], fills: Mapping[str, int], *, left: bool, row_tokens: int
) -> tuple[dict[str, Tensor], list[int]]:
    """((rows, ..., L) tensors of each name, filled up to the longest; the order of the examples in them).

    Args:
        examples: name -> tensor (..., l), of them "input_ids" (l,) and "position_ids".
        fills: name -> what fills it up; 0 for others.
        left, row_tokens: as of `prompt.collate`. Of shared rows "sample" (rows, L) has the examples' numbers.
    """
    rows, order = list(examples), list(range(len(examples)))
    lengths = [len(example["input_ids"]) for example in examples]
    if row_tokens:
        shared = first_fit(lengths, row_tokens)
        order = [i for row in shared for i in row]
        rows = [{n: torch.cat([examples[i][n] for i in row], -1) for n in examples[0]} for row in shared]
        for row, numbers in zip(rows, shared, strict=True):
            row["sample"] = torch.cat([torch.full((lengths[i],), i) for i in numbers])
    fills, lengths = {"sample": -1, **fills}, [len(row["input_ids"]) for row in rows]
    sides = [(max(lengths) - num, 0) if left else (0, max(lengths) - num) for num in lengths]
    batch = {}
    for name in rows[0]:
        values = [pad(r[name], side, value=fills.get(name, 0)) for r, side in zip(rows, sides, strict=True)]
        batch[name] = torch.stack(values)
    if not left:  # rows without a mask are one sequence each, so their padding counts on
        for position, num in zip(batch["position_ids"], lengths, strict=True):
            more = 1 + torch.arange(position.shape[-1] - num)
            position[..., num:] = position[..., num - 1 : num] + more
    return batch, order


def has_state(lm: Any) -> bool:
    """Whether some of its layers carry a state instead of attending: their samples can't be masked, and their
    caches hold one sequence."""
    num_attending, num_layers = attending(lm.config)
    return num_attending < num_layers
