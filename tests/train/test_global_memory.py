"""Global tokens in training: learned ones learn from shards, all forms are made of what shards hold."""

import json
from dataclasses import replace

import pytest
import torch
from samples import sample, two_events, write

from longcompress.compression.global_memory import GlobalMemory, coarse
from longcompress.config import MemoryConfig
from longcompress.llm import Example
from longcompress.presets import load
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.shards.index import load_index
from longcompress.train.shards.make import ENDLESS
from longcompress.train.shards.sample import read_sample
from longcompress.train.stages import prepare, train_stage

import models
import stages
from helpers import assert_within

FORMS = ("learned", "coarse", "scales")
TURNS = [("what is seen", "red ball")]


def model_of(kind):
    return models.model(memory=MemoryConfig(kind=kind, num_queries=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight videos, made by a model without global tokens."""
    model = model_of("none")
    where = tmp_path_factory.mktemp("memory") / "shards"
    return write(where, [sample(model, i, two_events(i)) for i in range(8)])


def recipe_of(folder, **changes):
    fields = {"budgets": [24], "max_tokens": 100, "train": ["memory", "lora"], "init": "keep"}
    questions = QuestionConfig(kinds={"segment": 1.0})
    return replace(stages.make_recipe(folder), **fields, questions=questions, **changes)


def data_of(folder, model, budget=24):
    return ShardData(
        BatchSampler([load_index(folder)], 0, 100, [budget]), model, QuestionConfig(kinds={"segment": 1.0})
    )


def test_a_gradient_reaches_every_query_and_is_that_of_the_definition(folder):
    model = model_of("learned")
    prepare(model, recipe_of(folder, steps=1))
    examples = next(iter(data_of(folder, model))).examples
    assert len(examples) > 1
    model.llm(**model.llm.collate(examples))["loss"].backward()
    got = {name: query.grad.clone() for name, query in model.global_memory.query.items()}
    assert set(got) == {"video", "audio"}
    assert all(bool((grad.abs().amax(1) > 0).all()) for grad in got.values())
    # by hand: softmax over all of a video's tokens, in the place of the rows that the batch came with
    model.zero_grad()
    queries = dict(model.global_memory.query)
    by_hand = []
    for example in examples:
        rows = {}
        for name, (x, size) in example.video.global_inputs.items():
            rows[name] = (queries[name] @ x.t() + size.log()).softmax(1) @ x
        by_hand.append(replace(example, video=replace(example.video, globals=rows, global_inputs={})))
    batch = model.llm.collate(by_hand)
    assert not any("inputs" in name for name in batch)
    model.llm(**batch)["loss"].backward()
    for name, grad in got.items():
        assert_within(name, queries[name].grad, grad, 1e-6 + 1e-4 * float(grad.abs().max()))


@pytest.mark.slow
def test_what_learned_memory_learned_is_saved_and_loads_with_the_same_logits(folder, tmp_path):
    model = model_of("learned")
    model.save_pretrained(tmp_path / "base", include_base=True)
    model = load(tmp_path / "base")
    before = {name: query.detach().clone() for name, query in model.global_memory.query.items()}
    features = model.identity(features=True)
    recipe = recipe_of(folder, eval_shards=[str(folder)], eval_steps=2, eval_batches=1, eval_answers=1)
    recipe = replace(recipe, rates={"memory": 0.05})
    out = train_stage(model, recipe, tmp_path / "run")
    assert {n for n in stages.weights(tmp_path / "run") if "lora_" not in n} == {
        "memory.query.video", "memory.query.audio"
    }  # fmt: skip
    moved = {n: float((q.detach() - before[n]).abs().max()) for n, q in model.global_memory.query.items()}
    assert min(moved.values()) > 0.01
    assert model.identity(features=True) == features  # the shards stay good
    again = load(out)
    assert again.identity() == model.identity() != load(tmp_path / "base").identity()
    state = read_sample(load_index(folder).read(3), "3").state(again.merge_state(ENDLESS))
    logits = []
    for which in (model, again):
        video = replace(state, global_memory=which.global_memory).compress(24)
        assert {name: len(rows) for name, rows in video.globals.items()} == {"video": 3, "audio": 3}
        with torch.no_grad():
            logits.append(which.eval()(**which.llm.collate([Example(video, TURNS)]))["logits"])
    assert_within("logits", logits[1], logits[0], 1e-5 * float(logits[0].abs().max()))
    with_old = (
        replace(state, global_memory=load(tmp_path / "base").global_memory).compress(24).globals["video"]
    )
    assert float((with_old - video.globals["video"]).abs().max()) > 1e-4


@pytest.mark.slow
def test_a_resumed_run_of_learned_memory_is_the_uninterrupted_one(folder, tmp_path):
    recipe = recipe_of(folder)
    train_stage(model_of("learned"), recipe, tmp_path / "whole")
    stages.interrupted(model_of("learned"), recipe, tmp_path / "part", 6)
    train_stage(model_of("learned"), recipe, tmp_path / "part", resume=True)
    whole, resumed = (stages.weights(tmp_path / name) for name in ("whole", "part"))
    assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.mark.parametrize("kind", FORMS)
def test_shards_of_encoders_alone_serve_every_form_that_is_made_of_them(folder, kind):
    model = model_of(kind)
    for example in next(iter(data_of(folder, model))).examples:
        assert example.video.num_tokens == 18  # all that is held, or the budget
        assert {name: rows.shape for name, rows in example.video.globals.items()} == {
            "video": (3, 32), "audio": (3, 16)
        }  # fmt: skip
        assert bool(example.video.global_inputs) == (kind == "learned")
    with pytest.raises(
        ValueError, match=r"features of other encoders .* with the summaries that memory.kind"
    ):
        data_of(folder, model_of("mean"))  # the shards have no summaries


@pytest.mark.parametrize("kind", [*FORMS, "none"])
def test_shards_with_summaries_serve_the_forms_that_need_none(folder, tmp_path, kind):
    mean = model_of("mean")
    shards = write(tmp_path / "mean", [sample(mean, i, two_events(i)) for i in range(8)])
    model = model_of(kind)
    whole, own = (next(iter(data_of(where, model))).examples for where in (shards, folder))
    names = set() if kind == "none" else {"video", "audio"}
    for left, right in zip(whole, own, strict=True):
        assert left.turns == right.turns and {*left.video.globals} == {*right.video.globals} == names
        assert all(torch.equal(left.video.globals[n], right.video.globals[n]) for n in names)
        assert all(torch.equal(t.x, right.video.streams[n].x) for n, t in left.video.streams.items())
    assert next(iter(data_of(shards, mean))).examples[0].video.globals
    with torch.no_grad():
        next(model.video.parameters()).add_(1.0)
    with pytest.raises(ValueError, match=r"features of other encoders than model 'test' has; .* again$"):
        data_of(shards, model)


def test_shards_of_before_this_hash_are_refused_as_they_were(folder, tmp_path):
    """An index without "encoders" knows one identity."""
    mean = model_of("mean")
    shards = write(tmp_path / "mean", [sample(mean, i, two_events(i)) for i in range(8)])
    path = shards / "index.json"
    content = json.loads(path.read_text())
    assert content["features"].pop("encoders") != content["features"]["identity"]
    path.write_text(json.dumps(content))
    assert data_of(shards, mean)
    with pytest.raises(ValueError, match="features of other encoders"):
        data_of(shards, model_of("none"))


def test_other_forms_have_nothing_to_train(folder):
    for kind in ("none", "mean", "coarse", "scales"):
        with pytest.raises(ValueError, match=r"no parameters of part 'memory'"):
            prepare(model_of(kind), recipe_of(folder))


def test_coarse_rows_are_means_of_all_tokens_at_each_scale(folder):
    model = model_of("coarse")
    state = read_sample(load_index(folder).read(0), "0").state(model.merge_state(ENDLESS))
    groups = [group for _, group in state.groups("video")]
    x = torch.cat([group.tokens.x for group in groups]).double()
    rows = coarse(groups, [1, 2], state.merge)
    assert_within("mean", rows[0].double(), x.mean(0), 1e-5 * float(x.abs().max()))
    # the two halves of the second scale: their means, in order of time, are those of some split of all tokens
    splits = [
        part for part in range(1, 2 ** (len(x) - 1))
        if (x[[i for i in range(len(x)) if not part >> i & 1]].mean(0) - rows[1]).abs().max() < 1e-4
        and (x[[i for i in range(len(x)) if part >> i & 1]].mean(0) - rows[2]).abs().max() < 1e-4
    ]  # fmt: skip
    assert len(splits) == 1
    assert torch.equal(coarse(groups, [len(x)], state.merge), x.float())  # in order of time
    assert len(coarse(groups, [9], state.merge)) == 9  # more than are held: some come again


def test_scales_share_out_their_tokens():
    sizes = []
    for num in (1, 3, 4, 7, 10):
        memory = GlobalMemory(MemoryConfig(kind="scales", num_queries=num), {"audio": 16}, {})
        state = replace(models.model().merge_state(), global_memory=memory)
        key, members = sample(models.model(), 0, two_events(0), streams=("audio",))
        state = read_sample(members, key).state(state)
        sizes.append(len(state.globals()["audio"]))
        assert json.loads(members["json"])["features"]["streams"]["audio"]["tokens"] == 6
    assert sizes == [1, 3, 4, 7, 10]
