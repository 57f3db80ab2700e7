"""`longcompress train`: recipes by name or file, single fields as flags, and the overfit check."""

import re
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any, Literal

from .common import folder_of

OWN = ("out", "resume", "start", "json", "help", "estimate-memory", "seconds", "measure")
"""Flags that aren't fields of a recipe."""
RECIPES = Path(__file__).parents[1] / "train" / "recipes"
CHECK = "check"


def with_recipe(words: Sequence[str]) -> tuple[list[str], Any]:
    """The words of `longcompress train` with fields as --recipe.FIELD, and the recipe that they name.

    Raises:
        ValueError: no recipe has that name; a field of the file is unknown.
        FileNotFoundError: there is no such file.
    """
    words = [CHECK if word == "--check" else word for word in words]
    if CHECK in words[2:]:  # longcompress train --model M --check
        words = [words[0], CHECK, *(word for word in words[1:] if word != CHECK)]
    name = words[1] if len(words) > 1 and not words[1].startswith("-") else ""
    spelled = [re.sub(r"^--(?!recipe\.)([\w.-]+)", _field, word) for word in words]
    return spelled, _recipe(name)


def train(
    name: str,
    *,
    out: str,
    start: Literal["encoders", "clips", "lm"] = "encoders",
    resume: bool = False,
    estimate_memory: int = 0,
    seconds: float = 3600.0,
    measure: bool = False,
    recipe: Any = None,
    json: bool = False,
) -> int:
    """Train projectors, time and LoRA from shards by a recipe, such as longcompress train align.

    Single fields are changed as --lr 1e-4 or --engine.workers 2. `--check` overfits 20 samples.

    Args:
        name: align, boundary or instruct; a YAML file; check; or tiny and tiny_more, the embedded model.
        out: the folder for it; checkpoints are kept there.
        start: of tiny, the stage to go on with after an interruption.
        resume: go on from the last checkpoint in --out.
        estimate_memory: instead of training, estimate the memory of a step on a video of so many tokens.
        seconds: length of this video.
        measure: also run that step.
        recipe: its fields, as --FIELD.
        json: one JSON object with the model's folder.
    """
    folder = folder_of(out)
    if estimate_memory:
        from ..train import memory_estimate as predict

        step = predict.estimate_memory(
            recipe.engine.load(recipe.model), recipe, estimate_memory, seconds=seconds, measure=measure
        )
        print(dumps(predict.estimate_json(step)))
        return 0
    if name == CHECK:
        from ..train.overfit_check import overfit_check

        result = overfit_check(recipe, folder)
        print(dumps(result) if json else _check_text(result))
        return 0 if result["ok"] else 1
    if type(recipe).__name__ == "TinyRecipe":
        from ..train.tiny.recipe import train_tiny

        trained = train_tiny(folder, recipe, start=start)
    else:
        from ..train.stages import train_stage

        trained = train_stage(recipe.engine.load(recipe.model), recipe, folder, resume=resume)
    print(dumps({"model": str(trained)}) if json else f"{trained}: try it with --model {trained}")
    return 0


def _recipe(name: str) -> Any:
    """The recipe of a name or a file; without one, a stage's, for its flags."""
    from ..config import load_config
    from ..train.stages import StageRecipe

    if not name:
        return StageRecipe()
    path = RECIPES / f"{name}.yaml" if re.fullmatch(r"[\w-]+", name) else Path(name)
    known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    if not path.is_file():
        if path.parent == RECIPES:
            raise ValueError(f"train: no recipe {name!r}; give one of {', '.join(known)}, or a YAML file")
        raise FileNotFoundError(f"train: no recipe {path}")
    if name in ("tiny", "tiny_more"):
        from ..train.tiny.recipe import TinyRecipe

        return load_config(TinyRecipe, path)
    return load_config(StageRecipe, path)


def _field(flag: re.Match[str]) -> str:
    """--lr as --recipe.lr."""
    name = flag[1]
    return (
        flag[0] if name.partition(".")[0].replace("_", "-") in OWN else "--recipe." + name.replace("-", "_")
    )


def _check_text(result: dict[str, Any]) -> str:
    verdict = "the training learns" if result["ok"] else "the training does not learn: don't start a long run"
    return (
        f"{result['right']} of {result['asked']} answers are as they were learned; first loss "
        f"{result['first_loss']:.3f}, last {result['last_loss']:.3f}\n{verdict}"
    )
