"""Files, streams and arrays to frames and audio with their true times."""

from .probe import probe
from .reader import arrays, fit_pixels, read

__all__ = ["arrays", "fit_pixels", "probe", "read"]
