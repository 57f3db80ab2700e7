"""FSDP2 and DeepSpeed over two processes of a CPU, by the command: what one process learns, exact resume.

The configurations are those of docs/training.md.
"""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longcompress.presets import load
from longcompress.train.stages import last_checkpoint, train_stage

import models
import ranks
import stages
from helpers import save_config
from stages import losses, weights

pytestmark = pytest.mark.slow
COMMAND = """
import os, signal, sys
from longcompress.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
CUT = """
from longcompress.train import trainer
whole, steps = trainer.PartTrainer.training_step, []
def step(*args, **options):
    steps.append(1)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return whole(*args, **options)
trainer.PartTrainer.training_step = step
"""


def documented(language, word):
    """The block of docs/training.md in a language that has a word."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (block,) = [b for b in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in b]
    return block


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with a model, a recipe, and its training by one process."""
    where = tmp_path_factory.mktemp("sharded")
    models.model().save_pretrained(where / "base", include_base=True)
    recipe = stages.make_recipe(stages.make_folder(where))
    recipe = replace(recipe, model=str(where / "base"), min_videos=4, max_tokens=80, log_steps=1)
    save_config(recipe, where / "recipe.yaml")
    train_stage(load(where / "base", device="cpu"), recipe, where / "one")
    (where / "plain.py").write_text(COMMAND)
    (where / "cut.py").write_text(COMMAND.replace("sys.exit", f"{CUT}sys.exit"))
    (where / "accelerate.yaml").write_text(documented("yaml", "distributed_type: FSDP"))
    return where


def apart(first, second):
    """The largest difference of any weight."""
    assert set(first) == set(second)
    return max(float((first[n] - second[n]).abs().max()) for n in first)


@pytest.mark.parametrize("kind", ["fsdp", "zero2", "zero3"])
def test_two_processes_learn_what_one_does_and_go_on_exactly_where_they_were_stopped(alone, kind, tmp_path):
    flags, launcher = ["--engine.fsdp", '{"reshard_after_forward": true}'], ["torch.distributed.run"]
    if kind == "fsdp":
        launcher = ["accelerate.commands.launch", "--config_file", str(alone / "accelerate.yaml")]
    else:
        launcher += ["--standalone", "--nproc-per-node", "2"]
        pytest.importorskip("deepspeed")
        config = documented("json", "zero_optimization").replace('"stage": 2', f'"stage": {kind[-1]}')
        (alone / f"{kind}.json").write_text(config)
        flags = ["--engine.deepspeed", str(alone / f"{kind}.json")]
    words = ["train", str(alone / "recipe.yaml"), *flags, "--out"]
    command = [sys.executable, "-m", *launcher, "-m", "longcompress", *words, str(alone / kind)]
    done = subprocess.run(command, capture_output=True, timeout=300, text=True)
    assert done.returncode == 0, done.stderr[-8000:]
    assert losses(alone / kind) == pytest.approx(losses(alone / "one"), abs=1e-4)
    assert apart(weights(alone / kind), weights(alone / "one")) < 1e-5
    names = {path.name for path in last_checkpoint(alone / kind).iterdir()}
    assert ("optimizer.bin" if kind == "fsdp" else "global_step6") in names  # it was sharded
    assert "pytorch_model_fsdp.bin" not in names  # what is frozen isn't saved
    ids = torch.arange(5, 30)[None]
    logits = [
        load(alone / name / "model", device="cpu").llm.lm(input_ids=ids).logits for name in (kind, "one")
    ]
    torch.testing.assert_close(*logits)

    words.append(f"{alone / kind}-cut")
    codes, text = ranks.run(alone / "cut.py", *words, num=2, out=tmp_path / "cut.log")
    assert all(codes) and last_checkpoint(alone / f"{kind}-cut").name == "checkpoint-3", text[-8000:]
    codes, text = ranks.run(alone / "plain.py", *words, "--resume", num=2, out=tmp_path / "resumed.log")
    assert codes == [0, 0], text[-8000:]
    assert losses(alone / f"{kind}-cut") == losses(alone / kind)
    assert apart(weights(alone / f"{kind}-cut"), weights(alone / kind)) == 0


def test_a_deepspeed_file_with_an_optimizer_of_its_own_is_refused(tmp_path):
    pytest.importorskip("deepspeed")
    (tmp_path / "z.json").write_text('{"optimizer": {"type": "AdamW"}}')
    engine = replace(stages.CPU, deepspeed=str(tmp_path / "z.json"))
    with pytest.raises(ValueError, match="must leave optimizer to the recipe's lr, rates and schedule"):
        engine.check()
