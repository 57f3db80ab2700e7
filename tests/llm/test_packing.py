"""Several samples in a row: loss, gradients and logits are those of a row each, in any order."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from longcompress.llm import Example
from longcompress.llm.attention_interface import check_apart
from longcompress.llm.packing import first_fit

from models import llm, tokenizer, video

KINDS = ("llama", "qwen2")
SINGLE = [
    Example(video(1), [("when does the red ball appear", "30 to 42")]),
    Example(video(4, 33, 2), [("what happens between 10 and 20", "nothing")]),
    Example(video(6, 5, 9), [("when is the blue box seen", "1 to 559"), ("when", "12")], dialogue=True),
    Example(video(7, 3, 1), [("what", "the red ball")]),
    Example(video(8, 9, 4), [("what is seen", "nothing")]),
]
BRANCHED = [*SINGLE[:3], Example(video(9, 12, 3), [("what", "the red ball"), ("when", "30 to 42")])]


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_rows_hold_each_once_and_none_that_would_have_fitted_before(lengths, max_tokens):
    rows = first_fit(lengths, max_tokens)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for place, row in enumerate(rows):
        assert row == sorted(row) and (len(row) == 1 or sum(lengths[i] for i in row) <= max_tokens)
        for earlier in rows[:place]:
            used = sum(lengths[i] for i in earlier if i < row[0])
            assert used + lengths[row[0]] > max_tokens


def learned(reader, batch):
    """Loss and gradients."""
    reader.zero_grad()
    out = reader(**batch)
    out["loss"].backward()
    return out, {n: p.grad.clone() for n, p in reader.named_parameters() if p.grad is not None}


def compare(reader, examples, row_tokens):
    """The packed batch against a row each."""
    want, want_grads = learned(reader, plain := reader.collate(examples))
    batch = reader.collate(examples, row_tokens=row_tokens)
    got, got_grads = learned(reader, batch)
    torch.testing.assert_close(got["loss"], want["loss"], rtol=1e-5, atol=1e-6)
    assert set(got_grads) == set(want_grads)
    for name, grad in want_grads.items():
        error = float((got_grads[name] - grad).norm())
        assert error <= 1e-5 * float(grad.norm()) + 1e-8, name
    for i in range(len(examples)):
        mine = got["logits"][batch["sample"] == i]
        torch.testing.assert_close(mine, want["logits"][i, : len(mine)], rtol=1e-4, atol=1e-5)
        assert len(mine) == int(plain["attention_mask"][i].sum())
    return batch


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("examples", [SINGLE, BRANCHED], ids=["single", "branched"])
@pytest.mark.parametrize("row_tokens", [1, 90, 4000])
def test_a_packed_batch_is_learned_as_a_padded_one(kind, attention, examples, row_tokens):
    reader = llm(kind)
    reader.lm.set_attn_implementation(attention)
    batch = compare(reader, examples, row_tokens)
    rows = len(batch["input_ids"])
    assert rows == {1: len(examples), 4000: 1}.get(row_tokens, rows) and rows <= len(examples)
    if row_tokens == 90:
        assert 1 < rows < len(examples) and int((batch["sample"] < 0).sum()) > 0  # with padding


def test_any_order_of_samples_is_learned_alike():
    reader, shuffle = llm(), random.Random(3)
    _, want = learned(reader, reader.collate(SINGLE))
    for _ in range(4):
        mixed = shuffle.sample(SINGLE, len(SINGLE))
        compare(reader, mixed, 80)
        _, got = learned(reader, reader.collate(mixed, row_tokens=80))
        for name, grad in want.items():
            assert float((got[name] - grad).norm()) <= 1e-5 * float(grad.norm()) + 1e-8


@pytest.mark.parametrize("examples", [SINGLE, BRANCHED], ids=["single", "branched"])
def test_sliding_windows_stay(examples):
    torch.manual_seed(3)
    reader = llm("qwen2")
    config = Qwen2Config(**(reader.lm.config.to_dict() | {
        "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0, "layer_types": None,
    }))  # fmt: skip
    reader.lm = Qwen2ForCausalLM(config).eval()
    assert set(config.layer_types) == {"sliding_attention"}
    batch = compare(reader, examples, 90)
    for i, example in enumerate(examples):  # and each question of a video has the window it has alone
        branch = batch["branch"][batch["sample"] == i]
        for number, turn in enumerate(example.turns if not example.dialogue else (), 1):
            with torch.no_grad():
                alone = reader(**reader.collate([Example(example.video, [turn])]))["logits"][0]
                shared = reader(**batch)["logits"][batch["sample"] == i]
            own = shared[branch == number]
            torch.testing.assert_close(own, alone[-len(own) :], rtol=1e-4, atol=1e-5)


def test_positions_begin_anew_and_padding_counts_on():
    reader = llm()
    batch = reader.collate(SINGLE, row_tokens=60)
    assert batch.keys() - reader.collate(SINGLE).keys() == {"sample"}
    for sample, position in zip(batch["sample"], batch["position_ids"], strict=True):
        for number in set(sample.tolist()) - {-1}:
            assert position[sample == number].tolist() == list(range(int((sample == number).sum())))
    again = reader.collate(SINGLE, row_tokens=60)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    for position in reader.collate(SINGLE)["position_ids"]:  # each row is one rising sequence
        assert position.tolist() == list(range(len(position)))


def test_models_that_cannot_share_rows_are_refused():
    torch.manual_seed(3)
    x = torch.randn(1, 3, 32)
    small = {"vocab_size": len(tokenizer()), "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(
        ValueError, match=r"MambaForCausalLM can't .* layers that carry a state.* row_tokens to 0"
    ):
        check_apart(MambaForCausalLM(MambaConfig(**small)), x)
    with pytest.raises(
        ValueError, match=r"BloomForCausalLM can't .* takes no function of ours .* row_tokens to 0"
    ):
        check_apart(BloomForCausalLM(BloomConfig(**small, n_head=2)), x)
    reader = llm().train()
    reader.lm.model.layers[0].mlp.act_fn = nn.Dropout(0.5)
    check_apart(reader.lm, x)
    assert all(module.training for module in reader.modules())

    class Mixes(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    reader.lm.model.layers[0].mlp = Mixes()
    with pytest.raises(ValueError, match="LlamaForCausalLM lets a sample see the one before it in its row"):
        check_apart(reader.lm, x)


def test_errors_say_what_is_wrong():
    reader = llm()
    with pytest.raises(ValueError, match="row_tokens must be >= 0, and 0 when padding on the left, got -1"):
        reader.collate(SINGLE, row_tokens=-1)
    with pytest.raises(ValueError, match="padding on the left, got 60"):
        reader.collate(SINGLE[:2], row_tokens=60, left=True)
