"""The stock models of the tests as folders, with the files that the released checkpoints have."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, WhisperFeatureExtractor

from stock_models import ALL_MODELS
from stock_parts import EXPERTS, INTERLEAVED, TEXT, strengthen

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]
}  # fmt: skip
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PLAIN = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
BICUBIC = {
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
}
MUSE_TIME = "Time: {timestamp:.1f}s"

PREPROCESSOR = "preprocessor_config.json"
VIDEO = "video_preprocessor_config.json"
PROCESSOR = "processor_config.json"
Files = dict[str, dict[str, Any]]


def edges(model: PreTrainedModel, smallest: int, greatest: int) -> dict[str, int]:
    """The pixel limits of a size that counts pixels, here in cells of merged patches."""
    vision = model.config.vision_config
    cell = (vision.patch_size * getattr(vision, "spatial_merge_size", 2)) ** 2
    return {"shortest_edge": smallest * cell, "longest_edge": greatest * cell}


def patch_sizes(model: PreTrainedModel, step: int = 2) -> dict[str, int]:
    """The fields of Qwen's preprocessor files that name patches."""
    vision = model.config.vision_config
    merge = getattr(vision, "spatial_merge_size", 2)
    return {"patch_size": vision.patch_size, "temporal_patch_size": step, "merge_size": merge}


def two_files(model: PreTrainedModel, kind: str, norm: dict[str, list[float]], step: int = 2) -> Files:
    """A file for stills and a file for videos, whose limits differ."""
    both = BICUBIC | norm | patch_sizes(model, step) | {"processor_class": f"{kind}Processor"}
    stills = {"size": edges(model, 64, 16384), "image_processor_type": "Qwen2VLImageProcessorFast"}
    videos = {"size": edges(model, 4, 24576), "video_processor_type": f"{kind}VideoProcessor"}
    return {PREPROCESSOR: both | stills, VIDEO: both | videos}


def pixel_limits(model: PreTrainedModel, kind: str, norm: dict[str, list[float]]) -> Files:
    """One file whose limits are `min_pixels` and `max_pixels`."""
    size = edges(model, 4, 16384)
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": f"{kind}Processor"}
    return {PREPROCESSOR: norm | patch_sizes(model) | limits | kinds}


def omni_files(model: PreTrainedModel, kind: str, norm: dict[str, list[float]], chunk_s: int) -> Files:
    """One file for stills, videos and audio."""
    mels = model.config.audio_config.num_mel_bins
    hearing = WhisperFeatureExtractor(feature_size=mels, chunk_length=chunk_s, return_attention_mask=True)
    return {PREPROCESSOR: hearing.to_dict() | pixel_limits(model, kind, norm)[PREPROCESSOR]}


def square(model: PreTrainedModel) -> int:
    """The side of the frames that the encoder takes."""
    size = model.config.vision_config.image_size
    return size if isinstance(size, int) else size[0]


def llava_files(model: PreTrainedModel, kind: str, **more: Any) -> Files:
    """Squashed to a square, as LLaVA-OneVision and InternVL."""
    side = square(model)
    norm = HALF if kind == "LlavaOnevision" else IMAGENET
    both = BICUBIC | norm | {"size": {"height": side, "width": side}, "processor_class": f"{kind}Processor"}
    return {
        PREPROCESSOR: both | {"image_processor_type": f"{kind}ImageProcessor"},
        VIDEO: both | {"video_processor_type": f"{kind}VideoProcessor"},
        PROCESSOR: {"processor_class": f"{kind}Processor", **more},
    }


def crop_files(model: PreTrainedModel, kind: str) -> Files:
    """The shorter side scaled, then the middle cut out, as CLIP."""
    side = square(model)
    crop = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    kinds = {"image_processor_type": f"{kind}ImageProcessor", "processor_class": f"{kind}Processor"}
    patches = {"patch_size": model.config.vision_config.patch_size, "num_additional_image_tokens": 1}
    return {
        PREPROCESSOR: BICUBIC | CLIP | crop | {"do_center_crop": True} | kinds,
        PROCESSOR: patches
        | {"vision_feature_select_strategy": "default", "processor_class": f"{kind}Processor"},
    }


def smolvlm_files(model: PreTrainedModel) -> Files:
    """Frames squashed to the side in `video_sampling`."""
    side = {"longest_edge": square(model)}
    sampling = {"fps": 1, "max_frames": 64, "video_size": side}
    still = {"size": {"longest_edge": 4 * square(model)}, "max_image_size": side, "do_image_splitting": True}
    kinds = {"image_processor_type": "SmolVLMImageProcessor", "processor_class": "SmolVLMProcessor"}
    return {
        PREPROCESSOR: BICUBIC | HALF | {"resample": 1, "video_sampling": sampling} | still | kinds,
        PROCESSOR: {"image_seq_len": model.model.image_seq_len, "processor_class": "SmolVLMProcessor"},
    }


def gemma4_files(model: PreTrainedModel, kind: str) -> Files:
    """One file, whose parts are the processors of stills and of videos."""
    vision = model.config.vision_config
    both = BICUBIC | PLAIN | {"patch_size": vision.patch_size, "do_normalize": False}
    both |= {"pooling_kernel_size": vision.pooling_kernel_size}
    stills = {"max_soft_tokens": 280, "image_processor_type": f"{kind}ImageProcessor"}
    videos = {"max_soft_tokens": 70, "num_frames": 32, "video_processor_type": f"{kind}VideoProcessor"}
    return {
        PROCESSOR: {
            "image_processor": both | stills,
            "video_processor": both | videos,
            "image_seq_length": 280,
            "processor_class": f"{kind}Processor",
        }
    }


def files_of(name: str, model: PreTrainedModel) -> Files:
    """What the processor's files of a family hold."""
    match name:
        case "qwen3_vl" | "qwen3_vl_moe" | "qwen3_5" | "qwen3_5_moe" | "qwen4_exp" | "cosmos3_omni":
            files = two_files(model, "Qwen3VL", HALF)
        case "cohere_compass" | "lfm3_vl":
            files = two_files(model, "CohereCompass" if name == "cohere_compass" else "Lfm3Vl", HALF)
        case "cosmos3_edge":
            files = two_files(model, "Cosmos3Edge", HALF, step=1)
        case "muse_glimmer" | "muse_spark":
            files = two_files(model, "MuseGlimmer", HALF)
            files[VIDEO] |= {
                "max_video_frame_tokens": 144,
                "frame_timestamp_format": "Time: {timestamp:.1f}s",
            }
        case "qwen2_vl" | "qwen2_5_vl" | "exaone4_5" | "minimax_m3_vl" | "hyperclovax_vision_v2":
            kinds = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "exaone4_5": "Exaone4_5_"}
            kinds |= {"minimax_m3_vl": "MiniMaxM3VL", "hyperclovax_vision_v2": "HyperCLOVAXVisionV2"}
            files = pixel_limits(model, kinds[name], CLIP)
        case "qwen2_5_omni":
            files = omni_files(model, "Qwen2_5Omni", CLIP, chunk_s=300)
        case "qwen3_omni":
            files = omni_files(model, "Qwen3OmniMoe", HALF, chunk_s=30)
        case "glm4v" | "glm4v_moe" | "glm46v" | "glm_ocr" | "glm5_next":
            kind = {"glm46v": "Glm46V", "glm_ocr": "Glm46V", "glm5_next": "Glm5Next"}.get(name, "Glm4v")
            files = two_files(model, kind, CLIP)
        case "llava_onevision":
            num = (square(model) // model.config.vision_config.patch_size) ** 2
            files = llava_files(model, "LlavaOnevision", num_image_tokens=num)
        case "internvl":
            files = llava_files(model, "InternVL", image_seq_length=model.config.image_seq_length)
        case "llava_next_video" | "video_llava":
            files = crop_files(model, "LlavaNextVideo" if name == "llava_next_video" else "VideoLlava")
        case "video_llama_3":
            files = two_files(model, "VideoLlama3", HALF, step=1)
        case "smolvlm":
            files = smolvlm_files(model)
        case "gemma4" | "gemma4_bidirectional" | "gemma4_unified":
            files = gemma4_files(model, "Gemma4Unified" if name == "gemma4_unified" else "Gemma4")
    return files


def save(
    name: str,
    folder: Path,
    template: Literal["chat_template.jinja", "chat_template.json"] = "chat_template.jinja",
    preprocessor: bool = True,
) -> Path:
    """A folder of the family's small model, as its released checkpoints are.

    Args:
        template: the file of the chat template; the .json is what older checkpoints have alone.
        preprocessor: False leaves the preprocessor's files out.
    """
    model, tokenizer = ALL_MODELS[name]()
    model.save_pretrained(folder)
    save_texts(name, model, tokenizer, folder, template, preprocessor)
    return folder


def save_texts(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    template: str = "chat_template.jinja",
    preprocessor: bool = True,
) -> None:
    """All files of a folder but the model's own."""
    tokenizer.save_pretrained(folder)
    if template == "chat_template.json":
        (folder / "chat_template.jinja").unlink()
        (folder / template).write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    if preprocessor:
        for file, content in files_of(name, model).items():
            (folder / file).write_text(json.dumps(content, indent=2))


TALKERS = {
    "qwen2_5_omni": {
        "talker_config": TEXT | {"head_dim": 16, "embedding_size": 64, "vocab_size": 64},
        "token2wav_config": {
            "dit_config": {
                "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8,
                "emb_dim": 8, "mel_dim": 8, "enc_emb_dim": 8, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24],
                "enc_attention_channels": 8, "enc_se_channels": 8, "num_embeds": 65,
            },
            "bigvgan_config": {"mel_dim": 8, "upsample_initial_channel": 64},
        },
    },
    "qwen3_omni": {
        "talker_config": {
            "thinker_hidden_size": 64, "num_code_groups": 2, "accept_hidden_layer": 1, "speaker_id": {},
            "spatial_merge_size": 2,
            "text_config": TEXT | EXPERTS | INTERLEAVED | {"shared_expert_intermediate_size": 32},
            "code_predictor_config": TEXT | {"head_dim": 16, "num_code_groups": 2},
        },
        "code2wav_config": {
            "codebook_size": 16, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_quantizers": 2, "upsample_rates": [2],
            "upsampling_ratios": [2], "decoder_dim": 16,
        },
    },
}  # fmt: skip


def save_whole_omni(name: str, folder: Path) -> Path:
    """A whole Omni checkpoint, with talker and vocoder, whose thinker is that of `MODELS[name]()`."""
    thinker, tokenizer = ALL_MODELS[name]()
    kind = {"qwen2_5_omni": "Qwen2_5Omni", "qwen3_omni": "Qwen3OmniMoe"}[name]
    settings = getattr(transformers, f"{kind}Config")(
        thinker_config=thinker.config.to_dict(), **TALKERS[name]
    )
    with torch.random.fork_rng():
        torch.manual_seed(6)
        whole = strengthen(getattr(transformers, f"{kind}ForConditionalGeneration")(settings))
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(folder)
    save_texts(name, thinker, tokenizer, folder)
    return folder
