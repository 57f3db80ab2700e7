"""A stage of training from shards: which data, which questions, what is trained; resumed to the bit.

The stages of VTimeLLM (arXiv 2311.18445) and LongVALE (arXiv 2411.19772) are recipes of this form: `align`
trains the projectors alone, `boundary` a LoRA adapter and our own parts, `instruct` merges that adapter and
trains a new one.
"""

import contextlib
import fcntl
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments

from ..checkpoints.apply import merge_lora
from ..config import to_dict
from ..files import replacing
from ..llm import learned_places
from ..model import LongCompress
from .data.dataset import BadSample, Loaded, QuestionConfig, ShardData
from .data.sampler import BatchSampler
from .engine import Engine, Schedule
from .model_card import write_card
from .shards.index import Index, load_index
from .trainer import PartTrainer, run, trained_state
from .validation import Validation

PARTS = ("projectors", "time", "lora")
BAD_SAMPLES, RECIPE = "bad_samples.jsonl", "recipe.json"
MAY_CHANGE = (
    "engine", "steps", "epochs", "save_steps", "log_steps", "eval_shards", "eval_steps", "eval_batches",
    "eval_answers",
)  # fmt: skip
"""Fields that may change between a run and its resumption."""


@dataclass(frozen=True)
class StageRecipe:
    """A stage.

    Attributes:
        model: preset, folder or hub name of the model to train.
        shards: folders or URLs of indexed feature shards.
        weights: of these data sets, one each; empty: the number of their samples.
        cache: folder that whole shards of URLs are kept in; "": samples are read by ranges, each time.
        questions: which questions are sampled.
        budgets: tokens of a video; one budget is sampled for each step.
        max_tokens: video tokens of a step, of all ranks together.
        min_videos: videos of a step; at least ranks x engine.accumulate.
        max_videos: videos of a step; 0: `max_tokens` alone decides. The global batch of a paper is min_videos
            = max_videos.
        row_tokens: samples are packed into rows of this length; 0: a row each, padded.
        train: parts that learn, of projectors (or projectors.audio, of one stream), time, lora.
        lora: options of peft.LoraConfig, for part lora.
        merge_lora: merge the adapter that the model comes with before anything else.
        steps: optimizer steps.
        epochs: passes over all samples, instead of steps; needs min_videos = max_videos. 0: steps.
        lr: highest learning rate.
        warmup: steps to it; below 1, a share of all.
        schedule: "stable": it stays, and falls over the last share `decay` of the steps; "cosine": it falls
            from the warm-up on.
        decay: see schedule.
        weight_decay: of AdamW.
        save_steps: steps between checkpoints; 0: none.
        log_steps: steps between lines of the log.
        eval_shards: folders or URLs of shards for validation.
        eval_steps: steps between validations.
        eval_batches: batches of a validation.
        eval_answers: questions that each validation answers, printed beside the reference.
        seed: of everything random.
        on_error: "quarantine" lists bad samples in bad_samples.jsonl and goes on, "stop" ends at the first.
        engine: device, precision, sharding.
    """

    model: str = "tiny"
    shards: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    cache: str = ""
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    budgets: list[int] = field(default_factory=lambda: [256])
    max_tokens: int = 2048
    min_videos: int = 1
    max_videos: int = 0
    row_tokens: int = 0
    train: list[str] = field(default_factory=lambda: ["projectors", "time", "lora"])
    lora: dict[str, Any] = field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
    merge_lora: bool = False
    steps: int = 100
    epochs: float = 0.0
    lr: float = 1e-4
    warmup: float = 10
    schedule: Schedule = "stable"
    decay: float = 0.4
    weight_decay: float = 0.01
    save_steps: int = 0
    log_steps: int = 25
    eval_shards: list[str] = field(default_factory=list)
    eval_steps: int = 200
    eval_batches: int = 8
    eval_answers: int = 4
    seed: int = 0
    on_error: Literal["quarantine", "stop"] = "quarantine"
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        unknown = sorted({part for part in self.train if not part.startswith("projectors.")} - set(PARTS))
        if unknown or not self.train:
            hint = (
                "; shards hold what encoders made: to train their last blocks would take media shards, and "
                "to decode and encode whole videos in every step"
            )
            need = f"train must be some of {', '.join(PARTS)}, got {self.train}"
            raise ValueError(need + (hint if "encoders" in unknown else ""))
        if self.on_error not in ("quarantine", "stop"):
            raise ValueError(f"on_error must be 'quarantine' or 'stop', got {self.on_error!r}")
        if self.epochs and self.min_videos != self.max_videos:
            raise ValueError(
                "epochs need the same number of videos in each step: min_videos = max_videos, got "
                f"{self.min_videos} and {self.max_videos}"
            )


def train_stage(model: LongCompress, recipe: StageRecipe, out: str | Path, *, resume: bool = False) -> Path:
    """Train `model`, which `Engine.load` loaded, in place from shards. Checkpoints are kept in `out`, which
    `resume` goes on from, the trained model in out/model.

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
    if recipe.min_videos == recipe.max_videos and recipe.min_videos % (world * recipe.engine.accumulate):
        warnings.warn(
            f"a step's {recipe.min_videos} videos are no multiple of {world} ranks x "
            f"{recipe.engine.accumulate} parts; some ranks will wait for others",
            stacklevel=2,
        )
    torch.set_num_threads(recipe.engine.threads)
    torch.manual_seed(recipe.seed)
    trained = prepare(model, recipe)
    if rank == 0:
        print(trained_text(model, trained), flush=True)
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.shards]
    # the checkpoint's number of steps is all that the data needs to go on from there
    checkpoint = _checkpoint(recipe, out, resume)
    start = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    places = {"rank": rank, "world": world, "accumulate": recipe.engine.accumulate}
    batches = batch_sampler(recipe, indexes, start)
    data = ShardData(batches, model, recipe.questions, on_error=recipe.on_error, **places)
    bad_samples = BadSampleList(out / BAD_SAMPLES)
    if rank == 0 and not resume:
        bad_samples.path.unlink(missing_ok=True)
        with replacing(out / RECIPE) as part:
            part.write_text(json.dumps(to_dict(recipe), indent=1) + "\n", encoding="utf8")
    trainer = run(
        model.llm, data, _arguments(recipe, out, sum(map(len, indexes))),
        collate=StageCollate(model, recipe.row_tokens, bad_samples), resume=checkpoint,
        validate=_validation(recipe, model, out, rank),
    )  # fmt: skip
    if trainer is None:
        print(f"{out}: stopped by SIGTERM; go on with --resume from {last_checkpoint(out)}", flush=True)
        raise KeyboardInterrupt
    model = _gathered(model, recipe, trainer)
    if rank == 0:
        model.eval().save_pretrained(out / "model")
        write_card(out / "model", model, trained, indexes, to_dict(recipe), trainer.state.log_history)
        if summary := bad_samples.summary():
            print(summary, flush=True)
    return out / "model"


def prepare(model: LongCompress, recipe: StageRecipe) -> dict[str, list[nn.Parameter]]:
    """part -> its parameters, which alone need a gradient from now on; ValueError: there is no such part."""
    if recipe.merge_lora:
        merge_lora(model)
    recipe.engine.prepare(model.llm.lm)
    model.llm.backend = recipe.engine.attention
    model.requires_grad_(False)
    parts: dict[str, list[nn.Parameter]] = {}
    for part in recipe.train:
        if part == "lora":
            if not hasattr(model.llm.lm, "peft_config"):
                model.add_lora(**recipe.lora)
            parts[part] = [p for n, p in model.llm.lm.named_parameters() if "lora_" in n]
        else:
            root = part.replace("projectors", "project") + "."
            named = model.llm.named_parameters(remove_duplicate=False)
            parts[part] = [p for n, p in named if n.startswith(root)]
        if not parts[part]:
            raise ValueError(
                f"train: model {model.config.name!r} has no parameters of part {part!r}; leave it out (a "
                "stock model has lora alone)"
            )
        for parameter in parts[part]:
            parameter.requires_grad_(True)
    return parts


def trained_text(model: LongCompress, trained: Mapping[str, Sequence[nn.Parameter]]) -> str:
    """A line with the number of trained parameters by part."""
    total = sum(p.numel() for p in model.parameters())
    counts = {part: sum(p.numel() for p in parameters) for part, parameters in trained.items()}
    text = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"trained: {text} parameters, {sum(counts.values()) / total:.2%} of {total:,}"


def last_checkpoint(out: Path) -> Path | None:
    """The checkpoint of the most steps in a folder; a save that was cut short doesn't count."""
    steps: dict[int, Path] = {}
    for path in out.glob("checkpoint-*"):
        # a save is whole where the file that it ends with can be read
        with contextlib.suppress(OSError, ValueError):
            if "global_step" in json.loads((path / "trainer_state.json").read_text(encoding="utf8")):
                steps[int(path.name.rpartition("-")[2])] = path
    return steps[max(steps)] if steps else None


def _checkpoint(recipe: StageRecipe, out: Path, resume: bool) -> Path | None:
    """The checkpoint to resume from, which must be of the same recipe; None for a new run in a new folder."""
    last = last_checkpoint(out)
    if not resume:
        if last is not None:
            raise ValueError(f"{out} has {last.name} of an earlier run; give --resume, or another folder")
        return None
    if last is None:
        raise ValueError(f"resume: there is no checkpoint in {out}; train without it")
    path, now = out / RECIPE, to_dict(recipe)
    before = json.loads(path.read_text(encoding="utf8"))
    if changed := ", ".join(sorted(k for k in now if k not in MAY_CHANGE and before.get(k) != now[k])):
        hint = "resume with the same, or train in another folder"
        raise ValueError(f"resume: {changed} differ from {path}; {hint}")
    return last


def batch_sampler(recipe: StageRecipe, indexes: list[Index], start: int = 0) -> BatchSampler:
    """The batches of a stage from number `start` on."""
    return BatchSampler(
        indexes, recipe.seed, recipe.max_tokens, recipe.budgets, recipe.min_videos, recipe.max_videos, start,
        recipe.weights or None,
    )  # fmt: skip


def _arguments(recipe: StageRecipe, out: Path, num_samples: int) -> TrainingArguments:
    steps = math.ceil(recipe.epochs * num_samples / recipe.min_videos) if recipe.epochs else recipe.steps
    warmup = round(recipe.warmup if recipe.warmup >= 1 else recipe.warmup * steps)
    same = ("lr", "schedule", "decay", "save_steps", "eval_steps", "weight_decay", "seed")
    options = {name: getattr(recipe, name) for name in same}
    return recipe.engine.arguments(out, steps=steps, warmup=warmup, logging_steps=recipe.log_steps, **options)


def _validation(recipe: StageRecipe, model: LongCompress, out: Path, rank: int) -> Validation | None:
    if not recipe.eval_shards:
        return None
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.eval_shards]
    budget = sorted(recipe.budgets)[len(recipe.budgets) // 2]
    sampler = BatchSampler(indexes, recipe.seed, recipe.max_tokens, [budget])
    data = ShardData(sampler, model, recipe.questions)
    sizes = {"num_batches": recipe.eval_batches, "num_answers": recipe.eval_answers}
    return Validation(model, data, out=out, rank=rank, **sizes)


def _gathered(model: LongCompress, recipe: StageRecipe, trainer: PartTrainer) -> LongCompress:
    """The trained model with its parameters in one place; all ranks must call it together."""
    if not (recipe.engine.fsdp or recipe.engine.deepspeed):
        return model
    llm = trainer.accelerator.unwrap_model(trainer.model)
    values = trained_state(llm, trainer.accelerator.get_state_dict(trainer.model))
    engine = Engine(device="cpu", report=[])
    whole = engine.load(recipe.model)
    prepare(whole, replace(recipe, engine=engine))
    whole.llm.load_state_dict(values, strict=False)
    return whole


@dataclass(frozen=True)
class BadSampleList:
    """A JSONL file of samples that could not be used; any number of processes may append to it."""

    path: Path

    def append(self, number: int, bad: Sequence[BadSample]) -> None:
        """Add the bad samples of batch `number`: whole lines, whatever other processes write meanwhile."""
        lines = [{"batch": number, "key": sample.key, "reason": sample.reason} for sample in bad]
        with open(self.path, "a", encoding="utf8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, which comes after the last byte
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def summary(self) -> str:
        """A line with the number of bad samples and of each reason; "" without any."""
        if not self.path.is_file():
            return ""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf8").splitlines()]
        reasons = Counter(line["reason"] for line in lines)
        counts = "; ".join(f"{num} x {reason}" for reason, num in reasons.most_common())
        return f"{self.path}: {len(lines)} samples were left out: {counts}"


class StageCollate:
    """Makes the batch of a step of one `Loaded`, by `CausalLM.collate`; runs in the worker processes."""

    def __init__(self, model: LongCompress, row_tokens: int, bad_samples: BadSampleList) -> None:
        self.llm, self.row_tokens, self.bad_samples = model.llm, row_tokens, bad_samples
        self.rate_fps = model.config.media.rate_fps if model.video is not None else 0.0

    def __call__(self, items: Sequence[Loaded]) -> dict[str, Any]:
        """The arguments of the language model, and `about`, which `PartTrainer` takes out; ValueError if
        no sample of the batch could be used."""
        (loaded,) = items
        if loaded.bad:
            self.bad_samples.append(loaded.number, loaded.bad)
        if not loaded.examples:
            raise ValueError(
                f"batch {loaded.number}: none of its samples could be used; {self.bad_samples.path} says why"
            )
        batch: dict[str, Any] = self.llm.collate(loaded.examples, row_tokens=self.row_tokens)
        batch["logits_to_keep"] = learned_places(batch["labels"])  # logits elsewhere would only take memory
        batch["about"] = {
            "keys": loaded.keys, "tokens": int(batch["attention_mask"].sum()), "video_s": loaded.video_s,
            "frames": loaded.video_s * self.rate_fps,
        }  # fmt: skip
        return batch
