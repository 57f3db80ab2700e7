"""kernels/novelty.py: one minus the cosine with the token before."""

import numpy as np
import pytest
import torch

from longcompress.kernels import frame_novelty, novelty

from helpers import assert_within, normal


def before(*rows: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


def test_novelty_is_one_minus_the_cosine():
    metric = normal(200, 17, seed=1, dtype=torch.float64)
    previous = torch.from_numpy(np.random.default_rng(2).integers(-1, 200, 200)).int()
    x = metric.numpy()
    want = [
        1 - float(x[i] @ x[j]) / float(np.linalg.norm(x[i]) * np.linalg.norm(x[j])) if j >= 0 else 1.0
        for i, j in enumerate(previous.tolist())
    ]
    got = novelty(metric, previous)
    assert got.dtype == torch.float32
    assert got.shape == (200,)
    assert_within("novelty", got, np.array(want), 1e-6)
    assert_within("as int64", novelty(metric, previous.long()), got, 0)


def test_the_same_again_is_zero_and_the_opposite_two():
    token = normal(1, 64, seed=3)
    got = novelty(torch.cat([token, token, 3 * token, -token, -0.01 * token]), before(-1, 0, 1, 2, 0))
    assert_within("novelty", got, np.array([1.0, 0, 0, 2, 2]), 1e-6)


def test_none_before_is_one():
    assert novelty(normal(5, 3, seed=4), torch.full((5,), -1)).tolist() == [1.0] * 5


def test_at_right_angles_is_one():
    got = novelty(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), before(1, 0))
    assert_within("novelty", got, np.ones(2), 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("d", [1, 3, 64, 70])
def test_novelty_lies_between_zero_and_two(d, dtype):
    metric = normal(300, d, seed=5).to(dtype)
    metric[100:200] = metric[0:100]  # exact copies and opposites, where rounding would leave the range
    metric[200:300] = -metric[0:100]
    got = novelty(metric, torch.cat([torch.full((100,), -1), torch.arange(100), torch.arange(100)]).int())
    assert got.dtype == torch.float32
    assert bool(((got >= 0) & (got <= 2)).all())
    assert_within("copies", got[100:200], np.zeros(100), 1e-6)
    assert_within("opposites", got[200:300], np.full(100, 2.0), 1e-6)


def test_length_does_not_matter():
    metric, previous = normal(50, 9, seed=6), torch.arange(-1, 49)
    scale = normal(50, 1, seed=7).exp()
    assert_within("scaled", novelty(metric * scale, previous), novelty(metric, previous), 1e-6)


def test_zero_vectors():
    metric = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    assert novelty(metric, before(1, 0, 0)).tolist() == [1.0, 1.0, 0.0]


def test_a_token_far_away_changes_nothing():
    metric, previous = normal(40, 8, seed=8), torch.arange(-1, 39)
    more = torch.cat([metric, normal(7, 8, seed=9)])
    packed = novelty(more, torch.cat([previous, torch.full((7,), 3)]))
    assert torch.equal(packed[:40], novelty(metric, previous))


@pytest.mark.parametrize("patches", [1, 4, 12])
def test_frames_are_as_new_in_parts_as_at_once(patches):
    metric = normal(24, 7, seed=10)
    previous = torch.arange(24, dtype=torch.int32) - patches
    whole = frame_novelty(metric, patches)
    assert torch.equal(whole, novelty(metric, previous.clamp_min(-1)))
    assert whole[:patches].tolist() == [1.0] * patches
    head, tail = metric[:12], metric[12:]
    parts = [frame_novelty(head, patches), frame_novelty(tail, patches, head[-patches:])]
    assert torch.equal(torch.cat(parts), whole)
    assert frame_novelty(metric[:0], patches, head[-patches:]).shape == (0,)


def test_no_tokens():
    assert novelty(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int32)).shape == (0,)


BAD = {
    "metric": (torch.zeros(3), before(0, 1, 2), r"metric must be \(N, d\), got \(3,\)"),
    "previous-shape": (
        torch.ones(3, 2),
        before(0, 1),
        r"previous must be \(N,\) = \(3,\) integers, got \(2,\)",
    ),
    "previous-float": (
        torch.ones(2, 2),
        torch.zeros(2),
        r"previous must be \(N,\) = \(2,\) integers.*float32",
    ),
    "previous-low": (torch.ones(2, 2), before(-2, 0), r"previous must hold rows in \[-1, 2\), got -2 to 0"),
    "previous-high": (torch.ones(2, 2), before(-1, 2), r"previous must hold rows in \[-1, 2\), got -1 to 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_novelty_refuses(case):
    metric, previous, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        novelty(metric, previous)
