"""Which global tokens earn their place: each form learns the same steps, and answers about whole videos.

`python run.py --out FOLDER`. Run again, it goes on.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longcompress import LongCompress
from longcompress.compression.global_memory import GlobalMemory
from longcompress.config import MemoryConfig
from longcompress.config_values import load_config
from longcompress.presets import load
from longcompress.synthetic import whole
from longcompress.synthetic.questions import ask
from longcompress.synthetic.scenes import Scene
from longcompress.train.stages import StageRecipe, last_checkpoint, train_stage
from longcompress.train.tiny.shards import synthetic_shards

HERE = Path(__file__).parent
FORMS = {
    "none": MemoryConfig(kind="none"),
    "mean": MemoryConfig(kind="mean"),
    "learned": MemoryConfig(kind="learned", num_queries=4),
    "coarse": MemoryConfig(kind="coarse", num_queries=4),
    "scales": MemoryConfig(kind="scales", num_queries=4),
}
BUDGETS = (64, 128, 256, 512)
TRAIN_SEED = 5_000_000  # of scenes; those that are asked about begin at 10 million


def questions(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about the whole of a scene."""
    kinds = dict.fromkeys(("count", "first_after", *whole.KINDS), 1.0)
    asked = ask(scene.events, scene.duration_s, num=24, generator=generator, kinds=kinds)
    return [(question.text, question.answer) for question in asked]


def with_memory(config: MemoryConfig, seed: int = 0) -> LongCompress:
    """The embedded model with other global tokens; learned queries are new."""
    torch.manual_seed(seed)
    model = load("tiny", device="cpu")
    widths = {name: encoder.width for name, encoder in model.encoders.items()}
    model.config = replace(model.config, memory=config)
    model.global_memory = GlobalMemory(config, widths, model.global_memory.summaries)
    return model


def learn(form: str, shards: Path, out: Path, steps: int | None, seed: int) -> None:
    """Train a form, from its last checkpoint if it has any; its model is in out/model."""
    recipe = load_config(StageRecipe, HERE / "learn.yaml")
    recipe = replace(recipe, shards=[str(shards)], steps=steps or recipe.steps, seed=seed)
    if form == "learned":
        recipe = replace(recipe, train=[*recipe.train, "memory"], rates={**recipe.rates, "memory": 0.01})
    train_stage(with_memory(FORMS[form], seed), recipe, out, resume=last_checkpoint(out) is not None)


def longcompress(*words: str) -> None:
    """Run a command of longcompress, and print it."""
    print("$ longcompress", *words, flush=True)
    subprocess.run([sys.executable, "-m", "longcompress", *words], check=True)


def main(words: Sequence[str] | None = None) -> None:
    """All stages; stages that are complete are not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of models, shards and answers")
    parser.add_argument("--forms", nargs="*", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--videos", type=int, default=400, help="synthetic videos to train on")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of each")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--test-videos", type=int, default=100)
    parser.add_argument("--steps", type=int, help="of every form, to try the command")
    options = parser.parse_args(words)
    out: Path = options.out
    shards = out / "shards"
    if not (shards / "index.json").is_file():
        seeds = range(TRAIN_SEED, TRAIN_SEED + options.videos)
        tiny = load("tiny", device="cpu")  # with the mean's summaries, its shards serve every form
        synthetic_shards(tiny, seeds, 60 * options.minutes, shards, questions=questions)
    for form in options.forms:
        model = out / form / "model"
        if not (model / "config.json").is_file():
            learn(form, shards, out / form, options.steps, options.seed)
        longcompress(
            "eval", "run", "synthetic_whole", "--model", str(model), "--device", "cpu",
            "--minutes", f"{options.minutes:g}", "--num-videos", str(options.test_videos),
            "--budgets", *map(str, BUDGETS), "--out", str(out / f"{form}.jsonl"),
        )  # fmt: skip
    for form in options.forms:
        for budget in BUDGETS:
            if form != "none" and "none" in options.forms:
                print(f"{budget} tokens, {form} less none:", flush=True)
                longcompress(
                    "eval", "pairs", *(str(out / f"{name}.{budget}.jsonl") for name in (form, "none"))
                )


if __name__ == "__main__":
    main()
