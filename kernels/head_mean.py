"""The small metric that planning works on: features averaged over heads."""

import torch
from einops import reduce
from torch import Tensor

from ._dispatch import use_triton


def head_mean(x: Tensor, width: int) -> Tensor:
    """(N, d) float32 metric: mean over heads, each d = min(width, C) channels wide, of features x (N, C).

    It is linear in x, so the metric of a mean is the mean of the metrics (LongVLM, arXiv 2404.03384, takes 16
    heads of 64). No gradient.

    Args:
        x: (N, C) float.
        width: channels of a head, >= 1; d must divide C.

    Raises:
        ValueError: for other shapes.
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
