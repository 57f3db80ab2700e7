"""The checks of what `plan` and `tree` are given."""

from math import isfinite

import torch
from torch import Tensor

from ._dispatch import can_wait, check_offsets, one_device


def check_tokens(metric: Tensor, offsets: Tensor, weight: Tensor | None) -> list[int]:
    """offsets (S + 1,) as a list, or ValueError unless metric (N, d) and weight (N,) fit it."""
    if metric.dim() != 2 or not metric.is_floating_point():
        raise ValueError(f"metric must be (N, d) float, got {tuple(metric.shape)} {metric.dtype}")
    one_device(metric=metric, weight=weight)
    at = check_offsets(offsets, metric.shape[0])
    if weight is not None and weight.shape != metric.shape[:1]:
        raise ValueError(f"weight must be (N,) = ({metric.shape[0]},) like metric, got {tuple(weight.shape)}")
    return at


def limits_of(keep: int | Tensor, num_segments: int) -> list[int]:
    """`keep` as a number for each segment."""
    if isinstance(keep, Tensor):
        fits = keep.shape == (num_segments,) and not keep.is_floating_point()
        got = f"{tuple(keep.shape)} {keep.dtype}"
    else:
        fits, got = isinstance(keep, int) and not isinstance(keep, bool), repr(keep)
    if not fits:
        raise ValueError(f"keep must be one integer or (S,) = ({num_segments},) integers, got {got}")
    if isinstance(keep, Tensor) and not can_wait(keep):
        raise ValueError(
            "keep must be on the CPU while a CUDA graph is captured: it decides what is launched"
        )
    limits: list[int] = keep.tolist() if isinstance(keep, Tensor) else [keep] * num_segments
    if any(k < 1 for k in limits):
        raise ValueError(f"keep must be >= 1 for every segment, got {min(limits)}")
    return limits


def check_values(metric: Tensor, weight: Tensor | None, at: list[int]) -> None:
    """ValueError that names the first token whose metric isn't finite or whose weight is no weight."""
    values = [metric] if weight is None else [metric, weight]
    ends = [end.double() for x in values if x.numel() for end in x.aminmax()]  # NaN where one is
    known = torch.stack(ends).tolist() if ends else []
    if all(map(isfinite, known)) and (weight is None or min(known[-2:], default=0) >= 0):
        return
    bad = ~torch.isfinite(metric).all(dim=1)
    if weight is not None:
        bad |= ~torch.isfinite(weight) | (weight < 0)
    check_row(int(bad.nonzero()[0, 0]), at)


def check_row(row: int, at: list[int]) -> None:
    """ValueError that names the first token whose values are no good, unless there is none: at[-1]."""
    if row >= at[-1]:
        return
    segment = next(s for s in range(len(at) - 1) if at[s] <= row < at[s + 1])
    rule = "metric must be finite and weight finite and >= 0"
    raise ValueError(f"{rule}, but token {row} (segment {segment}) is not; check the encoder's output there")
