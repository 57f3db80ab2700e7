"""What data sets that form their batches by number share: worker processes take turns, stages follow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import get_worker_info


def enter_worker() -> tuple[int, int]:
    """(number of this worker process, number of workers), and torch of a worker has one thread from now on.

    Outside of a worker it is (0, 1), and the threads of the process, which trains, stay as they are.
    """
    worker = get_worker_info()
    if worker is None:
        return 0, 1
    torch.set_num_threads(1)
    return worker.id, worker.num_workers


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


def stage_at(stages: Sequence[Any], number: int) -> Any:
    """The stage, of those with a number of `steps`, that step `number` is of; the last one has no end."""
    for stage in stages:
        if number < stage.steps:
            return stage
        number -= stage.steps
    return stages[-1]
