"""What a stock video LLM needs of a GPU, from its config alone: no weight is read."""

from dataclasses import dataclass
from typing import Any

import torch

from ..config import BudgetConfig
from ..config_llm import LLMConfig
from ..encoders.families import FAMILIES
from ..encoders.stock import encoder_state
from .backbone import class_of
from .cache import attending

ROOM = 2**30  # bytes for a block in the encoder, a question and the device's own


@dataclass(frozen=True)
class Needs:
    """Sizes of a model whose activations are in bfloat16.

    Attributes:
        num_parameters: in all.
        num_encoder: of them in encoders and projectors, which are never quantized.
        position_bytes: of the language model's cache, for each position of a prompt.
        token_bytes: of a video token with what later layers take.
    """

    num_parameters: int
    num_encoder: int
    position_bytes: int
    token_bytes: int

    def weight_bytes(self, bits: int) -> int:
        """Bytes of the weights where those of the language model have this many bits."""
        return 2 * self.num_encoder + (self.num_parameters - self.num_encoder) * bits // 8

    def gpu_bytes(self, budget: int, bits: int = 16) -> int:
        """Bytes to compress a video of any length to a budget of tokens and to ask about it, about."""
        prompt = budget + int(LLMConfig.timestamp_share * budget)
        held = int(BudgetConfig.buffer_ratio * budget)  # tokens
        return self.weight_bytes(bits) + prompt * self.position_bytes + held * self.token_bytes + ROOM


def needs_of(known: Any) -> Needs:
    """The needs of transformers' config of a stock model."""
    with torch.device("meta"):
        model = class_of(known)(known)
    text = known.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    num_layers = attending(known)[0] or text.num_hidden_layers  # the others have no keys
    return Needs(
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_encoder=sum(value.numel() for value in encoder_state(model).values()),
        position_bytes=2 * 2 * num_layers * heads * head,
        token_bytes=2 * text.hidden_size * (1 + FAMILIES[known.model_type].deepstack),
    )
