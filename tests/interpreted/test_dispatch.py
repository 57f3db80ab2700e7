"""Every kernel is launched with its tensors' GPU as the current one; a stub stands in for the second GPU."""

import pytest
import torch

from longcompress.kernels import attend, head_mean, medoid, novelty, plan, pool
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
