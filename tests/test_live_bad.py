"""Bad input of a live session: each has a defined outcome, a message with a remedy, and the session lives."""

from dataclasses import replace

import pytest
import torch
from live_sessions import TEXT, of

from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.session import Dropped, Reply, Session
from longcompress.session_events import Asked, ReplyBegan, Scored
from longcompress.types import Audio, Frames

from clips import make_clip
from models import model as make_model
from models import with_heads

LIVE = LiveConfig(
    TriggerConfig("single", 0.01, ("relevance",)), near_s=8, past=20, text_tokens=60, max_reply_tokens=9,
    step_tokens=1, patience_s=100.0,
)  # fmt: skip
QUIET = replace(LIVE, trigger=TriggerConfig("single", 1.0, ("relevance",)))


@pytest.fixture(scope="module")
def model():
    return with_heads()


def frame(time_s, value=100, size=16):
    pixels = torch.full((1, size, size, 3), value, dtype=torch.uint8)
    return Frames(pixels, torch.tensor([time_s], dtype=torch.float64), 1.0)


def opened(model, live=QUIET, media=("video",)):
    return Session(model, 40, live=live, media=media)


# --- text


def test_a_request_before_the_first_frame_is_read_with_it(model):
    session = opened(model)
    (asked,) = session.push_text(TEXT, reply="may")
    assert asked == Asked(0.0, TEXT, 1) and session.context() == []
    session.push(frame(0.0)), session.push(frame(1.0))
    assert [part.region for part in session.context()][:3] == ["past", "turns", "near"]


def test_texts_of_equal_times_come_in_their_order(model):
    session = opened(model)
    for text in (TEXT, "what is seen", "what happens"):
        session.push_text(text, 1.0, reply="may")
    events = [e for i in range(3) for e in session.push(frame(float(i)))]
    assert [(e.text, e.request) for e in of(events, Asked)] == [
        (TEXT, 1), ("what is seen", 2), ("what happens", 3),
    ]  # fmt: skip


def test_a_later_text_without_room_is_dropped_and_the_session_lives(model):
    session = opened(model)
    session.push_text("red " * 70, 1.0, reply="may")
    events = [e for i in range(4) for e in session.push(frame(float(i)))]
    (dropped,) = of(events, Dropped)
    assert dropped.what == "turn" and "shorten it, withdraw a request, or raise it" in dropped.reason
    assert len(of(events, Scored)) >= 3


# --- frames


def test_frames_that_run_backwards_or_repeat_are_dropped(model):
    session = opened(model)
    events = [e for s in (0.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0) for e in session.push(frame(s))]
    assert [(e.what, e.time_s) for e in of(events, Dropped)] == [("video", 1.0), ("video", 2.0)]
    assert [e.time_s for e in of(events + session.close(), Scored)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_minute_without_a_frame_is_a_gap(model):
    session = opened(model)
    events = [e for s in (0.0, 1.0, 61.0, 62.0) for e in session.push(frame(s))] + session.close()
    assert [e.time_s for e in of(events, Scored)] == [0.0, 1.0, 61.0, 62.0] and not of(events, Dropped)


def test_black_frames_of_any_size_and_colour_are_read(model):
    session = opened(model)
    events = session.push(frame(0.0, 0))
    for second, size in enumerate((16, 64, 7, 200), 1):
        events += session.push(frame(float(second), 50 * second, size))
    scores = of(events + session.close(), Scored)
    assert len(scores) == 5 and all(0 <= e.scores["relevance"] <= 1 for e in scores)


@pytest.mark.parametrize(("image", "message"), [
    (torch.zeros(16, 16, 3), r"pixels must be uint8"),
    (torch.zeros(16, 16, 4, dtype=torch.uint8), r"pixels must be"),
    (torch.zeros(16, 16, dtype=torch.uint8), r"pixels must be"),
])  # fmt: skip
def test_what_is_no_frame_is_refused(model, image, message):
    session = opened(model)
    with pytest.raises(ValueError, match=message):
        session.push_frame(image)
    session.push(frame(0.0))
    session.close()
    assert session.stats()["steps"] == 1


# --- audio


def test_audio_with_a_gap_an_overlap_or_alone(model):
    _, sound = make_clip(12.0)
    session = opened(model, media=("audio",))
    cuts = [sound.cut(0, 32000), sound.cut(64000, 96000), sound.cut(80000, 128000), sound.cut(128000, 192000)]
    events = [e for part in cuts for e in session.push(part)] + session.close()
    (dropped,) = of(events, Dropped)
    assert (dropped.what, dropped.time_s) == ("audio", 5.0) and dropped.end_s == pytest.approx(6.0, abs=0.01)
    seconds = [e.time_s for e in of(events, Scored)]
    assert seconds == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]


def test_samples_that_are_no_numbers_are_refused(model):
    _, sound = make_clip(3.0)
    session = opened(model, media=("audio",))
    session.push(sound.cut(0, 16000))
    bad = Audio(torch.full((16000,), float("nan")), 1.0)
    with pytest.raises(ValueError, match="samples must be finite, got NaN or infinity in audio at 1 s"):
        session.push(bad)
    events = session.push(sound.cut(16000, 48000)) + session.close()
    assert of(events, Scored)[-1].time_s == 2.0


def test_a_clock_that_drifts_costs_no_sample(model):
    """Half a percent too slow: stamps lag behind by up to a sample a push, and no second is late."""
    _, sound = make_clip(10.0)
    session, events = opened(model, media=("audio",)), []
    for i in range(100):
        part = sound.cut(i * 1600, (i + 1) * 1600)
        events += session.push(Audio(part.samples, part.start_s - i * 0.5e-6))
    assert not of(events + session.close(), Dropped) and session.stats()["steps"] == 10


# --- sessions


def test_a_session_closed_while_it_speaks_says_all(model):
    session = opened(model, LIVE)
    session.push_text(TEXT, reply="may")
    events = session.push(frame(0.0)) + session.push(frame(1.0))
    assert session.live.context.speech is not None and of(events, ReplyBegan)
    ends = session.close()
    assert len(of(ends, Reply)) >= 1 and session.live.context.speech is None
    with pytest.raises(ValueError, match="session has ended, by close"):
        session.push(frame(2.0))


@pytest.mark.parametrize("live", [None, LIVE])
def test_nothing_comes_after_the_end(model, live):
    """By flush as by close; what came can still be asked about, also from a snapshot."""
    session = opened(model, live) if live else Session(model, 40)
    session.push(frame(0.0))
    session.flush()
    for ended in (session, Session.restore(model, session.snapshot())):
        with pytest.raises(ValueError, match=r"session has ended, by close\(\) or flush\(\); make a new one"):
            ended.push(frame(1.0))
        assert of(ended.push_text("what is seen"), Reply) and ended.close() == []


def test_a_snapshot_of_another_model_is_refused(model):
    session = opened(model, LIVE)
    session.push(frame(0.0))
    other = make_model(llm=model.config.llm)
    with torch.no_grad():
        next(other.video.encoder.parameters()).add_(1.0)
    with pytest.raises(ValueError, match=r"made by other encoders than model .* restore it with the model"):
        Session.restore(other, session.snapshot())
    with pytest.raises(ValueError, match=r"data is no snapshot|cut|damaged"):
        Session.restore(model, session.snapshot()[:200])


def test_a_live_snapshot_of_another_language_model_is_refused(model):
    session = opened(model, LIVE)
    session.push(frame(0.0))
    other = make_model(llm=model.config.llm)
    other.load_state_dict(model.state_dict(), strict=False)
    Session.restore(other, Session(model, 40).snapshot())
    with torch.no_grad():
        other.llm.lm.get_input_embeddings().weight.add_(1.0)
    Session.restore(other, Session(model, 40).snapshot())
    with pytest.raises(ValueError, match=r"session with another language model than .* restore it with"):
        Session.restore(other, session.snapshot())


def test_models_without_steps_are_refused(model):
    spread = make_model(llm=model.config.llm)
    spread.change({"media": {"frames": 10}})
    with pytest.raises(ValueError, match=r"live needs media.rate_fps, got media.frames"):
        opened(spread)
    cut = make_model(llm=model.config.llm)
    cut.change({"segments": {"cut": "frames"}})
    with pytest.raises(ValueError, match=r'live needs segments.cut "fixed" or "change", got "frames"'):
        opened(cut)


def test_two_kinds_of_heads_are_refused(model):
    with pytest.raises(ValueError, match=r'heads must be some of .* each once, or "poll", got'):
        TriggerConfig("single", 0.5, ("relevance", "poll"))
    with pytest.raises(ValueError, match="media must be some of"):
        opened(model, media=("text",))
