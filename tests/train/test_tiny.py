"""The embedded model and the recipe that makes it."""

import json
import os
import signal
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import longcompress as lc
from longcompress.compression.baselines import METHODS
from longcompress.config_values import load_config
from longcompress.eval.runner.run import run as run_eval
from longcompress.eval.runner.run_file import RunConfig
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks.synthetic import Synthetic
from longcompress.presets import TINY, new_tiny
from longcompress.synthetic.questions import KINDS, ask
from longcompress.synthetic.scenes import COLOURS, OBJECTS, SHAPES, SOUNDS, make_scene, parts_of, write_video
from longcompress.train.data.sampler import Batches
from longcompress.train.engine import Engine
from longcompress.train.stages import last_checkpoint
from longcompress.train.tiny import recipe as recipes
from longcompress.train.tiny.clips import Mix, Videos, load_clips, make_clips, save_clips, splice
from longcompress.train.tiny.encoders import EncoderTask, score
from longcompress.train.tiny.recipe import (
    RECIPE,
    EncoderConfig,
    TinyRecipe,
    align,
    train_encoders,
    train_tiny,
)
from longcompress.train.trainer import load_trained, run, with_muon
from longcompress.types import Frames


@pytest.fixture(scope="module")
def tiny():
    return lc.load("tiny", device="cpu")


def test_the_weights_fit_into_the_package():
    assert sum(p.stat().st_size for p in TINY.rglob("*") if p.is_file()) < 20_000_000


def test_the_tokenizer_knows_its_world_and_gives_every_answer_back(tiny):
    tokenizer = tiny.llm.tokenizer
    for name in OBJECTS + SOUNDS:
        assert len(tokenizer(name, add_special_tokens=False)["input_ids"]) == 1
    scene = make_scene(77, 300.0)
    asked = ask(scene.events, 300.0, num=60, generator=np.random.default_rng(0), kinds=KINDS, paraphrase=True)
    assert len(asked) > 30
    for question in asked:
        ids = tokenizer(f"{question.text} {question.answer}", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        answer = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(answer).strip() == question.answer


def compressed(model, scene, budget):
    """The memory of a scene without a codec."""
    session = lc.Session(model, budget)
    for part in parts_of(scene, model.config.media.rate_fps):
        session.push(part)
    session.close()
    return session.memory()


@pytest.mark.slow
def test_the_codec_changes_little_of_what_the_encoders_see(tiny, tmp_path):
    scene = make_scene(10_000_123, 40.0)
    painted = next(p for p in parts_of(scene, 1.0) if isinstance(p, Frames))
    video = write_video(scene, tmp_path / "video.mp4")
    from longcompress.media.reader import fit_pixels, read

    with read(video, replace(tiny.config.media, audio=False)) as parts:
        decoded = torch.cat([p.pixels for p in parts if isinstance(p, Frames)])
    with torch.no_grad():
        a = tiny.video.features(fit_pixels(painted.pixels, tiny.config.media))[0]
        b = tiny.video.features(decoded)[0]
    assert a.shape == b.shape
    same = torch.nn.functional.cosine_similarity(a - a.mean((0, 1)), b - b.mean((0, 1)), dim=-1)
    assert float(same.median()) > 0.9
    memories = compressed(tiny, scene, 60), lc.compress(tiny, video, budget=60, progress=False)
    assert memories[0].num_tokens == memories[1].num_tokens == 60


def test_it_answers_with_times_and_cites_tokens(tiny):
    scene = make_scene(10_000_321, 60.0)
    memory = compressed(tiny, scene, 104)
    name = next(h.name for h in scene.events if h.kind == "video")
    answer = memory.ask(f"When does the {name} appear?")
    assert len(answer.events) == 1 and 0 <= answer.events[0].start_s < 60
    assert answer.cites and all(c.end_s > answer.events[0].start_s for c in answer.cites)


@pytest.mark.slow
def test_it_is_right_about_videos_nobody_trained_on(tiny, tmp_path):
    source = from_scenes("synthetic_qa", Synthetic((1.5,), 10, first_video=1_000_000))
    config = RunConfig(budgets=("10%", "20%"))
    for summary in run_eval(source, tiny, tmp_path / "a.jsonl", config):
        metrics = summary["metrics"]
        right = {kind: metrics[f"score/kind/{kind}"] for kind in KINDS}
        assert right["when_seen"] >= 0.85 and right["when_heard"] >= 0.75 and right["binding"] >= 0.6, right
        common = {kind: metrics.get(f"majority/{kind}", 0.0) for kind in KINDS}
        assert all(right[kind] > common[kind] for kind in KINDS), right


@pytest.fixture(scope="module")
def small():
    """An untrained tiny with a clip cache of two clips."""
    model = new_tiny(3)
    return model, make_clips(model, [5, 6], 60.0, {"video": 48, "*": 10})


def test_a_spliced_video_is_the_clips_one_after_the_other(small):
    model, clip_cache = small
    state, events, duration_s = splice([clip_cache[0], clip_cache[1]], 120.0, model.merge_state())
    assert duration_s == 120.0 and state.chunks[0].start_s == 120.0 and state.chunks[-1].end_s == 240.0
    assert len(events) == len(clip_cache[0].events) + len(clip_cache[1].events)
    video = state.compress(100)
    assert size_of(video) == 100
    assert float(video.streams["video"].size.sum()) == 120 * 16


def test_a_cache_is_saved_whole(small, tmp_path):
    model, clip_cache = small
    save_clips(clip_cache, tmp_path / "clips.safetensors")
    mix = Mix(5, 2, (1.0, 2.0), 3, (0.1,), {"when_seen": 1.0}, offset_tens=1000)
    first, other = (
        Videos(b, model.merge_state(), [mix], 0, 17.0).batch(1)
        for b in (clip_cache, load_clips(tmp_path / "clips.safetensors"))
    )
    assert [e.turns for e in first] == [e.turns for e in other]
    for name in ("video", "audio"):
        assert torch.equal(first[0].video.streams[name].x, other[0].video.streams[name].x)


def test_longer_videos_come_fewer(small):
    model, clip_cache = small
    mix = Mix(5, 8, (1.0, 4.0), 3, (0.1,), {"when_seen": 1.0})
    videos = Videos(clip_cache, model.merge_state(), [mix], 0, 17.0)
    seen = {len(videos.batch(n)) for n in range(6)}
    assert seen == {8, 4}


def test_joined_optimizers_step_save_and_load_as_one():
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 4)])})
    joined = with_muon(layers, 0.1)
    assert [len(g["params"]) for g in joined.param_groups] == [1, 1]
    schedule = torch.optim.lr_scheduler.LambdaLR(joined, lambda step: 0.5**step)
    before = [p.detach().clone() for p in layers.parameters()]
    for p in layers.parameters():
        p.grad = torch.ones_like(p)
    joined.step()
    schedule.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, layers.parameters(), strict=True))
    assert [g["lr"] for o in joined.parts for g in o.param_groups] == [0.05, 0.05]
    again = with_muon(layers, 0.1)
    again.load_state_dict(joined.state_dict())
    assert [g["lr"] for g in again.param_groups] == [0.05, 0.05]


def test_batches_are_a_function_of_the_step(small):
    model, clip_cache = small
    mix = Mix(5, 2, (0.34, 1.0), 3, (0.1, 0.2), {"when_seen": 1.0})
    videos = Videos(clip_cache, model.merge_state(), [mix], 0, 17.0)
    first, again, other = videos.batch(3), videos.batch(3), videos.batch(4)
    assert [e.turns for e in first] == [e.turns for e in again] != [e.turns for e in other]
    assert torch.equal(first[0].video.streams["video"].x, again[0].video.streams["video"].x)


@pytest.mark.slow
@pytest.mark.parametrize("muon", [True, False])
def test_the_recipe_trains_saves_and_loads_what_is_trained(small, tmp_path, muon):
    model, clip_cache = small
    heads = {
        "video.weight": torch.randn(len(COLOURS) * len(SHAPES) + 1, 128), "video.bias": torch.zeros(37),
        "audio.weight": torch.randn(len(SOUNDS), 64), "audio.bias": torch.zeros(10),
    }  # fmt: skip
    align(model, clip_cache, heads)
    model.requires_grad_(False)
    model.llm.requires_grad_(True)
    mix = Mix(4, 2, (0.34,), 3, (0.1,), {"when_seen": 1.0, "when_heard": 1.0})
    videos = Videos(clip_cache, model.merge_state(), [mix], 0, 17.0)
    before = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    engine = Engine(device="cpu", workers=0, report=[])
    args = engine.arguments(tmp_path, steps=4, lr=1e-3, warmup=1, decay=0.5, save_steps=4)
    run(model.llm, Batches(videos.batch), args, collate=lambda items: model.llm.collate(items[0]), muon=muon)
    after = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    assert any(not torch.equal(before[n], after[n]) for n in before)
    with torch.no_grad():
        for parameter in model.llm.parameters():
            parameter.zero_()
    load_trained(model.llm, tmp_path / "checkpoint-4")
    assert all(torch.equal(p, after[n]) for n, p in model.llm.named_parameters())


# --- videos in other ways, deaf, without global tokens


@pytest.fixture(scope="module")
def clips(tiny):
    return make_clips(tiny, range(20, 26), 20.0, {"video": 48, "*": 10})


SHORT = Mix(5, 3, (1.0, 2.0), 4, (0.2,), {"when_seen": 1.0, "count": 1.0, "when_heard": 1.0})


def videos_of(tiny, clip_cache, seed=0, num_clips=SHORT.clips, **changes):
    return Videos(clip_cache, tiny.merge_state(), [replace(SHORT, clips=num_clips, **changes)], seed, 17.0)


def size_of(video):
    return sum(map(len, video.streams.values())) + sum(map(len, video.globals.values()))


@pytest.mark.parametrize("methods", [{}, {"ours": 1.0}, {"random": 1.0}, {"full": 1.0}])
def test_deaf_videos_are_seen_only_and_asked_about_what_is_seen(tiny, clips, methods):
    videos = videos_of(tiny, clips, no_audio=1.0, methods=methods, kinds={"when_heard": 3.0, "count": 1.0})
    asked = [example for number in range(4) for example in videos.batch(number)]
    for example in asked:
        assert set(example.video.streams) == {"video"} == set(example.video.globals)
        for question, _ in example.turns:
            assert any(name in question for name in OBJECTS), question
            assert not any(name in question for name in SOUNDS) and "heard" not in question
    heard = [e.video for n in range(4) for e in videos_of(tiny, clips, methods=methods).batch(n)]
    assert all(set(video.streams) == {"video", "audio"} for video in heard)


def test_a_share_of_the_steps_is_deaf_as_a_whole(tiny, clips):
    videos = videos_of(tiny, clips, no_audio=0.5)
    deaf = [{"audio" not in e.video.streams for e in videos.batch(number)} for number in range(10)]
    assert all(len(values) == 1 for values in deaf) and {True} in deaf and {False} in deaf


@pytest.mark.parametrize("method", ["ours", "evs"])
def test_forgetful_videos_have_no_global_tokens(tiny, clips, method):
    for share, want in ((1.0, {False}), (0.0, {True}), (0.5, {True, False})):
        videos = videos_of(tiny, clips, no_globals=share, methods={method: 1.0})
        assert {bool(e.video.globals) for n in range(4) for e in videos.batch(n)} == want


@pytest.mark.parametrize("method", ["ours", *METHODS])
def test_each_way_gives_the_share_of_tokens_that_is_asked_for(tiny, clips, method):
    videos = videos_of(tiny, clips, num_clips=(2.0,), methods={"ours": 0.0, method: 2.0})
    budget = round(0.2 * 17 * 40)
    for example in (example for number in range(2) for example in videos.batch(number)):
        num_global = sum(map(len, example.video.globals.values()))
        if method == "full":
            assert size_of(example.video) == 17 * 40 + num_global
        elif method in ("frames", "pool", "kmeans"):
            assert 0.5 * budget < size_of(example.video) <= budget
        else:
            assert size_of(example.video) == budget
        assert example.video.budget == (17 * 40 if method == "full" else budget)


def test_videos_of_ways_are_a_function_of_step_and_seed(tiny, clips):
    methods = dict.fromkeys(("ours", *METHODS), 1.0)
    changes = {
        "methods": methods,
        "no_audio": 0.3,
        "no_globals": 0.3,
        "others": [replace(SHORT, unique_names=2, clips=(3.0,))],
    }
    videos, again = videos_of(tiny, clips, **changes), videos_of(tiny, clips, **changes)
    other = videos_of(tiny, clips, seed=1, **changes)
    differs = False
    for number in (3, 0, 1, 2):
        first = videos.batch(number)
        for a, b in zip(first, again.batch(number), strict=True):
            assert a.turns == b.turns and a.video.budget == b.video.budget
            assert (
                a.video.streams.keys() == b.video.streams.keys()
                and a.video.globals.keys() == b.video.globals.keys()
            )
            for name, stream in a.video.streams.items():
                assert torch.equal(stream.x, b.video.streams[name].x)
                assert torch.equal(stream.start_s, b.video.streams[name].start_s)
        differs |= [e.turns for e in first] != [e.turns for e in other.batch(number)]
    assert differs


def test_a_step_takes_one_of_several_mixes_by_weight(tiny, clips):
    deaf = replace(SHORT, steps=0, no_audio=1.0)
    for weights, want in (((0.0, 1.0), {True}), ((1.0, 0.0), {False}), ((1.0, 1.0), {True, False})):
        videos = videos_of(tiny, clips, weight=weights[0], others=[replace(deaf, weight=weights[1])])
        assert {"audio" not in e.video.streams for n in range(8) for e in videos.batch(n)} == want


def test_unmerged_videos_come_fewer(tiny, clips):
    for method, num in (("full", 2), ("pool", 10)):
        videos = videos_of(tiny, clips, videos=10, num_clips=(1.0,), methods={method: 1.0})
        assert len(videos.batch(0)) == num


def test_names_that_are_alone_are_in_one_clip_of_a_video(tiny, clips):
    kinds = dict.fromkeys(OBJECTS, "video") | dict.fromkeys(SOUNDS, "audio")
    event = clips[0].events[0]
    named = [
        replace(clips[0], events=tuple(replace(event, kind=kinds[n], name=n) for n in names))
        for names in [*((n,) for n in kinds), *pairwise(OBJECTS)]
    ]
    videos = videos_of(tiny, named)
    for seed in range(5):  # in so long a video all other names are in many clips
        sampled = videos.sample_clips(2000, 9, np.random.default_rng(seed))
        count = Counter(name for clip in sampled for name in {h.name for h in clip.events})
        once = [name for name, num in count.items() if num == 1]
        assert len(sampled) == 2000 and len(once) == 9 and sum(name in SOUNDS for name in once) == 3
        assert len(videos.sample_clips(4, 9, np.random.default_rng(seed))) == 4  # fewer clips than names
    with pytest.raises(
        ValueError, match="unique_names must leave clips that have none of these names, got 46"
    ):
        videos.sample_clips(3, len(OBJECTS + SOUNDS), np.random.default_rng(0))


@pytest.mark.slow
def test_a_model_is_trained_on_with_its_own_encoders(tiny, tmp_path):
    mix = replace(SHORT, steps=2, videos=2, clips=(1.0,), methods={"ours": 1.0, "evs": 1.0})
    recipe = TinyRecipe(init="tiny", clips=2, clip_s=20.0, mixes=[mix], warmup=1)
    folder = train_tiny(tmp_path, recipe)
    trained = lc.load(str(folder), device="cpu")
    for name in ("video", "audio"):
        before, after = getattr(tiny, name).state_dict(), getattr(trained, name).state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert trained.identity() == tiny.identity()
    before, after = tiny.llm.state_dict(), trained.llm.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.startswith("project") for name in moved)
    training = json.loads((folder / "training.json").read_text())
    assert training["recipe"]["init"] == "tiny" and training["recipe"]["mixes"][0]["methods"] == mix.methods
    heads, own = load_file(folder / "heads.safetensors"), load_file(TINY / "heads.safetensors")
    assert all(torch.equal(heads[name], own[name]) for name in own)


def test_the_recipe_file_is_whole():
    recipe = load_config(TinyRecipe, RECIPE)
    assert sum(m.steps for m in recipe.mixes) > 1000 and Path(RECIPE).suffix == ".yaml"


@pytest.mark.slow
def test_encoders_train_with_their_heads(tmp_path, monkeypatch):
    """The first stage of `train tiny`, which the shipped weights came from."""
    monkeypatch.setattr(recipes, "score", lambda task, batches, num: score(task, batches, 1))
    model = new_tiny(0, width=64, layers=1)
    before = {name: value.clone() for name, value in model.video.state_dict().items()}
    steps = EncoderConfig(2, 2, 1e-3)
    heads = train_encoders(model, TinyRecipe(video=steps, audio=steps), tmp_path)
    assert set(heads) == {f"{kind}.{name}" for kind in ("video", "audio") for name in ("weight", "bias")}
    assert any(not torch.equal(value, before[name]) for name, value in model.video.state_dict().items())
    assert not any(p.requires_grad for p in model.video.parameters())


@pytest.mark.slow
def test_encoders_stopped_by_sigterm_are_not_saved_and_go_on_from_their_checkpoint(tmp_path, monkeypatch):
    steps, forward = [], EncoderTask.forward

    def terminate(task, media, labels):
        steps.append(type(task.encoder).__name__)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(task, media, labels)

    monkeypatch.setattr(EncoderTask, "forward", terminate)
    monkeypatch.setattr(recipes, "score", lambda task, batches, num: {})
    config = EncoderConfig(5, 2, 1e-3)
    recipe = TinyRecipe(width=64, layers=1, video=config, audio=config, clips=1)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="video: stopped; the same command goes on"):
        train_tiny(tmp_path, recipe)
    assert signal.getsignal(signal.SIGTERM) is before
    assert steps == ["VisionEncoder"] * 2  # neither on with the frames nor to the audio
    assert last_checkpoint(tmp_path / "video").name == "checkpoint-2" and not (tmp_path / "audio").exists()
    assert not (tmp_path / "encoders").exists() and not (tmp_path / recipes.CLIPS).exists()
    train_encoders(new_tiny(0, width=64, layers=1), recipe, tmp_path)
    assert steps == ["VisionEncoder"] * 5 + ["AudioEncoder"] * 5


def test_a_rate_of_projectors_is_that_of_each_with_muon_too():
    module = torch.nn.Module()
    module.layers = torch.nn.ModuleList([torch.nn.Linear(2, 3)])
    module.project = torch.nn.ModuleDict({"audio": torch.nn.Linear(2, 3), "video": torch.nn.Linear(2, 3)})
    optimizer = with_muon(module, 0.1, {"projectors": 0.02, "projectors.video": 0.03})
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for stream, rate in (("audio", 0.02), ("video", 0.03)):
        assert {rates[id(p)] for p in module.project[stream].parameters()} == {rate}
