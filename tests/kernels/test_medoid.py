"""kernels/medoid.py: the token nearest to its group's mean."""

import numpy as np
import pytest
import torch

from longcompress.kernels import Plan, medoid, medoid_reference, plan, pool

from helpers import normal, offsets_of


def scattered(n: int, m: int, seed: int, weights: tuple[int, int] = (0, 4)) -> Plan:
    """n tokens in any of m groups; some groups are empty, some weights 0."""
    rng = np.random.default_rng(seed)
    group = torch.from_numpy(rng.integers(0, m, n).astype(np.int32))
    weight = torch.from_numpy(rng.integers(*weights, n).astype(np.float32))
    mass = torch.zeros(m).index_add_(0, group.long(), weight)
    return Plan(group, weight, mass, offsets_of([m]))


def nearest(metric: torch.Tensor, how: Plan, center: torch.Tensor | None = None) -> list[int]:
    """The medoid of each group by plain loops in numpy."""
    x, weight, out = metric.double().numpy(), how.weight.double().numpy(), []
    for g in range(len(how.mass)):
        members = [i for i, of in enumerate(how.group.tolist()) if of == g]
        heavy = [i for i in members if weight[i] > 0]
        if not heavy:
            out.append(members[0] if members else -1)
            continue
        near = np.average(x[heavy], axis=0, weights=weight[heavy]) if center is None else center[g].numpy()
        out.append(min(heavy, key=lambda i, near=near: (float(np.linalg.norm(x[i] - near)), i)))
    return out


SIZES = [(1, 1, 1), (63, 8, 40), (100, 130, 33), (517, 5, 70), (40, 3, 3)]


@pytest.fixture(params=SIZES, ids="N{0[0]}-M{0[1]}-d{0[2]}".format)
def case(request):
    n, m, width = request.param
    return normal(n, width, seed=n), scattered(n, m, seed=m)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_nearest_token_with_weight(case, dtype):
    metric, how = case[0].to(dtype), case[1]
    got = medoid(metric, how)
    assert got.dtype == torch.int64 and got.tolist() == nearest(metric, how)
    assert torch.equal(got, medoid_reference(metric, how))


def test_a_center_takes_the_place_of_the_mean(case):
    metric, how = case
    center = normal(len(how.mass), metric.shape[1], seed=3, dtype=torch.float64)
    assert medoid(metric, how, center=center).tolist() == nearest(metric, how, center)
    mean = pool(metric.double(), how)
    assert torch.equal(medoid(metric.double(), how, center=mean), medoid(metric.double(), how))


def test_it_is_a_member_and_as_near_as_any(case):
    metric, how = case
    got = medoid(metric, how)
    for g, token in enumerate(got.tolist()):
        members = how.group == g
        assert (token == -1) == (not members.any())
        assert token == -1 or (how.group[token] == g and (how.weight[token] > 0 or how.mass[g] == 0))


def test_the_order_of_tokens_changes_nothing_else(case):
    metric, how = case
    how = how._replace(weight=how.weight * normal(len(metric), seed=4).abs())  # no ties
    how = how._replace(mass=torch.zeros_like(how.mass).index_add_(0, how.group.long(), how.weight))
    order = torch.from_numpy(np.random.default_rng(5).permutation(len(metric)))
    moved = medoid(metric[order], how._replace(group=how.group[order], weight=how.weight[order]))
    got = medoid(metric, how)
    some = how.mass > 0  # of groups without weight the first token is taken, whichever it is
    assert torch.equal(order[moved[some]], got[some])


def test_of_equal_tokens_the_lowest():
    metric = normal(20, 6, seed=6).repeat(3, 1)
    how = scattered(20, 4, seed=7, weights=(1, 4))
    whole = Plan(how.group.repeat(3), how.weight.repeat(3), 3 * how.mass, how.offsets)
    got = medoid(metric, whole)
    assert got.tolist() == nearest(metric[:20], how) and int(got.max()) < 20


@pytest.mark.parametrize("level", [0.0, 1e4])
def test_of_two_equally_heavy_tokens_the_first(level):
    metric = normal(200, 64, seed=8) + level  # in float32 their mean would be nearer to either
    group = torch.arange(200, dtype=torch.int32) // 2
    how = Plan(group, torch.full((200,), 3.0), torch.full((100,), 6.0), offsets_of([100]))
    assert medoid(metric, how).tolist() == list(range(0, 200, 2))


def test_a_token_alone_and_one_that_outweighs_the_others():
    metric = normal(50, 9, seed=9)
    alone = plan(metric, offsets_of([50]), 50)
    assert torch.equal(alone.group[medoid(metric, alone)], torch.arange(50, dtype=torch.int32))
    weight = torch.ones(50)
    weight[17] = 1e6
    how = Plan(torch.zeros(50, dtype=torch.int32), weight, weight.sum()[None], offsets_of([1]))
    assert medoid(metric, how).tolist() == [17]


def test_of_a_real_plan_each_group_has_one():
    metric = normal(94, 4, seed=15)
    how = plan(metric, offsets_of([60, 0, 1, 33]), 7)
    got = medoid(metric, how)
    assert torch.equal(how.group[got].long(), torch.arange(len(how.mass)))
    assert medoid(metric[:0], plan(metric[:0], offsets_of([0]), 7)).shape == (0,)


def test_tokens_without_weight_may_hold_anything():
    metric = normal(6, 5, seed=10)
    metric[[0, 4, 5]] = torch.tensor([torch.nan, torch.inf, torch.nan])[:, None]
    weight = torch.tensor([0.0, 1, 1, 1, 0, 0])
    how = Plan(torch.tensor([0, 0, 0, 0, 1, 1]).int(), weight, torch.tensor([3.0, 0]), offsets_of([2]))
    assert medoid(metric, how).tolist() == nearest(metric, how) and medoid(metric, how)[1] == 4


def test_no_gradient_and_strided_rows():
    metric, how = normal(40, 12, seed=11).requires_grad_(), scattered(40, 5, seed=12)
    got = medoid(metric, how, center=torch.zeros(5, 12, requires_grad=True))
    assert not got.requires_grad
    assert torch.equal(medoid(metric.t().contiguous().t(), how), medoid(metric, how))


def test_wrong_arguments_are_named():
    metric, how = normal(4, 2, seed=13), scattered(4, 3, seed=14)
    for call, message in (
        (lambda: medoid(metric[0], how), r"metric must be \(N, d\) float, got \(2,\) torch.float32"),
        (lambda: medoid(metric.long(), how), r"metric must be \(N, d\) float, got \(4, 2\) torch.int64"),
        (lambda: medoid(metric[:3], how), r"plan is for 4 tokens, metric has 3: \(N, d\) = \(3, 2\)"),
        (lambda: medoid(metric, how, center=metric),
         r"center must be \(M, d\) = \(3, 2\) float, got \(4, 2\) torch.float32"),
        (lambda: medoid(metric, how, center=metric[:3].int()), r"center must be .*torch.int32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="must be on one device"):
        medoid(metric, how, center=torch.zeros(3, 2, device="meta"))
