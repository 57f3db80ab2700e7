"""transformers' Trainer for this project: saves the trained parameters alone, logs speed, ends on SIGTERM."""

import atexit
import resource
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import save_fsdp_optimizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

WEIGHTS = "trained.safetensors"


def part_of(name: str) -> str:
    """The part of a training that a parameter of a language model belongs to: projectors.STREAM, time,
    memory, heads, lora, or lm."""
    root, _, rest = name.removeprefix("module.").removeprefix("llm.").partition(".")
    if root == "project":
        return f"projectors.{rest.partition('.')[0]}"
    return root if root in ("time", "memory", "heads") else "lora" if "lora_" in name else "lm"


def rate_of(name: str, rates: Mapping[str, float], lr: float) -> float:
    """The learning rate of a parameter: of its part, such as projectors.audio, or of projectors, or lr."""
    part = part_of(name)
    return rates.get(part, rates.get(part.partition(".")[0], lr))


class Callbacks(TrainerCallback):
    """All of `module` must learn. On SIGTERM the step that runs is finished, a checkpoint saved, and training
    ends, on all ranks. `act` is called with a step's number every args.eval_steps, and after the last, `tell`
    with the norms of each part before the steps that are logged."""

    def __init__(
        self, module: nn.Module, act: Callable[[int], None] | None, tell: Callable[[dict[str, float]], None]
    ) -> None:
        self.module, self.act, self.tell, self.checked, self.stopped = module, act, tell, False, False
        self.reached: set[str] = set()  # parameters, by backward in the first step
        self.hooks: list[Any] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM inside; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Notes which parameters backward reaches: DeepSpeed takes gradients away before they are checked."""
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                note = partial(lambda name, _: self.reached.add(name), name)
                self.hooks.append(parameter.register_post_accumulate_grad_hook(note))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Checks, in the first step alone, that each parameter that is to be trained got a gradient."""
        if not self.checked:
            self.checked = True
            trained = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad]
            if idle := [n for n, p in trained if p.grad is None and n not in self.reached]:
                need = "parameters that are to be trained got no gradient"
                raise ValueError(f"{len(idle)} {need}, such as {idle[0]!r}")
            # heads without a label get a gradient, but of zero
            heads = [(n, p.grad) for n, p in trained if part_of(n) == "heads"]
            if idle := [n for n, grad in heads if grad is not None and not bool(grad.any())]:
                need = "parameters of heads got a gradient of zero"
                raise ValueError(f"{len(idle)} {need}, such as {idle[0]!r}: no step has a label for them")
            while self.hooks:
                self.hooks.pop().remove()
        if (state.global_step + 1) % args.logging_steps == 0:
            self.tell(norms_of(self.module))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the training if any rank got the signal; acts."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            stopped = torch.tensor(float(self.stopped), device=args.device)
            distributed.all_reduce(stopped, distributed.ReduceOp.MAX)
            self.stopped = bool(stopped)
        if self.stopped:
            control.should_save = control.should_training_stop = True
        step = state.global_step
        if self.act is not None and (step % int(args.eval_steps) == 0 or step == state.max_steps):
            self.act(step)


@torch.no_grad()
def norms_of(module: nn.Module) -> dict[str, float]:
    """grad_norm/PART, after clipping, and weight_norm/PART of what is trained; of sharded parameters all
    ranks must call this together. DeepSpeed keeps gradients to itself, and what it has is left out."""
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in module.named_parameters():
        for kind, value in (("grad", parameter.grad), ("weight", parameter)):
            if parameter.requires_grad and value is not None:
                square = value.detach().float().square().sum()
                whole = square.full_tensor() if isinstance(square, DTensor) else square
                squares[f"{kind}_norm/{part_of(name)}"] += float(whole)
    return {name: square**0.5 for name, square in squares.items()}


COUNTED = ("tokens", "frames", "video_s")


class Throughput:
    """Speed of a training between two lines of its log."""

    def __init__(self) -> None:
        self.start_s, self.wait_s, self.sums = time.perf_counter(), 0.0, Counter[str]()

    def add(self, about: dict[str, Any]) -> None:
        """Count a batch: its tokens, the seconds and the frames of its videos."""
        self.sums.update({name: about.get(name, 0) for name in COUNTED})

    def rates(self, device: torch.device) -> dict[str, float]:
        """Speeds of all ranks together since the line before, the longest wait (a share) and peak of one."""
        passed_s = max(time.perf_counter() - self.start_s, 1e-9)
        sums = torch.tensor([float(self.sums[name]) for name in COUNTED], device=device)
        maxima = torch.tensor([self.wait_s / passed_s, memory_gib(device)], device=device)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.all_reduce(sums)
            distributed.all_reduce(maxima, distributed.ReduceOp.MAX)
        names = ("tokens_per_s", "frames_per_s", "video_s_per_s", "loader_wait", "memory_gib")
        values = [*(sums / passed_s).tolist(), *maxima.tolist()]
        return {name: round(x, n) for name, x, n in zip(names, values, (1, 1, 1, 4, 3), strict=True)}


def memory_gib(device: torch.device) -> float:
    """Peak memory of this process: of a GPU what torch allocated, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class PartTrainer(Trainer):
    """A Trainer that saves and loads only what is trained; parameters that share memory are saved once.

    A batch may carry `about`: keys, and what `Throughput` counts. A loss that isn't finite ends the training
    with these keys. `rates` has learning rates of parts.
    """

    def __init__(self, rates: Mapping[str, float], **options: Any) -> None:
        super().__init__(**options)
        self.throughput, self.rates = Throughput(), rates
        self.norms: dict[str, float] = {}  # of the step before a line of the log

    def create_accelerator_and_postprocess(self) -> None:
        """transformers' own; over CPUs accelerate would leave FSDP out without a word."""
        shared = PartialState._shared_state
        if self.args.fsdp and shared.get("distributed_type") == DistributedType.MULTI_CPU:
            shared["distributed_type"] = DistributedType.MULTI_GPU  # of which it makes FSDP; gloo stays
        super().create_accelerator_and_postprocess()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """transformers' own, with the parts' rates; what it spares weight decay is spared here."""
        module = self.model if model is None else model
        if self.rates and getattr(self, "optimizer", None) is None:
            decayed = set(self.get_decay_parameter_names(module))
            groups: dict[tuple[float, float], list[nn.Parameter]] = {}
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    rate = rate_of(name, self.rates, self.args.learning_rate)
                    decay = self.args.weight_decay if name in decayed else 0.0
                    groups.setdefault((rate, decay), []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, module)
            self.optimizer = kind(
                [{"params": of, "lr": rate, "weight_decay": decay} for (rate, decay), of in groups.items()],
                **options,
            )
        created: torch.optim.Optimizer = super().create_optimizer(model)
        return created

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The data set deals its samples to ranks itself; accelerate must not deal them again."""
        return DataLoader(
            self.train_dataset, batch_size=self.args.per_device_train_batch_size,
            collate_fn=self.data_collator, num_workers=self.args.dataloader_num_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            # An iterator takes a seed from its generator: from the default one, it would change the state
            # that a checkpoint has just brought back for dropout.
            generator=torch.Generator(),
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
            logs = logs | self.throughput.rates(self.args.device) | self.norms
            self.throughput = Throughput()
        super().log(logs, *args, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained, by all ranks; transformers' own would first gather the whole model on one."""
        self._save(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # transformers' own would add the whole model, with all that is frozen
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        # of sharded parameters all ranks bring their part
        trained = trained_state(self.accelerator.unwrap_model(self.model))
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(trained, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(model or self.model, Path(resume_from_checkpoint))


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Name -> value of all parameters that are trained, each once. If FSDP or DeepSpeed has sharded them, all
    ranks must call this together."""
    state = {}
    for name, parameter in module.named_parameters():  # gives shared ones once
        if parameter.requires_grad:
            value = parameter.detach()
            if isinstance(value, DTensor):
                value = value.full_tensor()
            elif hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
                from deepspeed.utils import safe_get_full_fp32_param

                value = safe_get_full_fp32_param(parameter)
            state[name] = value.contiguous()
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
            value = state[name].to(parameter.device)
            state[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    module.load_state_dict(state, strict=False)


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


def with_muon(module: nn.Module, lr: float, rates: Mapping[str, float] | None = None) -> Joined:
    """Muon (Jordan et al. 2024; scaled as Liu et al., arXiv 2502.16982) for the matrices of the layers, AdamW
    for all else that is trained, of parts in `rates` at these rates."""
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    matrices = {n: p for n, p in trained.items() if p.dim() == 2 and {"layers", "blocks"} & {*n.split(".")}}
    rest: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        if name not in matrices:
            rest.setdefault(rate_of(name, rates or {}, lr), []).append(parameter)
    options: dict[str, Any] = {"lr": lr, "weight_decay": 0.01}
    muon = torch.optim.Muon(list(matrices.values()), adjust_lr_fn="match_rms_adamw", **options)
    groups = [{"params": parameters, "lr": rate} for rate, parameters in rest.items()]
    return Joined([muon, torch.optim.AdamW(groups, betas=(0.9, 0.98), **options)])


@contextmanager
def plain_errors() -> Iterator[None]:
    """An error of a worker process with the message it had there: torch puts the worker's whole trace before
    it."""
    try:
        yield
    except (ValueError, OSError) as error:
        _, _, trace = str(error).partition("Original Traceback")
        message = trace.rpartition(f"\n{type(error).__name__}: ")[2].strip()
        if not message:
            raise
        raise type(error)(message) from error


def run(
    module: nn.Module, data: Dataset[Any], args: TrainingArguments, *, collate: Any = None,
    resume: Path | None = None, validate: Callable[[int], dict[str, float]] | None = None, muon: bool = False,
    rates: Mapping[str, float] | None = None,
) -> PartTrainer | None:  # fmt: skip
    """Train the parameters of `module` that require a gradient on an endless data set.

    Returns the trainer, or None if SIGTERM ended it early, with a checkpoint of the last step. Raises a
    ValueError if a parameter got no gradient in the first step, or a loss is not finite.

    Args:
        module: takes a batch, which `collate` makes of a list of its items, and returns {"loss": ...}.
        data, args: data set; steps, learning rate, checkpoints and the rest, of `Engine.arguments`.
        resume: a checkpoint to go on from; `data` must start at its step.
        validate: called with a step's number every args.eval_steps and after the last; its result is logged.
        muon: Muon for the matrices of the layers; else AdamW for all.
        rates: learning rates of parts (`part_of`; "projectors" is that of all streams) other than args'.
    """
    optimizer = with_muon(module, args.learning_rate, rates) if muon else None
    callbacks = Callbacks(
        module, None if validate is None else lambda step: trainer.log(validate(step)),
        lambda norms: setattr(trainer, "norms", norms),
    )  # fmt: skip
    trainer = PartTrainer(
        rates or {}, model=module, args=args, train_dataset=data, data_collator=collate,
        callbacks=[callbacks], optimizers=(optimizer, None),
    )  # fmt: skip
    with callbacks.listening(), plain_errors():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    atexit.register(PartialState().destroy_process_group)  # its threads abort an interpreter that ends
    return None if callbacks.stopped else trainer
