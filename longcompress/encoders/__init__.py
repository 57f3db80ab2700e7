"""Towers: pictures or sound in, `Encoded` out, in blocks of fixed size."""

from .blocks import Blocks
from .hearing import BeatsEncoder
from .sound import SoundEncoder
from .stream import Stream
from .towers import SOUND, Tower
from .vision import VisionEncoder

__all__ = ["SOUND", "BeatsEncoder", "Blocks", "SoundEncoder", "Stream", "Tower", "VisionEncoder"]
