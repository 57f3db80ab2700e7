"""The tokens of a plan in the order of their groups: what sums over groups without atomics reads.

`plan` leaves its own behind, so that pooling by its groups sorts nothing.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# group of each token -> its version, and the order; an entry goes when its group does
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember(group: Tensor, order: Tensor, first: Tensor) -> None:
    """`order_of` will return these for this group, until it is written to."""
    if not group.is_inference():  # those don't tell when they are written to
        _known[group] = group._version, order, first


def order_of(group: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """((N,) int32 tokens by (group, token), (num + 1,) int32 where each group's begin) of groups (N,)."""
    known = _known.get(group)
    if known is not None and known[0] == group._version and len(known[2]) == num + 1:
        return known[1], known[2]
    return sort_tokens(group, num)


def sort_tokens(group: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """`order_of` by torch's sort."""
    by_group, order = group.sort(stable=True)
    ends = torch.arange(num + 1, device=group.device, dtype=group.dtype)
    return order.int(), torch.searchsorted(by_group, ends, out_int32=True)
