"""One thread where the work is small.

PyTorch's threads wait for each other by spinning, at every operation. Where other processes have the cores,
small operations then cost many times their own work. Inside these guards PyTorch has one thread, in the whole
process; behind them as many as before.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from statistics import median
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

SMALL_MATRIX = 1 << 17  # entries: of a model 362 wide; below, threads wait longer than they work
F = TypeVar("F", bound=Callable[..., Any])

_small: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_lock = threading.Lock()
_num_inside = 0  # threads of the caller inside a guard
_before = 1  # PyTorch's threads when the first of them came
_own = threading.local()


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread inside, whatever the work."""
    global _num_inside, _before
    if getattr(_own, "is_inside", False):
        yield
        return
    with _lock:
        _before = _before if _num_inside else torch.get_num_threads()
        _num_inside += 1
    _own.is_inside = True
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _own.is_inside = False
        with _lock:
            _num_inside -= 1
            torch.set_num_threads(_before)  # each thread of the caller has a number of its own


def threads_for(module: Any) -> AbstractContextManager[None]:
    """A guard for a call of `module`: one thread if half its matrices have less than SMALL_MATRIX entries."""
    return single_thread() if isinstance(module, nn.Module) and _is_small(module) else nullcontext()


def _is_small(module: nn.Module) -> bool:
    """To count its matrices takes as long as a small operation, so that is done once."""
    if module not in _small:
        sizes = [p.numel() for p in module.parameters() if p.ndim > 1]
        _small[module] = bool(sizes) and median(sizes) < SMALL_MATRIX
    return _small[module]


def by_size(method: F) -> F:
    """The method of a module, inside the module's guard."""

    @wraps(method)
    def run(self: Any, *args: Any, **options: Any) -> Any:
        with threads_for(self):
            return method(self, *args, **options)

    return cast(F, run)
