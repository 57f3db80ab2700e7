"""`head_mean` through its Triton kernel."""

import pytest
import torch

from longcompress.kernels import head_mean
from longcompress.kernels.gpu.head_mean import head_mean_triton

from helpers import assert_close, normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "c", "width"), [(1, 64, 64), (70, 96, 24), (33, 1024, 64)])
def test_it_is_the_mean_over_heads(n, c, width, dtype, dispatched):
    x = normal(n, c, seed=n, dtype=dtype)
    got = head_mean(x, width)
    assert dispatched == [("head_mean", True)]
    assert_close("metric", got, x.double().unflatten(1, (-1, width)).mean(1), 1e-6)


def test_the_operator_is_registered_well_and_compiles_whole():
    torch.library.opcheck(torch.ops.longcompress_head_mean.head_mean.default, (normal(40, 32, seed=1), 8))
    torch._dynamo.reset()
    step = torch.compile(
        lambda x: head_mean_triton(x * 2, 8).sum(0), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for n in (20, 31):
        x = normal(n, 32, seed=n)
        assert torch.equal(step(x), head_mean_triton(x * 2, 8).sum(0))
