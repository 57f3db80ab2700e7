"""Files, streams and arrays -> frames and audio with their true times."""

from .frames import fit_pixels
from .probe import MediaInfo, probe
from .reader import Reading, arrays, read

__all__ = ["MediaInfo", "Reading", "arrays", "fit_pixels", "probe", "read"]
