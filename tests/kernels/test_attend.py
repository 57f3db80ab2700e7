"""kernels/attend.py against plain softmax attention in float64."""

import numpy as np
import pytest
import torch
from torch import Tensor

from longcompress.kernels import State, attend, start_state

from helpers import assert_close, normal, offsets_of


def dense(query: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """(E, C) softmax attention over all of x at once, in float64."""
    query, x = query.double(), x.double()
    score = query @ x.t()
    if bias is not None:
        score = score + bias.double()
    return torch.softmax(score, dim=1) @ x


def read_in_chunks(query: Tensor, x: Tensor, cuts: list[int], bias: Tensor | None = None) -> State:
    """The state of one stream after its chunks between the cuts, one call each."""
    state = None
    for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True):
        part = None if bias is None else bias[a:b]
        state = attend(query, x[a:b], offsets_of([b - a]), bias=part, state=state)
    return state


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize(("n", "e", "width"), [(1, 1, 1), (7, 5, 3), (100, 3, 33), (517, 8, 64)])
def test_attend_is_softmax_attention(n, e, width, biased):
    query, x = normal(e, width, seed=1), normal(n, width, seed=2)
    bias = normal(n, seed=3) if biased else None
    state = attend(query, x, offsets_of([n]), bias=bias)
    assert [part.dtype for part in state] == [torch.float32] * 3
    assert [tuple(part.shape) for part in state] == [(1, e), (1, e), (1, e, width)]
    assert_close("read", state.read()[0], dense(query, x, bias), rel=1e-5)


def test_state_holds_what_it_says():
    query, x, bias = normal(4, 6, seed=4), normal(50, 6, seed=5), normal(50, seed=6)
    state = attend(query, x, offsets_of([50]), bias=bias)
    score = query.double() @ x.double().t() + bias.double()
    share = (score - score.amax(1, keepdim=True)).exp()
    assert_close("max", state.max[0], score.amax(1), rel=1e-5)
    assert_close("sum", state.sum[0], share.sum(1), rel=1e-5)
    assert_close("acc", state.acc[0], share @ x.double(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes_are_worked_in_float32(dtype):
    query, x = normal(3, 16, seed=7).to(dtype), normal(90, 16, seed=8).to(dtype)
    state = attend(query, x, offsets_of([90]))
    assert [part.dtype for part in state] == [torch.float32] * 3
    assert_close("read", state.read()[0], dense(query, x), rel=1e-5)


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("seed", range(8))
def test_chunks_read_as_the_whole(seed, biased):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 120))
    query, x = 2 * normal(4, 12, seed=seed), normal(n, 12, seed=seed + 100)
    bias = normal(n, seed=9) if biased else None
    cuts = sorted(rng.integers(0, n + 1, size=int(rng.integers(0, 9))).tolist())  # some chunks are empty
    whole, chunked = attend(query, x, offsets_of([n]), bias=bias), read_in_chunks(query, x, cuts, bias)
    assert_close("read", chunked.read(), whole.read(), rel=1e-5)
    for name, a, b in zip(State._fields, chunked, whole, strict=True):
        assert_close(name, a, b, rel=1e-5)


def test_one_token_at_a_time_reads_as_the_whole():
    query, x = normal(2, 5, seed=10), normal(60, 5, seed=11)
    chunked = read_in_chunks(query, x, list(range(1, 60)))
    assert_close("read", chunked.read()[0], dense(query, x), rel=1e-5)


def test_streams_of_a_pack_do_not_see_each_other():
    lengths = [5, 0, 31, 1, 31]
    query, x = normal(3, 8, seed=12), normal(sum(lengths), 8, seed=13)
    before = attend(query, normal(10, 8, seed=14), offsets_of([2, 3, 0, 4, 1]))
    packed = attend(query, x, offsets_of(lengths), state=before)
    at = 0
    for s, n in enumerate(lengths):
        own = State(*(part[s : s + 1] for part in before))
        alone = attend(query, x[at : at + n], offsets_of([n]), state=own)
        assert all(torch.equal(a[s], b[0]) for a, b in zip(packed, alone, strict=True)), f"stream {s}"
        at += n


def test_an_empty_segment_leaves_its_state_as_it_was():
    query = normal(3, 4, seed=15)
    before = attend(query, normal(9, 4, seed=16), offsets_of([4, 0, 5]))
    after = attend(query, normal(2, 4, seed=17), offsets_of([0, 0, 2]), state=before)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:2], new[:2])
    assert not torch.equal(before.acc[2], after.acc[2])
    same = attend(query, torch.zeros(0, 4), offsets_of([0, 0, 0]), state=before)
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))


def test_nothing_read_reads_zero():
    nothing = attend(normal(2, 3, seed=18), torch.zeros(0, 3), offsets_of([0, 0]))
    for state in (nothing, start_state(2, 2, 3)):
        assert torch.equal(state.read(), torch.zeros(2, 2, 3))
        assert torch.equal(state.max, torch.full((2, 2), -torch.inf))
        assert torch.equal(state.sum, torch.zeros(2, 2))


def test_no_streams():
    state = attend(normal(2, 3, seed=19), torch.zeros(0, 3), offsets_of([]))
    assert state.read().shape == (0, 2, 3)


def test_the_start_state_is_the_default():
    query, x = normal(2, 3, seed=20), normal(7, 3, seed=21)
    started = attend(query, x, offsets_of([3, 4]), state=start_state(2, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(started, attend(query, x, offsets_of([3, 4])), strict=True))


def test_log_size_counts_a_token_size_times():
    query, x = normal(4, 6, seed=22), normal(30, 6, seed=23)
    size = torch.from_numpy(np.random.default_rng(24).integers(1, 9, 30))
    sized = attend(query, x, offsets_of([30]), bias=size.float().log())
    repeated = attend(query, x.repeat_interleave(size, dim=0), offsets_of([int(size.sum())]))
    assert_close("read", sized.read(), repeated.read(), rel=1e-5)
    assert_close("mass", sized.sum.log() + sized.max, repeated.sum.log() + repeated.max, rel=1e-5)


def test_a_token_of_no_size_is_not_read():
    query, x = normal(4, 6, seed=25), normal(30, 6, seed=26)
    size = torch.from_numpy(np.random.default_rng(27).integers(0, 3, 30)).float()
    sized = attend(query, x, offsets_of([30]), bias=size.log())
    assert_close("read", sized.read()[0], dense(query, x[size > 0], size[size > 0].log()), rel=1e-5)
    none = attend(query, x, offsets_of([30]), bias=torch.full((30,), -torch.inf))
    assert torch.equal(none.read(), torch.zeros(1, 4, 6))
    later = attend(query, x, offsets_of([30]), state=none)
    assert_close("later", later.read()[0], dense(query, x), rel=1e-5)


def test_large_scores_do_not_overflow():
    query, x = 300 * normal(3, 5, seed=28), normal(40, 5, seed=29)
    for cuts in ([], [1, 17, 39]):
        assert_close("read", read_in_chunks(query, x, cuts).read()[0], dense(query, x), rel=1e-3)


def gradients(read: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(read.double().sin().sum(), leaves))


@pytest.mark.parametrize("cuts", [[], [13], [1, 13, 13, 40]], ids=str)
def test_gradients_are_those_of_the_dense_form(cuts):
    leaves = normal(4, 7, seed=30), normal(53, 7, seed=31), normal(53, seed=32)
    query, x, bias = (leaf.requires_grad_() for leaf in leaves)
    got = gradients(read_in_chunks(query, x, cuts, bias).read()[0], query, x, bias)
    want = gradients(dense(query, x, bias), query, x, bias)
    for name, a, b in zip(("query", "x", "bias"), got, want, strict=True):
        assert_close(f"d{name}", a, b, rel=1e-5)


def test_gradients_reach_the_state_and_every_stream():
    lengths = [4, 0, 9]
    leaves = normal(2, 5, seed=33), normal(6, 5, seed=34), normal(13, 5, seed=35)
    query, first, x = (leaf.requires_grad_() for leaf in leaves)
    before = attend(query, first, offsets_of([2, 3, 1]))
    got = gradients(attend(query, x, offsets_of(lengths), state=before).read(), query, first, x)
    whole = [torch.cat([first[0:2], x[0:4]]), first[2:5], torch.cat([first[5:6], x[4:13]])]
    want = gradients(torch.stack([dense(query, stream) for stream in whole]), query, first, x)
    for name, a, b in zip(("query", "first", "x"), got, want, strict=True):
        assert_close(f"d{name}", a, b, rel=1e-5)


def test_gradients_are_finite_where_nothing_was_read():
    query, x = normal(2, 3, seed=36).requires_grad_(), normal(4, 3, seed=37).requires_grad_()
    bias = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    state = attend(query, x, offsets_of([3, 0, 1]), bias=bias)
    grads = torch.autograd.grad(state.read().sin().sum(), (query, x))
    assert all(bool(g.isfinite().all()) for g in grads)
    assert torch.equal(grads[1][[1, 3]], torch.zeros(2, 3))


BAD = {
    "query-flat": (
        {"query": torch.zeros(3)},
        r"query \(E, C\) and x \(N, C\) must share C, got \(3,\) and \(6, 3\)",
    ),
    "x-flat": ({"x": torch.zeros(6)}, r"query \(E, C\) and x \(N, C\) must share C, got \(2, 3\) and \(6,\)"),
    "widths": (
        {"x": torch.zeros(6, 4)},
        r"query \(E, C\) and x \(N, C\) must share C, got \(2, 3\) and \(6, 4\)",
    ),
    "bias": ({"bias": torch.zeros(6, 1)}, r"bias must be \(N,\) = \(6,\) like x, got \(6, 1\)"),
    "state": (
        {"state": start_state(2, 2, 3)},
        r"state must be for \(S, E, C\) = \(1, 2, 3\), got max, sum, acc of .*\(2, 2, 3\)",
    ),
    "offsets-float": ({"offsets": torch.tensor([0.0, 6.0])}, r"offsets must be \(S \+ 1,\) integers"),
    "offsets-short": ({"offsets": offsets_of([5])}, r"offsets must rise from 0 to N = 6, got \[0, 5\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_attend_refuses(case):
    wrong, message = BAD[case]
    arguments = {"query": torch.zeros(2, 3), "x": torch.zeros(6, 3), "offsets": offsets_of([6])} | wrong
    with pytest.raises(ValueError, match=message):
        attend(**arguments)
