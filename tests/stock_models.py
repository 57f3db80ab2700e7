"""Small random models of the stock video LLMs' own classes, each with a byte tokenizer: `MODELS[name]()`.

The tokenizers have the families' special tokens, and their chat templates write a video as the released
templates do. Weights are large enough that frames, their order and positions change the logits.
"""

from collections.abc import Callable
from functools import partial

import pytest
import transformers
from packaging.version import Version

from stock_newer import NEWER, WITHOUT_FAMILY
from stock_parts import (
    DEEPSTACK,
    EXPERTS,
    HEARING,
    INTERLEAVED,
    LINEAR,
    MROPE,
    PATCHES,
    QWEN_TOKENS,
    QWEN_VIDEO,
    SMOL,
    SYSTEM,
    TEXT,
    VICUNA,
    VIT,
    WINDOWS,
    Pair,
    build,
    byte_tokenizer,
    chatml,
    gemma,
    glm,
    qwen,
)


def qwen2_vl() -> Pair:
    vision = {"depth": 3, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    text = {"rope_parameters": MROPE, "bos_token_id": None, "eos_token_id": 1}
    return qwen("Qwen2VL", text, vision, SYSTEM)


def qwen2_5_vl() -> Pair:
    text = {"rope_parameters": MROPE, "bos_token_id": None, "eos_token_id": 1}
    return qwen("Qwen2_5_VL", text, WINDOWS | {"tokens_per_second": 2}, SYSTEM)


def qwen3_5_moe() -> Pair:
    text = LINEAR | EXPERTS | {"shared_expert_intermediate_size": 32}
    return qwen("Qwen3_5Moe", text, {"num_position_embeddings": 64}, last="<think>\n")


def qwen2_5_omni() -> Pair:
    """The thinker."""
    tokens = {
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
    }  # fmt: skip
    ids = {
        "audio_token_index": "<|AUDIO|>", "image_token_index": "<|IMAGE|>", "video_token_index": "<|VIDEO|>",
        "audio_start_token_id": "<|audio_bos|>", "audio_end_token_id": "<|audio_eos|>",
        "vision_start_token_id": "<|vision_bos|>", "vision_end_token_id": "<|vision_eos|>",
    }  # fmt: skip
    template = chatml(
        "<|vision_bos|><|VIDEO|><|vision_eos|>", SYSTEM, audio="<|audio_bos|><|AUDIO|><|audio_eos|>"
    )
    return build(
        "Qwen2_5OmniThinker", byte_tokenizer(template, "<|im_start|>", **tokens), ids,
        text_config=TEXT | {"rope_parameters": MROPE}, vision_config=PATCHES | WINDOWS,
        audio_config=HEARING | {"n_window": 100},
    )  # fmt: skip


def qwen3_omni() -> Pair:
    """The thinker."""
    tokens = {
        "image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
        "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
    }  # fmt: skip
    ids = {
        "audio_token_id": "<|audio_pad|>", "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>", "audio_start_token_id": "<|audio_start|>",
        "vision_start_token_id": "<|vision_start|>",
    }  # fmt: skip
    template = chatml(QWEN_VIDEO, audio="<|audio_start|><|audio_pad|><|audio_end|>")
    audio = {"n_window": 50, "n_window_infer": 800, "downsample_hidden_size": 8, "conv_chunksize": 500}
    return build(
        "Qwen3OmniMoeThinker", byte_tokenizer(template, "<|im_start|>", **tokens), ids,
        text_config=TEXT | INTERLEAVED | EXPERTS, vision_config=PATCHES | DEEPSTACK,
        audio_config=HEARING | audio, position_id_per_seconds=13,
    )  # fmt: skip


def llava_onevision() -> Pair:
    siglip = {
        "model_type": "siglip_vision_model",
        "image_size": 28,
        "patch_size": 4,
        "vision_use_head": False,
    }
    return build(
        "LlavaOnevision", byte_tokenizer(chatml("<video>\n"), "<|im_start|> <image> <video>"),
        {"image_token_index": "<image>", "video_token_index": "<video>"},
        text_config=TEXT | {"model_type": "qwen2"}, vision_config=VIT | siglip,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def vicuna(kind: str) -> Pair:
    """A LLaVA with a CLIP encoder, whose tokenizer begins every text as Llama's does."""
    clip = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 4, "projection_dim": 32}
    template = VICUNA.replace("VIDEO", "<video>\n")
    return build(
        kind, byte_tokenizer(template, "<image> <video>", eos="</s>", pad="<unk>", bos="<s>"),
        {"image_token_index": "<image>", "video_token_index": "<video>"},
        text_config=TEXT | {"model_type": "llama", "pad_token_id": 0}, vision_config=VIT | clip,
    )  # fmt: skip


def video_llama_3() -> Pair:
    return build(
        "VideoLlama3", byte_tokenizer(chatml("<|video_pad|>"), QWEN_TOKENS),
        {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
        text_config=TEXT | {"model_type": "qwen2"}, vision_config=VIT | {"patch_size": 4},
    )  # fmt: skip


def smolvlm() -> Pair:
    tokens = {
        "fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "video_token": "<video>",
        "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>",
    }  # fmt: skip
    tokenizer = byte_tokenizer(
        SMOL.replace("VIDEO", "<video>"), "<|im_start|>", "<end_of_utterance>", **tokens
    )
    return build(
        "SmolVLM", tokenizer, {"image_token_id": "<image>"},
        text_config=TEXT | {"model_type": "llama", "pad_token_id": 0},
        vision_config=VIT | {"image_size": 32, "patch_size": 4}, scale_factor=2,
    )  # fmt: skip


def internvl() -> Pair:
    tokens = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    return build(
        "InternVL", byte_tokenizer(chatml("<video>\n"), "<|im_start|>", **tokens),
        {"image_token_id": "<IMG_CONTEXT>"}, text_config=TEXT | {"model_type": "qwen2"},
        vision_config=VIT | {"image_size": [32, 32], "patch_size": [4, 4]},
        downsample_ratio=0.5, image_seq_length=16,
    )  # fmt: skip


def gemma4(attention: str | None = None) -> Pair:
    """Gemma 4, causal, or with attention in both directions within a frame (`attention="vision"`)."""
    text = {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8}
    vision = {"num_key_value_heads": 4, "head_dim": 8, "position_embedding_size": 64}
    return gemma("Gemma4", text | {"use_bidirectional_attention": attention}, VIT | vision)


MODELS: dict[str, Callable[[], Pair]] = {
    "qwen3_vl": partial(qwen, "Qwen3VL", INTERLEAVED, DEEPSTACK),
    "qwen3_vl_moe": partial(qwen, "Qwen3VLMoe", INTERLEAVED | EXPERTS, DEEPSTACK),
    "qwen3_5": partial(qwen, "Qwen3_5", LINEAR, {"num_position_embeddings": 64}, last="<think>\n"),
    "qwen3_5_moe": qwen3_5_moe,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_5_omni": qwen2_5_omni,
    "qwen3_omni": qwen3_omni,
    "glm4v": partial(glm, "Glm4v"),
    "glm46v": partial(glm, "Glm46V"),
    "glm4v_moe": partial(
        glm, "Glm4vMoe", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "llava_onevision": llava_onevision,
    "llava_next_video": partial(vicuna, "LlavaNextVideo"),
    "video_llava": partial(vicuna, "VideoLlava"),
    "video_llama_3": video_llama_3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "gemma4": gemma4,
    "gemma4_bidirectional": partial(gemma4, "vision"),
    **NEWER,
}
"""Of the families of ours: the law "no merging = stock logits" holds for each."""
ALL_MODELS = MODELS | WITHOUT_FAMILY

INSTALLED = Version(transformers.__version__)
SINCE = {"muse_spark": "5.20", "lfm3_vl": "5.23"}  # the transformers that has the class; others are in 5.19
MISSING = {name for name, version in SINCE.items() if Version(version) > INSTALLED}
SEALED = {
    name: f"{name} has a processor that needs torchvision in transformers {INSTALLED}"
    for name in ("gemma4", "gemma4_bidirectional", "gemma4_unified")
    if Version("5.21") > INSTALLED
}
"""What their processors give can't be had, and why."""
ALONE = {
    name: f"{name} takes no positions of examples that share a row in transformers {INSTALLED}"
    for name in ("cosmos3_edge",)
    if Version("5.20") > INSTALLED
}


def names_of(models: dict[str, Callable[[], Pair]], others: dict[str, str] | None = None) -> list:
    """The names, for parametrize; those that the installed transformers doesn't have are skipped, by name, as
    are `others`, for the reasons there."""
    why = {name: f"{name} needs transformers {SINCE[name]}, got {INSTALLED}" for name in MISSING}
    why |= others or {}
    skips = {name: [pytest.mark.skip(reason=reason)] for name, reason in why.items()}
    return [pytest.param(name, marks=skips.get(name, [])) for name in models]
