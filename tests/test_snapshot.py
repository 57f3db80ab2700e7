"""A session goes on from its snapshot as if nothing had happened."""

import random

import pytest
import torch

from longcompress.session import Session
from longcompress.types import Frames

from clips import make_clip, random_parts
from helpers import assert_same_memory
from models import model as make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep_assignment", [False, True])
def test_a_restored_session_ends_as_the_first(model, seed, keep_assignment):
    parts = random_parts(*make_clip(37.0), seed)
    at = random.Random(seed).randrange(len(parts) + 1)
    first = Session(model, 30, keep_assignment=keep_assignment)
    for part in parts[:at]:
        first.push(part)
    data = first.snapshot()
    assert data == first.snapshot()
    second = Session.restore(make_model(), data)
    for part in parts[at:]:
        assert first.push(part) == second.push(part)
    assert first.close() == second.close()
    assert_same_memory(second.memory(), first.memory())
    assert first.stats()["raw_tokens"] == second.stats()["raw_tokens"]


@pytest.mark.slow
def test_a_snapshot_is_of_bounded_size(model):
    session = Session(model, 24, media=["video"])
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for minute in range(60):
        pixels = torch.randint(0, 255, (60, 16, 16, 3), dtype=torch.uint8, generator=generator)
        session.push(Frames(pixels, torch.arange(60, dtype=torch.float64) + 60 * minute, 1.0))
        sizes.append(len(session.snapshot()))
    assert max(sizes[30:]) <= 1.1 * max(sizes[10:30])


def test_a_closed_session_stays_closed(model):
    session = Session(model, 40)
    session.push(make_clip(6.0)[0])
    session.close()
    with pytest.raises(ValueError, match="session has ended"):
        Session.restore(model, session.snapshot()).push(make_clip(9.0)[0])


def test_what_cannot_be_restored_is_refused(model):
    data = Session(model, 40).snapshot()
    with pytest.raises(ValueError, match="was cut"):
        Session.restore(model, data[:-1])
    other = make_model()
    with torch.no_grad():
        next(other.video.parameters()).add_(1)
    with pytest.raises(ValueError, match="made by other encoders"):
        Session.restore(other, data)
