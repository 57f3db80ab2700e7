"""Forks of what a language model has read; how a running reader uses them is in test_live.py."""

import torch
from transformers import DynamicCache

from longcompress.llm.cache import attending, fork

from models import language_model


def test_layers_with_a_state_are_copied():
    """Their tensors are written into, so that a fork must have its own."""

    class State:
        def __init__(self):
            self.state = torch.zeros(2)

    cache = DynamicCache(config=language_model("llama").config)
    cache.layers[1] = State()
    twin = fork(cache)
    twin.layers[1].state += 1
    assert cache.layers[1].state.sum() == 0 and twin.layers[1].state.sum() == 2
    assert attending(language_model("llama").config) == (2, 2)
