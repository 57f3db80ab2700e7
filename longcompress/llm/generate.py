"""What all language models here do alike: the loss of logits, and answers by transformers' generate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TextStreamer

from ..config import LLMConfig
from .prompt import IGNORED, padding_id


def with_loss(
    logits: Tensor,
    labels: Tensor | None,
    logits_to_keep: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> dict[str, Tensor]:
    """{"logits": (B, L, V) or (B, K, V)} and, with labels (B, L), "loss" (): the mean over learned tokens,
    or their sum over num_items_in_batch. logits_to_keep: (K,) places of the logits."""
    if labels is None:
        return {"logits": logits}
    # the logits at a place predict the next token
    predicted, target = logits[:, :-1], labels[:, 1:]
    if logits_to_keep is not None:
        predicted, target = logits, target[:, logits_to_keep]
    learned = target != IGNORED
    total = nn.functional.cross_entropy(predicted[learned].float(), target[learned], reduction="sum")
    num = learned.sum().clamp_min(1) if num_items_in_batch is None else num_items_in_batch
    return {"logits": logits, "loss": total / num}


@torch.no_grad()
def generate(
    lm: Any, tokenizer: Any, settings: LLMConfig, context: int | None, options: dict[str, Any], **inputs: Any
) -> list[str]:
    """Texts; greedy, and as long as the config has it, unless the options of transformers' generate say
    otherwise; `stream` among them is called with pieces of the text. They end where the context does.

    Raises:
        ValueError: for a prompt that fills the context.
    """
    options = {"do_sample": False} | options
    if (stream := options.pop("stream", None)) is not None:
        options["streamer"] = _Say(tokenizer, stream)
    if options.get("max_new_tokens") is None:
        options["max_new_tokens"] = settings.max_new_tokens
    num_positions = inputs["attention_mask"].shape[1]
    if context is not None:
        if num_positions >= context:
            raise ValueError(
                f"the prompt must have fewer positions than the language model's context of {context:,}, got "
                f"{num_positions:,} with the question; shorten the question, or compress to a smaller budget"
            )
        options["max_new_tokens"] = min(options["max_new_tokens"], context - num_positions)
    ends = {"pad_token_id": padding_id(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    out = lm.generate(**inputs, **(ends | options))
    num_prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    texts = tokenizer.batch_decode(out[:, num_prompt:], skip_special_tokens=True)
    return [text.strip() for text in texts]


class _Say(TextStreamer):
    """Hands text to a function as it is generated."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.say(text)
