"""Checks of a base before and after its weights are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING, AutoConfig


class Part(NamedTuple):
    """A model that lies inside another checkpoint, as a base.

    Attributes:
        folder: of the checkpoint.
        config: fields of transformers' config, with model_type.
        values: its parameters by name, mapped.
        projector: those of the projector behind it, of a vision encoder.
    """

    folder: Path
    config: Mapping[str, Any]
    values: Mapping[str, Tensor]
    projector: Mapping[str, Tensor]

    def __str__(self) -> str:
        return str(self.folder)


Base = str | Path | Part


def kind_of(base: Base) -> Any:
    """transformers' config of a folder or hub name; OSError where there is none, ValueError for others."""
    if isinstance(base, Part):
        return AutoConfig.for_model(**base.config)
    path, name = Path(base), str(base)
    if path.is_file():
        raise ValueError(f"base {name!r} is a file; give the folder of a transformers model, or a hub name")
    if not path.is_dir() and (path.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise FileNotFoundError(f"base {name!r}: no such folder; give one, or a hub name owner/model")
    if path.is_dir() and not (path / "config.json").is_file():
        raise FileNotFoundError(f"base {name!r}: no config.json in this folder; give that of one model")
    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]  # without the advice that follows
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"base {name!r}: {first}") from error


def check_vision(base: Base, known: Any) -> None:
    """ValueError unless it is a vision encoder, or has one among others."""
    kinds = MODEL_MAPPING.get(type(known), None)
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    takes_pixels = any(getattr(kind, "main_input_name", "") == "pixel_values" for kind in kinds)
    if not takes_pixels and not hasattr(known, "vision_config"):
        raise ValueError(
            f"base {str(base)!r} must be a vision encoder (CLIP, SigLIP, DINOv2, ViT, ...), "
            f"got a model of type {known.model_type!r}"
        )


def check_language(base: Base, known: Any) -> None:
    """ValueError unless it is a causal language model."""
    if type(known) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"base {str(base)!r} must be a causal language model, got a model of type {known.model_type!r}"
        )


def load_whole(kind: Any, base: Base, attention: str | None, **options: Any) -> Any:
    """The model of a class of transformers; ValueError if parameters are missing (so random) or files cut."""
    options |= {"attn_implementation": attention, "output_loading_info": True}
    source = base
    if isinstance(base, Part):
        known = kind_of(base)
        kind, source = kind._model_mapping[type(known)], None  # type: ignore[assignment]
        options |= {"config": known, "state_dict": dict(base.values)}
    try:
        model, info = kind.from_pretrained(source, **options)
    except SafetensorError as error:
        raise ValueError(f"weights in {base} are cut or damaged ({error}); copy it again") from error
    if missing := sorted(map(str, info["missing_keys"])):
        need = f"{len(missing)} of the model's parameters, such as {missing[:3]}"
        raise ValueError(f"base {str(base)!r} lacks {need}")
    return model


def check_width(width: int, channels: int) -> None:
    """ValueError unless the width of a metric divides the encoder's channels."""
    if channels % min(width, channels):
        raise ValueError(f"width of the metric must divide the encoder's {channels} channels, got {width}")
