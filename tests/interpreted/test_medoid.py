"""`medoid` through its Triton kernel, against the reference."""

import numpy as np
import pytest
import torch

import longcompress.kernels.gpu.medoid  # noqa: F401 - registers the operator
from longcompress.kernels import Plan, medoid, medoid_reference, plan

from helpers import normal, offsets_of

SIZES = [(1, 1, 1), (63, 8, 40), (100, 130, 33), (90, 3, 257), (40, 40, 3), (0, 3, 5), (60, 5, 2049)]


def scattered(n: int, m: int, seed: int) -> Plan:
    """n tokens in any of m groups; some groups are empty, some weights 0."""
    rng = np.random.default_rng(seed)
    group = torch.tensor(rng.integers(0, m, n).astype(np.int32))
    weight = torch.tensor(rng.integers(0, 4, n).astype(np.float32))
    mass = torch.zeros(m).index_add_(0, group.long(), weight)
    return Plan(group, weight, mass, offsets_of([m]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_that_of_the_reference(sizes, dtype, dispatched):
    n, m, width = sizes
    metric, how = normal(n, width, seed=1, dtype=dtype), scattered(n, m, 2)
    got = medoid(metric, how)
    assert dispatched == [("medoid", True)]
    assert got.dtype == torch.int64 and torch.equal(got, medoid_reference(metric, how))
    center = normal(m, width, seed=3)
    assert torch.equal(medoid(metric, how, center=center), medoid_reference(metric, how, center=center))


def test_of_a_real_plan_and_of_two_equally_heavy_tokens():
    metric = normal(96, 48, seed=7)
    how = plan(metric, offsets_of([40, 0, 1, 55]), torch.tensor([7, 3, 2, 55]))
    assert torch.equal(medoid(metric, how), medoid_reference(metric, how))
    group = torch.arange(96, dtype=torch.int32) // 2
    pairs = Plan(group, torch.full((96,), 3.0), torch.full((48,), 6.0), offsets_of([48]))
    assert torch.equal(medoid(metric + 1e4, pairs), torch.arange(0, 96, 2))


def test_tokens_without_weight_may_hold_anything():
    metric = normal(6, 5, seed=10)
    metric[0], metric[4], metric[5] = float("nan"), float("inf"), float("nan")
    weight = torch.tensor([0.0, 1, 1, 1, 0, 0])
    group = torch.tensor([0, 0, 0, 0, 1, 1], dtype=torch.int32)
    how = Plan(group, weight, torch.tensor([3.0, 0]), offsets_of([2]))
    got = medoid(metric, how)
    assert torch.equal(got, medoid_reference(metric, how)) and int(got[1]) == 4


def test_rows_that_do_not_lie_side_by_side():
    metric, how = normal(40, 60, seed=10), scattered(40, 5, 11)
    assert torch.equal(medoid(metric.t().contiguous().t(), how), medoid(metric, how))
    assert torch.equal(medoid(torch.cat([metric, metric], 1)[:, :60], how), medoid(metric, how))


def test_the_operator_is_registered_well():
    metric, parts = normal(40, 16, seed=2), scattered(40, 5, 4)[:3]
    for center in (None, normal(5, 16, seed=3)):
        args = (metric, *parts, center)
        torch.library.opcheck(torch.ops.longcompress_medoid.medoid.default, args)
    torch._dynamo.reset()

    def step(metric, *parts):
        return torch.ops.longcompress_medoid.medoid(metric * 2, *parts, None)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (20, 33):
        parts = scattered(n, 5, 4)[:3]
        assert torch.equal(compiled(metric[:n], *parts), step(metric[:n], *parts))
