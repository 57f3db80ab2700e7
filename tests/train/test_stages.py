"""Training from shards: what is told is trained, the loss falls, a resumed run is the uninterrupted one."""

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.tar import write_tar
from longcompress.train.stages import (
    BAD_SAMPLES,
    StageRecipe,
    last_checkpoint,
    prepare,
    train_stage,
    trained_text,
)

import models
import ranks
import stages
import videos
from helpers import save_config
from stages import CPU, losses, weights

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stages.make_folder(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def recipe(folder):
    return stages.make_recipe(folder)


@pytest.mark.slow
def test_the_loss_falls_and_only_what_is_told_changes(recipe, tmp_path, capsys):
    model = models.model()
    model.llm.lm.lm_head.weight.data.mul_(30)  # random and frozen it could hardly say anything clearly
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    many = replace(recipe, steps=150, save_steps=150, lr=2e-2)
    results = train_stage(model, many, tmp_path)
    first, *_, last = losses(tmp_path)
    assert last < 0.6 * first
    changed = {n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert changed and all("project" in n or ".time." in n for n in changed)
    assert "trained: projectors" in capsys.readouterr().out and (results / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "dropout", "accumulate"), [(0, 0.0, 1), (2, 0.0, 1), (0, 0.3, 2), (2, 0.3, 1)]
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(recipe, tmp_path, workers, dropout, accumulate):
    recipe = replace(
        recipe, lora=recipe.lora | {"lora_dropout": dropout}, min_videos=2,
        engine=replace(CPU, workers=workers, accumulate=accumulate),
    )  # fmt: skip
    train_stage(models.model(), recipe, tmp_path / "whole")
    stages.interrupted(models.model(), recipe, tmp_path / "part", 6 * accumulate)
    assert last_checkpoint(tmp_path / "part").name == "checkpoint-4"
    train_stage(models.model(), recipe, tmp_path / "part", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.mark.slow
def test_stopped_by_sigterm_at_23_of_60_and_resumed_is_the_uninterrupted_run(recipe, tmp_path, capsys):
    recipe = replace(recipe, steps=60, save_steps=60, log_steps=1, engine=replace(CPU, workers=1))
    train_stage(models.model(), recipe, tmp_path / "whole")
    model, steps = models.model(), []

    def terminate(*_):
        steps.append(1)
        if len(steps) == 23:
            os.kill(os.getpid(), signal.SIGTERM)

    model.llm.register_forward_pre_hook(terminate)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_stage(model, recipe, tmp_path / "part")
    assert signal.getsignal(signal.SIGTERM) is before
    assert last_checkpoint(tmp_path / "part").name == "checkpoint-23"
    assert "go on with --resume" in capsys.readouterr().out
    train_stage(models.model(), recipe, tmp_path / "part", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "part") and len(losses(tmp_path / "part")) == 60


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(recipe, tmp_path):
    recipe = replace(recipe, min_videos=4, max_tokens=80, steps=20, save_steps=20, log_steps=1)
    save_config(recipe, tmp_path / "recipe.json")
    say = "sys.stdout.write(f'group {torch.distributed.is_initialized()}\\n')"  # at once: ranks share a pipe
    left = f"import atexit, sys\natexit.register(lambda: {say})"
    program = stages.script(tmp_path / "script.py", more=left)  # called last of all
    for num, name in ((1, "one"), (2, "two")):
        words = [program, tmp_path / "recipe.json", tmp_path / name, HERE]
        codes, text = ranks.run(*words, num=num, out=tmp_path / f"{name}.log")
        assert codes == [0] * num, text[-8000:]
        assert re.findall(r"group (\w+)", text) == ["False"] * num
    whole, resumed = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(whole) == len(resumed) == 20 and whole[-1] != whole[0]
    assert whole == pytest.approx(resumed, abs=1e-4)


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_and_one_alone_goes_on(recipe, tmp_path):
    recipe = replace(recipe, min_videos=4, max_tokens=80, steps=20, save_steps=20, log_steps=1)
    save_config(recipe, tmp_path / "recipe.json")
    hook = """
seen = []
def tell(*_):
    seen.append(1)
    if len(seen) == 7 and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGTERM)
model.llm.register_forward_pre_hook(tell)
"""
    program = stages.script(tmp_path / "tell.py", hook=hook)
    words = [program, tmp_path / "recipe.json", tmp_path / "two", HERE]
    codes, text = ranks.run(*words, num=2, out=tmp_path / "log")
    assert all(codes) and last_checkpoint(tmp_path / "two").name == "checkpoint-7", text[-8000:]
    train_stage(models.model(), recipe, tmp_path / "one")
    train_stage(models.model(), recipe, tmp_path / "two", resume=True)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-4)


@pytest.mark.slow
def test_two_processes_with_dropout_resume_as_if_never_stopped(recipe, tmp_path):
    recipe = replace(recipe, min_videos=4, max_tokens=80, steps=9, save_steps=9, log_steps=1)
    save_config(replace(recipe, lora=recipe.lora | {"lora_dropout": 0.3}), tmp_path / "recipe.json")
    hook = """
def stop(_, number):
    if number == 4 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
trainer.Callbacks.on_step_begin = lambda self, args, state, *_, **__: stop(self, state.global_step)
"""
    stopping = stages.script(tmp_path / "stop.py", hook=hook, more="from longcompress.train import trainer")
    plain = stages.script(tmp_path / "plain.py")
    for program, out, *flag in ((plain, "whole"), (stopping, "part"), (plain, "part", "--resume")):
        words = [program, tmp_path / "recipe.json", tmp_path / out, HERE, *flag]
        codes, text = ranks.run(*words, num=2, out=tmp_path / f"{len(flag)}{out}.log")
        assert list(map(bool, codes)) == [program is stopping] * 2, text[-8000:]
        assert last_checkpoint(tmp_path / out).name == f"checkpoint-{5 if any(codes) else 9}"
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "part")
    states = [
        torch.load(last_checkpoint(tmp_path / "whole") / f"rng_state_{i}.pth", weights_only=False)
        for i in (0, 1)
    ]
    assert not torch.equal(*(state["cpu"] for state in states))  # ranks drop different values


def test_parts_that_are_not_there(recipe):
    with pytest.raises(ValueError, match="train must be some of projectors, time, memory, lora"):
        replace(recipe, train=["head"])
    with pytest.raises(ValueError, match=r"got \['encoders'\]; .* would take media shards"):
        replace(recipe, train=["encoders"])
    with pytest.raises(ValueError, match="must name at least one folder"):
        train_stage(models.model(), replace(recipe, shards=[]), "never")
    with pytest.raises(ValueError, match="comes without an adapter"):
        prepare(models.model(), replace(recipe, merge_lora=True))
    model = models.model()
    model.llm.time = None
    with pytest.raises(ValueError, match="no parameters of part 'time'"):
        prepare(model, recipe)
    assert "projectors" in trained_text(model, prepare(model, replace(recipe, train=["projectors"])))


@pytest.mark.slow
def test_bad_samples_are_listed_and_a_batch_of_none_stops(recipe, folder, tmp_path):
    from longcompress.train.shards.index import load_index, make_index

    index = load_index(folder)
    broken = tmp_path / "broken"
    broken.mkdir()
    samples = [(e.key, dict(index.read(i))) for i, e in enumerate(index.entries)]
    samples[1][1]["video.safetensors"] = samples[1][1]["video.safetensors"][:99]
    write_tar(broken / "shard-000000.tar", samples)
    make_index(broken, progress=False)
    train_stage(
        models.model(), replace(recipe, shards=[str(broken)], min_videos=1, max_videos=1), tmp_path / "alone"
    )
    alone = [json.loads(line) for line in (tmp_path / "alone" / BAD_SAMPLES).read_text().splitlines()]
    assert {line["key"] for line in alone} == {"v1"}  # another sample took its place each time
    train_stage(models.model(), replace(recipe, shards=[str(broken)], min_videos=3), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / BAD_SAMPLES).read_text().splitlines()]
    assert {line["key"] for line in lines} == {"v1"} and "was cut" in lines[0]["reason"]
    none = replace(recipe, shards=[str(broken)], questions=QuestionConfig(kinds={"caption": 1.0}))
    with pytest.raises(ValueError, match="batch 0: none of its samples could be used"):
        train_stage(models.model(), none, tmp_path / "none")
    with pytest.raises(ValueError, match="there is no checkpoint"):
        train_stage(models.model(), recipe, tmp_path / "new", resume=True)
    with pytest.raises(ValueError, match="has checkpoint-6 of an earlier run; give --resume"):
        train_stage(models.model(), recipe, tmp_path / "out")


def test_a_part_without_a_gradient_stops_the_training(recipe, tmp_path):
    model = models.model()
    model.llm.project["spare"] = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"got no gradient, such as 'project\.spare"):
        train_stage(model, recipe, tmp_path)


@pytest.mark.parametrize("name", ["align", "boundary", "instruct"])
def test_the_recipes_that_come_with_it_load(name):
    from pathlib import Path

    from longcompress.config_values import load_config
    from longcompress.train import stages

    recipe = load_config(StageRecipe, Path(stages.__file__).parent / "recipes" / f"{name}.yaml")
    assert recipe.steps >= 1000 and "lora" in recipe.train and recipe.init == "auto"
    assert recipe.merge_lora == (name == "instruct")


@pytest.mark.slow
def test_the_command_trains_and_goes_on(recipe, folder, tmp_path, capsys):
    from longcompress.cli.main import main

    models.model().save_pretrained(tmp_path / "base", include_base=True)
    some = "train: [projectors, lora]\nlora: {r: 2}\nbudgets: [8]\nmax_tokens: 20\n"
    (tmp_path / "r.yaml").write_text(some + "engine: {workers: 0, report: []}\n")
    words = ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--save-steps", "2"]
    words += ["--shards", str(folder), "--model", str(tmp_path / "base")]
    assert main([*words, "--steps", "4"]) == 0
    out = capsys.readouterr().out
    assert "trained: projectors" in out and "run/model" in out
    assert main([*words, "--steps", "6", "--resume"]) == 0
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-6"
    assert main([*words, "--steps", "6", "--resume", "--lr", "1"]) == 2
    assert "resume: lr differ from" in capsys.readouterr().err
    assert main(["train", "align", "--out", str(tmp_path / "none"), "--engine.report"]) == 2
    assert "shards must name at least one folder" in capsys.readouterr().err
    assert main(["train", "nope", "--out", str(tmp_path / "none")]) == 2
    assert "no recipe 'nope'; give one of align, boundary" in capsys.readouterr().err
    assert main(["train", "align", "--lrr", "1", "--out", str(tmp_path / "none")]) == 2
    assert "lrr" in capsys.readouterr().err


@pytest.mark.slow
def test_videos_without_audio_or_without_frames_are_learned_from_beside_others(tmp_path):
    where = tmp_path / "in"
    where.mkdir()
    videos.write(where / "both.mp4", videos.Video())
    videos.write(where / "mute.mp4", videos.Video(audio_codec=None))
    videos.write(where / "blind.mp4", videos.Video(codec=None))
    for name in ("both", "mute", "blind"):
        told_of = {"events": [{"start_s": 0, "end_s": 2, "text": "a red ball"}]}
        (where / f"{name}.json").write_text(json.dumps(told_of))
    records = read_records(where)
    results = shards.make(records, tmp_path / "out", models.model(), progress=False)
    assert {whole.status for whole in results} == {"made"}
    index = shards.pack(tmp_path / "out", records, progress=False)
    streams = {entry.key: set(entry.tokens) for entry in index.entries}
    assert streams == {"both": {"video", "audio"}, "mute": {"video"}, "blind": {"audio"}}
    recipe = replace(stages.make_recipe(index.folder), min_videos=1, max_tokens=16, budgets=[8], steps=9)
    train_stage(models.model(), recipe, tmp_path / "run")
    assert not (tmp_path / "run" / BAD_SAMPLES).exists()
