"""A stage of training from shards: which data, what is asked, what is trained; resumed to the bit.

The stages of VTimeLLM (arXiv 2311.18445) and LongVALE (arXiv 2411.19772) are recipes of this form: `align`
trains the projectors alone, `boundary` a LoRA adapter and our own parts, `instruct` merges that adapter and
trains a new one.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..checkpoints.apply import merge_lora
from ..config import to_dict
from ..files import replacing
from ..llm import learned_places
from ..model import LongCompress
from .data.dataset import Bad, Loaded, QuestionSampling, ShardData, counted
from .data.sampler import Mixture
from .engine import Engine
from .model_card import write_card
from .shards.index import Index, load_index
from .trainer import PartTrainer, Run, run, trained_state
from .validation import HeldOut

PARTS = ("projectors", "time", "lora")
BAD, RECIPE = "bad_samples.jsonl", "recipe.json"
FREE = (
    "engine", "steps", "epochs", "save_every", "log_every", "evaluate", "evaluate_every", "evaluate_batches",
    "samples",
)  # fmt: skip
"""Fields that may change between a run and its resumption."""


@dataclass(frozen=True)
class StageRecipe:
    """A stage.

    Attributes:
        model: preset, folder or hub name that it begins with.
        shards: folders or URLs of indexed feature shards.
        weights: of these data sets, one each; empty: as they have samples.
        cache: folder that shards of URLs are kept in; "": they are read by ranges, each time.
        asking: what is asked.
        budgets: tokens of a video, one drawn for each step.
        tokens: video tokens of a step at most, of all ranks together.
        least: videos of a step at least; at least ranks x engine.accumulate.
        most: videos of a step at most; 0: as many as `tokens` lets in. The global batch of a paper is least
            and most alike.
        row_tokens: samples are packed into rows of so many tokens; 0: a row each, padded.
        train: parts that learn, of projectors (or projectors.audio, of one stream), time, lora.
        lora: options of peft.LoraConfig, for part lora.
        merge_lora: merge the adapter that the model comes with before anything else.
        steps: optimizer steps.
        epochs: times that all samples are seen, instead of steps; least and most must be alike. 0: steps.
        lr: highest learning rate.
        warmup: steps to it; below 1, a share of all.
        schedule: "stable": it stays, and falls over the last share `decay` of the steps; "cosine": it falls
            from the warm-up on.
        decay: see schedule.
        weight_decay: of AdamW.
        save_every: steps between checkpoints; 0: none.
        log_every: steps between lines of the log.
        evaluate: folders or URLs of shards that are kept out, to look at while it trains.
        evaluate_every: steps between looks.
        evaluate_batches: batches of a look.
        samples: questions that are answered beside the truth at each look.
        seed: of all that is drawn.
        on_error: "quarantine" lists bad samples in bad_samples.jsonl and goes on, "stop" ends at the first.
        engine: where and how.
    """

    model: str = "tiny"
    shards: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    cache: str = ""
    question_sampling: QuestionSampling = field(default_factory=QuestionSampling)
    budgets: list[int] = field(default_factory=lambda: [256])
    tokens: int = 2048
    least: int = 1
    most: int = 0
    row_tokens: int = 0
    train: list[str] = field(default_factory=lambda: ["projectors", "time", "lora"])
    lora: dict[str, Any] = field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
    merge_lora: bool = False
    steps: int = 100
    epochs: float = 0.0
    lr: float = 1e-4
    warmup: float = 10
    schedule: Literal["stable", "cosine"] = "stable"
    decay: float = 0.4
    weight_decay: float = 0.01
    save_every: int = 0
    log_every: int = 25
    evaluate: list[str] = field(default_factory=list)
    evaluate_every: int = 200
    evaluate_batches: int = 8
    samples: int = 4
    seed: int = 0
    on_error: str = "quarantine"
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        unknown = sorted({part for part in self.train if not part.startswith("projectors.")} - set(PARTS))
        if unknown or not self.train:
            raise ValueError(f"train must be some of {', '.join(PARTS)}, got {self.train}")
        if self.on_error not in ("quarantine", "stop"):
            raise ValueError(f"on_error must be 'quarantine' or 'stop', got {self.on_error!r}")
        if self.epochs and self.least != self.most:
            raise ValueError(
                "epochs need as many videos in each step: least and most alike, got "
                f"{self.least} and {self.most}"
            )


def train_stage(model: LongCompress, recipe: StageRecipe, out: str | Path, *, resume: bool = False) -> Path:
    """Train `model` in place from shards; checkpoints are kept in `out`, the trained model in out/model.

    Args:
        model: what the recipe names, loaded (`Engine.load`).
        recipe: of the stage.
        out: folder.
        resume: go on from the last checkpoint in `out`.

    Raises:
        KeyboardInterrupt: SIGTERM came; a checkpoint of the last step was saved.
        ValueError: resume without a checkpoint, or of another recipe; a part that isn't there; a parameter to
            be trained without a gradient; a loss that isn't finite.
    """
    if not recipe.shards:
        raise ValueError("shards must name at least one folder of indexed feature shards")
    recipe.engine.check()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rank, world = recipe.engine.place()
    _check_batch(recipe, world)
    torch.set_num_threads(recipe.engine.threads)
    torch.manual_seed(recipe.seed)
    trained = prepare(model, recipe)
    if rank == 0:
        print(told(model, trained), flush=True)
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.shards]
    last = last_checkpoint(out)
    if resume:
        if last is None:
            raise ValueError(f"resume: there is no checkpoint in {out}; train without it")
        _check_same(out / RECIPE, recipe)
    elif last is not None:
        raise ValueError(f"{out} has {last.name} of an earlier run; give --resume, or another folder")
    start = int(last.name.rpartition("-")[2]) if resume and last is not None else 0
    data = _data(recipe, model, indexes, start, rank, world)
    rate_fps = model.config.media.rate_fps if model.video is not None else 0.0

    def collate(items: Sequence[Loaded]) -> dict[str, Any]:
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
        batch: dict[str, Any] = model.llm.collate(loaded.examples, row_tokens=recipe.row_tokens)
        batch["kept"] = learned_places(batch["labels"])  # logits of others would only be memory
        batch["about"] = {
            "keys": loaded.keys, "tokens": int(batch["attention_mask"].sum()), "video_s": loaded.video_s,
            "frames": loaded.video_s * rate_fps,
        }  # fmt: skip
        return batch

    if rank == 0 and not resume:
        (out / BAD).unlink(missing_ok=True)
        with replacing(out / RECIPE) as part:
            part.write_text(json.dumps(to_dict(recipe), indent=1) + "\n", encoding="utf8")
    held = _held_out(recipe, model, out, rank)
    samples = sum(len(index) for index in indexes)
    steps = math.ceil(recipe.epochs * samples / recipe.least) if recipe.epochs else recipe.steps
    warmup = round(recipe.warmup if recipe.warmup >= 1 else recipe.warmup * steps)
    plan = Run(
        steps, 1, recipe.lr, warmup, recipe.decay, recipe.seed, schedule=recipe.schedule,
        save_every=recipe.save_every, log_every=recipe.log_every, weight_decay=recipe.weight_decay,
        look_every=recipe.evaluate_every, engine=recipe.engine,
    )  # fmt: skip
    trainer = run(
        model.llm, data, collate, plan, out, resume=last if start else None, look=held.look if held else None
    )
    if trainer is None:
        print(f"{out}: told to stop; go on with --resume from {last_checkpoint(out)}", flush=True)
        raise KeyboardInterrupt
    model = _whole(model, recipe, trainer)
    if rank == 0:
        model.eval().save_pretrained(out / "model")
        write_card(out / "model", model, trained, indexes, to_dict(recipe), trainer.state.log_history)
        _say_bad(out / BAD)
    return out / "model"


def prepare(model: LongCompress, recipe: StageRecipe) -> dict[str, list[nn.Parameter]]:
    """part -> its parameters, which alone need a gradient from now on.

    Raises:
        ValueError: the model has no such part.
    """
    if recipe.merge_lora:
        merge_lora(model)
    recipe.engine.prepare(model.llm.lm)
    model.requires_grad_(False)
    parts: dict[str, list[nn.Parameter]] = {}
    for part in recipe.train:
        if part == "lora":
            if not hasattr(model.llm.lm, "peft_config"):
                model.add_lora(**recipe.lora)
            parts[part] = [p for n, p in model.llm.lm.named_parameters() if "lora_" in n]
        else:
            parts[part] = [] if (module := _module(model, part)) is None else list(module.parameters())
        if not parts[part]:
            raise ValueError(f"train: model {model.config.name!r} has no parameters of part {part!r}")
        for parameter in parts[part]:
            parameter.requires_grad_(True)
    return parts


def _module(model: LongCompress, part: str) -> nn.Module | None:
    """Of a part that isn't LoRA; None where the model lacks it."""
    if part == "time":
        return model.llm.time
    stream = part.partition(".")[2]
    if not stream:
        return model.llm.project
    return dict(model.llm.project.items()).get(stream)


def told(model: LongCompress, trained: Mapping[str, Sequence[nn.Parameter]]) -> str:
    """A line that says what is trained."""
    all_of = sum(p.numel() for p in model.parameters())
    each = ", ".join(f"{part} {sum(p.numel() for p in found):,}" for part, found in trained.items())
    share = sum(p.numel() for found in trained.values() for p in found) / all_of
    return f"trained: {each} parameters, {share:.2%} of {all_of:,}"


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the most steps in a folder; one whose saving was cut short doesn't count."""
    found = [p for p in out.glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit() and _is_whole(p)]
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that a checkpoint's saving ends with is there and can be read."""
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return False


def _check_batch(recipe: StageRecipe, world: int) -> None:
    """The global batch is formed before anyone knows the ranks; what it must be able to do is to be dealt."""
    shares = world * recipe.engine.accumulate
    if recipe.least < shares:
        raise ValueError(
            f"least must be at least ranks x accumulate = {world} x {recipe.engine.accumulate} = {shares}, "
            f"got {recipe.least}; a step's videos couldn't be dealt"
        )
    if recipe.least == recipe.most and recipe.least % shares:
        warnings.warn(
            f"a step's {recipe.least} videos are no multiple of {world} ranks x {recipe.engine.accumulate} "
            "shares; some will wait for others",
            stacklevel=3,
        )


def _check_same(path: Path, recipe: StageRecipe) -> None:
    """ValueError if the run that is to be resumed had another recipe."""
    before, now = json.loads(path.read_text(encoding="utf8")), to_dict(recipe)
    other = sorted(k for k in now if k not in FREE and before.get(k) != now[k])
    if other:
        raise ValueError(
            f"resume: {', '.join(other)} differ from {path}; resume with the same, or begin in another folder"
        )


def _data(
    recipe: StageRecipe, model: LongCompress, indexes: list[Index], start: int, rank: int, world: int
) -> ShardData:
    return ShardData(
        Mixture(indexes, recipe.weights or None), model, recipe.question_sampling, seed=recipe.seed,
        tokens=recipe.tokens, budgets=recipe.budgets, least=recipe.least, most=recipe.most, start=start,
        rank=rank, world=world, accumulate=recipe.engine.accumulate,
        on_error="stop" if recipe.on_error == "stop" else "quarantine",
    )  # fmt: skip


def _held_out(recipe: StageRecipe, model: LongCompress, out: Path, rank: int) -> HeldOut | None:
    if not recipe.evaluate:
        return None
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.evaluate]
    budget = sorted(recipe.budgets)[len(recipe.budgets) // 2]
    data = ShardData(
        Mixture(indexes),
        model,
        recipe.question_sampling,
        seed=recipe.seed,
        tokens=recipe.tokens,
        budgets=[budget],
    )
    return HeldOut(model, data, batches=recipe.evaluate_batches, samples=recipe.samples, out=out, rank=rank)


def _whole(model: LongCompress, recipe: StageRecipe, trainer: PartTrainer) -> LongCompress:
    """The trained model with its parameters in one place; all ranks must call it together."""
    if not (recipe.engine.fsdp or recipe.engine.deepspeed):
        return model
    llm = trainer.accelerator.unwrap_model(trainer.model)
    values = trained_state(llm, trainer.accelerator.get_state_dict(trainer.model))
    plain = Engine(device="cpu", report=[])
    fresh = plain.load(recipe.model)
    prepare(fresh, replace(recipe, engine=plain))
    fresh.llm.load_state_dict(values, strict=False)
    return fresh


def _say_bad(path: Path) -> None:
    """What was left out, by reason."""
    if path.is_file():
        lines = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        bad = [Bad(line["key"], line["reason"]) for line in lines]
        print(f"{path}: {len(bad)} samples were left out: {counted(bad)}", flush=True)
