"""What both towers do alike: the metric of their features, and a check that they were loaded whole."""

from pathlib import Path
from typing import Any

from torch import Tensor


def head_mean(x: Tensor, width: int) -> Tensor:
    """(N, d) float32 metric: mean over heads, `width` wide (or all of it), of features x (N, C)."""
    return x.float().view(len(x), -1, min(width, x.shape[1])).mean(1)


def check_width(width: int, channels: int) -> None:
    """ValueError unless a metric `width` wide divides the tower's channels."""
    if channels % min(width, channels):
        raise ValueError(f"width of the metric must divide the tower's {channels} channels, got {width}")


def check_whole(base: str | Path, found: dict[str, Any]) -> None:
    """ValueError if a tower was loaded with parameters missing: they would be random numbers."""
    missing = sorted(map(str, found["missing_keys"]))
    if missing:
        raise ValueError(
            f"base {str(base)!r} lacks {len(missing)} of the tower's parameters, such as {missing[:3]}"
        )
