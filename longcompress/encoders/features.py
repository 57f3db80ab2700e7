"""What both encoders check alike: the width of their metric, and that they were loaded whole."""

from pathlib import Path
from typing import Any


def check_width(width: int, channels: int) -> None:
    """ValueError unless a metric `width` wide divides the encoder's channels."""
    if channels % min(width, channels):
        raise ValueError(f"width of the metric must divide the encoder's {channels} channels, got {width}")


def check_whole(base: str | Path, found: dict[str, Any]) -> None:
    """ValueError if an encoder was loaded with parameters missing: they would be random numbers."""
    missing = sorted(map(str, found["missing_keys"]))
    if missing:
        raise ValueError(
            f"base {str(base)!r} lacks {len(missing)} of the encoder's parameters, such as {missing[:3]}"
        )
