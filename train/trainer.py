"""transformers' Trainer, set up for this project's recipes."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

WEIGHTS = "trained.safetensors"


class PartTrainer(Trainer):
    """A Trainer that saves and loads only what is trained; parameters that share memory are saved once."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Of several processes each reads its own part, as the data set deals it; nobody deals it again."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator, num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )  # fmt: skip

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        module = self.accelerator.unwrap_model(self.model)
        trained = {n: p.detach().contiguous() for n, p in module.named_parameters() if p.requires_grad}
        save_file(trained, folder / WEIGHTS)  # named_parameters gives shared ones once
        torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint))


def load_trained(module: nn.Module, folder: Path) -> None:
    """Load what `PartTrainer` saved; every trained parameter must be there, and no other."""
    given = load_file(folder / WEIGHTS)
    want = {n for n, p in module.named_parameters() if p.requires_grad}
    if set(given) != want:
        raise ValueError(
            f"{folder / WEIGHTS} must hold the parameters that are trained; "
            f"missing {sorted(want - set(given))[:3]}, unknown {sorted(set(given) - want)[:3]}"
        )
    module.load_state_dict(given, strict=False)


class AllLearn(TrainerCallback):
    """Stops a training in whose first step a parameter that is to be trained got no gradient."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.looked = module, False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Looks once."""
        if self.looked:
            return
        self.looked = True
        idle = [n for n, p in self.module.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise ValueError(
                f"{len(idle)} parameters that are to be trained got no gradient, such as {idle[0]!r}"
            )


class StopsWhenTold(TrainerCallback):
    """On SIGTERM the step that runs is finished, a checkpoint saved, and training ends."""

    def __init__(self) -> None:
        self.told = False
        self.before: Any = None

    def listen(self) -> None:
        """From now on; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._tell)

    def leave(self) -> None:
        """As it was before."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the training if that was asked for."""
        if self.told:
            control.should_save = control.should_training_stop = True

    def _tell(self, *_: object) -> None:
        self.told = True


class Joined(torch.optim.Optimizer):
    """Several optimizers as one, each with its own parameters; a scheduler scales all their rates."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([p for o in parts for g in o.param_groups for p in g["params"]], {})
        self.parts = list(parts)
        self.param_groups = [g for o in parts for g in o.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """State of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [g for o in self.parts for g in o.param_groups]


def with_muon(module: nn.Module, lr: float) -> Joined:
    """Muon (Jordan et al. 2024; scaled as Liu et al., arXiv 2502.16982) for the matrices of the layers, AdamW
    for all else that is trained."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = [n for n, p in trained.items() if p.dim() == 2 and "layers" in n.split(".")]
    rest = [p for n, p in trained.items() if n not in matrices]
    return Joined(
        [
            torch.optim.Muon(
                [trained[n] for n in matrices], lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
    )


def place() -> tuple[int, int]:
    """(rank, world) of this process among those that train together, as torchrun says."""
    state = PartialState(cpu=True)
    return state.process_index, state.num_processes


def run(
    module: nn.Module, data: Dataset[Any], collate: Any, *, steps: int, batch: int, lr: float, warmup: int,
    decay: float, out: Path, workers: int, seed: int, bf16: bool = False, save_every: int = 0,
    muon: bool = False, resume: str | None = None, log_every: int = 25,
) -> bool:  # fmt: skip
    """Train the parameters of `module` that require a gradient on an endless data set, on the CPU.

    Returns False if SIGTERM ended it early, with a checkpoint of the last step.

    Args:
        module: takes a batch as keywords, returns {"loss": ...}.
        data: iterable.
        collate: makes a batch of a list of its items; None: the default.
        steps: optimizer steps.
        batch: items a step.
        lr: highest learning rate, reached after `warmup` steps, falling over the last share `decay` of the
            steps.
        out: folder for checkpoints.
        workers: loader processes.
        seed: of what the Trainer draws.
        bf16: autocast.
        save_every: steps between checkpoints; 0: none.
        muon: Muon for the matrices of the layers; else AdamW for all.
        resume: a checkpoint to go on from; `data` must begin where it stopped.
        log_every: steps between lines of the log.

    Raises:
        ValueError: a parameter that is to be trained got no gradient in the first step.
    """
    falling = int(decay * steps)
    args = TrainingArguments(
        output_dir=str(out), max_steps=steps, per_device_train_batch_size=batch, learning_rate=lr,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": falling,
            "num_stable_steps": max(0, steps - falling - warmup),
            "min_lr_ratio": 0.02,
        },
        warmup_steps=warmup, weight_decay=0.01, max_grad_norm=1.0, adam_beta2=0.98, use_cpu=True, bf16=bf16,
        logging_steps=log_every, save_strategy="steps" if save_every else "no", save_steps=save_every or 1,
        save_total_limit=1, report_to=[], dataloader_num_workers=workers,
        dataloader_prefetch_factor=4 if workers else None, remove_unused_columns=False, seed=seed,
        label_names=["labels"],
        accelerator_config={"dispatch_batches": False},  # batches are whole as they come
        ignore_data_skip=True,
    )  # fmt: skip
    stops = StopsWhenTold()
    trainer = PartTrainer(
        model=module, args=args, train_dataset=data, data_collator=collate,
        optimizers=(with_muon(module, lr) if muon else None, None), callbacks=[AllLearn(module), stops],
    )  # fmt: skip
    stops.listen()
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:
        stops.leave()
    return not stops.told
