"""`attend` through its Triton kernels, forward and backward, against the reference in float64."""

import pytest
import torch

import longcompress.kernels.gpu.attend  # noqa: F401 - registers the operator
from longcompress.kernels import State, attend, attend_reference, start_state

from helpers import assert_close, normal, offsets_of

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 3e-3, torch.float16: 1e-3}
SEGMENTS = [[7], [40, 0, 33], [1, 65, 2], [0]]


def wide(state: State) -> State:
    return State(*(part.double() for part in state))


def reference(query, x, offsets, bias, state) -> State:
    """attend_reference, its float32 casts left out by float64 inputs' own arithmetic."""
    return attend_reference(query, x, offsets.tolist(), bias, state)


def inputs(lengths, queries, width, dtype, *, biased=True, empty=False):
    num = sum(lengths)
    query = normal(queries, width, seed=1) * width**-0.5
    x = normal(num, width, seed=2, dtype=dtype)
    bias = normal(num, seed=3).abs() if biased else None
    state = start_state(len(lengths), queries, width, x.device)
    if not empty:
        state = State(
            normal(len(lengths), queries, seed=4), normal(len(lengths), queries, seed=5).abs() + 0.5,
            normal(len(lengths), queries, width, seed=6),
        )  # fmt: skip
    return query, x, offsets_of(lengths), bias, state


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("lengths", SEGMENTS, ids=str)
@pytest.mark.parametrize(("queries", "width"), [(1, 8), (5, 70), (16, 64), (20, 33)])
def test_the_state_is_that_of_the_reference(lengths, queries, width, dtype, dispatched):
    for biased, empty in ((True, False), (False, True)):
        arguments = inputs(lengths, queries, width, dtype, biased=biased, empty=empty)
        got, want = attend(*arguments[:3], bias=arguments[3], state=arguments[4]), reference(*arguments)
        assert dispatched[-1] == ("attend", True)
        assert torch.equal(got.max.isinf(), want.max.isinf())
        seen = ~want.max.isinf()
        assert_close("max", got.max[seen], want.max[seen], 2e-6)
        assert_close("sum", got.sum, want.sum, 3e-6)
        assert_close("acc", got.acc, want.acc, 3e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("lengths", SEGMENTS[:3], ids=str)
def test_the_gradients_are_those_of_the_reference(lengths, dtype):
    grads = []
    for op in (attend, reference):
        query, x, offsets, bias, state = inputs(lengths, 5, 70, dtype)
        leaves = [t.clone().requires_grad_() for t in (query, x, bias, *state)]
        old = State(*leaves[3:])
        if op is attend:
            after = attend(leaves[0], leaves[1], offsets, bias=leaves[2], state=old)
        else:
            after = reference(leaves[0], leaves[1], offsets, leaves[2], old)
        weights = [normal(*part.shape, seed=9 + i) for i, part in enumerate(after)]
        sum((part * w).sum() for part, w in zip(after, weights, strict=True)).backward()
        grads.append([leaf.grad for leaf in leaves])
    for name, got, want in zip(("query", "x", "bias", "max", "sum", "acc"), *grads, strict=True):
        assert_close(name, got.double(), want.double(), TOLERANCE[dtype] * 3 if name == "x" else 1e-5)


def test_two_chunks_are_the_whole():
    query, x, _, bias, state = inputs([60], 4, 24, torch.float32)
    whole = attend(query, x, offsets_of([60]), bias=bias, state=state)
    first = attend(query, x[:23], offsets_of([23]), bias=bias[:23], state=state)
    second = attend(query, x[23:], offsets_of([37]), bias=bias[23:], state=first)
    for name, a, b in zip(State._fields, second, whole, strict=True):
        assert_close(name, a, b, 2e-6)


def test_a_segment_alone_and_in_a_pack_agree_to_the_bit_and_so_do_two_runs():
    query, x, offsets, bias, state = inputs([40, 33], 5, 40, torch.float32)
    pack = attend(query, x, offsets, bias=bias, state=state)
    again = attend(query, x, offsets, bias=bias, state=state)
    alone = attend(
        query, x[40:], offsets_of([33]), bias=bias[40:], state=State(*(part[1:] for part in state))
    )
    assert all(torch.equal(a, b) for a, b in zip(pack, again, strict=True))
    assert all(torch.equal(a[1:], b) for a, b in zip(pack, alone, strict=True))


def test_the_operators_are_registered_well():
    query, x, offsets, bias, state = inputs([20, 13], 5, 24, torch.float32)
    for maybe_bias in (bias, None):
        torch.library.opcheck(
            torch.ops.longcompress_attend.attend.default, (query, x, offsets, maybe_bias, *state)
        )
    top, total, acc, scores = torch.ops.longcompress_attend.attend(query, x, offsets, bias, *state)
    torch.library.opcheck(
        torch.ops.longcompress_attend.attend_backward.default,
        (query, x, offsets, scores, top, total, acc, total, torch.zeros(2, 5, dtype=torch.int64)),
    )
