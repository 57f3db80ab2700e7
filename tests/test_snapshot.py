"""A session goes on from its snapshot as if nothing had happened."""

import random

import pytest
import torch
from test_session import in_pieces, same, video

from longcompress.session import Session
from longcompress.types import Frames

from models import model as make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("keep_assignment", [False, True])
def test_a_restored_session_ends_as_the_one_that_went_on(model, seed, keep_assignment):
    parts = in_pieces(*video(37.0), seed)
    at = random.Random(seed).randrange(len(parts) + 1)
    went_on = Session(model, 30, keep_assignment=keep_assignment)
    told = [went_on.push(p) for p in parts[:at]]
    data = went_on.snapshot()
    assert data == went_on.snapshot()
    restored = Session.restore(make_model(), data)
    told = [went_on.push(p) for p in parts[at:]], went_on.close()
    again = [restored.push(p) for p in parts[at:]], restored.close()
    assert told == again
    one, other = went_on.memory(), restored.memory()
    assert same(one, other) and one.duration_s == other.duration_s
    assert one.video.assignment.keys() == other.video.assignment.keys()
    assert all(torch.equal(one.video.assignment[n], other.video.assignment[n]) for n in one.video.assignment)
    assert went_on.stats()["raw_tokens"] == restored.stats()["raw_tokens"]


def test_a_snapshot_is_of_bounded_size(model):
    session = Session(model, 24, media=["video"])
    draw = torch.Generator().manual_seed(0)
    sizes = []
    for minute in range(60):
        pixels = torch.randint(0, 255, (60, 16, 16, 3), dtype=torch.uint8, generator=draw)
        session.push(Frames(pixels, torch.arange(60, dtype=torch.float64) + 60 * minute, 1.0))
        sizes.append(len(session.snapshot()))
    assert max(sizes[30:]) <= 1.1 * max(sizes[10:30])


def test_a_closed_session_stays_closed(model):
    session = Session(model, 40)
    session.push(video(6.0)[0])
    session.close()
    with pytest.raises(ValueError, match="session is closed"):
        Session.restore(model, session.snapshot()).push(video(9.0)[0])


def test_what_cannot_be_restored_is_refused(model):
    data = Session(model, 40).snapshot()
    with pytest.raises(ValueError, match="was cut"):
        Session.restore(model, data[:-1])
    other = make_model()
    with torch.no_grad():
        next(other.video.parameters()).add_(1)
    with pytest.raises(ValueError, match="made by other encoders"):
        Session.restore(other, data)
