"""`longcompress train`: a recipe by name or file, its fields as flags, and the overfit check."""

import re
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any, Literal

from .common import folder_of

RECIPES = Path(__file__).parents[1] / "train" / "recipes"


def train(
    name: str | None, *, out: str, resume: bool = False, overfit_check: bool = False,
    start: Literal["encoders", "clips", "lm"] | None = None, estimate_memory: int = 0,
    seconds: float = 3600.0, measure: bool = False, json: bool = False, recipe: Any,
) -> int:  # fmt: skip
    """Train projectors, time embeddings and LoRA from shards by a recipe: align, boundary, instruct, ...

    Args:
        name: of a recipe, or a YAML file; tiny, tiny_duet and what ends in _more make embedded models.
        out: the folder of the model and its checkpoints.
        resume: go on from the last checkpoint in --out.
        overfit_check: train on 20 samples until they are learned; exit code 1 if they aren't.
        start: of tiny, the stage to go on with after an interruption.
        estimate_memory: instead of training, estimate the memory of a step on a video of this many tokens.
        seconds: length of that video.
        measure: also run that step.
        json: one JSON object with the model's folder.
    """
    from ..train.stages import StageRecipe, train_stage

    folder = folder_of(out)
    if not isinstance(recipe, StageRecipe):
        from ..train.tiny.recipe import train_tiny

        if resume or overfit_check or estimate_memory:
            raise ValueError(f"recipe {name} trains the embedded model; of these flags it has --start alone")
        trained = train_tiny(folder, recipe, start=start or "encoders")
    elif start is not None:
        raise ValueError(f"--start is for the embedded model (tiny), got recipe {name}; use --resume")
    elif estimate_memory:
        from ..train import memory_estimate as memory

        loaded = recipe.engine.load(recipe.model)
        figures = memory.estimate_memory(loaded, recipe, estimate_memory, seconds=seconds, measure=measure)
        print(dumps(figures))
        return 0
    elif overfit_check:
        from ..train.overfit_check import overfit_check as check

        result = check(recipe, folder)
        print(dumps(result) if json else _check_text(result))
        return 0 if result["ok"] else 1
    else:
        trained = train_stage(recipe.engine.load(recipe.model), recipe, folder, resume=resume)
    print(dumps({"model": str(trained)}) if json else f"{trained}: try it with --model {trained}")
    return 0


def recipe_of(words: Sequence[str]) -> Any:
    """The recipe that the first of these words names; without one, the overfit check's or an empty stage."""
    from ..config_values import load_config, read_values
    from ..train.stages import StageRecipe
    from ..train.tiny.recipe import TinyRecipe

    name = words[0] if words and not words[0].startswith("-") else ""
    if not name and "--overfit-check" not in words:
        return StageRecipe()
    name = name or "overfit_check"
    path = RECIPES / f"{name}.yaml" if re.fullmatch(r"[\w-]+", name) else Path(name)
    if not path.is_file():
        if path.parent != RECIPES:
            raise FileNotFoundError(f"train: no recipe {path}")
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(f"train: no recipe {name!r}; give one of {known}, or a YAML file")
    # only the embedded models are trained on clips
    return load_config(TinyRecipe if "clips" in read_values(path) else StageRecipe, path)


def _check_text(result: dict[str, Any]) -> str:
    losses = f"first loss {result['first_loss']:.3f}, last {result['last_loss']:.3f}"
    verdict = "the training learns" if result["ok"] else "the training does not learn: don't start a long run"
    return f"{result['right']} of {result['asked']} answers are as they were learned; {losses}\n{verdict}"
