"""The three encoders of LongVALE with random weights, to time: in the papers' sizes, or in smaller ones."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .beats import Beats
from .beats_layers import BeatsConfig

Size = Literal["small", "middle", "paper"]


@dataclass(frozen=True)
class Shape:
    """Width, layers and heads of a transformer; its MLP is four times as wide."""

    width: int
    layers: int
    heads: int


SHAPES: dict[Size, dict[str, Shape]] = {
    "small": dict.fromkeys(("video", "audio", "speech"), Shape(64, 1, 1)),
    "middle": {"video": Shape(384, 6, 6), "audio": Shape(384, 6, 6), "speech": Shape(384, 4, 6)},
    "paper": {"video": Shape(1024, 24, 16), "audio": Shape(768, 12, 12), "speech": Shape(1280, 32, 20)},
}
"""paper: CLIP ViT-L/14, BEATs iter3+, the encoder of Whisper large-v2. middle: ViT-S/14 with half its layers,
half of BEATs' width and layers, the encoder of Whisper tiny."""


class Encoders(NamedTuple):
    """CLIP with its projection, BEATs, Whisper's encoder, and what makes its frames of audio."""

    video: CLIPVisionModelWithProjection
    audio: Beats
    speech: WhisperEncoder
    extractor: WhisperFeatureExtractor


def random_encoders(size: Size) -> Encoders:
    """Encoders of a size, with the windows, patches and resolution of the papers.

    Raises:
        ValueError: there is no such size.
    """
    if size not in SHAPES:
        raise ValueError(f"size must be one of {', '.join(SHAPES)}, got {size!r}")
    eyes, ears, words = (SHAPES[size][name] for name in ("video", "audio", "speech"))
    torch.manual_seed(0)
    video = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=eyes.width, intermediate_size=4 * eyes.width, num_hidden_layers=eyes.layers,
            num_attention_heads=eyes.heads, image_size=224, patch_size=14, projection_dim=3 * eyes.width // 4,
        )
    )  # fmt: skip
    audio = Beats(
        BeatsConfig(
            patch_width=2 * ears.width // 3, width=ears.width, layers=ears.layers, heads=ears.heads,
            hidden_width=4 * ears.width,
        )
    )  # fmt: skip
    for value in audio.parameters():
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.02)
    speech = WhisperEncoder(
        WhisperConfig(
            d_model=words.width, encoder_layers=words.layers, encoder_attention_heads=words.heads,
            encoder_ffn_dim=4 * words.width, num_mel_bins=80, architectures=["WhisperEncoder"],
        )
    )  # fmt: skip
    return Encoders(video.eval(), audio.eval(), speech.eval(), WhisperFeatureExtractor(feature_size=80))
