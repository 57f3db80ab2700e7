"""A small model of a stock class that hears, Qwen3-Omni's thinker, for the synthetic world.

It begins with the weights of `tiny-vl`, and its mixture of experts is one dense layer. No text tells time in
this family's prompts: the first layer reads a second off a ruler of seconds in the system prompt, which is as
many positions before each second of the video, RULER_BEFORE.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from ...config import ModelConfig
from ...encoders.families import GREY
from ...llm.backbone import Backbone, stock_config
from ...model import LongCompress
from ...presets import load
from ...synthetic.scenes import SOUNDS
from ...synthetic.tokenizer import SPACE
from .vl import (
    COLUMN_PAIR,
    FRAME_AXIS,
    GRID,
    REST_PAIR,
    ROW_PAIR,
    SIZE_PX,
    START_AXIS,
    TIMESTAMP_AXIS,
    WORD_AXIS,
    Heads,
    end_as,
    ids_of,
    new_tokenizer,
)

MELS, TOKENS_PER_S = 64, 13  # of audio
SECONDS = 64  # of the ruler
RULER = "".join(f" <{second}.0 seconds>" for second in range(SECONDS))
RULER_BEFORE = SECONDS + 5  # its end, the turn of the user, and the starts of video and audio are between
AUDIO = ("<|audio_bos|>", "<|audio_eos|>", "<|audio_pad|>")
RENAMED = {
    "visual.deepstack_merger_list": "visual.merger_list", ".norm.": ".ln_q.", ".linear_fc1.": ".mlp.0.",
    ".linear_fc2.": ".mlp.2.",
}  # fmt: skip


def new_model(seed: int) -> LongCompress:
    """`new_tiny_omni` as a model of ours: it sees as `tiny-vl` does, and can't hear yet."""
    source = load("tiny-vl", device="cpu")
    lm, tokenizer = new_tiny_omni(source.llm.lm, seed)
    config: ModelConfig = stock_config(lm.config, "./lm")
    media = replace(config.media, size_px=SIZE_PX, rate_fps=source.config.media.rate_fps)
    llm = replace(config.llm, max_new_tokens=16, system=RULER, clock_scale=1 / TOKENS_PER_S)
    config = replace(config, name="tiny_omni", media=media, llm=llm)
    backbone = Backbone(lm.eval(), tokenizer, GREY, WhisperFeatureExtractor(feature_size=MELS))
    return LongCompress.from_backbone(backbone, config)


def new_tiny_omni(source: Any, seed: int) -> tuple[Qwen3OmniMoeThinkerForConditionalGeneration, Any]:
    """A thinker with the weights of a small Qwen3-VL, and its tokenizer. A second of audio has 13 tokens."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer(AUDIO)
    ids = ids_of(
        tokenizer, image_token="image_pad", video_token="video_pad", vision_start_token="vision_start",
        audio_token="audio_pad", audio_start_token="audio_bos",
    )  # fmt: skip
    text, vision = source.config.text_config.to_dict(), source.config.vision_config.to_dict()
    text |= {"vocab_size": len(tokenizer), "num_experts": 1, "num_experts_per_tok": 1,
             "mlp_only_layers": list(range(text["num_hidden_layers"]))}  # fmt: skip
    for part in (text, vision):
        part.pop("model_type")
    config = Qwen3OmniMoeThinkerConfig(
        text_config=text, vision_config=vision, position_id_per_seconds=TOKENS_PER_S,
        audio_config={
            "d_model": 96, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 256,
            "num_mel_bins": MELS, "output_dim": text["hidden_size"], "downsample_hidden_size": 32,
        }, **ids,
    )  # fmt: skip
    lm = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    end_as(lm, tokenizer)
    take_over(lm, source)
    init_ruler(lm)
    return lm, tokenizer


@torch.no_grad()
def take_over(lm: Any, source: Any) -> None:
    """Copy the weights of a Qwen3-VL. What it lacks stays; words that it lacks are 0."""
    state = lm.state_dict()
    for name, value in source.state_dict().items():
        if "visual" in name and "merger" in name:
            for before, after in RENAMED.items():
                name = name.replace(before, after)
        if state[name].shape != value.shape:  # of more words
            state[name].zero_()
        state[name][: len(value)] = value


@torch.no_grad()
def init_ruler(lm: Any) -> None:
    """Point the first layer at the ruler, and its rows and columns at the one start of all frames."""
    attention = lm.model.language_model.layers[0].self_attn
    for weight in (attention.q_proj.weight, attention.k_proj.weight):
        torch.nn.init.normal_(weight, std=lm.config.text_config.initializer_range)
    heads = Heads(attention)
    heads.timestamp(0, RULER_BEFORE)
    for head, pair in ((1, ROW_PAIR), (2, COLUMN_PAIR)):
        # attention to the start, which falls with the row or column, against attention to the ruler
        heads.quiet(head)
        middle = GRID // 2 + 2  # positions from the start to the middle row or column
        heads.point(heads.query, head, FRAME_AXIS, pair, math.pi / 2 - middle * heads.turn(pair))
        heads.point(heads.key, head, START_AXIS, pair, 0.0)
        heads.point(heads.query, head, FRAME_AXIS, REST_PAIR, 0.0, 1.7)
        heads.point(heads.key, head, START_AXIS, REST_PAIR, 0.0, 1.7)
        heads.point(heads.key, head, TIMESTAMP_AXIS, REST_PAIR, math.acos(0.66))  # SECONDS of them


def sounds_of(lm: Any, tokenizer: Any) -> Tensor:
    """Embeddings of the sounds (sounds, D), but for what makes them words."""
    ids = tokenizer.get_vocab()
    table = lm.get_input_embeddings().weight.detach()[[ids[SPACE + name] for name in SOUNDS]].clone()
    table[:, WORD_AXIS] = 0.0
    return table
