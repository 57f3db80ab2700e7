"""Encoders and language models at their bases: folders, hub names, attention and dtype."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..config import ModelConfig
from ..types import STREAMS
from .beats_encoder import BeatsEncoder
from .checks import Base
from .encoder import Encoder
from .vision import VisionEncoder
from .whisper import AudioEncoder

ATTENTION = {
    "sdpa": "", "eager": "", "flex_attention": "", "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface", "flash_attention_4": "flash_attn.cute",
}  # fmt: skip
"""Values of an `attention` field, and the package that each needs besides torch."""


def check_attention(config: ModelConfig) -> None:
    """ValueError where a section of the config names an attention that is unknown or not installed.

    A name with a slash is a kernel of the hub, which transformers fetches.
    """
    for section in (*STREAMS, "llm"):
        part = getattr(config, section)
        name = part.attention
        if not part.base or "/" in name:
            continue
        if name not in ATTENTION:
            raise ValueError(f"{section}.attention must be one of {sorted(ATTENTION)}, got {name!r}")
        package = ATTENTION[name]
        if package and find_spec(package.split(".")[0]) is None:
            raise ValueError(
                f"{section}.attention {name!r} needs the package {package}, which is not installed; install "
                f'it (pip install -e ".[flash]" on a machine with a GPU and its compiler), or use "sdpa"'
            )


def is_relative(base: Base) -> bool:
    """Whether a base is a path from the model's own folder: "./video", or "../tiny/video" beside it."""
    return isinstance(base, str) and base.startswith(("./", "../"))


def resolve(base: Base, folder: Path | None) -> Any:
    """A base as encoders take it: one that is relative becomes a path from `folder`, others stay."""
    if not is_relative(base):
        return base
    path = (folder or Path()) / str(base)
    if not path.exists():
        raise FileNotFoundError(
            f"base {base!r}: no folder {path}; a saved model needs the encoders and LM beside it"
        )
    return str(path)


def load_encoders(
    config: ModelConfig, folder: Path | None, dtype: torch.dtype | str, parts: Mapping[str, Base]
) -> dict[str, Encoder | None]:
    """Stream -> the encoder of its section's base, or of its part; None where the base is ""."""
    encoders: dict[str, Encoder | None] = {"video": None}
    if config.video.base:
        base = resolve(parts.get("video", config.video.base), folder)
        encoders["video"] = VisionEncoder.load(config.video, base, config.media.size_px, dtype=dtype)
    for stream, part in (("audio", config.audio), ("speech", config.speech)):
        kind = BeatsEncoder if part.kind == "beats" else AudioEncoder
        encoders[stream] = kind.load(part, resolve(part.base, folder), dtype=dtype) if part.base else None
    return encoders


def dtype_of(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype | str:
    """A dtype by its name ("auto" stays); None: float32 on the CPU, bfloat16 elsewhere."""
    if isinstance(dtype, str) and dtype != "auto":
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise ValueError(f'dtype must be one of torch, such as "bfloat16", or "auto", got {dtype!r}')
        return named
    return dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
