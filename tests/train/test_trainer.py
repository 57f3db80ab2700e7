"""How a training runs changes nothing of what it learns; what it saves survives; what is wrong ends it."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longcompress.llm import learned_places
from longcompress.presets import load
from longcompress.train.data.dataset import ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.engine import Engine
from longcompress.train.shards.index import load_index
from longcompress.train.stages import StageRecipe, last_checkpoint, prepare, train_stage
from longcompress.train.trainer import WEIGHTS
from longcompress.train.validation import ANSWERS, Validation

import models
import ranks
import stages
from helpers import save_config
from stages import CPU, losses, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stages.make_folder(tmp_path_factory.mktemp("trainer"))


@pytest.fixture
def recipe(folder):
    return stages.make_recipe(folder)


def apart(first, second):
    """The largest difference of any weight."""
    assert set(first) == set(second)
    return max(float((first[n] - second[n]).abs().max()) for n in first)


@pytest.mark.slow
def test_shares_of_a_batch_teach_what_the_whole_batch_does(recipe, tmp_path):
    recipe = replace(recipe, min_videos=4, max_tokens=80)
    train_stage(models.model(), recipe, tmp_path / "whole")
    for name, engine in (
        ("two", replace(CPU, accumulate=2)),
        ("four", replace(CPU, accumulate=4, workers=2)),
    ):
        train_stage(models.model(), replace(recipe, engine=engine), tmp_path / name)
        assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / name), abs=1e-5)
        assert apart(weights(tmp_path / "whole"), weights(tmp_path / name)) < 1e-4
    with pytest.raises(ValueError, match="min_videos must be at least ranks x accumulate = 1 x 8 = 8, got 4"):
        train_stage(models.model(), replace(recipe, engine=replace(CPU, accumulate=8)), tmp_path / "none")
    with pytest.warns(UserWarning, match="4 videos are no multiple of 1 ranks x 3 parts"):
        odd = replace(recipe, max_videos=4, steps=1, engine=replace(CPU, accumulate=3))
        train_stage(models.model(), odd, tmp_path / "odd")


@pytest.mark.slow
def test_samples_in_one_row_teach_what_they_do_in_rows_of_their_own(recipe, tmp_path):
    recipe = replace(
        recipe, questions=replace(recipe.questions, max_questions=1), min_videos=4, max_tokens=80
    )
    rows = []
    for name, row_tokens in (("rows", 0), ("row", 400)):
        model = models.model()
        model.llm.register_forward_pre_hook(
            lambda _, __, changed: rows.append(len(changed["input_ids"])), with_kwargs=True
        )
        train_stage(model, replace(recipe, row_tokens=row_tokens), tmp_path / name)
    assert min(rows[:6]) >= 4 and max(rows[6:]) == 1
    assert apart(weights(tmp_path / "rows"), weights(tmp_path / "row")) < 1e-4


@pytest.mark.slow
def test_checkpointing_changes_memory_not_what_is_learned(recipe, tmp_path):
    train_stage(models.model(), recipe, tmp_path / "kept")
    model, calls = models.model(), []
    inside = model.llm.lm.model.layers[0].mlp  # hooks of a layer itself stay outside its checkpoint
    inside.register_forward_pre_hook(lambda *_: calls.append(1))
    train_stage(model, replace(recipe, engine=replace(CPU, checkpointing=True)), tmp_path / "again")
    assert len(calls) == 2 * recipe.steps  # each layer is computed a second time
    assert apart(weights(tmp_path / "kept"), weights(tmp_path / "again")) < 1e-6


def test_a_loss_that_is_not_finite_ends_it_with_the_samples_keys(recipe, tmp_path):
    model = models.model()
    steps = []

    def spoil(module, *_):
        steps.append(1)
        if len(steps) == 4:
            next(module.project.parameters()).data.fill_(float("nan"))

    model.llm.register_forward_pre_hook(spoil)
    with pytest.raises(ValueError, match=r"step 4: the loss is nan, from samples \['v\d'"):
        train_stage(model, recipe, tmp_path)
    assert last_checkpoint(tmp_path).name == "checkpoint-2"


@pytest.mark.slow
def test_the_log_says_how_fast_it_goes_and_tensorboard_has_it(recipe, tmp_path):
    fsdp = replace(recipe, log_steps=2, engine=replace(CPU, report=["tensorboard"]))
    train_stage(models.model(), fsdp, tmp_path)
    lines = [line for line in stages.log_of(tmp_path) if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        assert line["tokens_per_s"] > 0 and line["video_s_per_s"] > 0 and line["memory_gib"] > 0.05
        assert line["frames_per_s"] == pytest.approx(line["video_s_per_s"] * 1, rel=0.05)  # one a second
        assert 0 <= line["loader_wait"] <= 1
    assert list((tmp_path / "log").glob("events.out*"))


@pytest.mark.slow
def test_validation_changes_nothing(recipe, folder, tmp_path, capsys):
    recipe = replace(recipe, lora=recipe.lora | {"lora_dropout": 0.3})
    train_stage(models.model(), recipe, tmp_path / "blind")
    validating = replace(recipe, eval_shards=[str(folder)], eval_steps=4, eval_batches=2, eval_answers=2)
    train_stage(models.model(), validating, tmp_path / "validating")
    assert apart(weights(tmp_path / "blind"), weights(tmp_path / "validating")) == 0
    for checkpoint in tmp_path.glob("*/checkpoint-*"):
        assert not (checkpoint / "training_args.bin").exists()  # a pickle that nothing reads
    lines = [json.loads(line) for line in (tmp_path / "validating" / ANSWERS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 4, 6, 6]
    assert all(line["question"] and line["reference"] and "answer" in line for line in lines)
    assert "loss" in capsys.readouterr().out
    held = [line["eval_loss"] for line in stages.log_of(tmp_path / "validating") if "eval_loss" in line]
    card = (tmp_path / "validating" / "model" / "README.md").read_text()
    assert held and "validation loss" in card


def test_validation_leaves_the_threads_of_the_training(recipe, tmp_path):
    model, threads = models.model(), torch.get_num_threads()
    batches = BatchSampler([load_index(recipe.shards[0])], 0, 60, [16])
    try:
        torch.set_num_threads(2)
        data = ShardData(batches, model, recipe.questions)
        validate = Validation(model, data, num_batches=1, num_answers=0, out=tmp_path)
        assert validate(1)["eval_loss"] > 0 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_card_says_what_was_learned_from_what(recipe, tmp_path):
    result = train_stage(models.model(), replace(recipe, log_steps=2), tmp_path)
    card = (result / "README.md").read_text()
    assert "| out | 3 |" in card and "lora (" in card and "lr: 0.005" in card
    assert str(tmp_path) not in card.split("## Recipe")[0]


def test_logits_of_learned_places_are_all_that_the_loss_and_its_gradients_need(recipe):
    model = models.model()
    data = ShardData(BatchSampler([load_index(recipe.shards[0])], 0, 60, [16]), model, recipe.questions)
    batch = model.llm.collate(next(iter(data)).examples)
    learned = (batch["labels"][:, 1:] != -100).nonzero().tolist()
    rows, places = zip(*learned, strict=True)
    assert len(set(rows)) > 1 and len({*places}) < len(learned)  # several rows, which differ
    out, grads = [], []
    for options in ({}, {"logits_to_keep": learned_places(batch["labels"])}):
        out.append(model.llm(**batch, **options))
        trained = [p for p in model.llm.parameters() if p.requires_grad]
        grads.append(torch.autograd.grad(out[-1]["loss"], trained, allow_unused=True))
    whole, part = out
    assert part["logits"].shape == (len(learned), whole["logits"].shape[2])
    torch.testing.assert_close(whole["logits"][list(rows), list(places)], part["logits"])
    target = torch.stack([batch["labels"][row, place + 1] for row, place in learned])
    right = torch.nn.functional.cross_entropy(part["logits"], target)
    torch.testing.assert_close([right, right], [whole["loss"], part["loss"]])
    assert sum(g is not None for g in grads[0]) > 4
    for a, b in zip(*grads, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_merged_adapter_says_the_same(recipe, tmp_path):
    models.model().save_pretrained(tmp_path / "base", include_base=True)
    base = load(tmp_path / "base")
    result = train_stage(
        base, replace(recipe, model=str(tmp_path / "base"), steps=20, lr=2e-2), tmp_path / "run"
    )
    apart_, merged = load(result), load(result)
    prepare(merged, replace(recipe, merge_lora=True, train=["projectors"]))
    assert not hasattr(merged.llm.lm, "peft_config")
    ids = torch.arange(5, 30)[None]
    x, y = (m.llm.lm.eval()(input_ids=ids).logits for m in (apart_, merged))
    assert float((x - y).abs().max()) < 1e-5 * max(1.0, float(x.abs().max()))
    plain = load(tmp_path / "base").llm.lm(input_ids=ids).logits
    assert float((x - plain).abs().max()) > 1e-3  # the adapter does something


# --- what is saved survives

KILL = """
from longcompress.train import trainer
whole, saves = trainer.save_tensors, []
def cut(tensors, path):
    saves.append(1)
    whole(tensors, path)
    if len(saves) == 2:
        path.write_bytes(path.read_bytes()[:99])
        os.kill(os.getpid(), signal.SIGKILL)
trainer.save_tensors = cut
"""
FULL = """
import resource
def fill(*_):
    fill.steps += 1
    if fill.steps == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
fill.steps = 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "full"])
def test_a_save_cut_short_leaves_the_checkpoint_before_it(recipe, tmp_path, how):
    recipe = replace(recipe, log_steps=1)
    train_stage(models.model(), recipe, tmp_path / "whole")
    save_config(recipe, tmp_path / "recipe.json")
    more = KILL if how == "killed" else FULL
    hook = "" if how == "killed" else "model.llm.register_forward_pre_hook(fill)"
    words = [
        sys.executable, str(stages.script(tmp_path / "s.py", more=more, hook=hook)),
        str(tmp_path / "recipe.json"), str(tmp_path / "part"), str(Path(__file__).parents[1]),
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, timeout=300, text=True)
    if how == "killed":
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 1 and "could not be written" in done.stderr
    assert (tmp_path / "part" / "checkpoint-4").is_dir()
    assert last_checkpoint(tmp_path / "part").name == "checkpoint-2"
    train_stage(models.model(), recipe, tmp_path / "part", resume=True)
    assert apart(weights(tmp_path / "whole"), weights(tmp_path / "part")) == 0
    assert losses(tmp_path / "whole") == losses(tmp_path / "part")


SHARDED = """
import os, sys, torch
from pathlib import Path
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
import models, stages
from longcompress.train.data.dataset import ShardData
from longcompress.train.shards.index import load_index
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.stages import prepare
from longcompress.train.trainer import WEIGHTS, load_trained, save_tensors, trained_state

out, folder = sys.argv[1], sys.argv[3]
sharded = "RANK" in os.environ
recipe = stages.make_recipe(folder)
model = models.model()
prepare(model, recipe)
rank, world = 0, 1
if sharded:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for layer in model.llm.lm.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(model.llm)
    assert all(isinstance(p, DTensor) for p in model.llm.parameters())
indexes = [load_index(folder)]
batches = BatchSampler(indexes, 0, 80, [16], min_videos=4)
data = iter(ShardData(batches, model, recipe.questions, rank=rank, world=world))
optimizer = torch.optim.SGD([p for p in model.llm.parameters() if p.requires_grad], lr=0.05)
for _ in range(5):
    batch = model.llm.collate(next(data).examples)
    learned = (batch["labels"][:, 1:] != -100).sum()
    if sharded:
        dist.all_reduce(learned)
    loss = model.llm(**batch, num_items_in_batch=learned)["loss"] * world  # fully_shard takes the mean
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
state = trained_state(model.llm)
if rank == 0:
    os.makedirs(out)
    save_tensors(state, Path(out) / WEIGHTS)
if sharded:
    dist.barrier()
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    load_trained(model.llm, Path(out))
    again = trained_state(model.llm)
    assert all(torch.equal(again[name], value) for name, value in state.items())
"""


@pytest.mark.slow
def test_sharded_over_two_processes_it_learns_and_saves_what_one_does(folder, tmp_path):
    (tmp_path / "s.py").write_text(SHARDED)
    for num, name in ((1, "one"), (2, "two")):
        words = [tmp_path / "s.py", tmp_path / name, Path(__file__).parents[1], folder]
        codes, text = ranks.run(*words, num=num, out=tmp_path / f"{name}.log")
        assert codes == [0] * num, text[-8000:]
    first, second = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "two" / WEIGHTS)
    assert apart(first, second) < 1e-4
    alone = models.model()
    prepare(alone, stages.make_recipe(folder))
    before = {n: p.detach().clone() for n, p in alone.llm.named_parameters() if n in second}
    assert set(before) == set(second) and apart(before, second) > 1e-3
    alone.llm.load_state_dict(second, strict=False)
    alone.save_pretrained(tmp_path / "model", include_base=True)
    again = load(tmp_path / "model")
    ids = torch.arange(5, 30)[None]
    torch.testing.assert_close(again.llm.lm(input_ids=ids).logits, alone.llm.lm.eval()(input_ids=ids).logits)


def test_fsdp2_is_told_which_layers_to_shard_and_to_gather_when_it_saves(tmp_path):
    from accelerate import FullyShardedDataParallelPlugin

    engine = Engine(device="cuda", fsdp={"reshard_after_forward": True}, report=[])
    fsdp = engine.arguments(tmp_path, steps=3, lr=1e-3).fsdp_plugin_args
    assert fsdp["fsdp_version"] == 2 and fsdp["state_dict_type"] == "FULL_STATE_DICT"
    model = models.model()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model.llm)
    wraps = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert {layer.__name__ for layer in wraps} == {type(model.llm.lm.model.layers[0]).__name__}
    model.add_lora(r=2)
    assert model.llm._no_split_modules == [layer.__name__ for layer in wraps]


# --- what can't run here


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fsdp": {"reshard_after_forward": True}}, "engine.fsdp needs two processes or more, this is one"),
        ({"quantization": "4bit"}, "engine.quantization needs a GPU"),
        ({"liger": True}, "needs the package liger_kernel, which is not installed: pip install liger-kernel"),
        ({"deepspeed": "none.json"}, "needs the package deepspeed"),
        ({"report": ["trackio"]}, "needs the package trackio"),
        ({"device": "cuda"}, "engine.device is cuda, but torch finds no GPU here"),
    ],
)
def test_what_can_not_run_here_is_said_before_anything_does(recipe, tmp_path, fields, message):
    if fields.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    engine = replace(CPU, **fields)
    with pytest.raises(ValueError, match=message):
        train_stage(models.model(), replace(recipe, engine=engine), tmp_path)


def test_engines_that_are_none():
    with pytest.raises(ValueError, match="fsdp and deepspeed exclude each other"):
        Engine(fsdp={"a": 1}, deepspeed="x.json")
    with pytest.raises(ValueError, match="fsdp: version must be 2, got 1"):
        Engine(fsdp={"version": 1})
    with pytest.raises(ValueError, match="report must be some of"):
        Engine(report=["paper"])
    with pytest.raises(ValueError, match="accumulate and threads must be >= 1"):
        Engine(accumulate=0)


@pytest.mark.slow
def test_bf16_holds_what_is_frozen_in_bf16_and_what_learns_in_float32(recipe, tmp_path):
    models.model().save_pretrained(tmp_path / "base", include_base=True)
    engine = replace(CPU, bf16=True)
    model = engine.load(str(tmp_path / "base"))
    train_stage(model, replace(recipe, steps=20, save_steps=20, log_steps=1, engine=engine), tmp_path / "run")
    learned = {n: p.dtype for n, p in model.llm.named_parameters() if p.requires_grad}
    frozen = {p.dtype for n, p in model.llm.named_parameters() if not p.requires_grad}
    assert set(learned.values()) == {torch.float32} and frozen == {torch.bfloat16}
    assert losses(tmp_path / "run")[-1] < losses(tmp_path / "run")[0]


@pytest.mark.slow
def test_epochs_and_a_cosine_as_papers_give_them(recipe, tmp_path):
    changed = replace(
        recipe, min_videos=2, max_videos=2, epochs=4, warmup=0.3, schedule="cosine", log_steps=1, save_steps=6
    )
    train_stage(models.model(), changed, tmp_path)
    rates = [line["learning_rate"] for line in stages.log_of(tmp_path) if "loss" in line]
    assert len(rates) == 6  # 4 epochs of 3 videos, 2 a step
    want = [0.0, 0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * i / 4)) for i in (1, 2, 3))]
    assert rates == pytest.approx([recipe.lr * x for x in want], rel=1e-6)
    with pytest.raises(ValueError, match="epochs need the same number of videos in each step"):
        replace(recipe, epochs=1.0)


@pytest.mark.slow
def test_a_recipe_of_another_run_is_not_resumed(recipe, tmp_path):
    train_stage(models.model(), recipe, tmp_path)
    with pytest.raises(ValueError, match="resume: budgets, lr differ from"):
        train_stage(models.model(), replace(recipe, lr=1.0, budgets=[4]), tmp_path, resume=True)
    longer = replace(recipe, steps=8, engine=replace(CPU, workers=1))
    train_stage(models.model(), longer, tmp_path, resume=True)
    assert last_checkpoint(tmp_path).name == "checkpoint-8" and isinstance(longer, StageRecipe)
