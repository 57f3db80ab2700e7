"""Kernels run under Triton's interpreter here (or on the GPU that is there).

Their outputs begin as NaN and have canaries behind them that nobody may touch.
"""

import os
import sys
from functools import cache

import numpy as np
import pytest
import torch

from longcompress.kernels import _dispatch

CANARY = 777.0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pytest_configure(config):
    if DEVICE == "cpu" and os.environ.get("LONGCOMPRESS_REQUIRE_GPU") == "1":
        raise pytest.UsageError("LONGCOMPRESS_REQUIRE_GPU is 1, and torch sees no GPU")
    if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise pytest.UsageError("these tests need TRITON_INTERPRET=1 set before Python starts, or a GPU")


@pytest.fixture(autouse=True, scope="session")
def patched_once():
    """Triton's interpreter without what it does for nothing, half of its time.

    It patches `triton.language` (10 ms) in every call from a kernel to a function, and leaves it so until the
    launch ends: once in each launch is enough. A sort, dozens of calls, is NumPy's; one test has Triton's.
    Whether a whole number overflows is worked out, and then not looked at outside Triton's debug mode. Types
    of tuples have names, which nobody reads; NumPy's type of a type is looked up in a table made for it.
    """
    from triton import language as tl
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    original = tl.sort
    if DEVICE != "cpu":
        yield original
        return

    patch, launch, done = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def patch_once(fn):
        modules = {id(v) for v in fn.__globals__.values() if v is tl or v is tl.core}
        if not modules <= done:
            done.update(modules)
            return patch(fn)

    def launch_afresh(self, *args, **options):
        done.clear()
        return launch(self, *args, **options)

    def sort(x):
        return tl.core.tensor(interpreter.TensorHandle(np.sort(x.handle.data), x.handle.dtype), x.type)

    def np_dtype(kind):
        return of_pointers if kind.scalar.is_ptr() else of_numbers(kind.scalar)

    def keep(self, args, type=None):
        self.values, self.whole = list(args), type

    def type_of(self):
        if self.whole is None:
            return tl.core._type_for_tuple_values(self.values)
        return self.whole if isinstance(self.whole, tl.core.tuple_type) else tl.core.tuple_type(self.whole)

    of_pointers, of_numbers = np.dtype(np.uint64), cache(interpreter._get_np_dtype)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tl, "sort", sort)
        monkeypatch.setattr(interpreter, "_patch_lang", patch_once)
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch_afresh)
        monkeypatch.setattr(TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *args: None)
        monkeypatch.setattr(interpreter, "_get_np_dtype", np_dtype)
        monkeypatch.setattr(tl.core.tuple, "__init__", keep)
        monkeypatch.setattr(tl.core.tuple, "type", property(type_of), raising=False)
        yield original


@pytest.fixture(autouse=True)
def on_the_device():
    """Tensors are outputs where kernels run."""
    if DEVICE == "cpu":
        yield
        return
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device("cpu")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """new_empty gives NaN (or -1 for integers) with canaries behind; they must be there after the test."""
    original, outputs = torch.Tensor.new_empty, []

    def new_empty(self, *size, **options):
        out = original(self, *size, **options)
        if out.is_meta or isinstance(out, torch._subclasses.FakeTensor):
            return out
        whole = original(self, (out.numel() + 64,), **options)
        whole.fill_(CANARY)
        outputs.append(whole)
        return whole[: out.numel()].fill_(float("nan") if out.is_floating_point() else -1).view(out.shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    yield
    for whole in outputs:
        assert bool((whole[-64:] == CANARY).all()), "something was written behind an output"


@pytest.fixture(autouse=True)
def dispatched(monkeypatch):
    """The public functions must come here by themselves; each test says which operation it waits for."""
    used, original = [], _dispatch.use_triton

    def use_triton(op, x):
        answer = original(op, x)
        used.append((op, answer))
        return answer

    for module in ("attend", "medoid", "metric", "plan", "pool"):
        monkeypatch.setattr(sys.modules[f"longcompress.kernels.{module}"], "use_triton", use_triton)
    return used
