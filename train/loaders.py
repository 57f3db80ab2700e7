"""What data sets share that draw their batches by number: loader processes take turns, stages follow."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from torch.utils.data import get_worker_info


class Lasts(Protocol):
    """A stage of a training."""

    @property
    def steps(self) -> int:
        """Optimizer steps of it."""


Stage = TypeVar("Stage", bound=Lasts)


def turn() -> tuple[int, int]:
    """(number of this loader process, how many there are); (0, 1) outside of one."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


def stage_at(stages: Sequence[Stage], number: int) -> Stage:
    """The stage that step `number` is in; the last one goes on."""
    for stage in stages:
        if number < stage.steps:
            return stage
        number -= stage.steps
    return stages[-1]
