"""A log of a live session plays again to the same events, bit for bit."""

import json

import pytest

from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.live.log import EVENTS, ITEMS, Log, Text, differences, play, read_items, replay
from longcompress.session import Session
from longcompress.session_events import Dropped, Reply

from clips import make_clip, random_parts
from models import model as make_model
from models import with_heads

LIVE = LiveConfig(
    TriggerConfig("single", 0.01, ("relevance",), refractory_s=3.0), near_s=8, past=20, text_tokens=60,
    max_reply_tokens=9, step_tokens=2, replies="keep",
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return with_heads()


@pytest.fixture
def log(model, tmp_path):
    """(folder, what happened)."""
    session = Session(model, 40, live=LIVE)
    items = [
        Text("when does the red ball appear", 0.0), Text("what is seen", 6.0, "must"),
        *random_parts(*make_clip(14.0), 3),
    ]  # fmt: skip
    items.insert(9, Dropped("video", 3.0, 4.0, "behind by 3.2 s"))
    return tmp_path / "log", list(play(session, items, Log(tmp_path / "log", session)))


def test_a_log_plays_again_to_the_same_events(model, log):
    folder, events = log
    assert sum(isinstance(event, Reply) for event in events) > 2
    assert list(replay(folder, model)) == events
    assert list(differences(folder, replay(folder, model))) == []
    assert len((folder / EVENTS).read_text().splitlines()) == len(events)


def test_another_event_is_found(model, log):
    folder, events = log
    lines = (folder / EVENTS).read_text().splitlines()
    changed = json.loads(lines[5])
    lines[5] = json.dumps(changed | {"time_s": changed["time_s"] + 1e-9})
    (folder / EVENTS).write_text("\n".join([*lines, '{"event": "more"}']) + "\n")
    faults = list(differences(folder, replay(folder, model)))
    assert [number for number, _, _ in faults] == [6, len(events) + 1]
    assert faults[1][1:] == ('{"event": "more"}', "")


def test_a_log_that_was_cut_plays_as_far_as_it_goes(model, log):
    folder, events = log
    text = (folder / ITEMS).read_text()
    (folder / ITEMS).write_text(text[: text.rindex("\n", 0, len(text) - 20) + 8])  # a line without its end
    again = list(replay(folder, model))
    assert again == events[: len(again)] and len(again) > len(events) // 2


def test_what_is_no_log_or_of_another_model(model, log, tmp_path):
    folder, _ = log
    with pytest.raises(FileNotFoundError, match=r"no log in .*; `longcompress live SOURCE --record"):
        next(read_items(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="must be empty; name a new one"):
        Log(folder, Session(model, 40, live=LIVE))
    other = make_model()
    other.change({"segments": {"length_s": 7.0}})
    with pytest.raises(ValueError, match="its own weights and options; replay it with the same --model"):
        next(replay(folder, other))
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads 2"):
        next(read_items(folder))
