"""The encoders there are, and how those of audio are loaded."""

from collections.abc import Callable

from .beats_encoder import BeatsEncoder
from .vision import VisionEncoder
from .whisper import AudioEncoder

Encoder = VisionEncoder | AudioEncoder | BeatsEncoder
"""Each says what it takes (`modality`: "video" or "audio", `block`, `look`) and gives (`width`, `patches`,
`num_summaries`, `means`, `num_tokens`, `tokens_a_second`), and has `encode`, `load` and `save_pretrained`."""

AUDIO: dict[str, Callable[..., AudioEncoder | BeatsEncoder]] = {
    "whisper": AudioEncoder.load,
    "beats": BeatsEncoder.load,
}
