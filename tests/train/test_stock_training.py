"""Stock models learn by LoRA from shards of their own encoders, whose tokens mean what they meant before."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForImageTextToText

import longcompress as lc
from longcompress.llm import Example
from longcompress.model import LongCompress
from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.stages import train_stage

import stages
import videos
from helpers import assert_same_memory, assert_within
from stock_folders import save
from stock_loaded import memory_of, small

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
TURNS = [("What happens?", "A red ball."), ("When does it end, and who is there?", "At 3 s, nobody.")]
FAMILIES = ("qwen3_vl", "qwen3_5", "qwen2_5_vl", "llava_onevision", "smolvlm", "gemma4", "qwen2_5_omni",
            "qwen3_omni")  # fmt: skip
HYBRID = "qwen3_5"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Loads a family's small model anew, with small frames where it takes any."""
    root = tmp_path_factory.mktemp("stock")

    def load(name):
        folder = root / name if (root / name).exists() else save(name, root / name)
        return small(lc.load(folder, device="cpu"))

    return load


def logits_of(model, examples, **options):
    batch = model.llm.collate(examples, **options)
    with torch.no_grad():
        return model(**batch)["logits"], batch


@pytest.mark.parametrize("name", [*FAMILIES, "qwen3_vl_moe", "glm4v_moe"])  # peft treats experts otherwise
def test_lora_wraps_no_layer_of_the_encoders(name, load):
    model = load(name)
    memory, identity = memory_of(model), model.identity()
    before, _ = logits_of(model, [Example(memory.video, TURNS[:1])])
    model.add_lora(**LORA)
    of_text = {id(module) for module in model.llm.base.get_decoder().modules()}
    named = list(model.llm.lm.named_modules())
    wrapped = [module for _, module in named if isinstance(module, LoraLayer)]
    assert wrapped and all(id(module) in of_text for module in wrapped)
    assert {"q_proj", "o_proj"} <= {name.split(".")[-1] for name, m in named if isinstance(m, LoraLayer)}
    after, _ = logits_of(model, [Example(memory.video, TURNS[:1])])
    assert torch.equal(after, before)  # B is 0
    for parameter_name, parameter in model.llm.lm.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    changed, _ = logits_of(model, [Example(memory.video, TURNS[:1])])
    assert float((changed - before).abs().max()) > 1e-3
    assert model.identity() == identity
    assert_same_memory(memory_of(model), memory)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_omni", "llava_onevision"])
def test_a_model_with_an_adapter_is_saved_whole(name, load, tmp_path):
    model = load(name)
    model.add_lora(**LORA)
    for parameter_name, parameter in model.llm.lm.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path, include_base=True)
    again = lc.load(tmp_path, device="cpu")
    assert again.identity() == model.identity()
    memory = memory_of(model)
    assert_same_memory(memory_of(again), memory)
    got, want = (logits_of(m, [Example(memory.video, TURNS[:1])])[0] for m in (again, model))
    assert_within("logits", got, want, 1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != HYBRID])
def test_questions_as_branches_are_each_alone(name, load):
    model = load(name)
    video = memory_of(model).video
    both, batch = logits_of(model, [Example(video, TURNS)])
    for number, turn in enumerate(TURNS, 1):
        alone, batch_alone = logits_of(model, [Example(video, [turn])])
        got = both[0][batch["branch"][0] == number]
        want = alone[0][batch_alone["branch"][0] == 1]
        assert_within("logits", got, want, 1e-4 * max(1.0, float(want.abs().max())))


def test_a_model_whose_layers_carry_a_state_refuses_branches(load):
    model = load(HYBRID)
    video = memory_of(model).video
    with pytest.raises(
        ValueError, match=r"layers that carry a state.*ask one question a video \(max_questions=1\)"
    ):
        logits_of(model, [Example(video, TURNS)])
    logits_of(model, [Example(video, TURNS[:1])])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != HYBRID])
def test_rows_of_a_batch_are_each_alone(name, load):
    model = load(name)
    examples = [
        Example(memory_of(model, 9.0, 40, seed=1).video, TURNS[:1]),
        Example(memory_of(model, 5.0, 17, seed=2).video, TURNS[1:]),
    ]
    together, batch = logits_of(model, examples)
    for row, example in enumerate(examples):
        want, _ = logits_of(model, [example])
        got = together[row][batch["attention_mask"][row] == 1]
        assert_within("logits", got, want[0], 1e-4 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_every_feature_of_every_token(name, load):
    model = load(name)
    batch = model.llm.collate([Example(memory_of(model).video, TURNS[:1])])
    inputs = {key: batch[key].requires_grad_() for key in batch if key.endswith("_x")}
    assert set(inputs) == {f"{stream}_x" for stream in model.streams}
    model(**batch)["loss"].backward()
    for x in inputs.values():
        for part in x.grad.split(model.video.llm_width, 1):  # the first, and those of later layers
            assert (part.abs().amax(1) > 0).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three videos with their events."""
    where = tmp_path_factory.mktemp("videos")
    for i in range(3):
        videos.write(where / f"v{i}.mp4", videos.Video())
        events = [
            {"start_s": k, "end_s": k + 1, "text": text}
            for k, text in enumerate(("red ball", "blue box")[: i + 1])
        ]
        turns = [{"role": "user", "text": "What is it?"}, {"role": "assistant", "text": f"A thing, {i}."}]
        record = {"events": events, "captions": [f"Things, {i} of them."], "dialogues": [turns]}
        (where / f"v{i}.json").write_text(json.dumps(record))
    return where


def shards_of(model, folder, out):
    """Shards that the encoders alone made."""
    alone = LongCompress.from_config(model.config, device="cpu", llm=False)
    shards.make(read_records(folder), out, alone, progress=False)
    return shards.pack(out, read_records(folder), progress=False).folder


def recipe_of(folder, **changes):
    questions = QuestionConfig(kinds={"grounding": 1.0}, max_questions=2)
    recipe = replace(
        stages.make_recipe(folder), train=["lora"], lora=LORA, questions=questions, min_videos=3, steps=8,
        lr=1e-2, log_steps=1, save_steps=8,
    )  # fmt: skip
    return replace(recipe, **changes)


@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "qwen2_5_omni"])
def test_the_loss_falls_and_what_was_learned_is_saved(name, load, folder, tmp_path):
    model = load(name)
    memory, identity = memory_of(model), model.identity()
    recipe = recipe_of(shards_of(model, folder, tmp_path / "shards"))
    out = train_stage(model, recipe, tmp_path / "run")
    losses = stages.losses(tmp_path / "run")
    assert len(losses) == 8 and sum(losses[-2:]) < 0.8 * sum(losses[:2])
    assert model.identity() == identity
    again = lc.load(out, device="cpu")
    assert again.identity() == identity
    assert_same_memory(memory_of(again), memory)  # the encoders are those of before
    example = [Example(memory.video, TURNS[:1])]
    want, got, base = (logits_of(m, example)[0] for m in (model, again, load(name)))
    assert_within("logits", got, want, 1e-5 * float(want.abs().max()))
    assert float((want - base).abs().max()) > 1e-2


@pytest.mark.slow
def test_a_stock_model_with_dropout_resumes_as_if_never_stopped(load, folder, tmp_path):
    recipe = recipe_of(shards_of(load("qwen3_vl"), folder, tmp_path / "shards"), save_steps=2)
    recipe = replace(recipe, lora=LORA | {"lora_dropout": 0.3})
    train_stage(load("qwen3_vl"), recipe, tmp_path / "whole")
    stages.interrupted(load("qwen3_vl"), recipe, tmp_path / "part", 6)
    train_stage(load("qwen3_vl"), recipe, tmp_path / "part", resume=True)
    assert stages.losses(tmp_path / "whole") == stages.losses(tmp_path / "part")
    whole, resumed = (stages.weights(tmp_path / name) for name in ("whole", "part"))
    assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_a_model_whose_layers_carry_a_state_learns_from_one_question_a_video(load, folder, tmp_path):
    model = load(HYBRID)
    recipe = recipe_of(shards_of(model, folder, tmp_path / "shards"), steps=2)
    with pytest.raises(ValueError, match=r"max_questions=1"):
        train_stage(load(HYBRID), recipe, tmp_path / "several")
    single = replace(recipe, questions=replace(recipe.questions, max_questions=1))
    assert (train_stage(model, single, tmp_path / "one") / "adapter").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision"])
def test_the_three_recipes_train_a_stock_model_and_plain_peft_loads_each_adapter(
    name, load, folder, tmp_path, tmp_path_factory
):
    model, memory = load(name), memory_of(load(name))
    features = shards_of(model, folder, tmp_path / "shards")
    turns, before = [Example(memory.video, TURNS[:1])], None
    for stage in ("align", "boundary", "instruct"):
        recipe = replace(
            stages.recipe_of(stage), shards=[str(features)], train=["lora"], rates={}, steps=2, save_steps=2,
            lr=2e-2, warmup=0, engine=stages.CPU, min_videos=3, max_tokens=200, budgets=[40],
        )  # fmt: skip
        model = lc.load(train_stage(model, recipe, tmp_path / stage), device="cpu")
        want, _ = logits_of(model, turns)
        assert before is None or float((want - before).abs().max()) > 1e-3
        before = want
        adapter = tmp_path / stage / "model" / "adapter"
        # the adapter on the stock model as transformers loads it, without anything of ours
        config = json.loads((adapter / "adapter_config.json").read_text())
        base = save(name, tmp_path_factory.mktemp("base") / name)
        if stage == "instruct":  # it sits on the merged model, which lies beside it
            base = tmp_path / stage / "model" / "lm"
        plain = PeftModel.from_pretrained(
            AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), adapter
        )
        assert config["peft_type"] == "LORA"
        ids = torch.arange(5, 30)[None]
        with torch.no_grad():
            got = plain.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            ours = model.llm.lm.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert_within("logits", got, ours, 1e-5 * float(ours.abs().max()))


def test_packed_samples_of_four_position_rows_are_each_alone(load):
    model = load("qwen3_vl")
    examples = [
        Example(memory_of(model, 9.0, 40, seed=1).video, TURNS[:1]),
        Example(memory_of(model, 5.0, 17, seed=2).video, TURNS[1:]),
        Example(memory_of(model, 7.0, 23, seed=3).video, TURNS[:1]),
    ]
    together, batch = logits_of(model, examples, row_tokens=2000)
    assert len(batch["input_ids"]) == 1 and batch["position_ids"].shape[:2] == (1, 3)
    # transformers' fourth row, which comes first: places in the text, anew for each sample
    text = torch.cat([torch.arange(int((batch["sample"] == number).sum())) for number in range(3)])
    four = torch.cat([text[None, None], batch["position_ids"]], 1)
    with torch.no_grad():
        with_text = model(**batch | {"position_ids": four})["logits"]
    assert_within("logits", with_text, together, 1e-5 * float(together.abs().max()))
    for number, example in enumerate(examples):
        want, alone = logits_of(model, [example])
        own = batch["sample"][0] == number
        assert torch.equal(batch["position_ids"][0][:, own], alone["position_ids"][0])
        assert_within("logits", together[0][own], want[0], 1e-4 * max(1.0, float(want.abs().max())))


def test_samples_in_one_row_teach_what_they_do_in_rows_of_their_own(load, folder, tmp_path):
    recipe = recipe_of(shards_of(load("qwen3_vl"), folder, tmp_path / "shards"), steps=2)
    recipe = replace(recipe, questions=replace(recipe.questions, max_questions=1))
    losses = []
    for row_tokens in (0, 1000):
        train_stage(
            load("qwen3_vl"), replace(recipe, row_tokens=row_tokens, save_steps=2), tmp_path / str(row_tokens)
        )
        losses.append(stages.losses(tmp_path / str(row_tokens)))
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_parts_that_a_stock_model_lacks_are_named(load, folder, tmp_path):
    model = load("llava_onevision")
    recipe = recipe_of(shards_of(model, folder, tmp_path / "shards"))
    with pytest.raises(ValueError, match=r"no parameters of part 'projectors'; leave it out \(a stock model"):
        train_stage(model, replace(recipe, train=["projectors", "lora"]), tmp_path / "a")


def test_shards_of_another_model_are_refused(load, folder, tmp_path):
    features = shards_of(load("qwen2_5_vl"), folder, tmp_path / "shards")
    with pytest.raises(ValueError, match=r"made by other encoders|other encoders"):
        train_stage(load("qwen3_vl"), recipe_of(features), tmp_path / "run")
