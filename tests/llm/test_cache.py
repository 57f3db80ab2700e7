"""What a language model has read: cut, forked and read in any steps, it is as if it were read at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from longcompress.llm.cache import Reader, attending, cache_bytes, fork, speak

from models import language_model

LM = {kind: language_model(kind) for kind in ("llama", "qwen2")}
X = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))


def at_once(lm, x):
    """Final states and last logits of a single forward without a cache."""
    with torch.no_grad():
        out = lm(inputs_embeds=x[None], use_cache=False, output_hidden_states=True)
    return out.hidden_states[-1][0], out.logits[0, -1]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(list(LM)))
def test_steps_are_a_single_reading(lengths, kind):
    reader, hidden, start = Reader(LM[kind]), [], 0
    for length in lengths:
        read = reader.read(X[start : start + length])
        hidden.append(read.hidden)
        start += length
    want, logits = at_once(LM[kind], X[:start])
    torch.testing.assert_close(torch.cat(hidden), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read.logits, logits, atol=1e-5, rtol=1e-4)
    assert reader.count == start
    layer = reader.cache.layers[0]
    assert cache_bytes(reader.cache) == 2 * (layer.keys.nbytes + layer.values.nbytes)  # of 2 layers


def test_a_fork_leaves_its_origin_alone():
    reader = Reader(LM["qwen2"])
    reader.read(X[:20])
    keys = [layer.keys for layer in reader.cache.layers]
    twin = reader.fork()
    assert all(a.keys is b for a, b in zip(twin.cache.layers, keys, strict=True))  # no data copied
    other = twin.read(X[30:35])
    assert (reader.count, twin.count) == (20, 25)
    read = reader.read(X[20:25])
    torch.testing.assert_close(read.hidden, at_once(LM["qwen2"], X[:25])[0][20:], atol=1e-5, rtol=1e-4)
    want = at_once(LM["qwen2"], torch.cat([X[:20], X[30:35]]))[0][20:]
    torch.testing.assert_close(other.hidden, want, atol=1e-5, rtol=1e-4)


def test_a_cut_is_as_if_the_rest_was_never_read():
    reader = Reader(LM["llama"])
    reader.read(X[:20])
    reader.cut(20)
    reader.read(X[20:30])
    reader.cut(20)
    read = reader.read(X[30:33])
    want = at_once(LM["llama"], torch.cat([X[:20], X[30:33]]))[0][20:]
    torch.testing.assert_close(read.hidden, want, atol=1e-5, rtol=1e-4)
    reader.cut(0)
    assert reader.count == 0
    for count in (1, -1):
        with pytest.raises(ValueError, match=rf"count must be in \[0, 0\], .*, got {count}"):
            reader.cut(count)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_replies_are_what_generate_says(penalty):
    """transformers' greedy search over the same ids, whose penalty counts the prompt too."""
    lm, ids = LM["llama"], [5, 9, 40]
    want = lm.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=1, pad_token_id=0,
        repetition_penalty=penalty,
    )[0, 3:].tolist()  # fmt: skip
    seen = list(ids) if penalty != 1 else []
    tokens = speak(Reader(lm), ids, 1, max_tokens=12, penalty=penalty, seen=seen)
    assert tokens == want
    assert seen == (ids if penalty != 1 else []) + [token for token in tokens if token != 1]


def test_layers_with_a_state_are_copied():
    """Their tensors are written into, so that a fork must have its own."""

    class State:
        def __init__(self):
            self.state = torch.zeros(2)

    cache = DynamicCache(config=LM["llama"].config)
    cache.layers[1] = State()
    twin = fork(cache)
    twin.layers[1].state += 1
    assert cache.layers[1].state.sum() == 0 and twin.layers[1].state.sum() == 2
    assert attending(LM["llama"].config) == (2, 2)
