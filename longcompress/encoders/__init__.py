"""Encoders: frames or audio in, `Encoded` out, in blocks of fixed size."""

from .beats_encoder import BeatsEncoder
from .blocks import Blocks
from .encoder import AUDIO, Encoder
from .stream import Stream
from .vision import VisionEncoder
from .whisper import AudioEncoder

__all__ = ["AUDIO", "AudioEncoder", "BeatsEncoder", "Blocks", "Encoder", "Stream", "VisionEncoder"]
