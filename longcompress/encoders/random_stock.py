"""A stock video LLM with a random encoder of any size and no layers of its language model, to time."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

from .families import FAMILIES, Family

TEXT = 256  # width of its language model


def random_stock(kind: str, layers: int, width: int, size_px: int) -> tuple[Any, Family]:
    """The model and its family. What isn't named here is as transformers' own defaults have it.

    Args:
        kind: of FAMILIES.
        layers, width: of the encoder, in heads of 64; its MLP is four times as wide.
        size_px: side of frames, of families with frames of one size.
    """
    if kind not in FAMILIES:
        raise ValueError(f"families must be of {', '.join(FAMILIES)}, got {kind!r}")
    config: Any = CONFIG_MAPPING[kind]()
    if config.vision_config is None:  # of Gemma 4
        config = CONFIG_MAPPING[kind](vision_config={})
    vision, text, family = config.vision_config, config.get_text_config(), FAMILIES[kind]
    heads, quarter = width // 64, layers // 4
    sizes = {
        "depth": layers, "num_hidden_layers": layers, "num_heads": heads, "num_attention_heads": heads,
        "num_key_value_heads": heads, "head_dim": 64, "intermediate_size": 4 * width, "hidden_size": width,
        "out_hidden_size": TEXT, "deepstack_visual_indexes": [quarter, 2 * quarter, 3 * quarter],
        "fullatt_block_indexes": [quarter, 2 * quarter, 3 * quarter, layers - 1],
    }  # fmt: skip
    if hasattr(vision, "embed_dim"):  # of Qwen2-VL, whose hidden_size is the language model's
        sizes |= {"embed_dim": width, "hidden_size": TEXT}
    if family.fixed:
        several = isinstance(vision.image_size, list | tuple)
        sizes |= {"image_size": [size_px, size_px] if several else size_px}
    if kind == "smolvlm":
        sizes["patch_size"] = 14  # as its checkpoints have it
    for name, value in sizes.items():
        if hasattr(vision, name):
            setattr(vision, name, value)
    text.hidden_size, text.num_hidden_layers, text.layer_types = TEXT, 0, []
    text.vocab_size, text.pad_token_id = 1000, None
    torch.manual_seed(0)
    return AutoModelForMultimodalLM.from_config(config).eval(), family
