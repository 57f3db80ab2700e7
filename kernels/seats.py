"""A round of bipartite matching: how many pairs merge, and the seats of what is left."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Rounds = float | Sequence[int]
Order = Literal["seat", "reference"]


def targets(best: Tensor, partner: Tensor, pairs: Tensor, n: int, order: Order) -> Tensor:
    """(S, n) int64 seat of each token after the best `pairs` (S,) even seats joined their partners."""
    num_segments, num_even = best.shape
    # rank of each even seat by falling score; the sort is stable, so ties go to the lowest seat
    rank = best.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    merges = rank < pairs[:, None]
    target = torch.empty(num_segments, n, dtype=torch.int64, device=best.device)
    if order == "reference":
        # the unmerged even tokens by rank, then all odd ones
        left = num_even - pairs[:, None]
        target[:, 1::2] = left + torch.arange(n // 2, device=best.device)
        target[:, 0::2] = torch.where(merges, left + partner, rank - pairs[:, None])
        return target
    # seats close up: a token that stays has as many before it as stay there
    stays = torch.ones_like(target)
    stays[:, 0::2] = (~merges).long()
    seat = stays.cumsum(1) - 1
    # an odd token always stays; an even one that merges goes where its partner is
    target[:, 1::2] = seat[:, 1::2]
    target[:, 0::2] = torch.where(merges, seat.gather(1, 2 * partner + 1), seat[:, 0::2])
    return target


def num_pairs(n: int, schedule: Rounds, done: int) -> int:
    """Pairs that a full round over n tokens merges, after `done` rounds."""
    if isinstance(schedule, float | int):
        return min(max(1, int(schedule * n)), n // 2)
    return min(max(1, schedule[min(done, len(schedule) - 1)]), n // 2)
