"""transformers' Trainer for this project: saves the trained parameters alone, logs speed, ends on SIGTERM."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from .callbacks import CheckGradients, EverySteps, StopOnSignal, Throughput
from .loaders import plain_errors
from .muon import with_muon

WEIGHTS = "trained.safetensors"


class PartTrainer(Trainer):
    """A Trainer that saves and loads only what is trained; parameters that share memory are saved once.

    A batch may carry `about`: keys, and what `Throughput` counts. A loss that isn't finite ends the training
    with these keys.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.throughput = Throughput()

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The data set deals its samples to ranks itself; accelerate must not deal them again."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator, num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )  # fmt: skip

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """Batches of a step; the wait for them is measured."""
        start_s = time.perf_counter()
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.wait_s += time.perf_counter() - start_s
        return batches

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        """The loss of a batch, its gradients added; a ValueError if it isn't finite."""
        about = inputs.pop("about", {})
        loss: Tensor = super().training_step(model, inputs, *args, **options)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"step {self.state.global_step + 1}: the loss is {float(loss)}, from samples "
                f"{about.get('keys', [])}; look at them, or lower the learning rate"
            )
        self.throughput.add(about)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """A line of the log, with the speed of the training."""
        if "loss" in logs:
            logs = logs | self.throughput.rates(self.args.device)
            self.throughput = Throughput()
        super().log(logs, *args, **options)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        module = self.accelerator.unwrap_model(self.model)
        trained = trained_state(module, state_dict)  # of sharded parameters all ranks bring their part
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(trained, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint))


def trained_state(module: nn.Module, gathered: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Name -> value of all parameters that are trained, each once, also of sharded ones.

    Args:
        module: owner of the parameters; if they are sharded, all ranks must call this together.
        gathered: its whole state, where another part has gathered that already.
    """
    state = {}
    for name, parameter in module.named_parameters():  # gives shared ones once
        if parameter.requires_grad:
            value = parameter.detach() if gathered is None or name not in gathered else gathered[name]
            state[name] = (value.full_tensor() if isinstance(value, DTensor) else value).contiguous()
    return state


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; an OSError if it can't be written, the disk being full for instance."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def load_trained(module: nn.Module, folder: Path) -> None:
    """Load what `PartTrainer` saved, sharded or not; it must hold every trained parameter, and no other."""
    state = load_file(folder / WEIGHTS)
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    if set(state) != trained:
        raise ValueError(
            f"{folder / WEIGHTS} must hold the parameters that are trained; "
            f"missing {sorted(trained - set(state))[:3]}, unknown {sorted(set(state) - trained)[:3]}"
        )
    for name, parameter in module.named_parameters():
        if name in state and isinstance(parameter, DTensor):
            state[name] = distribute_tensor(
                state[name].to(parameter.device), parameter.device_mesh, parameter.placements
            )
    module.load_state_dict(state, strict=False)


def run(
    module: nn.Module, data: Dataset[Any], args: TrainingArguments, *, collate: Any = None,
    resume: Path | None = None, validate: Callable[[int], dict[str, float]] | None = None, muon: bool = False,
) -> PartTrainer | None:  # fmt: skip
    """Train the parameters of `module` that require a gradient on an endless data set.

    Returns the trainer, or None if SIGTERM ended it early, with a checkpoint of the last step.

    Args:
        module: takes a batch as keywords, returns {"loss": ...}.
        data: iterable.
        args: steps, learning rate, checkpoints and the rest, of `Engine.arguments`.
        collate: makes a batch of a list of its items; None: the default.
        resume: a checkpoint to go on from; `data` must start at its step.
        validate: called with a step's number every args.eval_steps and after the last; its result is logged.
        muon: Muon for the matrices of the layers; else AdamW for all.

    Raises:
        ValueError: a parameter that is to be trained got no gradient in the first step, or a loss is not
            finite.
    """
    stop = StopOnSignal()
    trainer = PartTrainer(
        model=module, args=args, train_dataset=data, data_collator=collate,
        optimizers=(with_muon(module, args.learning_rate) if muon else None, None),
        callbacks=[CheckGradients(module), stop],
    )  # fmt: skip
    if validate is not None:
        trainer.add_callback(EverySteps(int(args.eval_steps), lambda step: trainer.log(validate(step))))
    with stop.listening(), plain_errors():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return None if stop.requested else trainer
