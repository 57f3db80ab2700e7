"""What tests of training share: three videos with events as feature shards, and a recipe for them."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from longcompress.config_values import load_config
from longcompress.train import stages as module
from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.engine import Engine
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.stages import StageRecipe, last_checkpoint
from longcompress.train.trainer import WEIGHTS

import models
import videos

CPU = Engine(device="cpu", workers=0, report=[])


def recipe_of(name):
    """A recipe that comes with the project."""
    return load_config(StageRecipe, Path(module.__file__).parent / "recipes" / f"{name}.yaml")


def make_folder(where):
    """Three videos with events, as feature shards."""
    (where / "in").mkdir()
    for i in range(3):
        videos.write(where / "in" / f"v{i}.mp4", videos.Video())
        events = [{"start_s": i, "end_s": i + 1, "text": ("red ball", "blue box", "red box")[i]}]
        (where / "in" / f"v{i}.json").write_text(json.dumps({"events": events}))
    records = read_records(where / "in")
    shards.make(records, where / "out", models.model(), progress=False)
    return shards.pack(where / "out", records, progress=False).folder


def make_recipe(folder):
    return StageRecipe(
        shards=[str(folder)], questions=QuestionConfig(kinds={"grounding": 1.0, "segment": 1.0}),
        budgets=[8, 16], max_tokens=40, lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}, steps=6,
        lr=5e-3, warmup=1, save_steps=2, engine=CPU, init="keep",
    )  # fmt: skip


def log_of(out):
    """Lines of the log of the last checkpoint."""
    return json.loads((last_checkpoint(out) / "trainer_state.json").read_text())["log_history"]


def weights(out):
    """What the last checkpoint holds."""
    return load_file(last_checkpoint(out) / WEIGHTS)


def interrupted(model, recipe, out, at):
    """Train, and be interrupted in the forward pass of this number."""
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt

    hook = model.llm.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        module.train_stage(model, recipe, out)
    hook.remove()


def losses(out):
    return [line["loss"] for line in log_of(out) if "loss" in line]


SCRIPT = """
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[3])
import models
from longcompress.config_values import load_config
from longcompress.train.stages import StageRecipe, train_stage
{more}
model = models.model()
{hook}
train_stage(model, load_config(StageRecipe, sys.argv[1]), sys.argv[2], resume="--resume" in sys.argv)
"""


def script(path, *, more="", hook=""):
    """A program that trains a stage: recipe, out and the folder of tests are its arguments."""
    path.write_text(SCRIPT.format(more=more, hook=hook))
    return path
