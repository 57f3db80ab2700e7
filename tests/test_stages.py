"""Training from shards: what is told is trained, the loss falls, a resumed run is the uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import films
import pytest
import torch
from safetensors.torch import load_file

from longcompress.config import save_config
from longcompress.train import shards
from longcompress.train.data import Asking
from longcompress.train.records import read_records
from longcompress.train.stages import BAD, StageRecipe, last_checkpoint, prepare, told, train_stage
from longcompress.train.tars import write_tar
from longcompress.train.trainer import WEIGHTS

import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three films with events, as feature shards."""
    where = tmp_path_factory.mktemp("stages")
    (where / "in").mkdir()
    for i in range(3):
        films.write(where / "in" / f"v{i}.mp4", films.Film())
        events = [{"start_s": i, "end_s": i + 1, "text": ("red ball", "blue box", "red box")[i]}]
        (where / "in" / f"v{i}.json").write_text(json.dumps({"events": events}))
    records = read_records(where / "in")
    shards.make(records, where / "out", models.model(), progress=False)
    return shards.pack(where / "out", records, progress=False).folder


@pytest.fixture
def recipe(folder):
    return StageRecipe(
        shards=[str(folder)], asking=Asking(kinds={"grounding": 1.0, "segment": 1.0}), budgets=[8, 16],
        tokens=40, lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}, steps=6, lr=5e-3, warmup=1, workers=0,
        save_every=2,
    )  # fmt: skip


def weights(out):
    return load_file(last_checkpoint(out) / WEIGHTS)


def losses(out):
    return [
        x["loss"]
        for x in json.loads((last_checkpoint(out) / "trainer_state.json").read_text())["log_history"]
    ]


def test_the_loss_falls_and_only_what_is_told_changes(recipe, tmp_path, capsys):
    model = models.model()
    model.host.lm.lm_head.weight.data.mul_(30)  # random and frozen it could hardly say anything clearly
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    many = replace(recipe, steps=150, save_every=150, lr=2e-2)
    made = train_stage(model, many, tmp_path)
    first, *_, last = losses(tmp_path)
    assert last < 0.6 * first
    changed = {n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])}
    assert changed and all("project" in n or ".time." in n for n in changed)
    assert "trained: projectors" in capsys.readouterr().out and (made / "config.json").is_file()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(recipe, tmp_path, workers):
    recipe = replace(recipe, workers=workers)
    train_stage(models.model(), recipe, tmp_path / "whole")
    stopped, steps = models.model(), []

    def interrupt(*_):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt

    stopped.host.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_stage(stopped, recipe, tmp_path / "part")
    assert last_checkpoint(tmp_path / "part").name == "checkpoint-4"
    train_stage(models.model(), recipe, tmp_path / "part", resume=True)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)


def test_sigterm_saves_the_step_and_a_resumed_run_is_the_uninterrupted_one(recipe, tmp_path, capsys):
    recipe = replace(recipe, save_every=0, workers=1)
    train_stage(models.model(), replace(recipe, save_every=6), tmp_path / "whole")
    told, steps = models.model(), []

    def terminate(*_):
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    told.host.register_forward_pre_hook(terminate)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_stage(told, recipe, tmp_path / "part")
    assert signal.getsignal(signal.SIGTERM) is before
    assert last_checkpoint(tmp_path / "part").name == "checkpoint-3"
    assert "go on with --resume" in capsys.readouterr().out
    train_stage(models.model(), replace(recipe, save_every=6), tmp_path / "part", resume=True)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "part")
    assert set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
import models
from longcompress.config import load_config
from longcompress.train.stages import StageRecipe, train_stage
train_stage(models.model(), load_config(StageRecipe, sys.argv[1]), sys.argv[2])
"""


def test_two_processes_have_the_loss_curve_of_one(recipe, tmp_path):
    recipe = replace(recipe, least=4, tokens=80, steps=20, save_every=20, log_every=1)
    save_config(recipe, tmp_path / "recipe.json")
    (tmp_path / "script.py").write_text(SCRIPT)
    given = [str(tmp_path / "script.py"), str(tmp_path / "recipe.json")]
    alone = [sys.executable, *given, str(tmp_path / "one"), str(Path(__file__).parent)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for words in (alone, [*torchrun, *given, str(tmp_path / "two"), str(Path(__file__).parent)]):
        subprocess.run(words, check=True, capture_output=True, timeout=100)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20 and one[-1] != one[0]
    assert one == pytest.approx(two, abs=1e-4)


def test_parts_that_are_not_there(recipe):
    with pytest.raises(ValueError, match="train must be some of projectors, time, lora"):
        replace(recipe, train=["head"])
    with pytest.raises(ValueError, match="must name at least one folder"):
        train_stage(models.model(), replace(recipe, shards=[]), "never")
    with pytest.raises(ValueError, match="comes without an adapter"):
        prepare(models.model(), replace(recipe, merge_lora=True))
    model = models.model()
    model.host.time = None
    with pytest.raises(ValueError, match="no parameters of part 'time'"):
        prepare(model, recipe)
    assert "projectors" in told(model, prepare(model, replace(recipe, train=["projectors"])))


def test_bad_samples_are_listed_and_a_batch_of_none_stops(recipe, folder, tmp_path):
    from longcompress.train.index import load_index, make_index

    index = load_index(folder)
    broken = tmp_path / "broken"
    broken.mkdir()
    samples = [(e.key, dict(index.read(i))) for i, e in enumerate(index.entries)]
    samples[1][1]["picture.safetensors"] = samples[1][1]["picture.safetensors"][:99]
    write_tar(broken / "shard-000000.tar", samples)
    make_index(broken, progress=False)
    train_stage(models.model(), replace(recipe, shards=[str(broken)], least=3), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / BAD).read_text().splitlines()]
    assert {line["key"] for line in lines} == {"v1"} and "was cut" in lines[0]["reason"]
    none = replace(recipe, shards=[str(broken)], asking=Asking(kinds={"caption": 1.0}))
    with pytest.raises(ValueError, match="batch 0: none of its samples could be used"):
        train_stage(models.model(), none, tmp_path / "none")
    with pytest.raises(ValueError, match="there is no checkpoint"):
        train_stage(models.model(), recipe, tmp_path / "new", resume=True)


def test_a_part_without_a_gradient_stops_the_training(recipe, tmp_path):
    model = models.model()
    model.host.project["spare"] = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"got no gradient, such as 'project\.spare"):
        train_stage(model, recipe, tmp_path)


@pytest.mark.parametrize("name", ["align", "boundary", "instruct"])
def test_the_recipes_that_come_with_it_load(name):
    from pathlib import Path

    from longcompress.config import load_config
    from longcompress.train import stages

    recipe = load_config(StageRecipe, Path(stages.__file__).parent / "recipes" / f"{name}.yaml")
    assert recipe.steps >= 1000 and ("lora" in recipe.train) == (name != "align")
    assert recipe.merge_lora == (name == "instruct")


def test_the_command_trains_and_goes_on(recipe, folder, tmp_path, capsys):
    from longcompress.cli import main

    models.model().save_pretrained(tmp_path / "base", include_base=True)
    (tmp_path / "r.yaml").write_text(
        "train: [projectors, lora]\nlora: {r: 2}\nbudgets: [8]\ntokens: 20\nworkers: 0\n"
    )
    words = ["train", "stage", "--out", str(tmp_path / "run"), "--recipe", str(tmp_path / "r.yaml")]
    words += [f"--recipe.shards={json.dumps([str(folder)])}", "--recipe.model", str(tmp_path / "base")]
    assert main([*words, "--recipe.steps", "4", "--recipe.save_every", "2"]) == 0
    out = capsys.readouterr().out
    assert "trained: projectors" in out and "run/model" in out
    assert main([*words, "--recipe.steps", "6", "--recipe.save_every", "2", "--resume"]) == 0
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-6"
    assert main(["train", "stage", "--out", str(tmp_path / "none")]) == 2
    assert "shards must name at least one folder" in capsys.readouterr().err
