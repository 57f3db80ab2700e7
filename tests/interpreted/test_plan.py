"""Partners found by the Triton kernel: as good as float64's best, ties to the lowest seat, ragged packs."""

import pytest
import torch

from longcompress.kernels import plan, plan_reference
from longcompress.kernels.plan_triton import best_triton

from helpers import drifting_patches, normal, offsets_of


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
@pytest.mark.parametrize(("segments", "n", "d"), [(1, 2, 4), (3, 7, 5), (2, 150, 64), (1, 129, 24)])
def test_no_partner_is_worse_than_the_best(segments, n, d, score):
    x = drifting_patches(segments, n, d, seed=n).float().view(segments, n, d)
    w = torch.randint(1, 9, (segments, n), generator=torch.Generator().manual_seed(0)).float()
    best, partner = best_triton(x, w, score)
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
def test_ties_go_to_the_lowest_seat(score):
    x = torch.ones(1, 300, 8)
    best, partner = best_triton(x, torch.ones(1, 300), score)
    assert not partner.any() and torch.equal(best, best[:, :1].expand_as(best))


def test_zero_vectors_and_zero_weights():
    x = normal(1, 20, 8, seed=3)
    x[0, 3] = x[0, 6] = 0
    best, _ = best_triton(x, torch.ones(1, 20), "cosine")
    assert best[0, 3] == -1
    w = torch.ones(1, 20)
    w[0, 5] = 0
    best, partner = best_triton(x, w, "ward")
    others = torch.arange(10) != 3  # seat 6 is a zero vector like seat 3, which comes first
    assert torch.equal(best.abs(), torch.zeros_like(best))  # costs nothing
    assert bool((partner[0, others] == 2).all()) and partner[0, 3] == 1


@pytest.mark.parametrize("score", ["ward", "cosine"])
@pytest.mark.parametrize("order", ["seat", "reference"])
@pytest.mark.parametrize("schedule", [0.25, 0.5, [20, 10, 3]], ids=str)
def test_plans_of_ragged_packs_are_the_reference(score, order, schedule, dispatched):
    metric = normal(167, 16, seed=4)  # no near ties, which two ways of rounding may break differently
    offsets = offsets_of([96, 0, 1, 70])
    keep = torch.tensor([9, 4, 1, 20])
    got = plan(metric, offsets, keep, schedule=schedule, score=score, order=order)
    assert dispatched == [("plan", True)]
    want = plan_reference(metric, offsets.tolist(), keep.tolist(), None, schedule, score, order)
    for name, a, b in zip(got._fields, got, want, strict=True):
        assert torch.equal(a, b), name
    alone = plan(metric[97:], offsets_of([70]), 20, schedule=schedule, score=score, order=order)
    first = int(got.offsets[3])
    assert torch.equal(alone.group, got.group[97:] - first)


def test_the_operator_is_registered_well():
    x, w = normal(2, 11, 6, seed=5), torch.ones(2, 11)
    for ward in (True, False):
        torch.library.opcheck(torch.ops.longcompress_plan.match.default, (x, w, ward))
