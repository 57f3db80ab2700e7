"""Files, streams and arrays -> frames and audio with their true times."""

from .probe import MediaInfo, probe
from .reader import Reading, arrays, read
from .resize import fit_pixels

__all__ = ["MediaInfo", "Reading", "arrays", "fit_pixels", "probe", "read"]
