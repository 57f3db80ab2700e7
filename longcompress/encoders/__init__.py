"""Encoders: frames or audio in, `Encoded` out. They run on blocks of fixed size."""

from .beats_encoder import BeatsEncoder
from .encoder import Encoder, tokens_a_second
from .pixels import PixelEncoder
from .stock import StockAudio, StockVision
from .stream import Stream
from .vision import VisionEncoder
from .whisper import AudioEncoder

__all__ = [
    "AudioEncoder",
    "BeatsEncoder",
    "Encoder",
    "PixelEncoder",
    "StockAudio",
    "StockVision",
    "Stream",
    "VisionEncoder",
    "tokens_a_second",
]
