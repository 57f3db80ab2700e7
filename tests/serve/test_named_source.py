"""Sources that the server reads for live sessions: what a session in this process says of them; clients never
learn where they are."""

import json
import socket
import threading
from dataclasses import replace

import pytest

from longcompress.media.live import live_source
from longcompress.serve import named_source
from longcompress.serve.app import App
from longcompress.serve.limits import Limits
from longcompress.session import Session
from longcompress.session_events import Scored

from models import with_heads
from serving import LIVE, OWN, TEXT, Live, running, until
from videos import Video, write

SECONDS = 3


@pytest.fixture(scope="module")
def model():
    return with_heads()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / "secret.mp4"
    return write(path, Video(stamps=range(0, 1000 * SECONDS, 200), beeps=(1.0,), audio_s=SECONDS))


@pytest.fixture(scope="module")
def door(clip):
    """A port that sends a video to each who comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    data = write(clip.with_suffix(".ts"), Video()).read_bytes()

    def send():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture(scope="module")
def server(model, clip, door, tmp_path_factory):
    sources = [f"clip={clip}", f"door=tcp://127.0.0.1:{door}", "none=tcp://127.0.0.1:1"]
    limits = {"live_sources": sources, "live_idle_s": 1.5, "live_keep_s": 1.0, "live_sessions": 20}
    with running(model, tmp_path_factory.mktemp("live"), client_live=16, **limits) as (app, client):
        yield app, client


def test_a_source_is_what_a_session_in_this_process_has(model, server, clip):
    """Also where the client says nothing for longer than it could without a source."""
    with Live(server[1]) as live:
        own = live.settings(**OWN, scores=True, overflow="wait")["session"]["longcompress"]
        live.send("longcompress.source", source="clip")
        live.text(TEXT, "may")
        assert live.until("longcompress.source", "error")["media"] == ["video", "audio"]
        assert live.rest() == 1000
    config = replace(model.config.media, max_pixels=server[0].limits.max_pixels)
    parts = list(live_source(str(clip), config))
    session = Session(model, own["budget"], media=["video", "audio"], live=LIVE)
    events = session.push_text(TEXT, reply="may")
    for part in parts:
        events += session.push(part)
    want = [(e.time_s, e.scores) for e in events + session.close() if isinstance(e, Scored)]
    over = [(e["time_s"], e["scores"]) for e in live.events if e["type"] == "longcompress.scores"]
    assert over == want
    frames = [event for event in live.events if event["type"] == "longcompress.frame"]
    assert [f["time_s"] for f in frames] == [p.start_s for p in parts if p.modality == "video"]
    assert all(f["image_url"].startswith("data:image/jpeg;base64,") for f in frames)
    ended = live.events[-1]["longcompress"]
    assert ended["reason"] == "the source ended" and ended["stats"]["steps"] == len(want)


def test_a_stream_is_a_source(server):
    with Live(server[1]) as live:
        live.settings(**OWN, media=["video"])
        live.send("longcompress.source", source="door")
        assert live.until("longcompress.source", "error")["media"] == ["video"]
        assert live.until("longcompress.frame")["time_s"] == 0
        live.send("session.close")
        assert live.rest() == 1000


def test_clients_know_the_names_alone(server, clip):
    about = server[1].get("/v1/models").json()["data"][0]["longcompress"]
    assert about["live_sources"] == ["clip", "door", "none"]
    with Live(server[1]) as live:
        live.send("longcompress.source", source=str(clip))
        error = live.until("error")["error"]
        assert error["param"] == "source" and "clip, door, none" in error["message"]
        live.send("longcompress.source", source="none")
        assert live.until("error")["error"]["message"] == "source none can't be read: nothing listens there"
        live.send("longcompress.source", source="clip")  # another can follow
        live.until("longcompress.source")
        live.send("longcompress.source", source="clip")
        assert live.until("error")["error"]["code"] == "session_begun"
        live.rest()
    assert str(clip) not in json.dumps([e for e in live.events[1:] if "error" not in e])
    assert "127.0.0.1" not in json.dumps(live.events)


def test_a_fault_of_ours_is_told_without_what_it_says(server, monkeypatch):
    def faulty(*_, **__):
        raise RuntimeError("internals")
        yield

    monkeypatch.setattr(named_source, "live_source", faulty)
    with Live(server[1]) as live:
        live.send("longcompress.source", source="clip")
        assert live.until("error")["error"]["message"] == "source clip failed; the server's log says why"


def test_a_source_comes_before_texts(server):
    with Live(server[1]) as live:
        live.settings(**OWN)
        live.text(TEXT, "may")
        live.send("longcompress.source", source="clip")
        assert live.until("error")["error"]["code"] == "session_begun"
        live.send("session.close")
        live.rest()


def test_a_client_that_vanishes_ends_its_source(server):
    app, client = server
    before = {t for t in threading.enumerate() if t.name == "longcompress-source"}
    with Live(client) as live:
        live.send("longcompress.source", source="door")
        live.until("longcompress.frame")
        name = live.id
        live.socket.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: name not in app.live.sessions)
    until(lambda: not {t for t in threading.enumerate() if t.name == "longcompress-source"} - before)


@pytest.mark.parametrize("source", ["rtsp://cam", "=rtsp://cam", "a b=x", "door="])
def test_sources_have_names(source):
    with pytest.raises(ValueError, match="live_sources must be NAME=SOURCE"):
        Limits(live_sources=[source])


def test_sources_that_cannot_be_are_refused_before_anybody_comes(model, tmp_path):
    limits = Limits(folder=str(tmp_path), live_sources=["door=srt://cam/1"])
    with pytest.raises(ValueError, match="source must be a path, - or of a kind in"):
        App(model, "tiny", limits)
