"""The token that stands for a group: the one nearest to the group's mean."""

import torch
from torch import Tensor

from ._dispatch import one_device, use_triton
from .pool import Plan, means_of, shares_of


def medoid(metric: Tensor, plan: Plan, *, center: Tensor | None = None) -> Tensor:
    """(M,) int64: of each group the token whose metric is nearest to the group's mean; -1: a group without
    tokens.

    Distances are Euclidean and worked in float64, so that two tokens of equal weight are equally near to
    their mean on any device. Ties go to the lowest token. A token of weight 0 is taken only where a group has
    no other, and then the lowest of them. No gradient.

    Args:
        metric: (N, d) float, finite where there is weight.
        plan: of these N tokens.
        center: (M, d) float, what to be near to instead of the mean.
    """
    if metric.dim() != 2 or not metric.is_floating_point():
        raise ValueError(f"metric must be (N, d) float, got {tuple(metric.shape)} {metric.dtype}")
    if len(plan.group) != len(metric):
        raise ValueError(
            f"plan is for {len(plan.group)} tokens, metric has {len(metric)}: (N, d) = {tuple(metric.shape)}"
        )
    if center is not None:
        want = (len(plan.mass), metric.shape[1])
        if tuple(center.shape) != want or not center.is_floating_point():
            raise ValueError(
                f"center must be (M, d) = {want} float, got {tuple(center.shape)} {center.dtype}"
            )
        center = center.detach()
    one_device(metric=metric, center=center, **plan._asdict())
    if use_triton("medoid", metric):
        from .gpu.medoid import medoid_triton

        return medoid_triton(metric.detach(), *plan[:3], center)
    return medoid_reference(metric, plan, center=center)


def medoid_reference(metric: Tensor, plan: Plan, *, center: Tensor | None = None) -> Tensor:
    """What `medoid` means, in plain torch. Also the path on CPU."""
    x, group, num = metric.detach().double(), plan.group.long(), len(plan.mass)
    share = shares_of(group, plan.weight, plan.mass, torch.float64)
    x = x.where(share[:, None] != 0, 0)  # rows without weight may hold anything
    center = means_of(x, group, share, num) if center is None else center.double()
    distance = (x - center[group]).square().sum(1).where(share != 0, torch.inf)
    nearest = distance.new_full((num,), torch.inf).scatter_reduce_(0, group, distance, "amin")
    token = torch.arange(len(x), device=x.device).where(distance == nearest[group], len(x))
    lowest = token.new_full((num,), len(x)).scatter_reduce_(0, group, token, "amin")
    return lowest.where(lowest < len(x), -1)
