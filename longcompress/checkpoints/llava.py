"""LLaVA-OneVision on Qwen2, the base of MMDuet, taken apart: language model, vision encoder, projector.

lmms-lab's layout and transformers' (llava-hf) are read, tensor by tensor: they stay on disk until they are
used.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from ..config import ModelConfig
from ..encoders.beats import listed
from ..encoders.checks import Base, Part
from ..encoders.projector import FILE, NAME
from ..files import is_hub_name
from ..model import folder_of
from .delta import read_folder, read_json, tokenizer_of, write_model

# Beginning of a name -> the part that it belongs to, and what it begins with there; the first match counts.
LAYOUTS = (
    # lmms-lab
    ("model.vision_tower.vision_tower.vision_model.", "video", "vision_model."),
    ("model.mm_projector.", "projector", ""),
    # transformers, as llava-hf's files have it, and as 4.52 and later save it
    ("vision_tower.vision_model.", "video", "vision_model."),
    ("model.vision_tower.vision_model.", "video", "vision_model."),
    ("model.vision_tower.", "video", "vision_model."),
    ("multi_modal_projector.linear_1.", "projector", "0."),
    ("multi_modal_projector.linear_2.", "projector", "2."),
    ("model.multi_modal_projector.linear_1.", "projector", "0."),
    ("model.multi_modal_projector.linear_2.", "projector", "2."),
    ("language_model.model.", "llm", "model."),
    ("language_model.lm_head.", "llm", "lm_head."),
    ("model.language_model.", "llm", "model."),
    # both; the new line between rows of an image is not for video
    ("model.image_newline", "", ""),
    ("image_newline", "", ""),
    ("lm_head.", "llm", "lm_head."),
    ("model.", "llm", "model."),
)  # fmt: skip
QWEN2 = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_parameters", "tie_word_embeddings",
    "hidden_act", "attention_dropout", "initializer_range", "sliding_window", "use_sliding_window",
    "max_window_layers", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
FOLDERS = {"video": "video", "llm": "lm"}  # section -> its folder in a saved model
MODEL_TYPES = ("llava", "llava_qwen", "llava_onevision")
TABLE = "model.embed_tokens.weight"
PATCHES, PLACES = "embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"
NORM = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


class Split(NamedTuple):
    """Result of `split_llava`."""

    video: Path  # folder of the vision encoder with its projector, for base={"video": folder}
    llm: Path  # folder of the language model, for base={"llm": folder}
    tensors: int


def llava_parts(config: ModelConfig) -> dict[str, Base]:
    """Section -> what is loaded in place of its base, where that is a whole LLaVA-OneVision folder, in either
    layout or as `split_llava` leaves it; empty for models of other parts."""
    parts: dict[str, Base] = {}
    for section, name in FOLDERS.items() if config.video.tokens == "projected" else ():
        base = getattr(config, section).base
        folder = folder_of(base, "base") if is_hub_name(base) or Path(base).exists() else None
        if folder is not None and (folder / name).is_dir():
            parts[section] = str(folder / name)
        elif folder is not None and (config.video.base == config.llm.base or is_llava(folder)):
            parts[section] = read_llava(folder)[section]
    return parts


def is_llava(folder: Path) -> bool:
    """Whether a folder says of itself that it is LLaVA."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") in MODEL_TYPES


def read_llava(folder: str | Path) -> dict[str, Part]:
    """Section ("video", "llm") -> that part of a LLaVA-OneVision folder in either layout, its tensors mapped.

    Raises:
        FileNotFoundError: there is no such folder, or it lacks files.
        ValueError: it holds another model, or a part of one.
    """
    folder = Path(folder)
    values: dict[str, dict[str, Tensor]] = {"video": {}, "llm": {}, "projector": {}, "": {}}
    unknown = []
    for name, value in read_folder(folder, "base['llava']").items():
        match = next((row for row in LAYOUTS if name.startswith(row[0])), None)
        if match is None:
            unknown.append(name)
        else:
            values[match[1]][match[2] + name.removeprefix(match[0])] = value
    config = read_json(folder / "config.json")
    missing = [part for part in ("llm", "video", "projector") if not values[part]]
    if missing or unknown:
        raise ValueError(
            f"base['llava']: {folder} (model_type {config.get('model_type')!r}) must be LLaVA-OneVision on "
            "Qwen2 in lmms-lab's or llava-hf's layout, such as lmms-lab/llava-onevision-qwen2-7b-ov; parts "
            f"without tensors: {listed(missing)}; tensors without a place: {listed(unknown)}"
        )
    mode = config.get("mm_spatial_pool_mode", "bilinear")
    if mode != "bilinear":
        raise ValueError(f"base['llava']: {folder} has mm_spatial_pool_mode {mode!r}, must be 'bilinear'")
    for part, stem in (("llm", "model.layers."), ("video", "vision_model.encoder.layers.")):
        check_layers(folder, values[part], stem)
    text = _text_config(folder, config, values["llm"])
    vision = _vision_config(config, values["video"])
    return {
        "video": Part(folder, vision, values["video"], values["projector"]),
        "llm": Part(folder, text, values["llm"], {}),
    }


def check_layers(folder: Path, values: Mapping[str, Tensor], stem: str) -> None:
    """ValueError unless layers 0, 1, 2, ... are all there, each with the same tensors."""
    layers: dict[int, set[str]] = {}
    for name in values:
        if name.startswith(stem):
            number, _, leaf = name.removeprefix(stem).partition(".")
            layers.setdefault(int(number), set()).add(leaf)
    leaves = set().union(*layers.values())
    lacks = [
        f"{stem}{i}.{leaf}"
        for i in range(max(layers, default=0) + 1)
        for leaf in leaves - layers.get(i, set())
    ]
    if lacks or not layers:
        raise ValueError(
            f"base['llava']: {folder} lacks {listed(sorted(lacks)) if layers else stem}; get it whole"
        )


def _text_config(folder: Path, config: Mapping[str, Any], values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of Qwen2's config: the checkpoint's, with the sizes that its tensors have."""
    text = config.get("text_config") or config
    if "text_config" in config and text.get("model_type", "qwen2") != "qwen2":
        raise ValueError(
            f"base['llava']: {folder} has a language model of type {text['model_type']!r}, must be 'qwen2'"
        )
    known = {name: text[name] for name in QWEN2 if name in text}
    if TABLE not in values:
        raise ValueError(f"base['llava']: {folder} lacks {TABLE}; get it whole")
    tied = "lm_head.weight" not in values
    return known | {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": len(values[TABLE]),
        "tie_word_embeddings": tied, "torch_dtype": str(values[TABLE].dtype).removeprefix("torch."),
    }  # fmt: skip


def _vision_config(config: Mapping[str, Any], values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of SigLIP's config, read off the tensors: lmms-lab's config.json has none of them."""
    stem = "vision_model."
    patches, (places, width) = values[stem + PATCHES], values[stem + PLACES].shape
    layers = {name.split(".")[3] for name in values if name.startswith(f"{stem}encoder.layers.")}
    vision = config.get("vision_config") or {}
    # SigLIP's heads are 64 wide, and at most 16 (so400m's are 72)
    heads = vision.get("num_attention_heads") or min(16, max(2, width // 64))
    patch = patches.shape[-1]
    return {
        "model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"], "hidden_size": width,
        "intermediate_size": len(values[f"{stem}encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": len(layers), "num_attention_heads": heads, "patch_size": patch,
        "image_size": vision.get("image_size") or round(places**0.5) * patch,
        "vision_use_head": f"{stem}head.probe" in values,
        "torch_dtype": str(patches.dtype).removeprefix("torch."),
    }  # fmt: skip


def split_llava(
    folder: str | Path, out: str | Path, *, shard_bytes: int = 1 << 30, progress: bool = True
) -> Split:
    """Write the parts of a LLaVA-OneVision folder as models: `video` with the projector, and `lm`.

    Args:
        folder: as for `read_llava`.
        out: a new or empty folder.
        shard_bytes, progress: as for `apply_delta`; about so much memory is needed.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out must be a new or empty folder, {out} has files in it")
    parts, tokenizer = read_llava(folder), tokenizer_of([Path(folder)])
    split = Split(out / "video", out / "lm", sum(len(p.values) + len(p.projector) for p in parts.values()))
    for path, part in ((split.video, parts["video"]), (split.llm, parts["llm"])):
        path.mkdir(parents=True)
        if part.projector:
            save_file(
                {NAME + name: value.contiguous() for name, value in part.projector.items()}, path / FILE,
                metadata={"format": "pt"},
            )  # fmt: skip
            (path / "preprocessor_config.json").write_text(json.dumps(NORM) + "\n")
        else:
            for file in tokenizer:
                shutil.copyfile(file, path / file.name)
        write_part(path, part, shard_bytes, progress)
    return split


def write_part(out: Path, part: Part, shard_bytes: int, progress: bool) -> None:
    """Write the model that is a part of another."""
    sizes = {name: value.nbytes for name, value in part.values.items()}
    write_model(
        out, part.config, sizes, lambda name: part.values[name].contiguous(),
        shard_bytes=shard_bytes, progress=progress,
    )  # fmt: skip
