"""The overfit check: a model learns 20 samples by heart. If that fails, a longer training is in vain."""

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..synthetic.scenes import OBJECTS, SOUNDS, Scene
from .data.dataset import ShardData
from .shards.index import load_index, make_index
from .shards.tar import write_tar
from .stages import StageRecipe, batch_sampler, last_checkpoint, train_stage
from .tiny.shards import synthetic_shards

NUM_SAMPLES = 20
PASS_RATE = 0.9  # of the answers
SEED = 30_000_000  # of the synthetic videos


def overfit_check(recipe: StageRecipe, out: str | Path) -> dict[str, Any]:
    """ok, asked, right (answers given as they were learned), first_loss, last_loss of a training on 20
    samples; without shards, of synthetic videos with answers that nobody could guess."""
    out = Path(out)
    model = recipe.engine.load(recipe.model)
    if not recipe.shards:
        seeds = range(SEED, SEED + NUM_SAMPLES)
        synthetic_shards(model, seeds, 20.0, out / "samples", questions=arbitrary_question)
        recipe = replace(recipe, shards=[str(out / "samples")])
    folder = out / "few"
    first_samples(recipe.shards[0], folder)
    steps: dict[str, Any] = {"save_steps": recipe.steps, "log_steps": min(recipe.log_steps, recipe.steps)}
    recipe = replace(recipe, shards=[str(folder)], weights=[], eval_shards=[], **steps)
    shutil.rmtree(out / "run", ignore_errors=True)
    train_stage(model, recipe, out / "run")
    model.llm.eval()
    widest = replace(recipe, budgets=[max(recipe.budgets)], max_videos=0)
    sampler = batch_sampler(widest, [load_index(folder)])
    results: dict[tuple[str, str], bool] = {}
    for loaded in itertools.islice(iter(ShardData(sampler, model, recipe.questions)), 2 * NUM_SAMPLES):
        for key, example in zip(loaded.keys, loaded.examples, strict=True):
            for question, reference in example.turns[:1]:
                if (key, question) not in results:
                    (answer,) = model.llm.answer_each([example.video], [question])
                    results[key, question] = answer == (reference or "").strip()
    last = last_checkpoint(out / "run")
    assert last is not None
    log = json.loads((last / "trainer_state.json").read_text(encoding="utf8"))["log_history"]
    losses = [line["loss"] for line in log if "loss" in line]
    right = sum(results.values())
    return {
        "ok": right >= PASS_RATE * len(results), "asked": len(results), "right": right,
        "first_loss": losses[0], "last_loss": losses[-1],
    }  # fmt: skip


def first_samples(shards: str, folder: Path) -> None:
    """The first samples of some shards as shards of their own."""
    index = load_index(shards)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(min(NUM_SAMPLES, len(index)))
    write_tar(folder / "shard-000000.tar", ((index.entries[i].key, index.read(i)) for i in numbers))
    make_index(folder, progress=False)


def arbitrary_question(scene: Scene, generator: np.random.Generator) -> Sequence[tuple[str, str]]:
    """A question whose answer has nothing to do with the video."""
    words = generator.choice([*OBJECTS, *SOUNDS], size=3, replace=False)
    return [("What is seen and heard?", ", ".join(words.tolist()))]
