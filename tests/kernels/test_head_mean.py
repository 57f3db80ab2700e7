"""`head_mean`: plain float64 means, linear, one row at a time the same."""

import pytest
import torch

from longcompress.kernels import head_mean

from helpers import assert_close, normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("n", "c", "width"), [(0, 8, 4), (1, 64, 64), (37, 96, 32), (50, 40, 8), (5, 30, 100)]
)
def test_it_is_the_mean_over_heads(n, c, width, dtype):
    x = normal(n, c, seed=1, dtype=dtype)
    d = min(width, c)
    want = torch.stack([x[:, h * d : (h + 1) * d].double() for h in range(c // d)]).mean(0)
    got = head_mean(x, width)
    assert got.dtype == torch.float32
    assert_close("metric", got, want, 1e-6)


def test_a_row_alone_and_rows_apart_are_the_same():
    x = normal(33, 64, seed=2)
    whole = head_mean(x, 16)
    assert torch.equal(head_mean(x[7:8], 16), whole[7:8])
    assert torch.equal(head_mean(torch.cat([x, x], 1)[:, :64], 16), whole)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"x must be \(N, C\) float"):
        head_mean(torch.zeros(3, 4, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="width must divide the C = 10"):
        head_mean(torch.zeros(3, 10), 4)
    with pytest.raises(ValueError, match="got 0"):
        head_mean(torch.zeros(3, 10), 0)
