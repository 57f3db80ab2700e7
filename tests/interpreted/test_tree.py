"""The tree that the kernel grows is that of `pairs`, on the CPU."""

from importlib import import_module

import pytest
import torch

from longcompress.kernels import blocked, cut, plan, tree
from longcompress.kernels.gpu import tree as gpu
from longcompress.kernels.gpu import tree_plan
from longcompress.kernels.tree import block_limits

from helpers import normal, offsets_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CASES = {  # lengths, keep, channels
    "whole": ([40], 7, 8),
    "packed": ([40, 1, 59, 0, 2], 5, 16),
    "each its own": ([50, 30, 20], [9, 30, 1], 8),
    "below the blocks": ([500], 30, 8),
    "within the blocks": ([490, 12], 200, 8),
    "to one": ([90], 1, 70),
}


@pytest.fixture
def on_cpu(monkeypatch):
    """A function that calls another with the kernels off, on tensors of the CPU."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setenv("LONGCOMPRESS_TRITON", "0")
            moved = [a.cpu() if isinstance(a, torch.Tensor) else a for a in args]
            return function(
                *moved, **{k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
            )

    return call


def both(on_cpu, metric, lengths, keep, weight=None):
    """The plan of the kernel, after it was compared with the CPU's."""
    keep = torch.tensor(keep) if isinstance(keep, list) else keep
    offsets = offsets_of(lengths)
    weight = None if weight is None else weight.to(DEVICE)
    got = plan(metric.to(DEVICE), offsets, keep, weight=weight, schedule="tree")
    want = on_cpu(plan, metric, offsets, keep, weight=weight, schedule="tree")
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert torch.equal(a.cpu(), b), name
    return got


@pytest.mark.parametrize("case", CASES)
def test_plans_are_the_cpus(case, on_cpu):
    lengths, keep, width = CASES[case]
    metric = normal(sum(lengths), width, seed=3)
    both(on_cpu, metric, lengths, keep)
    weight = torch.randint(1, 9, (len(metric),), generator=torch.Generator().manual_seed(4)).float()
    both(on_cpu, metric, lengths, keep, weight)


def test_more_pairs_than_are_merged_at_once(on_cpu):
    twins = normal(200, 8, seed=14).repeat_interleave(2, 0) + 0.01 * normal(400, 8, seed=15)
    both(on_cpu, twins, [400], 30)
    both(on_cpu, twins, [400], 30, torch.arange(400) % 3 + 1.0)


def test_trees_and_their_cuts_are_the_cpus(on_cpu):
    metric, offsets = normal(150, 12, seed=5), offsets_of([90, 1, 59])
    got, want = tree(metric.to(DEVICE), offsets), on_cpu(tree, metric, offsets)
    assert torch.equal(got.parent.cpu(), want.parent)
    torch.testing.assert_close(got.height.cpu(), want.height, rtol=1e-5, atol=1e-6)
    for total in (140, 60, 3):
        assert torch.equal(
            cut(got, total=total, across=True).group.cpu(), cut(want, total=total, across=True).group
        )


def test_the_kernels_are_what_grows_it(monkeypatch):
    metric, offsets = normal(20, 8, seed=1).to(DEVICE), offsets_of([20])
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "merge_parts", None)
        plan(metric, offsets, 5, schedule="tree")
        with pytest.raises(TypeError, match="not callable"):
            tree(metric, offsets)
    monkeypatch.setattr(tree_plan, "grow", None)
    with pytest.raises(TypeError, match="not callable"):
        plan(metric, offsets, 5, schedule="tree")
    plan(normal(20, 8, seed=1).double().to(DEVICE), offsets_of([20]), 5, schedule="tree")  # float64: the CPU


@pytest.mark.parametrize("case", ["packed", "below the blocks"])
def test_plans_that_wait_are_the_same(case, monkeypatch):
    lengths, keep, width = CASES[case]
    metric, offsets = normal(sum(lengths), width, seed=10).to(DEVICE), offsets_of(lengths)
    keep = torch.tensor(keep) if isinstance(keep, list) else keep
    lightest = int(case != "packed")  # tokens without weight take a round each: few of them
    weight = torch.randint(lightest, 3, (len(metric),), generator=torch.Generator().manual_seed(11)).float()
    options = {"weight": weight.to(DEVICE), "schedule": "tree"}
    got = plan(metric, offsets, keep, **options)
    monkeypatch.setattr(tree_plan, "fits", lambda blocks, keep: False)
    for a, b in zip(got, plan(metric, offsets, keep, **options), strict=True):
        assert torch.equal(a, b)


def test_blocks_that_grow_one_after_the_other(monkeypatch):
    metric, offsets = normal(512, 8, seed=13).to(DEVICE), offsets_of([12, 500, 0])
    want = plan(metric, offsets, 9, schedule="tree")
    monkeypatch.setattr(tree_plan, "CHUNK", 100)
    for a, b in zip(plan(metric, offsets, 9, schedule="tree"), want, strict=True):
        assert torch.equal(a, b)


def test_what_waits():
    def fits(lengths, keep):
        return tree_plan.fits([block_limits(n, 1) for n in lengths], keep)

    assert fits([2560, 400, 0, 1], [blocked(2560), 2000, 3, 1]) and fits([], []) and fits([8000], [1])
    assert not fits([2560, 400], [blocked(2560) + 1, 1])
    assert not fits([8192], [1])


def test_a_plan_while_a_graph_is_captured(monkeypatch):
    metric, offsets = normal(523, 8, seed=12).to(DEVICE), offsets_of([23, 500])
    want = plan(metric, offsets, 20, schedule="tree")
    for name in ("plan", "tree"):
        monkeypatch.setattr(import_module(f"longcompress.kernels.{name}"), "can_wait", lambda x: False)
    got = plan(metric, offsets, 20, schedule="tree")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    with pytest.raises(ValueError, match="these lengths were not planned before; plan them once"):
        plan(metric[:517], offsets_of([23, 494]), 20, schedule="tree")
    with pytest.raises(ValueError, match="captured only on a GPU, where no keep is above the groups"):
        plan(metric, offsets, 400, schedule="tree")


def test_while_a_graph_is_captured_nan_gives_some_plan(monkeypatch):
    monkeypatch.setattr(import_module("longcompress.kernels.tree"), "BLOCK", 20)
    metric, offsets = normal(63, 8, seed=12).to(DEVICE), offsets_of([23, 40])
    plan(metric, offsets, 8, schedule="tree")
    for name in ("plan", "tree"):
        monkeypatch.setattr(import_module(f"longcompress.kernels.{name}"), "can_wait", lambda x: False)
    metric[::3, 2] = torch.nan  # nobody looks
    got = plan(metric, offsets, 8, schedule="tree")
    assert got.offsets.tolist() == [0, 8, 16] and 0 <= got.group.min() <= got.group.max() < 16


@pytest.mark.parametrize("keep", [1, 4, 9, 59])
def test_equal_tokens_repeated_ones_and_weights_of_zero(keep, on_cpu):
    both(on_cpu, torch.ones(60, 8), [60], keep)
    both(on_cpu, normal(6, 8, seed=2).repeat(10, 1), [60], keep)
    weight = torch.arange(60) % 3
    both(on_cpu, normal(60, 8, seed=6), [60], keep, weight.float())
    both(on_cpu, normal(60, 8, seed=7), [60], keep, torch.zeros(60))


def test_alone_as_packed():
    lengths, keep = [70, 33, 5], [12, 8, 5]
    metric, offsets = normal(sum(lengths), 16, seed=8).to(DEVICE), offsets_of(lengths)
    packed = plan(metric, offsets, torch.tensor(keep), schedule="tree")
    for s, (a, b) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        alone = plan(metric[a:b], offsets_of([b - a]), keep[s], schedule="tree")
        assert torch.equal(packed.group[a:b] - packed.offsets[s], alone.group)
        mass = packed.mass[packed.offsets[s] : packed.offsets[s + 1]]
        assert torch.equal(mass, alone.mass)


def test_segments_too_long_for_a_cut_on_the_gpu_whatever_stands_beside_them(on_cpu, monkeypatch):
    monkeypatch.setattr(tree_plan, "SEATS", (32,))
    lengths = [20, 60, 90, 5, 0, 31]
    metric = normal(sum(lengths), 8, seed=9)
    got = both(on_cpu, metric, lengths, [4, 6, 90, 1, 1, 30])
    ends = got.offsets.tolist()
    alone = plan(metric[:20].to(DEVICE), offsets_of([20]), 4, schedule="tree")
    assert torch.equal(got.group[:20], alone.group)
    alone = plan(metric[20:80].to(DEVICE), offsets_of([60]), 6, schedule="tree")
    assert torch.equal(got.group[20:80] - ends[1], alone.group)


def test_numbers_whose_squares_are_none_are_refused():
    with pytest.raises(ValueError, match=r"squares of metric must be finite in torch.float32, got .*1e\+25"):
        plan(torch.full((9, 4), 1e25, device=DEVICE), offsets_of([9]), 2, schedule="tree")
