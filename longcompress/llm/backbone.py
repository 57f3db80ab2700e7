"""A stock video LLM of a folder, the hub or a script, taken apart into encoders and language model."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForMultimodalLM,
    BitsAndBytesConfig,
    WhisperFeatureExtractor,
)
from transformers.utils import cached_file

from ..config import MediaConfig, MemoryConfig, MergeConfig, ModelConfig
from ..config_llm import LLMConfig
from ..encoders import StockAudio, StockVision
from ..encoders.checks import load_whole
from ..encoders.families import FAMILIES, Family
from ..files import is_hub_name, parse_json
from .stock import StockLM
from .tokenizer import load_tokenizer

Norm = tuple[tuple[float, ...], tuple[float, ...]]
PROCESSOR_FILES = ("video_preprocessor_config.json", "processor_config.json", "preprocessor_config.json")
EVENTS = (
    "List what happens between {start} and {end} seconds of the video, a line for each event, in the form: "
    "12.0 - 15.5 seconds: what happens. If nothing happens, answer: nothing."
)
ASKS_FIRST = ("instructblipvideo",)  # their features depend on the question


@dataclass(frozen=True)
class Backbone:
    """A loaded stock model.

    Attributes:
        lm: of a family's class.
        tokenizer: with its chat template.
        norm: mean and deviation of pixels, or None: those that the family published.
        extractor: of audio, or None.
    """

    lm: Any
    tokenizer: Any
    norm: Norm | None = None
    extractor: WhisperFeatureExtractor | None = None


def is_stock(base: str | Path) -> bool:
    """Whether a folder or hub name holds a model of transformers, and none of ours."""
    return (Path(base).is_dir() or is_hub_name(base)) and "model_type" in read_file(base, "config.json")


def family_of(known: Any, name: str) -> Family:
    """The family of transformers' config; ValueError for a model of none, with what it is."""
    kind = known.model_type
    if kind in FAMILIES:
        return FAMILIES[kind]
    if kind in ASKS_FIRST:
        why = (
            "its video features depend on the question, so a video can't be compressed once for all questions"
        )
    elif type(known) in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(known, "vision_config"):
        why = "it is a language model without video; use it as llm.base, behind encoders (docs/models.md)"
    else:
        why = f"families are {', '.join(sorted(FAMILIES))}; docs/models.md says how to add another"
    raise ValueError(f"name {name!r} has model_type {kind!r}: {why}")


def stock_config(known: Any, name: str) -> ModelConfig:
    """Our config of transformers' config of a stock model, whose base is `name`."""
    known = getattr(known, "thinker_config", known)
    family = family_of(known, name)
    try:
        size_px = family.size_px(SimpleNamespace(config=known))  # of a model that isn't loaded yet
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"name {name!r}: its config.json must tell the sizes of patches and frames, got {error}"
        ) from error
    media = MediaConfig(
        size_px=size_px, fit=family.fit, scaling="bicubic", rate_fps=float(family.frames_per_token),
        audio=family.audio is not None,
    )  # fmt: skip
    llm = LLMConfig(base=name, kind="stock", time=False, timestamp_s=0.0, events=EVENTS)
    # where text tells the time, a raw token's place is better (docs/tiny.md); a frame alone may have hundreds
    place: Literal["mean", "medoid"] = "medoid" if family.time == "text" else "mean"
    merge = MergeConfig(tokens_per_segment={"video": 1024, "*": 256}, place=place)
    return ModelConfig(name=name, media=media, merge=merge, memory=MemoryConfig(kind="none"), llm=llm)


def read_config(base: str | Path) -> Any:
    """transformers' config of a stock model, of an Omni model that of its thinker.

    Raises:
        ValueError: transformers doesn't know it, or it needs code of its own.
    """
    values = read_file(base, "config.json")
    try:
        known = AutoConfig.from_pretrained(base, trust_remote_code=False)  # nor ask whether to run it
    except (StrictDataclassError, ValueError) as error:
        kind = values.get("model_type")
        if kind in CONFIG_MAPPING:
            raise ValueError(f"name {str(base)!r}: its config.json can't be read: {error}") from error
        need = (
            "brings code of its own, which is never run" if "auto_map" in values else "is too new or unknown"
        )
        raise ValueError(
            f"name {str(base)!r}: model_type {kind!r} {need}; families are {', '.join(sorted(FAMILIES))}"
        ) from error
    return getattr(known, "thinker_config", known)


def class_of(known: Any) -> Any:
    """The class of the model of transformers' config."""
    return AutoModelForMultimodalLM._model_mapping[type(known)]


def load_backbone(
    base: str, config: LLMConfig, *, device: torch.device, dtype: torch.dtype | str, quantization: Any = None,
    llm: bool = True,
) -> Backbone:  # fmt: skip
    """The model at `base`.

    Args:
        base: folder or hub name.
        config: its attention.
        device, dtype: where to put it, and as what.
        quantization: transformers' quantization_config, "4bit" or "8bit"; encoders stay in `dtype`.
        llm: False: without the layers of its language model.
    """
    known = read_config(base)
    family_of(known, base)
    options: dict[str, Any] = {"dtype": dtype}
    kind = class_of(known)
    if not llm:
        text = known.get_text_config()
        text.num_hidden_layers, text.layer_types = 0, []
        if hasattr(text, "hidden_size_per_layer_input"):  # Gemma's tables of all layers
            text.hidden_size_per_layer_input = 0
        options["config"] = known
    if quantization is not None:
        skip = encoder_names(kind, known) if isinstance(quantization, str) else []
        quantization = quantization_config(quantization, [*skip, "lm_head"])
        options |= {"quantization_config": quantization, "device_map": {"": device}}
    lm = load_whole(kind, base, config.attention, **options).eval()
    if quantization is None:
        lm = lm.to(device)
    tokenizer = load_tokenizer(base)
    if not tokenizer.chat_template:  # AutoTokenizer reads chat_template.jinja alone
        tokenizer.chat_template = read_file(base, "chat_template.json").get("chat_template")
    extractor = None
    if family_of(known, base).audio:
        with suppress(OSError):
            extractor = WhisperFeatureExtractor.from_pretrained(base)
    return Backbone(lm, tokenizer, _norm_of(base), extractor)


def quantization_config(quantization: Any, skip: list[str]) -> Any:
    """transformers' quantization_config of "4bit" or "8bit", which leaves the modules `skip` as they are."""
    if isinstance(quantization, dict) or hasattr(quantization, "quant_method"):
        return quantization
    if quantization not in ("4bit", "8bit"):
        raise ValueError(
            'quantization must be "4bit", "8bit" or a quantization_config of transformers, got '
            f"{quantization!r}"
        )
    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit", load_in_8bit=quantization == "8bit",
        bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=skip,
    )  # fmt: skip


def encoder_names(kind: Any, known: Any) -> list[str]:
    """The modules of encoders and projectors, beside the language model."""
    with torch.device("meta"):
        model = kind(known)
    decoder = model.get_decoder()
    owner = next(part for part in (model, model.model) if any(child is decoder for child in part.children()))
    return [name for name, module in owner.named_children() if module is not decoder]


def backbone_of(model: Any, processor: Any) -> Backbone:
    """A model that is loaded already, with its processor, or its tokenizer alone."""
    norm = None
    for name in ("video_processor", "image_processor"):
        part: Any = getattr(processor, name, None)
        if norm is None and getattr(part, "image_mean", None) is not None:
            norm = tuple(part.image_mean), tuple(part.image_std)
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "chat_template"):
        raise TypeError(
            f"processor must be the model's processor or its tokenizer, got {type(processor).__name__}"
        )
    if not tokenizer.chat_template and getattr(processor, "chat_template", None):
        tokenizer.chat_template = processor.chat_template
    lm = getattr(model, "thinker", model)
    return Backbone(lm.eval(), tokenizer, norm, getattr(processor, "feature_extractor", None))


def take_apart(backbone: Backbone, config: ModelConfig) -> tuple[StockVision, StockAudio | None, StockLM]:
    """Its video encoder, its audio encoder if it hears, and its language model."""
    lm, name = backbone.lm, config.llm.base
    family = family_of(lm.config, name)
    if backbone.norm is None:
        warnings.warn(
            f"{name!r} has no preprocessor file that names image_mean and image_std: its family's published "
            f"numbers are taken, {family.norm[0]} and {family.norm[1]}",
            stacklevel=2,
        )
    video = StockVision(lm, family, config.video, config.media.size_px, backbone.norm)
    if not all(value.is_floating_point() for value in video.state().values() if value.dim() > 1):
        warnings.warn(
            f"{name!r} is quantized with its encoder: tokens differ from those of the unquantized model",
            stacklevel=2,
        )
    audio = None
    if family.audio is not None:
        extractor = backbone.extractor
        if extractor is None:
            mels = lm.config.audio_config.num_mel_bins
            warnings.warn(
                f"{name!r} has no preprocessor file of its audio: Whisper's numbers are taken, {mels} mels",
                stacklevel=2,
            )
            extractor = WhisperFeatureExtractor(feature_size=mels)
        audio = StockAudio(lm, family, config.audio, extractor)
    llm = StockLM(lm, backbone.tokenizer, config.llm, family, config.media, max(video.grid))
    return video, audio, llm


def _norm_of(base: str) -> Norm | None:
    """Mean and deviation of pixels in the processor's files, None where they don't name them."""
    for name in PROCESSOR_FILES:
        values = read_file(base, name)
        parts = [values, *(values[k] for k in ("video_processor", "image_processor") if k in values)]
        for part in parts:
            if part.get("do_normalize") is False:
                return (0.0,) * 3, (1.0,) * 3
            if "image_mean" in part and "image_std" in part:
                norm = [[v] * 3 if _is_number(v) else v for v in (part["image_mean"], part["image_std"])]
                if not all(isinstance(v, list) and len(v) == 3 and all(map(_is_number, v)) for v in norm):
                    raise ValueError(
                        f"{base}/{name}: image_mean and image_std must be a number or three, got {norm}"
                    )
                return tuple(norm[0]), tuple(norm[1])
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def read_file(base: str | Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder or hub name; empty if there is no such file."""
    path = Path(base) / name
    if not Path(base).is_dir():
        if not is_hub_name(base):
            raise FileNotFoundError(f"name: no folder {base}; give a folder, or a hub name owner/model")
        path = Path(cached_file(str(base), name, _raise_exceptions_for_missing_entries=False) or path)
    if not path.is_file():
        return {}
    values = parse_json(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object, got {type(values).__name__}")
    return values
