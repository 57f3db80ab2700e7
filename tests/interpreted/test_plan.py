"""`plan` through its Triton kernels: partners as good as float64's best, ties to the lowest seat.

Plans of ragged packs are the reference's, whichever rounds run together in one program.
"""

import math
import sys
from functools import partial

import pytest
import torch
from triton import language as tl

from longcompress.kernels import plan, plan_reference, pool
from longcompress.kernels.gpu import plan as gpu_plan
from longcompress.kernels.gpu import plan_layout, plan_rounds

from helpers import drifting_patches, integers, normal, offsets_of

TILES = plan_layout.Tiles(gpu_plan.TAIL, gpu_plan.ROWS, gpu_plan.EVENS, gpu_plan.GROUPS)


def matched(x, w, score, fast=False, equal=False):
    """(best, partner), each (S, ceil(n / 2)), of one launch over S segments of n tokens."""
    segments, n, d = x.shape
    tiles = plan_layout.Tiles(1, gpu_plan.ROWS, gpu_plan.tile_of(d)["EVENS"], gpu_plan.GROUPS)
    layout = plan_layout.layout_of((n,) * segments, (1,) * segments, 0.5, tiles, x.device)
    state = gpu_plan.start(x.reshape(-1, d).contiguous(), w.reshape(-1), layout, score == "ward")
    gpu_plan.match(state, layout.rounds[0], 0, equal=equal, fast=fast)
    best, partner = (each[: segments * n].view(segments, n)[:, : (n + 1) // 2] for each in state.pairs)
    return best, partner.long()


def scores64(x: torch.Tensor, w: torch.Tensor, score: str) -> torch.Tensor:
    """(even, odd) float64 scores of one segment, from their definition."""
    a, b = x.double()[0::2], x.double()[1::2]
    if score == "cosine":
        na, nb = a.norm(dim=1)[:, None], b.norm(dim=1)[None]
        cosine = a @ b.t() / (na * nb).clamp_min(1e-300)
        return torch.where((na == 0) | (nb == 0), -1.0, cosine)
    wa, wb = w.double()[0::2, None], w.double()[None, 1::2]
    return -(wa * wb / (wa + wb)) * (a[:, None] - b[None]).square().sum(-1)


@pytest.mark.parametrize("score", ["ward", "cosine"])
@pytest.mark.parametrize(
    ("segments", "n", "d"), [(1, 2, 4), (3, 7, 5), (2, 150, 64), (1, 300, 24), (1, 70, 200)]
)
def test_no_partner_is_worse_than_the_best(segments, n, d, score):
    x = drifting_patches(segments, n, d, seed=n).float().view(segments, n, d)
    w = integers(1, 9, segments, n, seed=0).float()
    best, partner = matched(x, w, score)
    for s in range(segments):
        want = scores64(x[s], w[s], score)
        chosen = want.gather(1, partner[s][:, None])[:, 0]
        scale = 1.0 if score == "cosine" else float(want.abs().max().clamp_min(1))
        assert float((want.max(1).values - chosen).max()) <= 1e-6 * scale
        assert float((best[s] - chosen).abs().max()) <= 2e-6 * scale
        two = want.topk(min(2, want.shape[1]), dim=1).values
        clear = (two[:, 0] - two[:, -1] > 1e-5 * scale) | (want.shape[1] == 1)
        assert torch.equal(partner[s][clear], want.argmax(1)[clear])


@pytest.mark.parametrize("score", ["ward", "cosine"])
def test_round_by_round_from_the_kernels_own_state_the_best_pairs_merge(score):
    x, w = drifting_patches(2, 60, 16, seed=21).float(), torch.ones(120)
    for _ in range(5):
        n = len(x)
        pairs = n // 4
        merged_once = plan(x, offsets_of([n]), n - pairs, weight=w, score=score)
        want = scores64(x, w, score)
        scale = 1.0 if score == "cosine" else float(want.abs().max())
        # even seats in a group with an odd one have merged with it: with as good a partner as there is
        same = merged_once.group[0::2, None] == merged_once.group[None, 1::2]
        merged = same.any(1)
        assert int(merged.sum()) == pairs
        best = want.max(1).values
        chosen = want.masked_fill(~same, -torch.inf).max(1).values
        assert float((best - chosen)[merged].max()) <= 1e-6 * scale
        # and they are those with the best scores
        assert float(best[~merged].max()) - float(best[merged].min()) <= 1e-6 * scale
        x, w = pool(x, merged_once), merged_once.mass


@pytest.mark.parametrize("score", ["ward", "cosine"])
def test_fast_partners_are_nearly_as_good(score):
    x = drifting_patches(1, 120, 64, seed=1).float().view(1, 120, 64)
    w = torch.ones(1, 120)
    _, exact = matched(x, w, score)
    _, fast = matched(x, w, score, fast=True)
    want = scores64(x[0], w[0], score)
    regret = want.max(1).values - want.gather(1, fast[0][:, None])[:, 0]
    # a ward score is a difference of squares: half of 2 |a||b| is what its products are as large as
    scale = 1.0 if score == "cosine" else float(x.double().square().sum(-1).max())
    assert float(regret.min()) >= 0 and float(regret.max()) <= 5e-4 * scale
    assert not torch.equal(exact, fast) or float(regret.max()) <= 1e-6  # it is another arithmetic, or as good


@pytest.mark.parametrize("score", ["ward", "cosine"])
def test_ties_go_to_the_lowest_seat(score):
    x = torch.ones(1, 300, 8)
    best, partner = matched(x, torch.ones(1, 300), score)
    assert not partner.any() and torch.equal(best, best[:, :1].expand_as(best))
    got = plan(x[0], offsets_of([300]), 220, score=score, schedule=0.5)
    want = plan_reference(x[0], [0, 300], [220], None, 0.5, score, "seat")
    assert torch.equal(got.group, want.group)


def test_zero_vectors_and_zero_weights():
    x = normal(1, 20, 8, seed=3)
    x[0, 3] = x[0, 6] = 0
    best, _ = matched(x, torch.ones(1, 20), "cosine")
    assert best[0, 3] == -1
    w = torch.ones(1, 20)
    w[0, 5] = 0
    best, partner = matched(x, w, "ward")
    others = torch.arange(10) != 3  # seat 6 is a zero vector like seat 3, which comes first
    assert torch.equal(best.abs(), torch.zeros_like(best))  # costs nothing
    assert bool((partner[0, others] == 2).all()) and partner[0, 3] == 1


@pytest.mark.parametrize("tail", [256, 40, 1])  # all rounds in one program, some, none
@pytest.mark.parametrize("score", ["ward", "cosine"])
@pytest.mark.parametrize("order", ["seat", "reference"])
@pytest.mark.parametrize("schedule", [0.25, 0.5, [20, 10, 7]], ids=str)
def test_plans_of_ragged_packs_are_the_reference(tail, score, order, schedule, dispatched, monkeypatch):
    monkeypatch.setattr(gpu_plan, "TAIL", tail)
    metric = normal(138, 16, seed=4)  # no near ties, which two ways of rounding may break differently
    offsets = offsets_of([77, 0, 1, 60])
    keep = torch.tensor([9, 4, 1, 20])
    got = plan(metric, offsets, keep, schedule=schedule, score=score, order=order)
    assert dispatched == [("plan", True)]
    want = plan_reference(metric, offsets.tolist(), keep.tolist(), None, schedule, score, order)
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert torch.equal(a, b), name
    if tail == 40:
        alone = plan(metric[78:], offsets_of([60]), 20, schedule=schedule, score=score, order=order)
        assert torch.equal(alone.group, got.group[78:] - int(got.offsets[3]))


@pytest.mark.parametrize("tail", [256, 20, 1])
def test_weights_count_and_may_be_zero(tail, monkeypatch):
    monkeypatch.setattr(gpu_plan, "TAIL", tail)
    metric = normal(90, 12, seed=6)
    weight = integers(0, 5, 90, seed=2).float()
    for score in ("ward", "cosine"):
        got = plan(metric, offsets_of([50, 40]), 11, weight=weight, score=score)
        want = plan_reference(metric, [0, 50, 90], [11, 11], weight, 0.25, score, "seat")
        if score == "cosine":  # for ward all merges of a token without weight cost nothing: ties everywhere
            assert torch.equal(got.group, want.group)
        assert float(got.mass.sum()) == float(weight.sum())
        assert torch.equal(got.offsets, want.offsets)


@pytest.mark.parametrize("tail", [256, 20])
def test_stopping_after_a_full_round_and_going_on_is_going_through(tail, monkeypatch):
    monkeypatch.setattr(gpu_plan, "TAIL", tail)
    metric, offsets = drifting_patches(4, 16, 20, seed=9).float().view(-1, 20), offsets_of([64])
    through = plan(metric, offsets, 20)
    first = plan(metric, offsets, 48)
    rest = plan(pool(metric, first), first.offsets, 20, weight=first.mass)
    assert torch.equal(rest.group[first.group.long()], through.group)
    assert torch.equal(rest.mass, through.mass)


def test_random_lengths_give_exactly_what_is_kept(monkeypatch):
    for tail in (1, 12, 256):
        monkeypatch.setattr(gpu_plan, "TAIL", tail)
        lengths = integers(0, 40, 6, seed=tail).tolist()
        keep = integers(1, 20, 6, seed=tail + 1)
        got = plan(normal(sum(lengths), 8, seed=tail), offsets_of(lengths), keep)
        counts = [min(n, k) for n, k in zip(lengths, keep.tolist(), strict=True)]
        assert got.offsets.diff().tolist() == counts
        assert torch.equal(got.group.long().unique(), torch.arange(sum(counts)))
        assert torch.equal(torch.bincount(got.group.long()).float(), got.mass)


@pytest.mark.parametrize("order", ["seat", "reference"])
def test_segments_too_long_for_one_program_to_sort_are_sorted_by_torch(order, monkeypatch):
    for name in (gpu_plan, plan_layout):
        monkeypatch.setattr(name, "LONGEST", 40)
    monkeypatch.setattr(gpu_plan, "TAIL", 20)
    monkeypatch.setattr(gpu_plan, "FEW_SEATS", 64)
    metric, lengths = normal(146, 8, seed=11), [30, 64, 52]
    got = plan(metric, offsets_of(lengths), 9, order=order)
    want = plan_reference(metric, [0, 30, 94, 146], [9] * 3, None, 0.25, "ward", order)
    assert torch.equal(got.group, want.group)
    x = normal(146, 8, seed=12)
    assert torch.equal(pool(x, got), pool(x, got._replace(group=got.group.clone())))


def test_the_sort_of_a_round_may_be_tritons_own(patched_once, monkeypatch):
    monkeypatch.setattr(tl, "sort", patched_once)
    monkeypatch.setattr(gpu_plan, "TAIL", 32)
    monkeypatch.setattr(gpu_plan, "FEW_SEATS", 32)
    metric = normal(30, 8, seed=15)
    got = plan(metric, offsets_of([30]), 14, schedule=0.5)
    assert torch.equal(got.group, plan_reference(metric, [0, 30], [14], None, 0.5, "ward", "seat").group)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_may_not_lead_astray(value):
    """The kernels run before anybody looks, so nothing may be written outside (the fixture checks that)."""
    metric = normal(30, 8, seed=12)
    metric[17, 3] = metric[25, 0] = value
    for options in ({}, {"score": "cosine", "order": "reference", "schedule": 0.5}):
        with pytest.raises(ValueError, match=r"token 17 \(segment 1\)"):
            plan(metric, offsets_of([10, 20]), 4, **options)
    for weight in (-1, value):
        weights = torch.ones(30)
        weights[3] = weight
        with pytest.raises(ValueError, match=r"token 3 \(segment 0\)"):
            plan(normal(30, 8, seed=12), offsets_of([10, 20]), 4, weight=weights)


def test_the_values_are_read_once_after_everything_is_launched(monkeypatch):
    happened = []

    def noted(name, function, *args, **options):
        happened.append(name)
        return function(*args, **options)

    for name in ("start_kernel", "tail_kernel", "finish_kernel"):
        kernel = getattr(plan_rounds, name)
        monkeypatch.setattr(kernel, "run", partial(noted, name, kernel.run))
    read = torch.Tensor.__int__
    monkeypatch.setattr(torch.Tensor, "__int__", lambda x: noted("read", read, x))
    metric, offsets = normal(40, 8, seed=3), offsets_of([25, 15])
    plan(metric, offsets, 4)
    assert happened == ["start_kernel", "tail_kernel", "finish_kernel", "read"]


def test_unchecked_nothing_is_read(monkeypatch):
    metric, offsets = normal(40, 8, seed=3), offsets_of([25, 15])
    want = plan(metric, offsets, 4)
    broken = metric.clone()
    broken[7, 3] = torch.nan
    with monkeypatch.context() as patched:
        for name in ("__int__", "__bool__", "item"):
            patched.setattr(torch.Tensor, name, lambda _: pytest.fail("read"))
        groups = [plan(x, offsets, 4, check=False).group for x in (metric, broken)]
    assert torch.equal(groups[0], want.group)
    assert set(groups[1].tolist()) == set(range(8))


def test_half_precision_is_planned_in_float32():
    metric = normal(50, 8, seed=13, dtype=torch.bfloat16)
    got = plan(metric, offsets_of([50]), 7)
    assert torch.equal(got.group, plan(metric.float(), offsets_of([50]), 7).group)


def layout_of(n: int, **options) -> plan_layout.Layout:
    """The layout that `plan` uses for one segment of n tokens, 5 of which are left."""
    return plan_layout.layout_of((n,), (5,), 0.25, TILES, torch.zeros(0).device, **options)


def test_the_same_lengths_send_nothing_again():
    plan_layout._recent.clear()
    first = layout_of(60)
    assert layout_of(60) is first
    for n in range(100, 100 + plan_layout.MAX_LAYOUTS - 1):
        layout_of(n)
    assert layout_of(60) is first
    for n in range(200, 200 + plan_layout.MAX_LAYOUTS):
        layout_of(n)
    assert layout_of(60) is not first


def test_a_layout_that_a_graph_reads_is_never_dropped():
    planned = layout_of(61)
    assert layout_of(61, capturing=True) is planned
    for n in range(100, 100 + 2 * plan_layout.MAX_LAYOUTS):
        layout_of(n)
    plan_layout._recent.clear()
    assert layout_of(61) is planned


def test_unplanned_lengths_are_refused_while_capturing_before_anything_is_launched(monkeypatch):
    plan_layout._recent.clear()
    monkeypatch.setattr(gpu_plan, "start", lambda *_: pytest.fail("launched"))
    monkeypatch.setattr(sys.modules["longcompress.kernels.plan"], "can_wait", lambda x: x.dim() != 2)
    with pytest.raises(ValueError, match="plan them once before capturing a CUDA graph"):
        plan(normal(62, 8, seed=14), offsets_of([62]), 5)


def test_keep_must_be_on_the_cpu_while_capturing(monkeypatch):
    monkeypatch.setattr(sys.modules["longcompress.kernels._checks"], "can_wait", lambda x: False)
    with pytest.raises(ValueError, match="keep must be on the CPU while a CUDA graph is captured"):
        plan(normal(9, 8, seed=14), offsets_of([9]), torch.tensor([5]))


@pytest.mark.parametrize("lengths", [[3], [2560, 7, 0, 300], [700] * 4], ids=str)
def test_layouts_are_worked_out_on_the_cpu(lengths):
    """Whatever torch's default device: on a GPU every branch over a table would wait for it."""
    key = (tuple(lengths), (5,) * len(lengths), 0.25, TILES, torch.device("cpu"))
    before = torch.get_default_device()
    layouts = []
    for device in ("cpu", "meta"):
        plan_layout._recent.clear()
        torch.set_default_device(device)
        try:
            layouts.append(plan_layout.layout_of(*key))
        finally:
            torch.set_default_device(before)
    got, want = (
        repr([part.tolist() if isinstance(part, torch.Tensor) else part for part in each]) for each in layouts
    )
    assert got == want


def test_a_long_segment_beside_short_ones_starts_no_idle_programs():
    layout = plan_layout.layout_of((300, 100_000, *[700] * 5), (30,) * 7, 0.25, TILES, torch.device("cpu"))
    assert len(layout.programs) == 5 + 1563 + 5 * 11  # of 64 tokens
    assert [len(a_round.long) for a_round in layout.rounds[:12]] == [1] * 12
    for number, a_round in enumerate(layout.rounds):
        sizes = a_round.rows[:, 1].tolist()
        assert sizes == sorted(sizes, reverse=True) and (sizes.count(700) == 5) == (number == 0)
        assert len(a_round.programs) == sum(math.ceil(math.ceil(n / 2) / 128) for n in sizes)
        left = [n - pairs for n, pairs in a_round.rows[:, 1:3].tolist()]
        assert len(a_round.merging) == sum(math.ceil(n / 16) for n in left)
        first = a_round.rows[:, 4].tolist()
        assert [a_round.programs.tolist().index(row) for row in range(len(sizes))] == first
    assert int(layout.tails[:, 3].max()) <= layout.work_rows <= (100_000 + 5 * 700 + 300) // 2


@pytest.mark.parametrize("width", [20, 64, 100])
def test_squares_are_added_in_pairs(width):
    """One order of additions for all kernels, whatever layout they are compiled to."""
    metric = normal(40, width, seed=16)
    layout = plan_layout.layout_of((40,), (5,), 0.25, TILES, metric.device)
    got = gpu_plan.start(metric, None, layout, True).numbers[1][:40]
    slice = gpu_plan.slice_of(width)
    total = torch.zeros(40)
    for part in metric.square().split(slice, 1):
        part = torch.nn.functional.pad(part, (0, slice - part.shape[1]))
        while part.shape[1] > 1:
            part = part[:, 0::2] + part[:, 1::2]
        total += part[:, 0]
    assert torch.equal(got, total)


def test_the_operator_is_kept_out_of_inductors_graphs():
    assert torch.Tag.cudagraph_unsafe in torch.ops.longcompress_plan.plan.default.tags


def test_the_operator_is_registered_well():
    metric, offsets, keep = normal(31, 6, seed=5), offsets_of([11, 20]), torch.tensor([4, 5])
    for weight in (None, torch.ones(31)):
        torch.library.opcheck(
            torch.ops.longcompress_plan.plan.default,
            (metric, offsets, keep, weight, 0.25, [], "", True, "ward", "seat", "exact"),
        )


def test_every_public_operation_compiles_whole():
    torch._dynamo.reset()
    from longcompress.kernels import attend, head_mean, novelty

    def step(x, query, previous, offsets):
        new = novelty(head_mean(x, 4), previous)
        state = attend(query, x, offsets, bias=new)
        return state.read().sum() + state.max.sum(), new

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (24, 37):
        x, query = normal(n, 12, seed=n).requires_grad_(), normal(3, 12, seed=1)
        previous, offsets = torch.arange(n, dtype=torch.int32) - 1, offsets_of([n - 9, 9])
        eager, got = step(x, query, previous, offsets), compiled(x, query, previous, offsets)
        assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))
        grads = [torch.autograd.grad(out[0], x)[0] for out in (eager, got)]
        assert torch.equal(*grads)


def test_planning_and_pooling_compile_whole_for_any_size():
    torch._dynamo.reset()

    def merge(metric, x, offsets):
        merged = plan(metric, offsets, 7)
        return pool(x, merged).sum(1), merged.mass, merged.group

    compiled = torch.compile(merge, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (40, 57):
        metric, offsets = normal(n, 8, seed=n), offsets_of([n - 20, 20])
        x = normal(n, 12, seed=1).requires_grad_()
        eager, got = merge(metric, x, offsets), compiled(metric, x, offsets)
        assert all(torch.equal(a, b) for a, b in zip(eager, got, strict=True))
        grads = [torch.autograd.grad(out[0].square().sum(), x)[0] for out in (eager, got)]
        assert torch.equal(*grads)
