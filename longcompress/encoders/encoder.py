"""All encoders."""

from typing import Any

from ..config import MediaConfig
from .beats_encoder import BeatsEncoder
from .pixels import PixelEncoder
from .stock import StockAudio, StockVision
from .vision import VisionEncoder
from .whisper import AudioEncoder

Encoder = VisionEncoder | AudioEncoder | BeatsEncoder | PixelEncoder | StockVision | StockAudio
"""Input: `modality` ("video" or "audio"), `block` (frames or samples that are encoded at once), `lookahead`
(frames or samples behind a block that it also sees), of video `frames_per_token`. Output: `width`, `patches`,
of audio `token_hz` (tokens a second), `num_summaries`, `means`, `num_tokens`. Methods: `encode`, `load`,
`save_pretrained`; those inside a stock model have `state` instead of the last two."""


def tokens_a_second(encoder: Any, duration_s: float, media: MediaConfig) -> float:
    """Raw tokens of a second of a video that lasts `duration_s`."""
    if encoder.modality == "audio":
        return float(encoder.token_hz)
    return media.frames_a_second(duration_s) / encoder.frames_per_token * encoder.patches
