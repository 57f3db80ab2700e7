"""What only a GPU can show: captured graphs, refusals while capturing, sizes past 2^31."""

import pytest
import torch

from longcompress.kernels import Plan, attend, head_mean, novelty, plan, pool
from longcompress.kernels.gpu import plan_layout

from helpers import normal, offsets_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def captured(step):
    """(graph, what its replays write) of a step that was run before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    return graph, out


MERGES = [
    {}, {"score": "cosine", "schedule": 0.5, "order": "reference"}, {"schedule": "blocks"},
    {"schedule": "tree"},
]  # fmt: skip


@pytest.mark.parametrize("options", MERGES, ids=str)
def test_a_captured_merge_is_the_merge(options):
    x, times = normal(2560, 1024, seed=1, dtype=torch.bfloat16), normal(2560, 1, seed=2, dtype=torch.float64)
    offsets = torch.tensor([0, 1500, 2560], dtype=torch.int32, device="cpu")

    def step():
        merged = plan(head_mean(x, 64), offsets, 30, **options)
        return pool(x, merged), pool(times, merged), merged.group

    graph, out = captured(step)
    for seed in (3, 4):
        x.copy_(normal(2560, 1024, seed=seed, dtype=torch.bfloat16))
        graph.replay()
        for got, want in zip(out, step(), strict=True):
            assert torch.equal(got, want)


def test_captured_reading_and_novelty():
    x, query = normal(300, 256, seed=5), normal(8, 256, seed=6)
    offsets, before = offsets_of([100, 200]).cuda(), torch.arange(300, dtype=torch.int32) - 1
    graph, (state, new) = captured(lambda: (attend(query, x, offsets), novelty(x, before)))
    x.copy_(normal(300, 256, seed=7))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(state, attend(query, x, offsets), strict=True))
    assert torch.equal(new, novelty(x, before))


def test_lengths_that_were_not_planned_are_refused_while_capturing():
    plan_layout._recent.clear()
    metric, graph = normal(50, 16, seed=8), torch.cuda.CUDAGraph()
    with pytest.raises(ValueError, match="plan them once before"), torch.cuda.graph(graph):
        plan(metric, torch.tensor([0, 50], dtype=torch.int32, device="cpu"), 5)


def test_more_than_two_to_the_31_elements():
    num, width = (1 << 21) + 64, 1024
    if torch.cuda.mem_get_info()[0] < 16e9:
        pytest.skip("needs 16 GB of GPU memory")
    x = torch.zeros(num, width, dtype=torch.bfloat16)
    x[-64:] = normal(64, width, seed=9, dtype=torch.bfloat16)
    metric = head_mean(x, 64)
    assert torch.equal(metric[-64:], head_mean(x[-64:].clone(), 64))
    group = torch.cat([torch.zeros(num - 64, dtype=torch.int32), 1 + torch.arange(64, dtype=torch.int32) % 7])
    mass = torch.bincount(group.long()).float()
    whole = Plan(group, torch.ones(num), mass, torch.tensor([0, 1, 8], dtype=torch.int32))
    last = Plan(group[-64:] - 1, torch.ones(64), mass[1:], torch.tensor([0, 7], dtype=torch.int32))
    want = pool(x[-64:].clone(), last)
    assert torch.equal(pool(x, whole)[1:], want)
