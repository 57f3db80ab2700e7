"""kernels/pool.py: weighted means, their adjoint, and back."""

import numpy as np
import pytest
import torch

from longcompress.kernels import Plan, extremes, plan, pool, unpool

from helpers import assert_close, assert_within, normal, offsets_of


def scattered(n: int, m: int, weights: str, seed: int) -> Plan:
    """A plan that no merge made: n tokens in any of m groups, some groups without tokens or weight."""
    rng = np.random.default_rng(seed)
    group = torch.from_numpy(rng.integers(0, m, n).astype(np.int32))
    weight = torch.ones(n)
    if weights == "zeros":
        weight = torch.from_numpy(rng.integers(0, 4, n).astype(np.float32))
        weight[group == m // 2] = 0
    mass = torch.zeros(m).index_add_(0, group.long(), weight)
    return Plan(group, weight, mass, offsets_of([m]))


def means(x: torch.Tensor, how: Plan) -> np.ndarray:
    """(M, C) float64 means by plain loops."""
    wide = np.zeros((len(how.mass), x.shape[1]))
    total = np.zeros(len(how.mass))
    for i, g in enumerate(how.group.tolist()):
        wide[g] += float(how.weight[i]) * x[i].double().numpy()
        total[g] += float(how.weight[i])
    return np.divide(wide, total[:, None], out=np.zeros_like(wide), where=total[:, None] > 0)


SIZES = [
    (1, 1, 1, "ones"),
    (63, 8, 40, "ones"),
    (63, 8, 40, "zeros"),
    (100, 130, 33, "zeros"),
    (517, 5, 70, "zeros"),
    (40, 40, 3, "ones"),
]


@pytest.fixture(params=SIZES, ids="N{0[0]}-M{0[1]}-C{0[2]}-{0[3]}".format)
def case(request):
    n, m, width, weights = request.param
    return normal(n, width, seed=n, dtype=torch.float64), scattered(n, m, weights, seed=m)


BOUND = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_pool_gives_the_means_by_weight(case, dtype):
    x = case[0].to(dtype)
    got = pool(x, case[1])
    assert got.dtype == dtype
    assert_close("means", got, means(x, case[1]), rel=BOUND[dtype])


def test_pool_of_float64_is_float64_throughout(case):
    assert_within("means", pool(case[0], case[1]), means(*case), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_pool_sums_in_float32(dtype):
    n = 70001  # their number overflows float16 and bfloat16 cannot count them
    x = torch.full((n, 3), 100.0, dtype=dtype)
    x[::2, 1] = 98
    one_group = Plan(
        torch.zeros(n, dtype=torch.int32), torch.ones(n), torch.tensor([float(n)]), offsets_of([1])
    )
    assert_close("mean", pool(x, one_group)[0], x.double().mean(0), rel=1e-2)


def test_pool_of_large_sizes_is_exact():
    weight = torch.tensor([4097.0, 1.0, 2049.0, 70000.0])
    group = torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    got = Plan(group, weight, torch.tensor([4098.0, 72049.0]), offsets_of([2]))
    x = torch.tensor([[1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)
    assert_within("share", pool(x, got)[:, 0], np.array([4097 / 4098, 2049 / 72049]), 1e-15)


def test_pool_keeps_the_weighted_sum(case):
    x, how = case
    got = (pool(x, how) * how.mass[:, None]).sum(0)
    assert_within("sum", got, (x * how.weight[:, None]).sum(0), 1e-10)


@pytest.mark.parametrize("score", ["ward", "cosine"])
def test_pool_keeps_the_weighted_sum_of_every_segment(score):
    lengths = [90, 0, 1, 300, 7]
    x = normal(sum(lengths), 21, seed=1, dtype=torch.float64)
    weight = torch.from_numpy(np.random.default_rng(2).integers(0, 5, len(x))).float()
    how = plan(x[:, :6], offsets_of(lengths), 8, weight=weight, score=score)
    y = pool(x, how)
    tokens, groups = offsets_of(lengths).tolist(), how.offsets.tolist()
    for s in range(len(lengths)):
        a, b = slice(tokens[s], tokens[s + 1]), slice(groups[s], groups[s + 1])
        got = (y[b] * how.mass[b, None]).sum(0)
        assert_within(f"segment {s}", got, (x[a] * weight[a, None]).sum(0), 1e-10)


def test_groups_that_weigh_nothing_are_zero():
    weight, mass = torch.tensor([1.0, 0, 0, 0, 2]), torch.tensor([1.0, 0, 0, 2])
    how = Plan(torch.tensor([0, 2, 2, 3, 3]).int(), weight, mass, offsets_of([4]))
    x = normal(5, 3, seed=3)
    got = pool(x, how)
    assert torch.equal(got, torch.stack([x[0], torch.zeros(3), torch.zeros(3), x[4]]))


def test_a_token_alone_keeps_its_bits():
    x = normal(50, 9, seed=4)
    weight = torch.from_numpy(np.random.default_rng(5).integers(1, 99, 50)).float()
    how = plan(x, offsets_of([50]), 50, weight=weight)
    assert torch.equal(pool(x, how), x)


def test_pool_is_linear(case):
    x, how = case
    other = normal(*x.shape, seed=6, dtype=torch.float64)
    assert_within("ax + by", pool(2.5 * x - 3 * other, how), 2.5 * pool(x, how) - 3 * pool(other, how), 1e-12)
    mix = normal(x.shape[1], 4, seed=7, dtype=torch.float64)
    assert_within("xA", pool(x @ mix, how), pool(x, how) @ mix, 1e-12)


def test_gradient_of_pool_is_its_adjoint(case):
    x, how = case[0].clone().requires_grad_(), case[1]
    y = normal(len(how.mass), x.shape[1], seed=8, dtype=torch.float64)
    (pool(x, how) * y).sum().backward()
    rows = how.group.long()
    mass = how.mass.double()[rows]
    share = torch.where(mass > 0, how.weight.double() / mass.clamp_min(1), 0)
    assert_within("gradient", x.grad, share[:, None] * y[rows], 1e-12)
    with torch.no_grad():
        assert_within("<Px, y>", (pool(x, how) * y).sum(), (x * x.grad).sum(), 1e-10)


@pytest.mark.parametrize("weights", ["ones", "zeros"])
def test_gradient_of_pool_passes_gradcheck(weights):
    how = scattered(11, 4, weights, seed=9)
    x = normal(11, 3, seed=10, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, how), (x,))
    y = normal(4, 3, seed=11, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: unpool(y, how), (y,))


@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_gradient_of_pool_has_the_dtype_of_x(case, dtype):
    x = case[0].to(dtype, copy=True).requires_grad_()
    wide = case[0].clone().requires_grad_()
    up = normal(len(case[1].mass), x.shape[1], seed=12, dtype=torch.float64).to(dtype)
    pool(x, case[1]).backward(up)
    pool(wide, case[1]).backward(up.double())
    assert x.grad.dtype == dtype
    assert_close("gradient", x.grad, wide.grad, rel=BOUND[dtype])


def test_pool_is_the_same_on_every_run_and_for_strided_features(case):
    x, how = case
    assert torch.equal(pool(x, how), pool(x.clone(), how))
    assert torch.equal(pool(x, how), pool(x.t().contiguous().t(), how))


def test_pool_of_no_tokens():
    how = plan(torch.zeros(0, 2), offsets_of([0, 0]), 3)
    x = torch.zeros(0, 7, requires_grad=True)
    assert pool(x, how).shape == (0, 7)
    pool(x, how).sum().backward()
    assert x.grad.shape == (0, 7)
    assert unpool(torch.zeros(0, 7), how).shape == (0, 7)


def test_unpool_gives_every_token_its_groups_row(case):
    x, how = case
    y = normal(len(how.mass), x.shape[1], seed=13)
    got = unpool(y, how)
    assert got.dtype == y.dtype
    assert torch.equal(got, torch.stack([y[g] for g in how.group.tolist()]))


def test_unpool_of_pool_is_a_projection(case):
    x, how = case
    once = unpool(pool(x, how), how)
    assert_within("twice", unpool(pool(once, how), how), once, 1e-12)


def test_pool_undoes_unpool_where_there_is_weight(case):
    x, how = case
    y = normal(len(how.mass), x.shape[1], seed=14, dtype=torch.float64)
    assert_within("back", pool(unpool(y, how), how), y * (how.mass > 0)[:, None], 1e-12)


def test_extremes_are_the_first_start_and_the_last_end():
    lengths = [60, 0, 1, 33]
    how = plan(normal(94, 4, seed=15), offsets_of(lengths), 7)
    start_s = normal(94, seed=16, dtype=torch.float64).abs() * 1000
    end_s = start_s + normal(94, seed=17, dtype=torch.float64).abs()
    lowest, highest = extremes(start_s, end_s, how)
    assert lowest.dtype == highest.dtype == torch.float64
    assert lowest.shape == highest.shape == how.mass.shape
    group = how.group.tolist()
    for g in range(len(how.mass)):
        members = [i for i in range(94) if group[i] == g]
        assert lowest[g] == min(start_s[i] for i in members)
        assert highest[g] == max(end_s[i] for i in members)


def test_pooled_times_lie_between_the_extremes():
    how = plan(normal(200, 4, seed=18), offsets_of([200]), 9)
    start_s = torch.arange(200, dtype=torch.float64) / 3
    lowest, highest = extremes(start_s, start_s + 1 / 3, how)
    time_s = pool((start_s + 1 / 6)[:, None], how)[:, 0]
    assert bool(((lowest < time_s) & (time_s < highest)).all())


def test_pool_refuses_another_plan(case):
    with pytest.raises(ValueError, match=r"plan is for \d+ tokens, x has 3: \(N, C\) = \(3, 2\)"):
        pool(torch.zeros(3, 2), case[1])


def test_pool_refuses_features_without_channels():
    with pytest.raises(ValueError, match=r"x must be \(N, C\) float, got \(4,\)"):
        pool(torch.zeros(4), scattered(4, 2, "ones", seed=19))
