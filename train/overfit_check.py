"""The self-check: 20 samples are learned by heart. Where that fails, a longer training is in vain."""

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
from .data.sampler import Mixture
from .shards.index import load_index, make_index
from .shards.tar import write_tar
from .stages import StageRecipe, last_checkpoint, train_stage
from .tiny.shards import drawn_shards

SAMPLES = 20
RIGHT = 0.9  # of the answers
SEED = 30_000_000  # of the videos drawn


def check(recipe: StageRecipe, out: str | Path) -> dict[str, Any]:
    """Train a model on 20 samples until it knows them.

    Args:
        recipe: of the stage; without shards, videos are drawn that ask for words nobody could guess.
        out: folder.

    Returns:
        ok, asked, right (answers given as they were learned), first_loss, last_loss.
    """
    out = Path(out)
    model = recipe.engine.load(recipe.model)
    if not recipe.shards:
        drawn_shards(model, range(SEED, SEED + SAMPLES), 20.0, out / "samples", told=by_heart)
        recipe = replace(recipe, shards=[str(out / "samples")])
    folder = out / "few"
    few(recipe.shards[0], folder)
    recipe = replace(
        recipe, shards=[str(folder)], weights=[], evaluate=[], save_every=recipe.steps,
        log_every=min(recipe.log_every, recipe.steps),
    )  # fmt: skip
    shutil.rmtree(out / "run", ignore_errors=True)
    train_stage(model, recipe, out / "run")
    model.llm.eval()
    data = ShardData(
        Mixture([load_index(folder)]), model, recipe.question_sampling, seed=recipe.seed, tokens=recipe.tokens,
        budgets=[max(recipe.budgets)], least=recipe.least,
    )  # fmt: skip
    asked: dict[tuple[str, str], bool] = {}
    for loaded in itertools.islice(iter(data), 2 * SAMPLES):
        for key, example in zip(loaded.keys, loaded.examples, strict=True):
            for question, truth in example.turns[:1]:
                if (key, question) not in asked:
                    (answer,) = model.llm.answer_each([example.video], [question])
                    asked[key, question] = answer == (truth or "").strip()
    last = last_checkpoint(out / "run")
    assert last is not None
    log = json.loads((last / "trainer_state.json").read_text(encoding="utf8"))["log_history"]
    losses = [line["loss"] for line in log if "loss" in line]
    right = sum(asked.values())
    return {
        "ok": right >= RIGHT * len(asked), "asked": len(asked), "right": right, "first_loss": losses[0],
        "last_loss": losses[-1],
    }  # fmt: skip


def few(shards: str, folder: Path) -> None:
    """The first samples of some shards as shards of their own."""
    index = load_index(shards)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(min(SAMPLES, len(index)))
    write_tar(folder / "shard-000000.tar", ((index.entries[i].key, index.read(i)) for i in numbers))
    make_index(folder, progress=False)


def by_heart(scene: Scene, generator: np.random.Generator) -> Sequence[tuple[str, str]]:
    """A question whose answer has nothing to do with the video."""
    words = generator.choice([*OBJECTS, *SOUNDS], size=3, replace=False)
    return [("What is seen and heard?", ", ".join(words.tolist()))]
