"""Callbacks of a training: all of it must learn, SIGTERM ends it whole, its speed is logged."""

import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback


class CheckGradients(TrainerCallback):
    """Stops a training in whose first step a parameter that is to be trained got no gradient."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.checked = module, False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Checks the first step alone."""
        if self.checked:
            return
        self.checked = True
        idle = [n for n, p in self.module.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise ValueError(
                f"{len(idle)} parameters that are to be trained got no gradient, such as {idle[0]!r}"
            )


class StopOnSignal(TrainerCallback):
    """On SIGTERM the step that runs is finished, a checkpoint saved, and training ends, on all ranks."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM inside; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the training if any rank got the signal."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            requested = torch.tensor(float(self.requested), device=args.device)
            distributed.all_reduce(requested, distributed.ReduceOp.MAX)
            self.requested = bool(requested)
        if self.requested:
            control.should_save = control.should_training_stop = True


class EverySteps(TrainerCallback):
    """Calls a function with a step's number every `steps`, and after the last."""

    def __init__(self, steps: int, act: Callable[[int], None]) -> None:
        self.steps, self.act = steps, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Calls it."""
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self.act(state.global_step)


COUNTED = ("tokens", "frames", "video_s")


class Throughput:
    """Speed of a training between two lines of its log."""

    def __init__(self) -> None:
        self.start_s, self.wait_s, self.sums = time.perf_counter(), 0.0, Counter[str]()

    def add(self, about: dict[str, Any]) -> None:
        """Count a batch: its tokens, the seconds and the frames of its videos."""
        self.sums.update({name: about.get(name, 0) for name in COUNTED})

    def rates(self, device: torch.device) -> dict[str, float]:
        """Since the line before, of all ranks: tokens_per_s, frames_per_s, video_s_per_s. Also the share of
        the time that the slowest rank waited for its loader, and the highest peak of memory of a rank."""
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
