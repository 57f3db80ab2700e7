"""Language models are led to `branch_attention` where rows need it, and are as before elsewhere."""

import subprocess
import sys

import pytest
import torch
from attention_cases import Largest, flex_from_mask, stand_in_flash, stand_in_xformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from longcompress.llm import Example, attention, chunked, learned_places
from longcompress.llm.attention_interface import PREFIX, masks

from helpers import assert_close
from models import llm, tokenizer, video

TURNS = [("what", "the red ball"), ("when", "30 to 42"), ("is the ball seen", "nothing")]
EXAMPLES = [Example(video(9, 12, 3), TURNS), Example(video(4, 33, 2), TURNS[:2])]


def step(reader, batch):
    """Loss and gradients of a batch."""
    reader.zero_grad()
    out = reader(**batch)
    out["loss"].backward()
    grads = {n: p.grad.clone() for n, p in reader.named_parameters() if p.grad is not None}
    return {"loss": out["loss"].detach(), **grads}


def one_each(reader):
    """Loss and gradients of all questions, each in a row of its own, asked alone."""
    alone = [Example(e.video, [turn]) for e in EXAMPLES for turn in e.turns]
    return step(reader, reader.collate(alone))


def compare(got, want, rel=1e-5):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert float((got[name] - value).norm()) <= rel * float(value.norm()) + 1e-8, name


@pytest.mark.parametrize("backend", ["chunked", "flex", "flash", "xformers"])
def test_every_backend_teaches_what_questions_alone_teach(backend, monkeypatch):
    reader = llm()
    want = one_each(reader)
    if backend == "flash":
        stand_in_flash(monkeypatch)
    if backend == "xformers":
        pytest.importorskip("xformers.ops.fmha", reason="xformers has no wheel for this system")
        stand_in_xformers(monkeypatch, padded=False)
    monkeypatch.setattr(attention, "_flex_function", lambda device: flex_from_mask)
    reader.backend = backend
    for row_tokens in (0, 1000):
        compare(step(reader, reader.collate(EXAMPLES, row_tokens=row_tokens)), want)


def test_layers_that_are_computed_twice_see_the_same():
    reader = llm()
    batch = reader.collate(EXAMPLES, row_tokens=1000)
    want = step(reader, batch)
    reader.lm.gradient_checkpointing_enable({"use_reentrant": False})
    reader.train()
    out = reader(**batch)
    reader.answer(reader.prefill(EXAMPLES[0].video), ["when"])  # what comes between leaves it as it is
    reader.zero_grad()
    out["loss"].backward()
    grads = {n: p.grad for n, p in reader.named_parameters() if p.grad is not None}
    compare({"loss": out["loss"].detach(), **grads}, want)


def test_an_adapter_and_autocast_change_nothing_of_it():
    reader = llm()
    reader.lm = get_peft_model(reader.lm, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    want, got = one_each(reader), step(reader, reader.collate(EXAMPLES))
    compare(got, want)
    assert any("lora_B" in name for name in got)
    with torch.autocast("cpu", torch.bfloat16):
        half = step(reader, reader.collate(EXAMPLES))
    assert_close("loss", half["loss"].reshape(1), want["loss"].reshape(1), 2e-2)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_generation_is_as_before_to_the_bit(kind, tmp_path):
    reader, other = llm(), llm()
    for item in (reader, other):
        item.lm.set_attn_implementation(kind)
    reader(**reader.collate(EXAMPLES, row_tokens=1000))
    assert reader.lm.config._attn_implementation == PREFIX + kind
    assert other.lm.config._attn_implementation == kind
    ids, position = torch.arange(3, 9)[None], torch.arange(6)[None]
    with torch.no_grad():
        got, want = (item.lm(ids, position_ids=position).logits for item in (reader, other))
    assert torch.equal(got, want)
    questions = ["when is the red ball seen", "what"]
    got, want = (item.answer(item.prefill(EXAMPLES[0].video), questions) for item in (reader, other))
    assert got == want
    videos = [example.video for example in EXAMPLES]
    assert reader.answer_each(videos, questions) == other.answer_each(videos, questions)
    reader.lm.save_pretrained(tmp_path)
    assert PREFIX not in (tmp_path / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not again.config._attn_implementation.startswith(PREFIX)


def test_padded_rows_of_single_questions_need_no_mask():
    reader = llm()
    batch = reader.collate([Example(e.video, e.turns[:1]) for e in EXAMPLES])
    assert not batch["attention_mask"].all()
    assert masks(reader.lm, batch["attention_mask"], batch["branch"], None, "auto") == {
        "attention_mask": None
    }
    assert reader.lm.config._attn_implementation == "sdpa"
    left = torch.tensor([[0, 1], [1, 1]])
    assert masks(reader.lm, left, None, None, "auto")["attention_mask"] is left


@pytest.mark.parametrize("row_tokens", [0, 10_000])
def test_nothing_in_a_step_grows_with_the_square_of_the_length(row_tokens, monkeypatch):
    monkeypatch.setattr(chunked, "BLOCK_SCORES", {"cpu": 1 << 14})
    largest = []
    for num in (600, 1200):
        reader = llm()
        single = Example(video(4, num // 3, 2, budget=num), TURNS[:1])
        for examples in ([Example(video(9, num, 3, budget=num), TURNS * 3), single], [single, EXAMPLES[1]]):
            batch = reader.collate(examples, row_tokens=row_tokens)
            batch["logits_to_keep"] = learned_places(batch["labels"])
            with Largest() as mode:
                reader(**batch)["loss"].backward()
            largest.append(mode.num)
    assert all(more < 2.4 * less for less, more in zip(largest[:2], largest[2:], strict=True))


def test_a_softcap_is_kept():
    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=len(tokenizer()), hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, attn_logit_softcapping=0.05, sliding_window=9,
        attn_implementation="eager", pad_token_id=0,
    )  # fmt: skip
    reader = llm()
    reader.lm = Gemma2ForCausalLM(config).eval()
    want = one_each(reader)
    compare(step(reader, reader.collate(EXAMPLES)), want)
    reader.lm.config.attn_logit_softcapping = None
    for layer in reader.lm.model.layers:
        layer.self_attn.attn_logit_softcapping = None
    other = step(reader, reader.collate(EXAMPLES))
    assert any(float((other[n] - v).norm()) > 1e-3 * float(v.norm()) for n, v in want.items())


def test_what_a_model_cannot_do_is_said():
    reader = llm()
    batch = reader.collate(EXAMPLES)
    reader.train()
    for layer in reader.lm.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"LlamaAttention attends with dropout, .*max_questions=1"):
        reader(**batch)
    reader = llm()
    inner = reader.lm.model.forward
    reader.lm.model.forward = lambda *args, branch_layout=None, **rest: inner(*args, **rest)
    with pytest.raises(
        ValueError, match=r"LlamaAttention isn't handed the layout of its rows; .*row_tokens to 0"
    ):
        reader(**batch)
    reader = llm()
    reader.lm.config.layer_types = ["full_attention", "chunked_attention"]
    reader.lm.config.attention_chunk_size = 8
    with pytest.raises(ValueError, match=r"it has layers of chunked_attention; ask one question a video"):
        reader(**batch)
    reader.lm.config.layer_types, reader.lm.config.use_bidirectional_attention = None, "vision"
    with pytest.raises(ValueError, match="within a frame it attends in both directions"):
        reader(**batch)


def test_nothing_is_registered_until_a_model_needs_it():
    code = (
        "import longcompress, longcompress.llm, longcompress.train.stages\n"
        "from transformers import AttentionInterface\n"
        "assert not [name for name in AttentionInterface().valid_keys() if 'longcompress' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
