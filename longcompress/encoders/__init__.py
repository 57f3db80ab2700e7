"""Towers: pictures or sound in, `Encoded` out, in blocks of fixed size."""

from .blocks import Blocks
from .sound import SoundEncoder
from .vision import VisionEncoder

__all__ = ["Blocks", "SoundEncoder", "VisionEncoder"]
