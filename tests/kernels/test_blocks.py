"""Schedule "blocks" of kernels/plan.py: rounds inside of blocks, then whole; against plans of the parts."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from longcompress.kernels import blocked, plan, pool

from helpers import integers, normal, offsets_of

LENGTHS = [1400, 40, 0, 1, 700, 479, 480]


def in_blocks(metric: Tensor, keep: int | Tensor, **more):
    return plan(metric, offsets_of(LENGTHS), keep, schedule="blocks", **more)


@pytest.mark.parametrize("n, borders", [(480, [0, 240, 480]), (1400, [0, 350, 700, 1050, 1400])])
def test_blocks_are_planned_alone_and_then_what_they_leave(n, borders):
    metric, weight = normal(n, 12, seed=n), integers(1, 4, n, seed=n + 1).float()
    means, masses, member, count = [], [], torch.zeros(n, dtype=torch.int64), 0
    for a, b in pairwise(borders):
        part = plan(metric[a:b], offsets_of([b - a]), -(-(b - a) // 4), weight=weight[a:b])
        means.append(pool(metric[a:b], part))
        masses.append(part.mass)
        member[a:b] = count + part.group
        count += len(part.mass)
    assert count == blocked(n)
    for keep in (count, 60, 1):
        want = plan(torch.cat(means), offsets_of([count]), keep, weight=torch.cat(masses))
        got = plan(metric, offsets_of([n]), keep, weight=weight, schedule="blocks")
        assert torch.equal(got.group.long(), want.group[member].long())
        assert torch.equal(got.mass, want.mass) and torch.equal(got.weight, weight)


@pytest.mark.parametrize("keep", [1, 7, 119, 120, 121, 300, 479, 480, 699, 1399, 5000])
def test_any_number_of_groups_is_kept(keep):
    metric, weight = normal(sum(LENGTHS), 8, seed=3), integers(0, 9, sum(LENGTHS), seed=4).float()
    got = in_blocks(metric, keep, weight=weight)
    assert got.offsets.diff().tolist() == [min(keep, n) for n in LENGTHS]
    sums = torch.zeros(len(got.mass)).index_add(0, got.group.long(), weight)
    assert torch.equal(got.mass, sums)
    assert got.group.unique().tolist() == list(range(len(got.mass)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_segment_is_planned_alone_as_in_a_pack_and_a_short_one_by_rounds(dtype):
    metric, keep = normal(sum(LENGTHS), 16, seed=5).to(dtype), torch.tensor([30, 7, 3, 1, 500, 40, 11])
    packed, at = in_blocks(metric, keep), 0
    for s, n in enumerate(LENGTHS):
        mine = metric[at : at + n]
        alone = plan(mine, offsets_of([n]), int(keep[s]), schedule="blocks")
        assert torch.equal(packed.group[at : at + n] - packed.offsets[s], alone.group)
        if n < 480:
            rounds = plan(mine, offsets_of([n]), int(keep[s]))
            assert all(torch.equal(a, b) for a, b in zip(alone, rounds, strict=True))
        at += n


def test_it_is_one_node_of_a_compiled_graph():
    def step(metric: Tensor, offsets: Tensor) -> Tensor:
        return pool(metric, plan(metric, offsets, 7, schedule="blocks"))

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for lengths in ([500, 30], [90]):
        metric = normal(sum(lengths), 8, seed=17)
        assert torch.equal(compiled(metric, offsets_of(lengths)), step(metric, offsets_of(lengths)))


def test_without_segments_or_tokens():
    for lengths in ([], [0], [0, 0]):
        got = plan(torch.zeros(0, 4), offsets_of(lengths), 3, schedule="blocks")
        assert got.offsets.tolist() == [0] * (len(lengths) + 1) and not len(got.group)


def test_a_wrong_value_is_named_by_its_token():
    metric = normal(600, 4, seed=6)
    metric[500] = torch.nan
    with pytest.raises(ValueError, match=r"metric must be finite.*token 500 \(segment 1\)"):
        plan(metric, offsets_of([20, 580]), 3, schedule="blocks")
