"""All encoders, and how each audio encoder is loaded."""

from collections.abc import Callable

from .beats_encoder import BeatsEncoder
from .pixels import PixelEncoder
from .stock import StockAudio, StockVision
from .vision import VisionEncoder
from .whisper import AudioEncoder

Encoder = VisionEncoder | AudioEncoder | BeatsEncoder | PixelEncoder | StockVision | StockAudio
"""Input: `modality` ("video" or "audio"), `block` (frames or samples that are encoded at once), `lookahead`
(frames or samples behind a block that it also sees), of video `frames_per_token`. Output: `width`, `patches`,
`num_summaries`, `means`, `num_tokens`, `tokens_a_second`. Methods: `encode`, `load`, `save_pretrained`; those
inside a stock model have `state` instead of the last two."""

AUDIO: dict[str, Callable[..., AudioEncoder | BeatsEncoder]] = {
    "whisper": AudioEncoder.load,
    "beats": BeatsEncoder.load,
}
