"""Blocks of pictures whose last one lasts otherwise: one block for the tower, each picture its own end."""

import pytest
import torch

from longcompress.encoders import Stream
from longcompress.types import Encoded, Frames

import models

STEP_S, LAST_S = 0.6, 0.04


@pytest.fixture(scope="module")
def tower():
    return models.model().vision


def pictures(tower, num):
    """(a film's pictures but the last, the last, which lasts to the film's end)."""
    draw = torch.Generator().manual_seed(num)
    pixels = torch.randint(0, 256, (num, tower.size_px, tower.size_px, 3), dtype=torch.uint8, generator=draw)
    times = torch.arange(num, dtype=torch.float64) * STEP_S
    return Frames(pixels[:-1], times[:-1], STEP_S), Frames(pixels[-1:], times[-1:], LAST_S)


def streamed(tower, parts):
    """(all that a stream gives of these parts, how many pictures each run of the tower was for)."""
    stream = Stream(tower)
    given = [encoded for part in parts for encoded in stream.push(part)] + stream.flush()
    return Encoded.join(given), [len(one) // one.cells for one in given]


def test_a_last_picture_fills_the_block_it_belongs_to(tower):
    first, last = pictures(tower, 2 * tower.block)
    whole, runs = streamed(tower, [first, last])
    assert runs == [tower.block, tower.block]
    alike = Frames(torch.cat([first.pixels, last.pixels]), torch.cat([first.time_s, last.time_s]), STEP_S)
    plain, _ = streamed(tower, [alike])
    assert torch.equal(whole.tokens.x, plain.tokens.x) and torch.equal(whole.metric, plain.metric)
    ends = whole.tokens.end_s[:: whole.cells]
    assert torch.equal(ends[:-1], plain.tokens.end_s[:: whole.cells][:-1])
    assert float(ends[-1]) == pytest.approx(float(last.time_s[0]) + LAST_S)
    middle = float(whole.tokens.time_s[-1])
    assert middle == pytest.approx(float(last.time_s[0]) + LAST_S / 2)


def test_however_the_film_is_cut(tower):
    first, last = pictures(tower, tower.block + 2)
    whole, _ = streamed(tower, [first, last])
    for at in range(1, len(first)):
        parts = [Frames(first.pixels[a:b], first.time_s[a:b], STEP_S) for a, b in ((0, at), (at, len(first)))]
        again, _ = streamed(tower, [*parts, last])
        for name in ("x", "time_s", "start_s", "end_s"):
            assert torch.equal(getattr(again.tokens, name), getattr(whole.tokens, name)), (at, name)


def test_another_step_after_a_gap_ends_the_block(tower):
    first, last = pictures(tower, 4)
    later = Frames(last.pixels, last.time_s + 1.0, LAST_S)
    _, runs = streamed(tower, [first, later])
    assert runs == [3, 1]
