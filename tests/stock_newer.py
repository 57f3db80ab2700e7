"""Small random models of further stock classes, which the first families' functions cover as data."""

from collections.abc import Callable
from functools import partial

from stock_parts import (
    DEEPSTACK,
    INTERLEAVED,
    LINEAR,
    MROPE,
    PATCHES,
    QWEN_TOKENS,
    QWEN_VIDEO,
    QWEN_VISION,
    TEXT,
    VIT,
    WINDOWS,
    Pair,
    build,
    byte_tokenizer,
    chatml,
    gemma,
    glm,
)

ENDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}


def cohere_compass() -> Pair:
    tokens = {f"vision_{end}_token_id": f"<|VISION_{end.upper()}|>" for end in ("start", "end")}
    tokens |= {f"{name}_token_id": f"<|{name.upper()}_PAD|>" for name in ("image", "video")}
    template = chatml("<|VISION_START|><|VIDEO_PAD|><|VISION_END|>")
    rope = {name: MROPE | {"mrope_interleaved": True} for name in ("sliding_attention", "full_attention")}
    text = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 512}
    return build(
        "CohereCompass", byte_tokenizer(template, " ".join(["<|im_start|>", *tokens.values()])), tokens,
        text_config=TEXT | text | ENDS | {"rope_parameters": rope},
        vision_config=PATCHES | DEEPSTACK,
    )  # fmt: skip


def gemma4_unified() -> Pair:
    """A Gemma 4 without an encoder: a token is a projected patch."""
    return gemma("Gemma4Unified", {}, {"mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64})


def hyperclovax_vision_v2() -> Pair:
    ids = {name: QWEN_VISION[name] for name in ("image_token_id", "video_token_id")}
    return build(
        "HyperCLOVAXVisionV2", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), ids,
        text_config=TEXT | ENDS, vision_config=PATCHES | WINDOWS,
    )  # fmt: skip


def cosmos3_omni() -> Pair:
    return build(
        "Cosmos3Omni", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), QWEN_VISION,
        text_config=TEXT | INTERLEAVED, vision_config=PATCHES | DEEPSTACK,
    )  # fmt: skip


def cosmos3_edge() -> Pair:
    text = {"head_dim": 16, "rope_parameters": MROPE}
    return build(
        "Cosmos3Edge", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), QWEN_VISION,
        text_config=TEXT | text | ENDS, projector_hidden_size=64,
        vision_config=VIT | {"patch_size": 4, "num_patches": 64, "spatial_merge_size": 2},
    )  # fmt: skip


def lfm3_vl() -> Pair:
    vision = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    vision |= {"hidden_size": 32, "intermediate_size": 48, "patch_size": 4}
    return build(
        "Lfm3Vl", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), QWEN_VISION,
        text_config=TEXT | ENDS, vision_config=vision, projector_hidden_size=64,
    )  # fmt: skip


def exaone4_5() -> Pair:
    ids = {name: QWEN_VISION[name] for name in ("image_token_id", "video_token_id")}
    text = {"model_type": "exaone4", "head_dim": 16, "sliding_window": 512}
    return build(
        "Exaone4_5_", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), ids,
        text_config=TEXT | text, vision_config=PATCHES | WINDOWS | {"num_key_value_heads": 2},
    )  # fmt: skip


def muse(kind: str, text: dict, **config) -> Pair:
    """A Muse of that kind."""
    named = "patch image_start image_end video vid_frame_separator vid_start vid_end audio"
    others = " ".join(f"<|{name}|>" for name in ("im_start", *named.split()))
    layers = {
        "head_dim": 16,
        "sliding_window": 512,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }
    ids = {"image_token_id": "<|patch|>", "video_token_id": "<|video|>"}
    ids |= {"audio_token_id": "<|audio|>"} if "audio_config" in config else {}
    return build(
        kind, byte_tokenizer(chatml("<|video|>"), others), ids, text_config=TEXT | ENDS | layers | text,
        vision_config=VIT | {"patch_size": 4, "num_hidden_layers": 4}, out_hidden_size=128,
        projector_hidden_size=64, **config,
    )  # fmt: skip


def muse_spark() -> Pair:
    text = {
        "moe_intermediate_size": 32,
        "moe_hidden_size": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    audio = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "out_hidden_size": 64}
    return muse("MuseSpark", text, audio_config=audio)


def minimax_m3_vl() -> Pair:
    tokens = {name: f"]<]{name}[>[" for name in ("image", "video")}
    others = {name: f"]<]{name} of image[>[" for name in ("start", "end")}
    text = {
        "head_dim": 16, "intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2,
        "dense_intermediate_size": 96, "shared_intermediate_size": 48, "rotary_dim": 8, "index_n_heads": 2,
        "index_head_dim": 16,
    }  # fmt: skip
    return build(
        "MiniMaxM3VL", byte_tokenizer(chatml("]<]video[>["), "<|im_start|>", **others, **tokens),
        {f"{name}_token_index": token for name, token in tokens.items()}, "MiniMaxM3Sparse",
        text_config=TEXT | ENDS | text, vision_config=VIT | {"patch_size": 4, "image_size": 32},
        projector_hidden_size=64,
    )  # fmt: skip


def glm5_next() -> Pair:
    return glm(
        "Glm5Next", {"projection_intermediate_size": 48}, num_key_value_heads=4, head_dim=16, kv_lora_rank=16,
        q_lora_rank=24, v_head_dim=16, qk_nope_head_dim=16, n_routed_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=32, index_head_dim=16, index_n_heads=2, linear_head_dim=16, linear_num_heads=4,
        hc_mult=2,
    )  # fmt: skip


def qwen4_exp() -> Pair:
    text = LINEAR | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    text |= {"shared_expert_intermediate_size": 32, "hc_count": 2, "hc_lowrank": 8}
    text |= {"layer_types": ["linear_attention", "indexed_attention"] * 2, "indexer_n_heads": 2}
    text |= {"indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_compress_ratio": 4}
    text |= {"indexer_budget": 4096}
    return build(
        "Qwen4Exp", byte_tokenizer(chatml(QWEN_VIDEO), QWEN_TOKENS), QWEN_VISION,
        text_config=TEXT | text, vision_config=PATCHES | {"num_position_embeddings": 64},
    )  # fmt: skip


NEWER: dict[str, Callable[[], Pair]] = {
    "gemma4_unified": gemma4_unified,
    "cohere_compass": cohere_compass,
    "cosmos3_omni": cosmos3_omni,
    "cosmos3_edge": cosmos3_edge,
    "lfm3_vl": lfm3_vl,
    "glm_ocr": partial(glm, "GlmOcr"),
    "muse_glimmer": partial(muse, "MuseGlimmer", {}),
    "muse_spark": muse_spark,
    "glm5_next": glm5_next,
    "qwen4_exp": qwen4_exp,
}
WITHOUT_FAMILY: dict[str, Callable[[], Pair]] = {
    "exaone4_5": exaone4_5,
    "hyperclovax_vision_v2": hyperclovax_vision_v2,
    "minimax_m3_vl": minimax_m3_vl,
}
"""Models that no family of ours describes; docs/models.md says why."""
