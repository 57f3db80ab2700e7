"""A reader of a running video: read in any steps and forked, it is as if all were read at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.llm.cache import cache_bytes
from longcompress.llm.live import CausalParts, LiveReader
from longcompress.speech import Speech

from models import llm

LLM = {kind: llm(kind, heads=True) for kind in ("llama", "qwen2")}
IDS = torch.randint(5, 60, (40,), generator=torch.Generator().manual_seed(0)).tolist()


def part(kind, ids):
    return CausalParts(LLM[kind]).text("near", ids)


def at_once(kind, ids):
    """Final states and last logits of a single forward without a cache."""
    with torch.no_grad():
        out = LLM[kind].lm(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    return out.hidden_states[-1][0], out.logits[0, -1]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from(list(LLM)))
def test_steps_are_a_single_reading(lengths, kind):
    reader, hidden, start = LiveReader(LLM[kind]), [], 0
    for length in lengths:
        read = reader.read([part(kind, IDS[start : start + length])])
        hidden.append(read.hidden)
        start += length
    want, logits = at_once(kind, IDS[:start])
    torch.testing.assert_close(torch.cat(hidden), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read.logits, logits, atol=1e-5, rtol=1e-4)
    assert reader.count == start == reader.position
    layer = reader.cache.layers[0]
    assert cache_bytes(reader.cache) == 2 * (layer.keys.nbytes + layer.values.nbytes)  # of 2 layers


def test_a_fork_leaves_its_origin_alone():
    reader = LiveReader(LLM["qwen2"])
    reader.read([part("qwen2", IDS[:20])])
    keys = [layer.keys for layer in reader.cache.layers]
    twin = reader.fork()
    assert all(a.keys is b for a, b in zip(twin.cache.layers, keys, strict=True))  # no data copied
    other = twin.read([part("qwen2", IDS[30:35])])
    assert (reader.count, twin.count) == (20, 25)
    read = reader.read([part("qwen2", IDS[20:25])])
    torch.testing.assert_close(read.hidden, at_once("qwen2", IDS[:25])[0][20:], atol=1e-5, rtol=1e-4)
    want = at_once("qwen2", [*IDS[:20], *IDS[30:35]])[0][20:]
    torch.testing.assert_close(other.hidden, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("num", [1, 5, 0])
def test_an_answer_is_what_generate_says(penalty, num):
    """transformers' greedy search over the same ids, whose penalty counts the prompt too."""
    model, ids, parts = LLM["llama"], [5, 9, 40], CausalParts(LLM["llama"])
    want = model.lm.generate(
        torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=parts.end, pad_token_id=0,
        repetition_penalty=penalty,
    )[0, 3:].tolist()  # fmt: skip
    speech, text = Speech([], LiveReader(model), part("llama", ids), None, "", 0.0), ""
    while not speech.is_done(parts, 12):
        speech.say(parts, num, 12, penalty, ids)
        text += speech.piece(parts, 12)
    assert speech.tokens == want and text == speech.text(parts)
