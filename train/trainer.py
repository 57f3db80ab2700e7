"""transformers' Trainer, set up for this project's recipes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from .callbacks import AllLearn, EveryStep, Meter, StopsWhenTold
from .engine import Engine
from .tiny.muon import with_muon

WEIGHTS = "trained.safetensors"


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        steps: optimizer steps.
        batch: items of the data set a step.
        lr: highest learning rate, reached after `warmup` steps.
        warmup: see lr.
        decay: share of the steps, at the end, over which it falls, of schedule "stable".
        seed: of what the Trainer draws.
        schedule: "stable", or "cosine": it falls from the warm-up on.
        save_every: steps between checkpoints; 0: none.
        log_every: steps between lines of the log.
        weight_decay: of AdamW.
        look_every: steps between calls of `look`.
        muon: Muon for the matrices of the layers; else AdamW for all.
        engine: where and how.
    """

    steps: int
    batch: int
    lr: float
    warmup: int
    decay: float
    seed: int
    schedule: Literal["stable", "cosine"] = "stable"
    save_every: int = 0
    log_every: int = 25
    weight_decay: float = 0.01
    look_every: int = 200
    muon: bool = False
    engine: Engine = field(default_factory=lambda: Engine(report=[]))


class PartTrainer(Trainer):
    """A Trainer that saves and loads only what is trained; parameters that share memory are saved once.

    A batch may carry `about`: keys, and what `Meter` counts; a loss that isn't finite ends the training with
    these keys.
    """

    meter: Meter

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of several processes each reads its own part, as the data set deals it; nobody deals it again."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator, num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )  # fmt: skip

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """Batches of a step; the time that they took to come is noted."""
        begin = time.perf_counter()
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.wait_s += time.perf_counter() - begin
        return found

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        """The loss of a batch, its gradients added.

        Raises:
            ValueError: it isn't finite.
        """
        about = inputs.pop("about", {})
        loss: Tensor = super().training_step(model, inputs, *args, **options)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"step {self.state.global_step + 1}: the loss is {float(loss)}, from samples "
                f"{about.get('keys', [])}; look at them, or lower the learning rate"
            )
        self.meter.add(about)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """A line of the log, with how fast it goes."""
        if "loss" in logs:
            logs = logs | self.meter.take(self.args.device)
        super().log(logs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        module = self.accelerator.unwrap_model(self.model)
        trained = trained_state(module, state_dict)  # of sharded parameters all ranks bring their part
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(trained, folder / WEIGHTS)
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint))


def trained_state(module: nn.Module, whole: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Name -> value of all parameters that are trained, each once, also of sharded ones.

    Args:
        module: whose; where its parameters are sharded, all ranks must call this together.
        whole: its state, where something else has gathered that already.
    """
    names = {n: p for n, p in module.named_parameters() if p.requires_grad}  # gives shared ones once
    found = {}
    for name, parameter in names.items():
        value = parameter.detach() if whole is None or name not in whole else whole[name]
        found[name] = (value.full_tensor() if isinstance(value, DTensor) else value).contiguous()
    return found


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: it can't be written, the disk being full for instance.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def load_trained(module: nn.Module, folder: Path) -> None:
    """Load what `PartTrainer` saved, sharded or not; every trained parameter must be there, and no other."""
    given = load_file(folder / WEIGHTS)
    want = {n for n, p in module.named_parameters() if p.requires_grad}
    if set(given) != want:
        raise ValueError(
            f"{folder / WEIGHTS} must hold the parameters that are trained; "
            f"missing {sorted(want - set(given))[:3]}, unknown {sorted(set(given) - want)[:3]}"
        )
    for name, parameter in module.named_parameters():
        if name in given and isinstance(parameter, DTensor):
            given[name] = distribute_tensor(
                given[name].to(parameter.device), parameter.device_mesh, parameter.placements
            )
    module.load_state_dict(given, strict=False)


def run(
    module: nn.Module, data: Dataset[Any], collate: Any, plan: Run, out: Path, *,
    resume: Path | None = None, look: Callable[[int], dict[str, float]] | None = None,
) -> PartTrainer | None:  # fmt: skip
    """Train the parameters of `module` that require a gradient on an endless data set.

    Returns the trainer, or None if SIGTERM ended it early, with a checkpoint of the last step.

    Args:
        module: takes a batch as keywords, returns {"loss": ...}.
        data: iterable.
        collate: makes a batch of a list of its items; None: the default.
        plan: how.
        out: folder for checkpoints.
        resume: a checkpoint to go on from; `data` must begin where it stopped.
        look: called with a step's number every so many steps and after the last; what it gives is logged.

    Raises:
        ValueError: a parameter that is to be trained got no gradient in the first step, or a loss is not
            finite.
    """
    args = plan.engine.arguments(
        out, max_steps=plan.steps, per_device_train_batch_size=plan.batch, learning_rate=plan.lr,
        lr_scheduler_type="cosine" if plan.schedule == "cosine" else "warmup_stable_decay",
        lr_scheduler_kwargs={}
        if plan.schedule == "cosine"
        else {"num_decay_steps": int(plan.decay * plan.steps), "min_lr_ratio": 0.02},
        warmup_steps=plan.warmup, weight_decay=plan.weight_decay, max_grad_norm=1.0, adam_beta2=0.98,
        logging_steps=plan.log_every, save_strategy="steps" if plan.save_every else "no",
        save_steps=plan.save_every or 1, save_total_limit=1, remove_unused_columns=False, seed=plan.seed,
        label_names=["labels"], ignore_data_skip=True,
        accelerator_config={"dispatch_batches": False},  # batches are whole as they come
    )  # fmt: skip
    stops = StopsWhenTold()
    trainer = PartTrainer(
        model=module, args=args, train_dataset=data, data_collator=collate,
        optimizers=(with_muon(module, plan.lr) if plan.muon else None, None),
        callbacks=[AllLearn(module), stops],
    )  # fmt: skip
    trainer.meter = Meter()
    if look is not None:
        trainer.add_callback(EveryStep(plan.look_every, lambda step: trainer.log(look(step))))
    stops.listen()
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    finally:
        stops.leave()
    return None if stops.told else trainer
