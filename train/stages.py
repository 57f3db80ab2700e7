"""A stage of training from shards: which data, what is asked, what is trained; resumed to the bit.

The stages of VTimeLLM (arXiv 2311.18445) and LongVALE (arXiv 2411.19772) are recipes of this form: `align`
trains the projectors alone, `boundary` a LoRA adapter and our own parts, `instruct` merges that adapter and
trains a new one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model import LongCompress
from .data import Asking, Loaded, ShardData
from .index import load_index
from .order import Mixture
from .trainer import place, run

PARTS = ("projectors", "time", "lora")
BAD = "bad_samples.jsonl"


@dataclass(frozen=True)
class StageRecipe:
    """A stage.

    Attributes:
        model: preset, folder or hub name that it begins with.
        shards: folders of indexed feature shards.
        weights: of these data sets, one each; empty: as they have samples.
        asking: what is asked.
        budgets: tokens of a film, one drawn for each step.
        tokens: film tokens of a step at most, of all ranks together.
        least: films of a step at least; of several processes as many as there are.
        train: parts that learn, of projectors, time, lora.
        lora: options of peft.LoraConfig, for part lora.
        merge_lora: merge the adapter that the model comes with before anything else.
        steps: optimizer steps.
        lr: highest learning rate.
        warmup: steps to it.
        decay: share of the steps, at the end, over which it falls.
        save_every: steps between checkpoints; 0: none.
        log_every: steps between lines of the log.
        seed: of all that is drawn.
        workers: loader processes.
        on_error: "quarantine" lists bad samples in bad_samples.jsonl and goes on, "stop" ends at the first.
        bf16: autocast.
        threads: torch threads.
    """

    model: str = "tiny"
    shards: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    asking: Asking = field(default_factory=Asking)
    budgets: list[int] = field(default_factory=lambda: [256])
    tokens: int = 2048
    least: int = 1
    train: list[str] = field(default_factory=lambda: ["projectors", "time", "lora"])
    lora: dict[str, Any] = field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
    merge_lora: bool = False
    steps: int = 100
    lr: float = 1e-4
    warmup: int = 10
    decay: float = 0.4
    save_every: int = 0
    log_every: int = 25
    seed: int = 0
    workers: int = 1
    on_error: str = "quarantine"
    bf16: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        unknown = sorted(set(self.train) - set(PARTS))
        if unknown or not self.train:
            raise ValueError(f"train must be some of {', '.join(PARTS)}, got {self.train}")
        if self.on_error not in ("quarantine", "stop"):
            raise ValueError(f"on_error must be 'quarantine' or 'stop', got {self.on_error!r}")


def train_stage(model: LongCompress, recipe: StageRecipe, out: str | Path, *, resume: bool = False) -> Path:
    """Train `model` in place from shards; checkpoints are kept in `out`, the trained model in out/model.

    Args:
        model: what the recipe names, loaded.
        recipe: of the stage.
        out: folder.
        resume: go on from the last checkpoint in `out`.

    Raises:
        KeyboardInterrupt: SIGTERM came; a checkpoint of the last step was saved.
        ValueError: resume without a checkpoint; a part that isn't there; a parameter to be trained without
            a gradient.
    """
    if not recipe.shards:
        raise ValueError("shards must name at least one folder of indexed feature shards")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    trained = prepare(model, recipe)
    print(told(model, trained), flush=True)
    mixture = Mixture([load_index(folder) for folder in recipe.shards], recipe.weights or None)
    last = last_checkpoint(out)
    if resume and last is None:
        raise ValueError(f"resume: there is no checkpoint in {out}; train without it")
    start = int(last.name.rpartition("-")[2]) if resume and last is not None else 0
    rank, world = place()
    data = ShardData(
        mixture, model, recipe.asking, seed=recipe.seed, tokens=recipe.tokens, budgets=recipe.budgets,
        least=max(recipe.least, world), start=start, rank=rank, world=world,
        on_error="stop" if recipe.on_error == "stop" else "quarantine",
    )  # fmt: skip

    def collate(items: Sequence[Loaded]) -> dict[str, Tensor]:
        (loaded,) = items
        if loaded.bad:
            with open(out / BAD, "a", encoding="utf8") as file:
                for one in loaded.bad:
                    line = {"batch": loaded.number, "key": one.key, "reason": one.reason}
                    file.write(json.dumps(line) + "\n")
        if not loaded.examples:
            raise ValueError(
                f"batch {loaded.number}: none of its samples could be used; {out / BAD} says why"
            )
        return model.host.collate(loaded.examples)

    whole = run(
        model.host, data, collate, steps=recipe.steps, batch=1, lr=recipe.lr, warmup=recipe.warmup,
        decay=recipe.decay, out=out, workers=recipe.workers, seed=recipe.seed, bf16=recipe.bf16,
        save_every=recipe.save_every, resume=str(last) if start else None, log_every=recipe.log_every,
    )  # fmt: skip
    if not whole:
        print(f"{out}: told to stop; go on with --resume from {last_checkpoint(out)}", flush=True)
        raise KeyboardInterrupt
    if rank == 0:
        model.eval().save_pretrained(out / "model")
    return out / "model"


def prepare(model: LongCompress, recipe: StageRecipe) -> dict[str, list[nn.Parameter]]:
    """part -> its parameters, which alone need a gradient from now on.

    Raises:
        ValueError: the model has no such part.
    """
    if recipe.merge_lora:
        if not hasattr(model.host.lm, "merge_and_unload"):
            raise ValueError(f"merge_lora: model {model.config.name!r} comes without an adapter")
        model.host.lm = model.host.lm.merge_and_unload()
    model.requires_grad_(False)
    parts: dict[str, list[nn.Parameter]] = {}
    for part in recipe.train:
        if part == "lora":
            if not hasattr(model.host.lm, "peft_config"):
                model.add_lora(**recipe.lora)
            parts[part] = [p for n, p in model.host.lm.named_parameters() if "lora_" in n]
        else:
            module = model.host.project if part == "projectors" else model.host.time
            parts[part] = [] if module is None else list(module.parameters())
        if not parts[part]:
            raise ValueError(f"train: model {model.config.name!r} has no parameters of part {part!r}")
        for parameter in parts[part]:
            parameter.requires_grad_(True)
    return parts


def told(model: LongCompress, trained: Mapping[str, Sequence[nn.Parameter]]) -> str:
    """A line that says what is trained."""
    all_of = sum(p.numel() for p in model.parameters())
    each = ", ".join(f"{part} {sum(p.numel() for p in found):,}" for part, found in trained.items())
    share = sum(p.numel() for found in trained.values() for p in found) / all_of
    return f"trained: {each} parameters, {share:.2%} of {all_of:,}"


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the most steps in a folder."""
    found = [p for p in out.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)
