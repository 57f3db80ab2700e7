"""Apply a plan: weighted means of wide features in one pass, and back."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .plan import Plan


def pool(x: Tensor, plan: Plan) -> Tensor:
    """Mean of the tokens of each group, by weight. Linear in x, with a gradient to x.

    Args:
        x: (N, C) tokens, float.
        plan: what `plan` decided for these N tokens.

    Returns:
        (M, C) means in x.dtype, summed in float32 or better; zero where only weight 0 arrived.

    Raises:
        ValueError: if the plan is for another number of tokens.
    """
    if x.dim() != 2 or plan.group.shape != x.shape[:1]:
        raise ValueError(f"plan is for {plan.group.shape[0]} tokens, x has {len(x)}: (N, C) = {tuple(x.shape)}")
    return pool_reference(x, plan)


def pool_reference(x: Tensor, plan: Plan) -> Tensor:
    """What `pool` means, in plain torch: one gather-and-sum pass over x. Also the path on CPU."""
    pooled: Tensor = _Pool.apply(x, plan.group, plan.weight, plan.mass)
    return pooled


def unpool(y: Tensor, plan: Plan) -> Tensor:
    """(N, C): each token's group's row of y (M, C). The inverse of `pool` wherever a group's tokens were equal."""
    if y.shape[:1] != plan.mass.shape:
        raise ValueError(f"plan makes {plan.mass.shape[0]} groups, y has {len(y)}: (M, C) = {tuple(y.shape)}")
    return y.index_select(0, plan.group.long())


def extremes(low: Tensor, high: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """((M,), (M,)): the least of low (N,) and the greatest of high (N,) over the tokens of each group."""
    group, num = plan.group.long(), len(plan.mass)
    least = low.new_full((num,), float("inf")).scatter_reduce_(0, group, low, "amin")
    most = high.new_full((num,), float("-inf")).scatter_reduce_(0, group, high, "amax")
    return least, most


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group, weight, mass):  # type: ignore[no-untyped-def]
        wide = torch.promote_types(x.dtype, torch.float32)
        index = group.long()
        total = mass.to(wide)
        share = torch.where(total > 0, 1 / total, torch.zeros_like(total))[index] * weight.to(wide)
        share = torch.where(weight == mass[index], torch.ones_like(share), share)  # alone: the token as it is
        share = torch.where(mass[index] > 0, share, torch.zeros_like(share))
        ctx.save_for_backward(index, share)
        ctx.dtype = x.dtype
        by_group = index.argsort(stable=True)
        count = torch.bincount(index, minlength=len(mass))
        first = count.cumsum(0) - count
        out = torch.nn.functional.embedding_bag(
            by_group, x.to(wide), first, mode="sum", per_sample_weights=share[by_group]
        )
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # type: ignore[no-untyped-def]
        index, share = ctx.saved_tensors
        return (dy.to(share.dtype)[index] * share[:, None]).to(ctx.dtype), None, None, None
