"""What a training looks at while it runs: that all of it learns, that somebody ends it, how fast it is."""

import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from transformers import TrainerCallback


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
    """On SIGTERM the step that runs is finished, a checkpoint saved, and training ends, on all ranks."""

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
        """Ends the training if any rank was asked to."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            told = torch.tensor(float(self.told), device=args.device)
            distributed.all_reduce(told, distributed.ReduceOp.MAX)
            self.told = bool(told)
        if self.told:
            control.should_save = control.should_training_stop = True

    def _tell(self, *_: object) -> None:
        self.told = True


class EveryStep(TrainerCallback):
    """Calls a function with a step's number every so many steps, and after the last."""

    def __init__(self, steps: int, act: Callable[[int], None]) -> None:
        self.steps, self.act = steps, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Calls it."""
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self.act(state.global_step)


class Meter:
    """How fast a training goes, between two lines of its log."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A new line."""
        self.since, self.wait_s = time.perf_counter(), 0.0
        self.tokens = self.frames = self.video_s = 0.0

    def add(self, about: dict[str, Any]) -> None:
        """A batch that was learned from: its tokens, the seconds and the frames of its videos."""
        self.tokens += about.get("tokens", 0)
        self.frames += about.get("frames", 0)
        self.video_s += about.get("video_s", 0.0)

    def take(self, device: torch.device) -> dict[str, float]:
        """Since the line before, of all ranks: tokens_per_s, frames_per_s, video_s_per_s; the share of the
        time that the slowest waited for its loader, and the most memory, in GiB, that one has held."""
        passed = max(time.perf_counter() - self.since, 1e-9)
        sums = torch.tensor([self.tokens, self.frames, self.video_s], dtype=torch.float32, device=device)
        most = torch.tensor([self.wait_s / passed, memory_gib(device)], device=device)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            distributed.all_reduce(sums)
            distributed.all_reduce(most, distributed.ReduceOp.MAX)
        tokens, frames, video_s = (sums / passed).tolist()
        wait, memory = most.tolist()
        self.begin()
        return {
            "tokens_per_s": round(tokens, 1), "frames_per_s": round(frames, 1),
            "video_s_per_s": round(video_s, 1), "loader_wait": round(wait, 4), "memory_gib": round(memory, 3),
        }  # fmt: skip


def memory_gib(device: torch.device) -> float:
    """The most memory that this process has held: of a GPU what torch allocated, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
