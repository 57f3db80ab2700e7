"""kernels/tree.py against SciPy's Ward linkage and a greedy merge in blocks, and the laws of cuts."""

from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from torch import Tensor

from longcompress.kernels import Plan, Tree, blocked, cut, plan, pool, tree

from helpers import drifting_patches, integers, normal, offsets_of

LENGTHS = [1400, 40, 0, 1, 700, 300, 2]  # in four blocks, whole, none, one token, in two blocks, ...


def patches_of(lengths: list[int], seed: int = 1, width: int = 16) -> Tensor:
    """(N, width) float32: the patches of a drifting video, all times of a patch side by side."""
    video = drifting_patches(10, -(-sum(lengths) // 10), width, seed, still=0.02).float()
    return video.view(10, -1, width).transpose(0, 1).reshape(-1, width)[: sum(lengths)]


def assert_same(got: Plan, want: Plan) -> None:
    for name, a, b in zip(Plan._fields, got, want, strict=True):
        assert torch.equal(a, b), name


def partition(group: np.ndarray) -> list[int]:
    """Groups numbered by their first token."""
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    return first.argsort().argsort()[number].tolist()


def lowest_first(x: np.ndarray, w: np.ndarray, keep: int) -> list[set[int]]:
    """Groups of rows: the two of least cost merge, again and again, in float64."""
    x, w, groups = x.copy(), w.copy(), {i: {i} for i in range(len(x))}

    def cost_of(i: int) -> np.ndarray:
        return ((x - x[i]) ** 2).sum(1) * w * w[i] / np.maximum(w + w[i], 1e-300)

    cost = np.stack([cost_of(i) for i in range(len(x))])
    np.fill_diagonal(cost, np.inf)
    while len(groups) > keep:
        i, j = sorted(np.unravel_index(cost.argmin(), cost.shape))
        x[i] = (x[i] * w[i] + x[j] * w[j]) / max(w[i] + w[j], 1e-300)
        w[i] += w[j]
        groups[i] |= groups.pop(j)
        alive = np.isin(np.arange(len(x)), list(groups)) & (np.arange(len(x)) != i)
        cost[i] = cost[:, i] = np.where(alive, cost_of(i), np.inf)
        cost[j] = cost[:, j] = np.inf
    return list(groups.values())


# --- the tree


@pytest.mark.parametrize("n", [2, 3, 17, 120, 479])
@pytest.mark.parametrize("kind", ["random", "video"])
def test_a_segment_without_blocks_is_the_exact_ward_tree(kind, n):
    x = normal(n, 12, seed=n, dtype=torch.float64) if kind == "random" else patches_of([n]).double()
    want = linkage(x.numpy(), "ward")
    got = tree(x, offsets_of([n]))
    np.testing.assert_allclose(got.height[n:].numpy(), want[:, 2] ** 2 / 2, rtol=1e-9)
    for keep in {1, 2, n // 7 + 1, n // 3 + 1, n - 1}:
        assert cut(got, keep).group.tolist() == partition(cut_tree(want, keep).ravel())


def test_a_weight_counts_as_many_equal_tokens():
    x, w = normal(60, 5, seed=2, dtype=torch.float64), integers(1, 5, 60, seed=3)
    got = tree(x, offsets_of([60]), weight=w.float())
    want = linkage(x.repeat_interleave(w, 0).numpy(), "ward")[:, 2] ** 2 / 2
    np.testing.assert_allclose(got.height[60:].numpy(), want[-59:], rtol=1e-9)
    assert not want[:-59].any()


@pytest.mark.parametrize("n", [480, 640])
def test_blocks_come_first_and_then_the_whole(n):
    x, w = patches_of([n], seed=5).double().numpy(), np.random.default_rng(n).integers(1, 4, n).astype(float)
    num = round(n / 320)
    borders = [n * k // num for k in range(num + 1)]
    groups: list[set[int]] = []
    for a, b in pairwise(borders):
        part = lowest_first(x[a:b], w[a:b], -(-(b - a) // 4))
        groups += [{a + i for i in group} for group in part]
    got = tree(torch.from_numpy(x), offsets_of([n]), weight=torch.from_numpy(w))
    assert blocked(n) == len(groups)
    label = np.zeros(n, int)
    for keep in (len(groups), len(groups) // 2, 7, 1):
        sizes = np.array([w[list(g)].sum() for g in groups])
        means = np.stack([(x[list(g)] * w[list(g)][:, None]).sum(0) / w[list(g)].sum() for g in groups])
        for number, rows in enumerate(lowest_first(means, sizes, keep)):
            label[[i for row in rows for i in groups[row]]] = number
        assert cut(got, keep).group.tolist() == partition(label), keep


def test_heights_never_fall_and_are_wards_cost():
    metric, weight = patches_of(LENGTHS), integers(0, 5, sum(LENGTHS), seed=6).float()
    got = tree(metric, offsets_of(LENGTHS), weight=weight)
    num = len(metric)
    assert got.parent.dtype == torch.int64 and got.height.dtype == torch.float64
    assert len(got.parent) == len(got.height) == num + sum(max(0, n - 1) for n in LENGTHS)
    inner = got.parent >= 0
    assert int((~inner).sum()) == sum(n > 0 for n in LENGTHS)
    assert bool((got.height[inner] <= got.height[got.parent[inner]]).all())
    assert bool((got.parent[inner] > inner.nonzero()[:, 0]).all())
    assert not got.height[:num].any()
    # what each merge adds to the squares around the groups' means, from the sums under each node
    total = torch.zeros(len(got.parent), metric.shape[1] + 2, dtype=torch.float64)
    w = weight.double()[:, None]
    total[:num] = torch.cat([w, metric.double() * w, metric.double().square().sum(1, keepdim=True) * w], 1)
    below = torch.zeros(len(got.parent), dtype=torch.float64)
    highest = torch.zeros(len(got.parent), dtype=torch.float64)
    for node, parent in enumerate(got.parent.tolist()):  # children come before their parents
        mass = max(float(total[node, 0]), 1e-300)
        squares = float(total[node, -1] - total[node, 1:-1].square().sum() / mass)
        if node >= num:
            cost = max(0.0, squares - float(below[node]))
            assert abs(float(got.height[node]) - max(cost, float(highest[node]))) <= 1e-4 * (1 + cost)
        if parent >= 0:
            total[parent] += total[node]
            below[parent] += max(0.0, squares) if node >= num else 0.0
            highest[parent] = max(highest[parent], got.height[node])


def test_ties_go_to_the_lowest_token():
    line = torch.tensor([0.0, 1.0, 10.0, 11.0, 20.0, 21.0])[:, None]
    got = tree(line, offsets_of([6]))
    assert cut(got, 5).group.tolist() == [0, 0, 1, 2, 3, 4]
    assert cut(got, 4).group.tolist() == [0, 0, 1, 1, 2, 3]
    even = torch.tensor([0.0, 1.0, 2.0])[:, None]
    assert cut(tree(even, offsets_of([3])), 2).group.tolist() == [0, 0, 1]


@pytest.mark.parametrize("n", [300, 2000])
@pytest.mark.parametrize("kind", ["zero", "equal", "no weight", "ten copies", "nearly equal"])
def test_tokens_that_are_equal(kind, n):
    metric, weight = normal(1, 24, seed=7).expand(n, 24).contiguous(), torch.ones(n)
    if kind == "zero":
        metric = torch.zeros(n, 24)
    elif kind == "no weight":
        metric, weight = normal(n, 24, seed=8), torch.zeros(n)
    elif kind == "ten copies":
        metric = normal(n // 10, 24, seed=9).repeat_interleave(10, 0)
    elif kind == "nearly equal":
        metric = metric + 1e-6 * normal(n, 24, seed=10)
    got = tree(metric, offsets_of([n]), weight=weight)
    if kind != "ten copies":
        assert float(got.height.max()) <= (1e-6 if kind == "nearly equal" else 0.0)
    else:
        assert cut(got, n // 10).group.tolist() == [i // 10 for i in range(n)]
    for keep in (1, 2, n // 10, n // 3):
        assert len(cut(got, keep).mass) == keep
    if kind in ("zero", "equal") and n < 384:  # the lowest takes one after the other
        assert cut(got, 4).group.tolist() == [0] * (n - 3) + [1, 2, 3]


def test_a_token_without_weight_costs_nothing_and_moves_nothing():
    metric, weight = torch.tensor([[0.0], [5.0], [9.0], [9.5]]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    got = tree(metric, offsets_of([4]), weight=weight)
    assert cut(got, 3).group.tolist() == [0, 0, 1, 2]
    assert cut(got, 2).group.tolist() == [0, 0, 1, 1]
    assert got.height[4:].tolist() == pytest.approx([0.0, 0.125, 9.25**2 * 2 / 3])


# --- cuts


def assert_nested(metric: Tensor, lengths: list[int], weight: Tensor, keeps: list[int]) -> None:
    """Fails unless the plan of each keep is the tree's cut, and joins groups of the larger keeps' plans."""
    got, before = tree(metric, offsets_of(lengths), weight=weight), None
    for keep in sorted(keeps, reverse=True):
        want = plan(metric, offsets_of(lengths), keep, weight=weight, schedule="tree")
        assert want.offsets.diff().tolist() == [min(keep, n) for n in lengths]
        assert_same(cut(got, keep), want)
        if before is not None:
            pairs = torch.stack([before.group, want.group]).unique(dim=1)
            assert pairs.shape[1] == len(before.mass)
        before = want


@pytest.mark.parametrize("kind", ["random", "video"])
@pytest.mark.parametrize("seed", range(10))
def test_plans_are_cuts_of_the_tree(kind, seed):
    """Ten segments a case: 200 in all."""
    rng = np.random.default_rng(seed)
    lengths = [*rng.integers(1, 80, 8).tolist(), int(rng.integers(300, 480)), int(rng.integers(480, 700))]
    metric = normal(sum(lengths), 24, seed=seed) if kind == "random" else patches_of(lengths, seed, 24)
    weight = torch.from_numpy(rng.integers(0, 4, len(metric))).float()
    assert_nested(
        metric, lengths, weight, [1, 2, 9, 30, *rng.integers(3, 700, 3).tolist(), blocked(lengths[-1])]
    )


@pytest.mark.parametrize("kind", ["random", "video"])
def test_every_keep_of_a_segment_is_a_cut_of_its_tree(kind):
    metric = normal(480, 24, seed=11) if kind == "random" else patches_of([480], 11, 24)
    assert_nested(metric, [480], torch.ones(480), [*range(1, blocked(480) + 2), 200, 479])


def test_a_tree_may_stop_early():
    metric, at = patches_of(LENGTHS), offsets_of(LENGTHS)
    complete = tree(metric, at)
    for floor in (3, blocked(1400), 600):
        stopped = tree(metric, at, floor)
        assert_same(cut(stopped, floor), plan(metric, at, floor, schedule="tree"))
        assert_same(cut(stopped, 2 * floor), cut(complete, 2 * floor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_segment_is_planned_alone_as_in_a_pack(dtype):
    metric, weight = patches_of(LENGTHS).to(dtype), integers(0, 4, sum(LENGTHS), seed=12).float()
    keep = torch.tensor([30, 7, 3, 1, 500, 40, 1])
    packed = plan(metric, offsets_of(LENGTHS), keep, weight=weight, schedule="tree")
    assert_same(packed, plan(metric, offsets_of(LENGTHS), keep, weight=weight, schedule="tree"))
    forest, at = tree(metric, offsets_of(LENGTHS), weight=weight), 0
    for s, n in enumerate(LENGTHS):
        mine = slice(at, at + n)
        alone = plan(metric[mine], offsets_of([n]), int(keep[s]), weight=weight[mine], schedule="tree")
        assert torch.equal(packed.group[mine] - packed.offsets[s], alone.group)
        single = tree(metric[mine], offsets_of([n]), weight=weight[mine])
        assert torch.equal(single.height[:n], forest.height[mine])
        assert_same(cut(single, int(keep[s])), alone)
        at += n


def test_the_mass_of_each_group_is_its_tokens():
    weight = integers(0, 9, sum(LENGTHS), seed=13).float()
    got = plan(patches_of(LENGTHS), offsets_of(LENGTHS), 25, weight=weight, schedule="tree")
    sums = torch.zeros(len(got.mass)).index_add(0, got.group.long(), weight)
    assert torch.equal(got.mass, sums) and torch.equal(got.weight, weight)
    firsts = [int((got.group == g).nonzero()[0]) for g in range(len(got.mass))]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("total", [6, 7, 50, 600, 1800, 2443, 9999])
def test_a_cut_across_segments_takes_the_lowest_merges(total):
    metric = patches_of(LENGTHS)
    metric[:1400] *= 0.2  # a quiet segment
    got = tree(metric, offsets_of(LENGTHS))
    planned = cut(got, total=total, across=True)
    groups = planned.offsets.diff()
    assert int(groups.sum()) == len(planned.mass) == min(total, sum(LENGTHS))
    assert bool((groups >= torch.tensor([1, 1, 0, 1, 1, 1, 1])).all())
    assert_same(planned, cut(got, groups.clamp(min=1)))
    # no merge that was left is cheaper than one that was taken
    highest, lowest, first = 0.0, float("inf"), len(metric)
    for n, left in zip(LENGTHS, groups.tolist(), strict=True):
        steps = got.height[first : first + max(0, n - 1)].cummax(0).values
        first += max(0, n - 1)
        highest = max(highest, float(steps[: n - left].max()) if n - left > 0 else 0.0)
        lowest = min(lowest, float(steps[n - left :].min()) if left > 1 else float("inf"))
    assert highest <= lowest
    if total == 600:
        assert int(groups[0]) < int(groups[4])


@pytest.mark.slow
def test_a_very_long_segment_beside_short_ones():
    lengths = [300, 100_000, 300]
    metric = normal(sum(lengths), 16, seed=14)
    got = plan(metric, offsets_of(lengths), 320, schedule="tree")
    assert got.offsets.tolist() == [0, 300, 620, 920]
    assert int(got.mass.sum()) == sum(lengths)


def test_no_segments_and_no_tokens():
    for lengths in ([], [0], [0, 0]):
        got = tree(torch.zeros(0, 4), offsets_of(lengths))
        assert len(got.parent) == 0
        assert cut(got, 3).offsets.tolist() == [0] * (len(lengths) + 1)
        assert len(cut(got, total=3, across=True).mass) == 0
        assert plan(torch.zeros(0, 4), offsets_of(lengths), 3, schedule="tree").offsets.tolist() == [0] * (
            len(lengths) + 1
        )


def test_the_tree_is_one_node_of_a_compiled_graph():
    def step(metric: Tensor, offsets: Tensor) -> Tensor:
        return pool(metric, plan(metric, offsets, 7, schedule="tree"))

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([40, 30], [90]):
        metric = normal(sum(lengths), 8, seed=17)
        assert torch.equal(compiled(metric, offsets_of(lengths)), step(metric, offsets_of(lengths)))


# --- messages


def test_a_tree_is_refused_where_values_cannot_be_read(monkeypatch):
    module, metric = import_module("longcompress.kernels.tree"), normal(9, 4, seed=15)
    got = tree(metric, offsets_of([9]))
    monkeypatch.setattr(module, "can_wait", lambda x: False)  # as while a graph is captured
    with pytest.raises(ValueError, match="tree reads values: call it outside"):
        tree(metric, offsets_of([9]))
    with pytest.raises(ValueError, match="cut reads values: call it outside"):
        cut(got, 3)
    with pytest.raises(ValueError, match="schedule 'tree' is captured only on a GPU"):
        plan(metric, offsets_of([9]), 3, schedule="tree")


BAD = {
    "schedule": ({"schedule": "trees"}, r"schedule must be a fraction, .* or 'blocks', got 'trees'"),
    "score": ({"score": "cosine"}, r"schedule 'tree' needs score 'ward' and order 'seat', got 'cosine'"),
    "order": ({"order": "reference"}, r"schedule 'tree' needs .* got 'ward' and 'reference'"),
    "metric": ({"metric": torch.full((6, 2), float("nan"))}, r"metric must be finite.*token 0 \(segment 0\)"),
    "large": (
        {"metric": torch.full((6, 2), 1e30)},
        r"squares of metric must be finite in float32, .* scale it",
    ),
    "weight": ({"weight": torch.full((6,), -1.0)}, r"weight finite and >= 0, but token 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_plan_by_the_tree_refuses(case):
    wrong, message = BAD[case]
    arguments = {
        "metric": torch.ones(6, 2),
        "offsets": offsets_of([6]),
        "keep": 3,
        "schedule": "tree",
    } | wrong
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


def test_cut_refuses():
    got: Tree = tree(normal(9, 4, seed=16), offsets_of([5, 4]), 2)
    with pytest.raises(ValueError, match="cut needs keep, or total with across=True"):
        cut(got)
    with pytest.raises(ValueError, match="cut needs keep, or total with across=True"):
        cut(got, total=3)
    with pytest.raises(
        ValueError, match="keep must be at least the groups that the tree stops at, 2 in segment 1"
    ):
        cut(got, torch.tensor([2, 1]))
    with pytest.raises(ValueError, match="total must be a whole number >= 4"):
        cut(got, total=3, across=True)
    with pytest.raises(ValueError, match="keep must be >= 1"):
        cut(got, 0)
