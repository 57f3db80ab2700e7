"""The small metric that planning works on, and how much of each token is new in it."""

import torch
from einops import reduce
from torch import Tensor

from ._dispatch import can_wait, one_device, use_triton


def head_mean(x: Tensor, width: int) -> Tensor:
    """(N, d) float32 metric: mean over heads, each d = min(width, C) channels wide, of features x (N, C).

    It is linear in x, so the metric of a mean is the mean of the metrics (LongVLM, arXiv 2404.03384, takes 16
    heads of 64). d must divide C. No gradient.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"x must be (N, C) float, got {tuple(x.shape)} {x.dtype}")
    if width < 1 or x.shape[1] % min(width, x.shape[1]):
        raise ValueError(f"width must divide the C = {x.shape[1]} channels of x, got {width}")
    if use_triton("head_mean", x):
        from .gpu.head_mean import head_mean_triton

        return head_mean_triton(x.detach(), min(width, x.shape[1]))
    return head_mean_reference(x, width)


def head_mean_reference(x: Tensor, width: int) -> Tensor:
    """What `head_mean` means, in plain torch. Also the path on CPU."""
    return reduce(x.detach().to(torch.float32), "n (h d) -> n d", "mean", d=min(width, x.shape[1]))


def novelty(metric: Tensor, previous: Tensor) -> Tensor:
    """(N,) float32 in [0, 2]: one minus the cosine with the token before; 1 without one, or where just one of
    the two is a zero vector; 0 where both are.

    Args:
        metric: (N, d) float.
        previous: (N,) int32, the row of the token before (same patch, one frame earlier), -1: none. Where a
            graph is compiled or captured nobody checks it, and the kernel reads row 0 for rows out of range.
    """
    if metric.dim() != 2:
        raise ValueError(f"metric must be (N, d), got {tuple(metric.shape)}")
    if previous.shape != metric.shape[:1] or previous.is_floating_point():
        raise ValueError(
            f"previous must be (N,) = ({len(metric)},) integers, got {tuple(previous.shape)} {previous.dtype}"
        )
    one_device(metric=metric, previous=previous)
    if can_wait(metric) and len(previous):
        low, high = int(previous.min()), int(previous.max())
        if low < -1 or high >= len(metric):
            raise ValueError(f"previous must hold rows in [-1, {len(metric)}), got {low} to {high}")
    if use_triton("novelty", metric):
        from .gpu.novelty import novelty_triton

        return novelty_triton(metric, previous)
    return novelty_reference(metric, previous)


def frame_novelty(metric: Tensor, patches: int, last: Tensor | None = None) -> Tensor:
    """(N,) float32 `novelty` of each token against the same patch one frame before; 1 in a first frame.

    metric (N, d) has `patches` tokens a frame; `last` (patches, d) is the frame before these, None: none.
    """
    known = metric if last is None else torch.cat([last, metric])
    previous = torch.arange(len(known), dtype=torch.int32, device=known.device) - patches
    return novelty(known, previous.clamp_min(-1))[len(known) - len(metric) :]


def novelty_reference(metric: Tensor, previous: Tensor) -> Tensor:
    """What `novelty` means, in plain torch. Also the path on CPU."""
    metric = metric.float()
    length = metric.norm(dim=1)
    zero = length == 0
    unit = metric / length.masked_fill(zero, 1)[:, None]
    before = previous.clamp_min(0).long()
    cosine = (unit * unit[before]).sum(1)
    cosine = torch.where(zero & zero[before], torch.ones_like(cosine), cosine)
    return torch.where(previous < 0, torch.ones_like(cosine), (1 - cosine).clamp(0, 2))
