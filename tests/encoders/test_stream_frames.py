"""Streams whose last frame lasts otherwise: one block of the encoder, each frame with its own end."""

import pytest
import torch

from longcompress.encoders import Stream
from longcompress.types import Encoded, Frames

import models

STEP_S, LAST_S = 0.6, 0.04


@pytest.fixture(scope="module")
def encoder():
    return models.model().video


def frames(encoder, num):
    """(a video's frames but the last, the last, which lasts to the video's end)."""
    generator = torch.Generator().manual_seed(num)
    pixels = torch.randint(
        0, 256, (num, encoder.size_px, encoder.size_px, 3), dtype=torch.uint8, generator=generator
    )
    times = torch.arange(num, dtype=torch.float64) * STEP_S
    return Frames(pixels[:-1], times[:-1], STEP_S), Frames(pixels[-1:], times[-1:], LAST_S)


def streamed(encoder, parts):
    """(the tokens of these parts, frames of each run of the encoder)."""
    stream = Stream(encoder)
    encoded = [e for part in parts for e in stream.push(part)] + stream.flush()
    return Encoded.join(encoded), [len(e) // e.patches for e in encoded]


def test_a_last_frame_fills_the_block_it_belongs_to(encoder):
    first, last = frames(encoder, 2 * encoder.block)
    whole, runs = streamed(encoder, [first, last])
    assert runs == [encoder.block, encoder.block]
    alike = Frames(torch.cat([first.pixels, last.pixels]), torch.cat([first.time_s, last.time_s]), STEP_S)
    plain, _ = streamed(encoder, [alike])
    assert torch.equal(whole.tokens.x, plain.tokens.x) and torch.equal(whole.metric, plain.metric)
    ends = whole.tokens.end_s[:: whole.patches]
    assert torch.equal(ends[:-1], plain.tokens.end_s[:: whole.patches][:-1])
    assert float(ends[-1]) == pytest.approx(float(last.time_s[0]) + LAST_S)
    middle = float(whole.tokens.time_s[-1])
    assert middle == pytest.approx(float(last.time_s[0]) + LAST_S / 2)


def test_however_the_video_is_cut(encoder):
    first, last = frames(encoder, encoder.block + 2)
    whole, _ = streamed(encoder, [first, last])
    for at in range(1, len(first)):
        parts = [Frames(first.pixels[a:b], first.time_s[a:b], STEP_S) for a, b in ((0, at), (at, len(first)))]
        again, _ = streamed(encoder, [*parts, last])
        for name in ("x", "time_s", "start_s", "end_s"):
            assert torch.equal(getattr(again.tokens, name), getattr(whole.tokens, name)), (at, name)


def test_another_step_after_a_gap_ends_the_block(encoder):
    first, last = frames(encoder, 4)
    later = Frames(last.pixels, last.time_s + 1.0, LAST_S)
    _, runs = streamed(encoder, [first, later])
    assert runs == [3, 1]
