"""Squares of patches that are averaged to a token."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d

from longcompress.config import VisionConfig
from longcompress.encoders import VisionEncoder
from longcompress.types import Frames

import models


@pytest.fixture(scope="module")
def plain():
    return models.model().video


def test_a_token_is_the_mean_of_a_square_of_patches(plain):
    edge, pool = plain.grid[0], 2
    assert edge % pool == 0
    pooled = VisionEncoder(plain.encoder, replace(plain.config, pool=pool), plain.size_px, *plain.norm)
    assert pooled.patches == plain.patches // pool**2 and pooled.grid == (edge // pool, edge // pool)
    pixels = torch.randint(0, 256, (2, plain.size_px, plain.size_px, 3), dtype=torch.uint8)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    whole, got = (encoder.encode(Frames(pixels, times, 1.0)) for encoder in (plain, pooled))
    grid = whole.tokens.x.view(2, edge, edge, -1).movedim(-1, 1)
    want = avg_pool2d(grid, pool).movedim(1, -1).reshape(-1, plain.width)
    torch.testing.assert_close(got.tokens.x, want)
    assert got.patches == pooled.patches and len(got.metric) == len(want)
    assert got.tokens.place[:, 1].max() == edge // pool - 1


def test_what_does_not_divide_the_frame_is_refused(plain):
    edge = plain.grid[0]
    with pytest.raises(
        ValueError, match=f"must divide the edge of the {edge} x {edge} patches, got {edge + 1}"
    ):
        VisionEncoder(plain.encoder, replace(plain.config, pool=edge + 1), plain.size_px, *plain.norm)
    with pytest.raises(ValueError, match='pool must be 1 with tokens "class", got 2'):
        VisionConfig(tokens="class", pool=2)
    with pytest.raises(ValueError, match="pool must be > 0"):
        VisionConfig(pool=0)
