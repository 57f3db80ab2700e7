"""The towers there are, and how those of sound are loaded."""

from collections.abc import Callable

from .hearing import BeatsEncoder
from .sound import SoundEncoder
from .vision import VisionEncoder

Tower = VisionEncoder | SoundEncoder | BeatsEncoder
"""Each says what it takes (`takes`: Frames or Sound, `block`, `look`) and gives (`width`, `cells`,
`num_summaries`, `means`, `num_tokens`, `tokens_a_second`), and has `encode`, `load` and `save_pretrained`."""

SOUND: dict[str, Callable[..., SoundEncoder | BeatsEncoder]] = {
    "whisper": SoundEncoder.load,
    "beats": BeatsEncoder.load,
}
