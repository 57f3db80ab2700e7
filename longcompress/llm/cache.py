"""What a language model has read: the only file that knows its caches."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

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


def pick(logits: Tensor, penalty: float, seen: Iterable[int]) -> int:
    """The most likely token of logits (V,), which are changed: those of tokens in `seen` are divided by the
    penalty, below zero multiplied (Keskar et al., arXiv 1909.05858)."""
    if penalty != 1.0 and (places := sorted({*seen})):
        at = torch.tensor(places, device=logits.device)
        logits[at] = torch.where(logits[at] < 0, logits[at] * penalty, logits[at] / penalty)
    return int(logits.argmax())
