"""Kernels run under Triton's interpreter here (or on the GPU that is there).

Their outputs begin as NaN and have canaries behind them that nobody may touch.
"""

import os
import sys

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
