"""`novelty` through its Triton kernel, against float64."""

import pytest
import torch

import longcompress.kernels.gpu.novelty  # noqa: F401 - registers the operator
from longcompress.kernels import novelty

from helpers import assert_within, normal


def oracle(metric: torch.Tensor, previous: list[int]) -> list[float]:
    x, out = metric.double(), []
    for row, before in zip(x, previous, strict=True):
        if before < 0:
            out.append(1.0)
            continue
        other = x[before]
        a, b = float(row.norm()), float(other.norm())
        if a == 0 or b == 0:
            out.append(float(a != b))
            continue
        out.append(min(2.0, max(0.0, 1 - float(row @ other) / a / b)))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("n", "d", "patches"), [(1, 4, 1), (33, 64, 4), (70, 24, 7), (65, 1, 1), (40, 100, 10)]
)
def test_it_is_one_minus_the_cosine(n, d, patches, dtype, dispatched):
    metric = normal(n, d, seed=n, dtype=dtype)
    metric[n // 2 : n // 2 + patches + 1] = 0  # zero rows, one behind the other
    previous = [max(-1, i - patches) for i in range(n)]
    got = novelty(metric, torch.tensor(previous, dtype=torch.int32))
    assert dispatched == [("novelty", True)] and got.dtype == torch.float32
    assert_within("novelty", got, torch.tensor(oracle(metric, previous)), 2e-6)


def test_no_tokens_and_columns_that_do_not_lie_side_by_side():
    assert novelty(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int32)).shape == (0,)
    x = normal(40, 16, seed=1)
    previous = torch.arange(40, dtype=torch.int32) - 1
    assert torch.equal(novelty(x.t().contiguous().t(), previous), novelty(x, previous))


def test_the_operator_is_registered_well():
    metric, previous = normal(40, 16, seed=2), torch.arange(40, dtype=torch.int32) - 1
    torch.library.opcheck(torch.ops.longcompress_novelty.novelty.default, (metric, previous))
    torch._dynamo.reset()

    def step(m, p):
        return torch.ops.longcompress_novelty.novelty(m * 2, p)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (20, 33):
        assert torch.equal(compiled(metric[:n], previous[:n]), step(metric[:n], previous[:n]))
