"""`pool` through its Triton kernels, against plain float64 loops."""

import numpy as np
import pytest
import torch

from longcompress.kernels import Plan, extremes, plan, pool, pool_reference
from longcompress.kernels.gpu import order
from longcompress.kernels.gpu.order import order_of
from longcompress.kernels.gpu.pool import means, spread

from helpers import assert_close, drifting_patches, normal, offsets_of

SIZES = [
    (1, 1, 1),
    (63, 8, 40),
    (100, 130, 33),
    (517, 5, 257),
    (40, 40, 3),
    (0, 3, 5),
    (9, 0, 4),
    (300, 2, 300),
]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 3e-3, torch.float16: 1e-3}


def fenced(x: torch.Tensor) -> torch.Tensor:
    """The same values in memory that has NaN before and behind them."""
    whole = torch.full((x.numel() + 512,), float("nan"), dtype=x.dtype)
    whole[256 : 256 + x.numel()] = x.flatten()
    return whole[256 : 256 + x.numel()].view(x.shape)


def scattered(n: int, m: int, seed: int) -> Plan:
    """n tokens in any of m groups; some groups are empty, some weights 0."""
    rng = np.random.default_rng(seed)
    group = torch.tensor(rng.integers(0, max(m, 1), n).astype(np.int32))
    weight = torch.tensor(rng.integers(0, 4, n).astype(np.float32))
    mass = torch.zeros(max(m, 1)).index_add_(0, group.long(), weight)
    return Plan(group, weight, mass, offsets_of([max(m, 1)]))


def oracle(x: torch.Tensor, how: Plan) -> np.ndarray:
    total = np.zeros((len(how.mass), x.shape[1]))
    for i, g in enumerate(how.group.tolist()):
        total[g] += float(how.weight[i]) * x[i].double().cpu().numpy()
    mass = how.mass.double().cpu().numpy()[:, None]
    return np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_means_are_those_of_plain_loops(sizes, dtype, dispatched):
    n, m, width = sizes
    x, how = fenced(normal(n, width, seed=1, dtype=dtype)), scattered(n, m, 2)
    got = pool(x, how)
    assert dispatched == [("pool", True)] and got.dtype == dtype
    assert_close("means", got.double(), oracle(x, how), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_gradient_is_the_adjoint(dtype):
    x = normal(83, 70, seed=3, dtype=dtype).requires_grad_()
    how = scattered(83, 11, 4)
    dy = normal(11, 70, seed=5, dtype=dtype)
    pool(x, how).backward(dy)
    group = how.group.long()
    share = torch.where(how.mass[group] > 0, how.weight / how.mass[group], torch.zeros(83))
    assert_close("dx", x.grad.double(), (dy.double()[group] * share.double()[:, None]), TOLERANCE[dtype])


def test_a_real_plan_of_ragged_segments_gives_the_reference():
    metric = drifting_patches(6, 16, 8, seed=0).float()
    offsets = offsets_of([40, 0, 1, 55])
    how = plan(metric, offsets, torch.tensor([7, 3, 2, 55]))
    x = normal(96, 48, seed=7)
    assert_close("pooled", pool(x, how), pool_reference(x, how), 1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_pack_changes_no_bit_however_many_groups_the_others_have(dtype):
    lengths, width = [140, 40, 30], 160
    x, metric = normal(sum(lengths), width, seed=20, dtype=dtype), normal(sum(lengths), 16, seed=21)
    weight = torch.tensor(np.random.default_rng(3).integers(0, 5, sum(lengths)).astype(np.float32))
    how = plan(metric, offsets_of(lengths), torch.tensor([80, 2, 9]), weight=weight)
    got = pool(x, how)
    assert got.dtype == dtype
    assert_close("means", got.double(), oracle(x, how), TOLERANCE[dtype])
    for s, end in enumerate(np.cumsum(lengths).tolist()):
        rows, groups = slice(end - lengths[s], end), slice(*how.offsets[s : s + 2].tolist())
        alone = plan(metric[rows], offsets_of(lengths[s : s + 1]), [80, 2, 9][s], weight=weight[rows])
        assert torch.equal(pool(x[rows], alone), got[groups])


def test_the_order_that_a_plan_leaves_is_that_of_its_groups(monkeypatch):
    lengths, keep = [30, 0, 3, 45], torch.tensor([7, 3, 5, 9])
    metric = normal(78, 8, seed=23)
    how = plan(metric, offsets_of(lengths), keep)
    other = how._replace(group=how.group.clone())
    for a, b in zip(order_of(how.group, len(how.mass)), order_of(other.group, len(how.mass)), strict=True):
        assert torch.equal(a, b)
    want = pool(metric, other)
    monkeypatch.setattr(order, "sort_tokens", None)  # must not be needed
    assert torch.equal(pool(metric, how), want)
    monkeypatch.undo()
    how.group.copy_(
        how.group.flip(0)
    )  # whoever writes to the groups of a plan is not answered by the old ones
    assert torch.equal(pool(metric, how), pool(metric, how._replace(group=how.group.clone())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extremes_are_those_of_numpy(dtype, dispatched):
    how = scattered(70, 9, 6)
    low, high = normal(70, seed=24, dtype=dtype), normal(70, seed=25, dtype=dtype)
    lowest, highest = extremes(low, high, how)
    assert dispatched == [("extremes", True)] and lowest.dtype == dtype
    for g in range(9):
        members = how.group == g
        assert lowest[g] == low[members].min() and highest[g] == high[members].max()
    empty = how._replace(group=how.group.clamp_max(7))
    assert extremes(low, high, empty)[0][8] == torch.inf and extremes(low, high, empty)[1][8] == -torch.inf


def test_times_are_pooled_in_float64(dispatched):
    x, how = normal(100, 1, seed=22, dtype=torch.float64) * 1e5, scattered(100, 9, 5)
    got = pool(x, how)
    assert dispatched == [("pool", True)] and got.dtype == torch.float64
    assert_close("times", got, oracle(x, how), 1e-14)
    x.requires_grad_()
    pool(x, how).sum().backward()
    assert_close("sum", x.grad.sum(), (how.mass > 0).double().sum(), 1e-14)


def test_a_segment_alone_and_in_a_pack_agree_to_the_bit_and_so_do_two_runs():
    x = normal(120, 33, seed=8)
    metric = x[:, :8].contiguous()
    packed = plan(metric, offsets_of([50, 70]), 6)
    alone = plan(metric[50:], offsets_of([70]), 6)
    whole = pool(x, packed)
    assert torch.equal(whole[6:], pool(x[50:], alone))
    assert torch.equal(whole, pool(x, packed))


def test_tokens_without_weight_may_hold_anything():
    x = normal(10, 5, seed=9)
    x[3] = float("nan")
    weight = torch.ones(10)
    weight[3] = 0
    group = torch.zeros(10, dtype=torch.int32)
    how = Plan(group, weight, torch.tensor([9.0]), offsets_of([1]))
    weighted = [i for i in range(10) if i != 3]
    assert_close("mean", pool(x, how), x[weighted].double().mean(0, keepdim=True), 1e-6)


def test_rows_that_do_not_lie_side_by_side():
    x = normal(40, 60, seed=10)
    how = scattered(40, 5, 11)
    assert torch.equal(pool(x.t().contiguous().t(), how), pool(x, how))
    assert torch.equal(pool(torch.cat([x, x], 1)[:, :60], how), pool(x, how))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", [(50, 9, 70), (0, 4, 8), (1, 1, 1)], ids=str)
def test_the_operators_are_registered_well(sizes, dtype):
    n, m, width = sizes
    x, y = normal(n, width, seed=12, dtype=dtype), normal(m, width, seed=13, dtype=dtype)
    parts = scattered(n, m, 14)[:3]
    for operator, features in (("means", x), ("spread", y)):
        torch.library.opcheck(getattr(torch.ops.longcompress_pool, operator).default, (features, *parts))
    arguments = (normal(n, seed=15), normal(n, seed=16), parts[0], m)
    torch.library.opcheck(torch.ops.longcompress_pool.extremes.default, arguments)


def test_it_compiles_whole_for_any_size():
    torch._dynamo.reset()

    def step(x, *parts):
        return spread(means(x * 2, *parts), *parts).sum(1)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (20, 31):
        x, parts = normal(n, 12, seed=n), scattered(n, 7, n)[:3]
        assert torch.equal(compiled(x, *parts), step(x, *parts))
