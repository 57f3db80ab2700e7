"""What a language model has read: the only file that knows its caches."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..encoders.stream import memory_hint

GROWING = (DynamicLayer, DynamicSlidingWindowLayer)


def new_cache(config: Any) -> Cache:
    """An empty cache for the language model of transformers' config."""
    return DynamicCache(config=config.get_text_config())


def fork(cache: Cache) -> Cache:
    """An independent copy. Keys and values are shared: a layer that attends replaces them by longer ones and
    never writes into them. Layers that carry a state are copied."""
    twin = copy.copy(cache)
    twin.layers = [(copy.copy if type(x) in GROWING else copy.deepcopy)(x) for x in cache.layers]
    return twin


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values."""
    layers: list[Any] = [layer for layer in cache.layers if getattr(layer, "is_initialized", False)]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers if hasattr(layer, "keys"))


def attending(config: Any) -> tuple[int, int]:
    """(layers that attend, layers in all) of transformers' config; the others carry a state of fixed size."""
    layers = new_cache(config).layers
    return sum(hasattr(layer, "batch_repeat_interleave") for layer in layers), len(layers)


class Read(NamedTuple):
    """What a language model makes of n embeddings."""

    hidden: Tensor  # (n, D) final states
    logits: Tensor  # (V,) of what follows the last


class Reader:
    """Reads embeddings one after another, each seeing all before; positions are their number.

    Args:
        lm: a causal language model of transformers.
        cache: of what was read before, or None.
    """

    def __init__(self, lm: Any, cache: Cache | None = None) -> None:
        self.lm = lm
        self.cache = new_cache(lm.config) if cache is None else cache

    @property
    def count(self) -> int:
        """Embeddings that were read."""
        return int(self.cache.get_seq_length())

    def embed(self, ids: list[int]) -> Tensor:
        """(n, D) the language model's own embeddings of ids."""
        table = self.lm.get_input_embeddings()
        rows: Tensor = table(torch.tensor(ids, dtype=torch.long, device=table.weight.device))
        return rows

    @torch.no_grad()
    def read(self, x: Tensor) -> Read:
        """Read embeddings x (n, D), n > 0."""
        with memory_hint("reading a step", "live.max_frames, or load with a quantization"):
            out = self.lm(
                inputs_embeds=x[None], past_key_values=self.cache, use_cache=True, output_hidden_states=True,
                logits_to_keep=1,
            )  # fmt: skip
        return Read(out.hidden_states[-1][0], out.logits[0, -1].float())

    def fork(self) -> "Reader":
        """A reader that goes on from here without touching this one; no data is copied."""
        return Reader(self.lm, fork(self.cache))

    def cut(self, count: int) -> None:
        """Forget all but the first `count` embeddings."""
        if not 0 <= count <= self.count:
            raise ValueError(
                f"count must be in [0, {self.count}], the embeddings that were read, got {count}"
            )
        if count < self.count:
            self.cache.crop(count - self.count)  # negative: so many are taken off


def pick(logits: Tensor, penalty: float, seen: Iterable[int]) -> int:
    """The most likely token of logits (V,), which are changed; see `speak`."""
    if penalty != 1.0 and (places := sorted({*seen})):
        at = torch.tensor(places, device=logits.device)
        logits[at] = torch.where(logits[at] < 0, logits[at] * penalty, logits[at] / penalty)
    return int(logits.argmax())


def speak(
    reader: Reader, ids: list[int], end: int, *, max_tokens: int, penalty: float = 1.0, seen: list[int]
) -> list[int]:
    """The most likely tokens behind ids, up to `end` or max_tokens; the last of them is not read.

    Args:
        reader: reads ids and the tokens.
        ids: before the first token.
        end: the token that ends a reply.
        max_tokens: at most.
        penalty: of tokens in `seen`, which grows by those of the reply: their logits are divided by it, below
            zero multiplied (Keskar et al., arXiv 1909.05858).
        seen: tokens of replies before.
    """
    tokens: list[int] = []
    while len(tokens) < max_tokens:
        tokens.append(pick(reader.read(reader.embed(tokens[-1:] or ids)).logits, penalty, seen))
        if tokens[-1] == end:
            break
        seen.append(tokens[-1])
    return tokens
