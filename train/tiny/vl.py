"""A small model of a stock class, Qwen3-VL, for the synthetic world: tokenizer, parts, initialisation.

Its width is split: numbers and timestamps in NUMBERS, all other words in WORDS, and an axis each for what is
a timestamp and what is a token of frames.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from ...config import ModelConfig
from ...encoders.families import GREY
from ...llm.backbone import Backbone, stock_config
from ...model import LongCompress
from ...synthetic import places
from ...synthetic.questions import VOCABULARY
from ...synthetic.scenes import COLOURS, LETTERS, OBJECTS, SHAPES
from ...synthetic.tokenizer import SPACE, word_tokenizer

SIZE_PX, PATCH_PX, MERGE = 80, 8, 2
GRID = SIZE_PX // (PATCH_PX * MERGE)  # rows and columns of a frame's tokens
RATE_FPS = 1.0
TIMESTAMPS = 600  # seconds that have one
WIDTH, HEADS, HEAD_WIDTH = 192, 3, 64
TIMESTAMP_AXIS, FRAME_AXIS = 0, 1
TIME_PAIRS, BEHIND = (3, 6, 9), 2  # rotary pairs of time; positions from a timestamp to its tokens
NUMBERS, WORDS = slice(8, 72), slice(72, WIDTH)
SPECIAL = tuple(
    f"<|{name}|>" for name in ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}"
    "{% if m['content'] is string %} {{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def new_model(seed: int) -> LongCompress:
    """`new_tiny_vl` as a model of ours."""
    lm, tokenizer = new_tiny_vl(seed)
    config: ModelConfig = stock_config(lm.config, "./lm")
    config = replace(config, name="tiny_vl", media=replace(config.media, size_px=SIZE_PX, rate_fps=RATE_FPS))
    return LongCompress.from_backbone(Backbone(lm.eval(), tokenizer, GREY), config)


def new_tokenizer() -> Any:
    """Words of the synthetic world, a token a timestamp, and Qwen's special tokens."""
    words = [*VOCABULARY, *places.VOCABULARY, "user", "assistant", "system"]
    tokenizer = word_tokenizer(words, COLOURS, SHAPES, num_tens=TIMESTAMPS // 10, timestamps=TIMESTAMPS)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL), "eos_token": "<|im_end|>"})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def new_tiny_vl(seed: int, *, layers: int = 4) -> tuple[Qwen3VLForConditionalGeneration, Any]:
    """An untrained Qwen3-VL of 5 million parameters, and its tokenizer. A frame has 5 x 5 tokens, two frames
    share theirs."""
    torch.manual_seed(seed)
    tokenizer = new_tokenizer()
    ids = {
        f"{name}_id": tokenizer.convert_tokens_to_ids(f"<|{text}|>")
        for name, text in {
            "image_token": "image_pad", "video_token": "video_pad", "vision_start_token": "vision_start",
            "vision_end_token": "vision_end",
        }.items()
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 512,
            "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
            "head_dim": HEAD_WIDTH, "max_position_embeddings": 8192, "initializer_range": 0.05,
            "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 5, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": WIDTH,
            "num_position_embeddings": (SIZE_PX // PATCH_PX) ** 2, "deepstack_visual_indexes": [1, 2, 3],
        },
        tie_word_embeddings=False, **ids,
    )  # fmt: skip
    lm = Qwen3VLForConditionalGeneration(config)
    lm.generation_config.eos_token_id = tokenizer.eos_token_id
    lm.generation_config.pad_token_id = tokenizer.pad_token_id
    init_words(lm, tokenizer)
    init_reading(lm)
    return lm, tokenizer


@torch.no_grad()
def init_words(lm: Any, tokenizer: Any) -> None:
    """Words far apart against what an optimizer step moves. A timestamp is what its number is, and itself."""
    table, ids = lm.get_input_embeddings().weight, tokenizer.get_vocab()
    numbers = [ids[str(digit)] for digit in range(10)] + [ids[SPACE]]
    numbers += [ids[f"{SPACE}{tens}"] for tens in range(1, TIMESTAMPS // 10)]
    stamps = torch.tensor([ids[f"{SPACE}<{second}>"] for second in range(TIMESTAMPS)])
    random = torch.randn_like(table) * 0.5
    table.zero_()
    table[:, WORDS] = random[:, WORDS]
    for rows in (torch.tensor(numbers), stamps):
        table[rows, WORDS] = 0.0
        table[rows, NUMBERS] = random[rows, NUMBERS]
    tens = [ids[SPACE + (str(second // 10) if second >= 10 else "")] for second in range(TIMESTAMPS)]
    digits = [ids[str(second % 10)] for second in range(TIMESTAMPS)]
    table[stamps] += table[tens] + table[digits]
    table[stamps, TIMESTAMP_AXIS] = 2.0
    lm.get_output_embeddings().weight.copy_(0.1 * table)  # the head begins by copying words


def words_of(lm: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Embeddings of the objects (objects, D) and the letters (letters, D)."""
    table, ids = lm.get_input_embeddings().weight.detach(), tokenizer.get_vocab()
    objects = [ids[SPACE + name.replace(" ", "_")] for name in OBJECTS]
    return table[objects].clone(), table[[ids[SPACE + letter] for letter in LETTERS]].clone()


@torch.no_grad()
def init_reading(lm: Any) -> None:
    """Begin where tokens of frames take over the number of the timestamp before them (the first head), and
    similar tokens attend to each other and are copied (all other heads)."""
    config = lm.config.text_config
    for layer in lm.model.language_model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.t())
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.fill_(1.4)
    attention, half = lm.model.language_model.layers[0].self_attn, HEAD_WIDTH // 2
    query, key, value, out = (
        getattr(attention, f"{name}_proj").weight for name in ("q", "k", "v", "o")
    )  # fmt: skip
    for weight in (query, key):
        weight[:HEAD_WIDTH] *= 0.4
    for pair in TIME_PAIRS:  # highest where the timestamp is BEHIND positions before
        angle = torch.tensor(-BEHIND * config.rope_parameters["rope_theta"] ** (-pair / half))
        query[pair, FRAME_AXIS], query[pair + half, FRAME_AXIS] = angle.cos(), angle.sin()
        key[pair, TIMESTAMP_AXIS], key[pair + half, TIMESTAMP_AXIS] = 1.0, 0.0
    value[:HEAD_WIDTH], out[:, :HEAD_WIDTH] = 0.0, 0.0
    value[:HEAD_WIDTH, NUMBERS], out[NUMBERS, :HEAD_WIDTH] = (
        torch.eye(HEAD_WIDTH),
        0.25 * torch.eye(HEAD_WIDTH),
    )
