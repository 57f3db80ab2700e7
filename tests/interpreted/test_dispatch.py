"""How kernels are launched: how often, and with their tensors' GPU as the current one (a stub stands in)."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longcompress.kernels import attend, extremes, head_mean, medoid, novelty, plan, pool
from longcompress.kernels.gpu import pool as gpu_pool

from helpers import normal, offsets_of


@pytest.fixture
def launches(monkeypatch):
    """For each launch, whether it was inside a guard for some tensor's device."""
    inside, guarded = [], []
    kernel_type = type(gpu_pool.means_kernel)
    original, device_of = kernel_type.__getitem__, torch.cuda.device_of

    class Guard(device_of):
        def __enter__(self):
            inside.append(self)
            return super().__enter__()

        def __exit__(self, *error):
            inside.pop()
            return super().__exit__(*error)

    def launch(kernel, grid):
        guarded.append(bool(inside))
        return original(kernel, grid)

    monkeypatch.setattr(torch.cuda, "device_of", Guard)
    monkeypatch.setattr(kernel_type, "__getitem__", launch)
    return guarded


def test_every_launch_is_guarded(launches):
    x = normal(40, 150, seed=1).requires_grad_()
    query = normal(2, 150, seed=2).requires_grad_()
    offsets = offsets_of([30, 10])
    merged = plan(head_mean(x, 50), offsets, 4)
    total = pool(x, merged).sum() + attend(query, x, offsets).read().sum()
    total.backward()
    new = novelty(x, torch.arange(40, dtype=torch.int32) - 1)
    assert new.shape == (40,) and medoid(x, merged).shape == (8,)
    assert len(launches) >= 10 and all(launches)


class Launches(TorchDispatchMode):
    """Counts what a GPU would be sent: operations of torch that are no views, allocations or reads."""

    free = ("empty", "view", "slice", "select", "unbind", "detach", "alias", "as_strided", "_local_scalar")

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")
        if name[0] == "aten" and not any(word in name[1] for word in self.free):
            self.count[name[1]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"score": "cosine", "schedule": 0.5, "order": "reference"}], ids=str)
def test_a_segment_takes_at_most_25_launches(options, monkeypatch):
    """Metric, plan and pool of 2,560 tokens to 30; four more for times, first starts and last ends. Nothing
    runs: what is launched depends on lengths alone."""
    x, times = torch.zeros(2560, 192), torch.zeros(2560, 4, dtype=torch.float64)
    counter = Launches()
    monkeypatch.setattr(torch.Tensor, "new_empty", torch._C.TensorBase.new_empty)  # nothing fills it
    kernel_type = type(gpu_pool.means_kernel)
    run = lambda kernel, grid: lambda *_, **__: counter.count.update([kernel.fn.__name__])  # noqa: E731
    monkeypatch.setattr(kernel_type, "__getitem__", run)
    offsets = offsets_of([2560])
    plan(x[:, :64], offsets, 30, **options)  # its tables are sent the first time
    counter.count.clear()
    with counter:
        merged = plan(head_mean(x, 64), offsets, 30, **options)
        pool(x, merged)
    assert counter.count.total() <= 25, counter.count
    with counter:
        pool(torch.cat([times[:, :1], times[:, 1:]], 1), merged)
        extremes(times[:, 0], times[:, 1], merged)
    assert counter.count.total() <= 29, counter.count
