"""Weighted means of groups, the one arithmetic that planning and pooling share to the bit."""

import torch
from torch import Tensor


def shares_of(group: Tensor, weight: Tensor, mass: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,) what each token is multiplied by in its group's mean: exactly 1 if it is all of it, 0 without
    weight; of group (N,) int64, weight (N,) and mass (M,), the summed weight of each group."""
    total = mass.to(dtype)
    inverse = torch.where(total > 0, 1 / total, torch.zeros_like(total))
    alone = (weight == mass[group]) & (weight > 0)
    return torch.where(alone, torch.ones_like(inverse[group]), inverse[group] * weight.to(dtype))


def means_of(x: Tensor, group: Tensor, share: Tensor, num: int) -> Tensor:
    """(num, C) sum of share * x over the tokens of each group, token by token in their order.

    x is (N, C) float32 or float64, each row read once; group (N,) int64; share (N,) like x.
    """
    by_group = group.argsort(stable=True)
    count = torch.bincount(group, minlength=num)
    first = count.cumsum(0) - count
    return torch.nn.functional.embedding_bag(
        by_group, x, first, mode="sum", per_sample_weights=share[by_group]
    )
