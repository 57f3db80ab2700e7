"""Losses with the own video and another, by kinds of tokens: counted by hand; rates and norms by part."""

import json
from dataclasses import replace

import pytest
import torch

from longcompress.llm import Example
from longcompress.llm.calibrate import embedding_norm
from longcompress.train.signals import KINDS, Signals, kinds_of, losses_of, signals_of
from longcompress.train.stages import StageRecipe, train_stage
from longcompress.train.trainer import PartTrainer, norms_of, part_of

import models
import stages

TURNS = [("when is the red ball seen", "from 12 to 29"), ("what is seen", "the blue box")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stages.make_folder(tmp_path_factory.mktemp("signals"))


def examples(num=4):
    return [Example(models.video(10 * i), TURNS[: 1 + i % 2]) for i in range(num)]


def loss_by_hand(model, video, question, answer):
    """Summed loss of an answer's tokens, and their number: one question in a batch of its own."""
    batch = model.llm.collate([Example(video, [(question, answer)])])
    labels = batch["labels"]
    with torch.no_grad():
        logits = model.llm(**{k: v for k, v in batch.items() if k != "labels"})["logits"]
    total, num = 0.0, 0
    for place in range(1, labels.shape[1]):
        if labels[0, place] >= 0:
            total -= float(logits[0, place - 1].log_softmax(0)[labels[0, place]])
            num += 1
    return total, num


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_losses_and_wins_are_those_of_each_question_alone(batch):
    model, sampled = models.model(), examples(5)
    keys = ["a", "b", "b", "c", "a"]  # the next with another key, around the end
    others = [1, 3, 3, 4, 1]
    own, swapped = [], []
    for example, other in zip(sampled, others, strict=True):
        for turn in example.turns:
            own.append(loss_by_hand(model, example.video, *turn))
            swapped.append(loss_by_hand(model, sampled[other].video, *turn))
    got = signals_of(model, sampled, keys, batch=batch)
    num = sum(count for _, count in own)
    assert got.own == pytest.approx(sum(total for total, _ in own) / num, abs=1e-5)
    assert got.swapped == pytest.approx(sum(total for total, _ in swapped) / num, abs=1e-5)
    assert got.better == sum(a < b for (a, _), (b, _) in zip(own, swapped, strict=True))
    assert got.answers == len(own) == 7 and 0 < got.better < 7


def test_losses_hold_no_gradients_of_a_model_that_can_be_trained():
    model = models.model()
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert not losses_of(model, examples(2), 1)[0].requires_grad  # else all batches' logits stay in memory


def test_one_video_alone_has_none_to_swap_with():
    got = signals_of(models.model(), examples(2), ["a", "a"])
    assert got.swapped != got.swapped and got.better == 0 and not got.is_blind
    assert "none to swap it with" in got.text() and set(got.log()) >= {"eval_loss"}
    assert "eval_swapped_loss" not in got.log()


def test_tokens_are_time_format_or_content():
    tokenizer = models.tokenizer()
    texts = [f"from {i} to 2{i}" for i in range(6)] + ["the red ball", "the blue box"] * 3 + ["what 3"]
    ids, answer = [], []
    for number, text in enumerate(texts):
        tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids += tokens
        answer += [number] * len(tokens)
    got = kinds_of(torch.tensor(ids), torch.tensor(answer), tokenizer)
    named = {kind: set() for kind in KINDS}
    for token, kind in zip(ids, got.tolist(), strict=True):
        named[KINDS[kind]].add(tokenizer.decode([token]).strip())
    assert named["time"] == {str(d) for d in range(6)} | {"2", "3"}
    assert {"from", "to", "the", "<end>"} <= named["format"]  # of answers with times, and of those without
    assert "what" in named["content"] and not named["content"] & named["format"]
    few = kinds_of(torch.tensor(ids[:3]), torch.tensor([0, 0, 0]), tokenizer)
    assert "format" not in {KINDS[i] for i in few.tolist()}  # one answer says nothing of its form


def test_a_blind_model_is_called_blind():
    def signals(better, answers):
        return Signals(1.0, 1.1, better, answers, {})

    assert signals(50, 100).is_blind and signals(58, 100).is_blind and not signals(60, 100).is_blind
    assert not signals(5, 5).is_blind and signals(4, 5).is_blind
    assert not signals(0, 4).is_blind  # too few to say


def seeing(model):
    """A model whose answer is the direction of its video's tokens: it looks at nothing else."""

    def forward(input_ids, attention_mask, logits_to_keep=None, video_x=None, **_):
        which = int((video_x.mean(0)[:4]).argmax())
        logits = torch.zeros(*input_ids.shape, len(model.llm.tokenizer))
        logits[..., model.llm.tokenizer.convert_tokens_to_ids(WORDS[which])] = 9.0
        return {"logits": logits.flatten(0, 1)[logits_to_keep]}

    model.llm.forward = forward
    return model


WORDS = ("\u2581what", "\u2581when", "\u2581the", "\u2581is")


def test_a_model_that_sees_is_better_with_its_own_video():
    shown = []
    for i in range(8):
        video = models.video(i)
        x = torch.zeros_like(video.streams["video"].x)
        x[:, i % 4] = 1.0
        streams = {"video": replace(video.streams["video"], x=x)}
        shown.append(Example(replace(video, streams=streams, globals={}), [("is", WORDS[i % 4][1:])]))
    got = signals_of(seeing(models.model()), shown, [str(i) for i in range(8)], batch=1)
    assert got.better == got.answers == 8 and not got.is_blind and got.swapped > got.own + 3


def test_parameters_belong_to_parts():
    names = {
        "project.video.weight": "projectors.video", "project.audio.mlp.0.bias": "projectors.audio",
        "module.time.table": "time", "lm.base.layers.0.q_proj.lora_A.default.weight": "lora",
        "lm.layers.0.project.weight": "lm",
    }  # fmt: skip
    assert {name: part_of(name) for name in names} == names


def test_norms_are_those_of_each_part():
    model = models.model()
    model.add_lora(r=2)
    model.llm.time.requires_grad_(False)
    model(**model.llm.collate(examples(2)))["loss"].backward()
    got = norms_of(model.llm)
    want = {}
    for part, begins in (("projectors.video", "project.video"), ("projectors.audio", "project.audio")):
        values = [p for n, p in model.llm.named_parameters() if n.startswith(begins)]
        want[f"weight_norm/{part}"] = float(torch.cat([v.detach().flatten() for v in values]).norm())
        want[f"grad_norm/{part}"] = float(torch.cat([v.grad.flatten() for v in values]).norm())
    lora = [p for n, p in model.llm.named_parameters() if "lora_" in n]
    want["grad_norm/lora"] = float(torch.cat([p.grad.flatten() for p in lora]).norm())
    want["weight_norm/lora"] = float(torch.cat([p.detach().flatten() for p in lora]).norm())
    assert got == pytest.approx(want, rel=1e-5)


def test_the_first_step_moves_each_part_by_its_rate(folder, tmp_path, monkeypatch):
    """Adam's first step is the rate itself, wherever there is a gradient."""
    model = models.model()
    before = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    rates = {"projectors": 0.02, "projectors.audio": 0.01, "time": 0.03}
    recipe = replace(
        stages.make_recipe(folder), train=["projectors", "time", "lora"], rates=rates, lr=5e-4, steps=1,
        warmup=0, weight_decay=0.0, save_steps=1, log_steps=1, init="keep", decay=1e-9,
    )  # fmt: skip
    optimizers, create = [], PartTrainer.create_optimizer
    monkeypatch.setattr(
        PartTrainer, "create_optimizer", lambda self, model=None: optimizers.append(create(self, model))
    )
    train_stage(model, recipe, tmp_path)
    unit = embedding_norm(model.llm) / 32**0.5
    moved = {n: float((p - before[n]).abs().max()) for n, p in model.llm.named_parameters() if n in before}
    assert moved["project.video.weight"] == pytest.approx(0.02 * unit, rel=1e-2)
    assert moved["project.audio.weight"] == pytest.approx(0.01 * unit, rel=1e-2)
    assert moved["time.table"] == pytest.approx(0.03 * unit, rel=1e-2)
    (groups,) = [optimizer.param_groups for optimizer in optimizers]
    assert {round(g["initial_lr"], 9) for g in groups} >= {5e-4, round(0.02 * unit, 9)}
    line = stages.log_of(tmp_path)[0]
    assert {"grad_norm/lora", "weight_norm/time", "grad_norm/projectors.video"} <= set(line)


def test_validation_logs_signals_and_warns(folder, tmp_path, capsys):
    recipe = replace(
        stages.make_recipe(folder),
        eval_shards=[str(folder)],
        eval_steps=3,
        steps=3,
        save_steps=3,
        eval_answers=1,
    )
    train_stage(models.model(), recipe, tmp_path)
    printed = capsys.readouterr().out
    assert "step 3: validation loss" in printed and "with another video" in printed
    assert "warning: it answers without looking at the video" in printed  # its three videos are the same


def test_rates_are_of_parts():
    with pytest.raises(
        ValueError, match=r"rates must be some of projectors, time, memory, lora, heads, got \['head'\]"
    ):
        StageRecipe(rates={"head": 1.0})
    with pytest.raises(ValueError, match=r"rates must be > 0 and init_samples >= 1, got \{'lora': 0\.0\}"):
        StageRecipe(rates={"lora": 0.0})
    assert json.dumps(StageRecipe().rates) == "{}"
