"""The three encoders of LongVALE with random weights, for benchmarks, in the papers' sizes or smaller."""

from typing import Literal, NamedTuple

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .beats import Beats, BeatsConfig

Size = Literal["small", "middle", "paper"]


class Shape(NamedTuple):
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
    """CLIP with its projection, BEATs, and Whisper's encoder with its feature extractor."""

    video: CLIPVisionModelWithProjection
    audio: Beats
    speech: WhisperEncoder
    extractor: WhisperFeatureExtractor


def random_encoders(size: Size) -> Encoders:
    """Encoders of a size, with the windows, patches and resolution of the papers."""
    if size not in SHAPES:
        raise ValueError(f"size must be one of {', '.join(SHAPES)}, got {size!r}")
    torch.manual_seed(0)
    width, layers, heads = SHAPES[size]["video"]
    clip_config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=224, patch_size=14, projection_dim=3 * width // 4,
    )  # fmt: skip
    width, layers, heads = SHAPES[size]["audio"]
    beats_config = BeatsConfig(16, 2 * width // 3, width, layers, heads, 4 * width)
    width, layers, heads = SHAPES[size]["speech"]
    whisper_config = WhisperConfig(
        d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        num_mel_bins=80, architectures=["WhisperEncoder"],
    )  # fmt: skip
    video, audio = CLIPVisionModelWithProjection(clip_config), Beats(beats_config)
    for value in audio.parameters():
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=0.02)
    speech = WhisperEncoder(whisper_config)
    return Encoders(video.eval(), audio.eval(), speech.eval(), WhisperFeatureExtractor(feature_size=80))
