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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median_high
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..checkpoints.apply import merge_lora
from ..files import write_json
from ..llm import learned_places
from ..llm.calibrate import embedding_norm
from ..model import LongCompress
from .data.dataset import BadSample, Loaded, QuestionConfig, ShardData, check_features
from .data.duet_samples import collate_duets
from .data.live_samples import LiveTask
from .data.sampler import BatchSampler, BatchSizes, weights_of
from .data.streaming import StreamData
from .engine import Engine, Schedule
from .model_card import write_card
from .projector_init import collect, fit_projectors, report
from .projector_pairs import Sums
from .shards.index import Index, load_index
from .shards.stream import ShardStream
from .trainer import PartTrainer, run, trained_state
from .validation import Validation

PARTS = ("projectors", "time", "memory", "lora", "heads")
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
        reader: "indexed" reads samples by their places in shards, in an order that any number of ranks and
            workers shares and that resumes exactly; "webdataset" reads shards from end to end, each by one
            rank's worker, and resumes in a new order.
        shuffle: samples that reader webdataset shuffles among each other, all held in memory; 0: shards and
            samples in their order.
        cache: folder that whole shards of URLs are kept in; "": samples are read by ranges, each time.
        questions: which questions are sampled.
        budgets: tokens of a video; one budget is sampled for each step.
        max_tokens: video tokens of a step, of all ranks together.
        min_videos: videos of a step; at least ranks x engine.accumulate.
        max_videos: videos of a step; 0: `max_tokens` alone decides. The global batch of a paper is min_videos
            = max_videos.
        row_tokens: samples are packed into rows of this length; 0: a row each, padded.
        train: parts that learn, of projectors (or projectors.audio, of one stream), time, memory (learned
            global tokens), lora, heads (of duets).
        init: how projectors start. "auto": those that are new by least squares (`projector_init`), from the
            shards; "ridge": all, or those of one stream that `train` names; "keep": as the model has them.
        init_samples: samples that they start from, at most.
        text_steps: steps, the first ones, in which a token is the words that are said of its time instead of
            features: questions and times are learned before there is anything to see. No effect on a stock
            model, which has learned to see.
        lora: options of peft.LoraConfig, for part lora.
        merge_lora: merge the adapter that the model comes with before anything else.
        steps: optimizer steps.
        epochs: passes over all samples, instead of steps; needs min_videos = max_videos. 0: steps.
        lr: highest learning rate.
        rates: part (as in `train`) -> its own. Those of projectors and time are in RMS of the language
            model's embeddings: the same rate is the same step on every language model.
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
    reader: Literal["indexed", "webdataset"] = "indexed"
    shuffle: int = 64
    cache: str = ""
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    budgets: list[int] = field(default_factory=lambda: [256])
    max_tokens: int = 2048
    min_videos: int = 1
    max_videos: int = 0
    row_tokens: int = 0
    train: list[str] = field(default_factory=lambda: ["projectors", "time", "lora"])
    init: Literal["auto", "ridge", "keep"] = "auto"
    init_samples: int = 20_000
    text_steps: int = 0
    lora: dict[str, Any] = field(default_factory=lambda: {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05})
    merge_lora: bool = False
    steps: int = 100
    epochs: float = 0.0
    lr: float = 1e-4
    rates: dict[str, float] = field(default_factory=dict)
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
        for name, parts in (("train", self.train), ("rates", list(self.rates))):
            unknown = sorted({part for part in parts if not part.startswith("projectors.")} - set(PARTS))
            if unknown or not self.train:
                hint = (
                    "; shards hold what encoders made: to train their last blocks would take media shards, "
                    "and to decode and encode whole videos in every step"
                )
                need = f"{name} must be some of {', '.join(PARTS)}, got {parts}"
                raise ValueError(need + (hint if "encoders" in unknown else ""))
        if not all(rate > 0 for rate in self.rates.values()) or self.init_samples < 1:
            raise ValueError(
                f"rates must be > 0 and init_samples >= 1, got {self.rates} and {self.init_samples}"
            )
        if self.text_steps < 0 or (self.text_steps and self.questions.is_duet):
            raise ValueError(f"text_steps must be >= 0, and 0 for duets, got {self.text_steps}")
        if self.on_error not in ("quarantine", "stop"):
            raise ValueError(f"on_error must be 'quarantine' or 'stop', got {self.on_error!r}")
        if self.epochs and self.min_videos != self.max_videos:
            raise ValueError(
                "epochs need the same number of videos in each step: min_videos = max_videos, got "
                f"{self.min_videos} and {self.max_videos}"
            )


def train_stage(
    model: LongCompress, recipe: StageRecipe, out: str | Path, *, resume: bool = False,
    samples: Iterable[Any] | None = None,
) -> Path:  # fmt: skip
    """Train `model`, which `Engine.load` loaded, in place from shards. Checkpoints are kept in `out`, which
    `resume` goes on from, the trained model in out/model.

    Args:
        samples: a webdataset pipeline of feature shards, instead of the recipe's shards; mapped by
            `longcompress.train.decode`, or not. It is read again and again.

    Raises:
        KeyboardInterrupt: SIGTERM came; a checkpoint of the last step was saved.
        ValueError: resume without a checkpoint, or of another recipe; a part that isn't there; a parameter to
            be trained without a gradient; a loss that isn't finite.
    """
    if samples is None and not recipe.shards:
        raise ValueError("shards must name at least one folder of indexed feature shards")
    if samples is not None and (recipe.shards or recipe.epochs):
        raise ValueError(
            "samples come instead of shards and have no length: leave shards out, and give steps instead of "
            f"epochs; got shards {recipe.shards} and epochs {recipe.epochs}"
        )
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
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.shards]
    checkpoint = _checkpoint(recipe, out, resume)
    data = data_of(model, recipe, indexes, samples, steps_done(checkpoint), rank, world)
    bad_samples = BadSampleList(out / BAD_SAMPLES)
    if rank == 0 and not resume:
        bad_samples.path.unlink(missing_ok=True)
        write_json(out / RECIPE, asdict(recipe), indent=1)
    streams = streams_to_start(model, recipe)
    budget, sums = median_high(recipe.budgets), Sums("")
    if streams and samples is not None:
        need = f"the projectors of {', '.join(streams)} start from indexed shards, got samples of a pipeline"
        raise ValueError(f'init: {need}; give shards instead, or init "keep" to start as the model is')
    if streams:
        sizes = {"max_samples": recipe.init_samples, "workers": recipe.engine.workers}
        indexed = data_of(model, replace(recipe, reader="indexed"), indexes, None, 0, rank, world)
        assert isinstance(indexed, ShardData)
        sums, held = collect(model, indexed, budget, streams, out, **sizes)
        fits = fit_projectors(model, sums, streams)
        if rank == 0 and not resume:
            report(model, indexed, budget, sums, held, fits, streams, out)
        if other := sorted(set(streams) - {fit.stream for fit in fits}):
            fault = (
                f"init: the projectors of {', '.join(other)} can't start by least squares: the shards hold "
                "no tokens of theirs with different texts (events, captions, dialogues) said of them; add "
                "annotations, or give --init keep to start as the model is"
            )
            if recipe.init == "ridge":
                raise ValueError(fault)
            warnings.warn(fault + ", which is what happens now", stacklevel=2)
    torch.manual_seed(recipe.seed)
    trained = prepare(model, recipe)
    if rank == 0:
        print(trained_text(model, trained), flush=True)
    unit = embedding_norm(model.llm) / model.llm.lm.get_input_embeddings().weight.shape[1] ** 0.5
    units = {"lora": 1.0, "memory": 1.0, "heads": 1.0}
    rates = {part: rate * units.get(part, unit) for part, rate in recipe.rates.items()}
    trainer = run(
        module_of(model, recipe), data, _arguments(recipe, out, sum(map(len, indexes))),
        collate=StageCollate(model, recipe.row_tokens, bad_samples), resume=checkpoint,
        validate=_validation(recipe, model, out, rank), rates=rates,
    )  # fmt: skip
    if trainer is None:
        print(f"{out}: stopped by SIGTERM; go on with --resume from {last_checkpoint(out)}", flush=True)
        raise KeyboardInterrupt
    model = _gathered(model, recipe, trainer, sums, streams)
    learned = {part.partition(".")[2] for part in trained if part.startswith("projectors.")}
    model.llm.untrained -= set(model.llm.untrained) if "projectors" in trained else learned
    if rank == 0:
        model.eval().save_pretrained(out / "model")
        write_card(out / "model", model, trained, indexes, asdict(recipe), trainer.state.log_history)
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
            if part == "memory" and model.global_memory.query:
                model.llm.memory = model.global_memory
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


def module_of(model: LongCompress, recipe: StageRecipe) -> nn.Module:
    """What is trained, with its loss."""
    options = recipe.questions.duet
    llm: Any = model.llm
    return LiveTask(llm, options.positive, options.heads) if recipe.questions.is_duet else llm


def streams_to_start(model: LongCompress, recipe: StageRecipe) -> list[str]:
    """The streams whose projectors least squares start; see `StageRecipe.init`."""
    streams = list(model.llm.project)
    if recipe.init != "ridge":
        return [] if recipe.init == "keep" else [name for name in streams if name in model.llm.untrained]
    if not streams:
        raise ValueError(
            f"init: model {model.config.name!r} has no projectors of ours to start; leave it out"
        )
    parts = {part for part in recipe.train if part.startswith("projectors.")}
    return [name for name in streams if not parts or f"projectors.{name}" in parts]


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
                steps[steps_done(path)] = path
    return steps[max(steps)] if steps else None


def steps_done(checkpoint: Path | None) -> int:
    """The optimizer steps that a checkpoint is after: all that data needs to go on from there. 0 of none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _checkpoint(recipe: StageRecipe, out: Path, resume: bool) -> Path | None:
    """The checkpoint to resume from, which must be of the same recipe; None for a new run in a new folder."""
    last = last_checkpoint(out)
    if not resume:
        if last is not None:
            raise ValueError(f"{out} has {last.name} of an earlier run; give --resume, or another folder")
        return None
    if last is None:
        raise ValueError(f"resume: there is no checkpoint in {out}; train without it")
    path, now = out / RECIPE, asdict(recipe)
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
    same = ("lr", "schedule", "decay", "save_steps", "eval_steps", "weight_decay")
    options = {name: getattr(recipe, name) for name in same}
    options["seed"] = recipe.seed + recipe.engine.place()[0]  # ranks drop different values
    return recipe.engine.arguments(out, steps=steps, warmup=warmup, logging_steps=recipe.log_steps, **options)


def data_of(
    model: LongCompress, recipe: StageRecipe, indexes: list[Index], samples: Iterable[Any] | None, start: int,
    rank: int, world: int,
) -> ShardData | StreamData:  # fmt: skip
    """A rank's batches from step `start` on, by the reader that the recipe names."""
    options: dict[str, Any] = {
        "world": world, "accumulate": recipe.engine.accumulate, "on_error": recipe.on_error,
        "text_steps": recipe.text_steps if len(model.llm.project) else 0,
    }  # fmt: skip
    if samples is None and recipe.reader == "indexed":
        batches = batch_sampler(recipe, indexes, start)
        return ShardData(batches, model, recipe.questions, rank=rank, **options)
    if start and rank == 0:
        print(f"the data goes on in a new order at step {start}; reader indexed goes on exactly", flush=True)
    sizes = BatchSizes(recipe.seed, recipe.max_tokens, recipe.budgets, recipe.min_videos, recipe.max_videos)
    check_features(indexes, model)
    sources: list[Iterable[Any]] = [
        ShardStream(index, (recipe.seed, start, i), shuffle=recipe.shuffle, rank=rank, world=world)
        for i, index in enumerate(indexes)
    ]
    weights = weights_of(indexes, recipe.weights or None) if samples is None else [1.0]
    sources = sources if samples is None else [samples]
    return StreamData(sources, weights, sizes, model, recipe.questions, start=start, **options)


def _validation(recipe: StageRecipe, model: LongCompress, out: Path, rank: int) -> Validation | None:
    if not recipe.eval_shards:
        return None
    indexes = [load_index(folder, cache=recipe.cache or None) for folder in recipe.eval_shards]
    budget = median_high(recipe.budgets)
    # a recipe of so many videos a step has tokens without end
    sampler = BatchSampler(indexes, recipe.seed, recipe.max_tokens, [budget], max_videos=recipe.max_videos)
    data = ShardData(sampler, model, recipe.questions)
    sizes = {"num_batches": recipe.eval_batches, "num_answers": recipe.eval_answers}
    module = module_of(model, recipe)
    task = module if isinstance(module, LiveTask) else None
    return Validation(model, data, out=out, rank=rank, task=task, **sizes)


def _gathered(
    model: LongCompress, recipe: StageRecipe, trainer: PartTrainer, sums: Sums, streams: Sequence[str]
) -> LongCompress:
    """The trained model with its parameters in one place; all ranks must call it together."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return model
    values = trained_state(trainer.accelerator.unwrap_model(trainer.model))
    unset_hf_deepspeed_config()  # or a model that is loaded would be sharded by ZeRO 3 at once
    engine = Engine(device="cpu", report=[])
    whole = engine.load(recipe.model)
    fit_projectors(whole, sums, streams)
    prepare(whole, replace(recipe, engine=engine))
    module_of(whole, recipe).load_state_dict(values, strict=False)
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
        self.llm: Any = model.llm
        self.row_tokens, self.bad_samples = row_tokens, bad_samples
        self.rate_fps = model.config.media.rate_fps if model.video is not None else 0.0

    def __call__(self, items: Sequence[Loaded]) -> dict[str, Any]:
        """The arguments of the language model, and `about`, which `PartTrainer` takes out; ValueError if
        no sample of the batch could be used."""
        (loaded,) = items
        if loaded.bad:
            self.bad_samples.append(loaded.number, loaded.bad)
        if not loaded.keys:
            raise ValueError(
                f"batch {loaded.number}: none of its samples could be used; {self.bad_samples.path} says why"
            )
        if loaded.duets:
            batch: dict[str, Any] = collate_duets(loaded.duets, self.llm)
        else:
            batch = self.llm.collate(loaded.examples, row_tokens=self.row_tokens)
            batch["logits_to_keep"] = learned_places(batch["labels"])  # elsewhere they would only take memory
        batch["about"] = {
            "keys": loaded.keys, "tokens": int(batch["attention_mask"].sum()), "video_s": loaded.video_s,
            "frames": loaded.video_s * self.rate_fps,
        }  # fmt: skip
        return batch
