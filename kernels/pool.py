"""A plan, and what applies it: weighted means of wide features in one pass, and back."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ._dispatch import one_device, use_triton


class Plan(NamedTuple):
    """Which tokens become one. N tokens in, M groups out, S segments."""

    group: Tensor  # (N,) int32 group of each token, in [0, M)
    weight: Tensor  # (N,) float32 raw tokens each one stands for; 0 counts for nothing
    mass: Tensor  # (M,) float32 summed weight of each group
    offsets: Tensor  # (S + 1,) int32 where each segment's groups begin


def pool(x: Tensor, plan: Plan) -> Tensor:
    """(M, C) means of the tokens x (N, C) of each group, by weight; zero where only weight 0 arrived.

    They are in x.dtype, summed in float32 or better. Linear in x, with a gradient to x.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be (N, C) float, got {tuple(x.shape)} {x.dtype}")
    num = len(plan.group)
    if num != len(x):
        raise ValueError(f"plan is for {num} tokens, x has {len(x)}: (N, C) = {tuple(x.shape)}")
    one_device(x=x, **plan._asdict())
    return _Pool.apply(x, *plan[:3], use_triton("pool", x))


def pool_reference(x: Tensor, plan: Plan) -> Tensor:
    """What `pool` means, in plain torch: one gather-and-sum pass over x. Also the path on CPU."""
    return _Pool.apply(x, *plan[:3], False)


def unpool(y: Tensor, plan: Plan) -> Tensor:
    """(N, C): each token's group's row of y (M, C); undoes `pool` wherever a group's tokens were equal."""
    return y.index_select(0, plan.group.long())


def extremes(low: Tensor, high: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """((M,), (M,)): the minimum of low (N,) and the maximum of high (N,) over the tokens of each group."""
    if low.dtype == high.dtype and use_triton("extremes", low):
        from .gpu.pool import extremes_triton

        pair: tuple[Tensor, Tensor] = extremes_triton(low, high, plan.group, len(plan.mass))
        return pair
    group, num = plan.group.long(), len(plan.mass)
    lowest = low.new_full((num,), torch.inf).scatter_reduce_(0, group, low, "amin")
    return lowest, high.new_full((num,), -torch.inf).scatter_reduce_(0, group, high, "amax")


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group, weight, mass, fused):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(group, weight, mass)
        ctx.dtype, ctx.fused = x.dtype, fused
        if fused:
            from .gpu.pool import means

            return means(x, group, weight, mass)
        wide, index = torch.promote_types(x.dtype, torch.float32), group.long()
        share = shares_of(index, weight, mass, wide)
        return means_of(x.to(wide), index, share, len(mass)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[no-untyped-def]
        group, weight, mass = ctx.saved_tensors
        if ctx.fused:
            from .gpu.pool import spread

            dx = spread(dy, group, weight, mass)
        else:
            wide, index = torch.promote_types(ctx.dtype, torch.float32), group.long()
            share = shares_of(index, weight, mass, wide)
            dx = (dy.to(wide)[index] * share[:, None]).to(ctx.dtype)
        return dx, None, None, None, None


# The one arithmetic of weighted means, which planning and pooling share to the bit.


def shares_of(group: Tensor, weight: Tensor, mass: Tensor, dtype: torch.dtype) -> Tensor:
    """(N,) what each token is multiplied by in its group's mean: exactly 1 if it is all of it, 0 without
    weight. `mass` (M,) is the summed `weight` (N,) of each group."""
    total = mass.to(dtype)
    inverse = torch.where(total > 0, 1 / total, torch.zeros_like(total))
    alone = (weight == mass[group]) & (weight > 0)
    return torch.where(alone, torch.ones_like(inverse[group]), inverse[group] * weight.to(dtype))


def means_of(x: Tensor, group: Tensor, share: Tensor, num: int) -> Tensor:
    """(num, C) sum of share (N,) * x (N, C) over the tokens of each group (N,), token by token."""
    by_group = group.argsort(stable=True)
    count = torch.bincount(group, minlength=num)
    first = count.cumsum(0) - count
    return functional.embedding_bag(by_group, x, first, mode="sum", per_sample_weights=share[by_group])
