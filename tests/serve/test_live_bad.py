"""Wrong inputs of live sessions, and clients that lie or stall: each has a defined outcome."""

import base64
import json
import socket
import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from longcompress.serve import live_session
from longcompress.serve.live_request import HEAD

import ranks
from models import model as make_model
from serving import Live, png_of, running, until

PIXELS = np.full((16, 16, 3), 90, np.uint8)
PNG = png_of(PIXELS)
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
POLL = {"poll": "{request}", "poll_yes": "red", "poll_no": "blue", "near_s": 8, "past": 20, "text_tokens": 60}
POLLED = POLL | {"trigger": {"heads": ["poll"], "rule": "single", "threshold": 0.5}, "max_reply_tokens": 6}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    limits = {"live_sessions": 20, "client_live": 16, "client_minute": 10_000, "live_pixels": 10_000}
    with running(model, tmp_path_factory.mktemp("live"), **limits) as (app, client):
        yield app, client


@pytest.fixture
def live(server):
    with Live(server[1]) as live:
        live.settings(**POLLED, scores=True, media=["video"])
        yield live


def image(url):
    return {"content": [{"type": "input_image", "image_url": url}]}


def item(**fields):
    return json.dumps({"type": "conversation.item.create", "item": fields, "event_id": "mine"})


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, data, *more):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(50 << 20))
TEXTS = [  # message, its param or code, part of its message
    ("{", "invalid_json", "the event is no JSON"),
    ("[" * 100_000, "invalid_json", "the event is no JSON"),
    ("[1]", "event", "must be a JSON object, got list"),
    ("7", "event", "must be a JSON object, got int"),
    ("{}", "missing_required_parameter", "type is missing"),
    ('{"type": 7}', "invalid_type", "type must be a text, got 7"),
    ('{"type": "response.now"}', "unknown_event", "type must be one of session.update"),
    ('{"type": "response.create", "what": 1}', "what", "is no known field"),
    ('{"type": "response.create"}', "no_question", "needs a question"),
    ('{"type": "response.cancel"}', "response_cancel_not_active", "none that could be cancelled"),
    ('{"type": "conversation.item.delete", "item_id": "item_x"}', "item_not_found", "no text that waits"),
    ('{"type": "conversation.item.create", "item": []}', "invalid_type", "item must be an object"),
    (item(content=[]), "item.content", "must be a text, or an image"),
    (item(content=[7]), "item.content[0]", "must be an object"),
    (item(content=[{"type": "video"}]), "item.content[0].type", "must be input_text or input_image"),
    (item(content=[{"type": "input_text", "text": " "}]), "item.content", "signs of text"),
    (item(content=[{"type": "input_text", "text": "\ud83d"}]), "item.content", "whole characters"),
    (item(content=[{"type": "input_text", "text": "x" * 30_000}]), "item.content", "signs of text"),
    (item(content=[{"type": "input_text", "text": "x"}], role="system"), "item.role", 'must be "user"'),
    (item(content=[{"type": "input_text", "text": "x"}], id=""), "item.id", "1 to 64 signs"),
    (item(**image("/etc/passwd")), "url_not_allowed", "paths and addresses are never read"),
    (item(**image("http://127.0.0.1/x.png")), "url_not_allowed", "paths and addresses are never read"),
    (item(**image("data:image/png;base64,!!!")), "item.content[0].image_url", "is no base64"),
    (item(**image("data:image/png;base64,AAAA")), "frame", "must be a JPEG or PNG"),
    (item(**image(URL), longcompress={"time_s": -1}), "item.longcompress.time_s", "must be from 0"),
    (item(**image(URL), longcompress={"time_s": "1"}), "invalid_type", "must be a number"),
    ('{"type": "input_audio_buffer.append", "audio": "AAA"}', "audio", "is no base64"),
    ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "audio", "samples of 2 bytes each, got 3"),
    ('{"type": "input_audio_buffer.append", "audio": ""}', "audio", "got 0 bytes"),
    ('{"type": "input_audio_buffer.append", "audio": 5}', "invalid_type", "audio must be a text"),
    (json.dumps({"type": "response.create", "event_id": "x" * (1 << 19)}), "too_large", "must have at most"),
]  # fmt: skip
SETTINGS = [
    ({"budget": 10**9}, "session.longcompress.budget", "must be from 1 to"),
    ({"budget": 1.5}, "invalid_type", "must be a whole number"),
    ({"rate_fps": 1000}, "session.longcompress.rate_fps", "must be from"),
    ({"rate_fps": 0}, "session.longcompress.rate_fps", "must be from"),
    ({"media": ["smell"]}, "session.longcompress.media", 'must be of "video" and "audio"'),
    ({"overflow": "grow"}, "session.longcompress.overflow", "must be one of drop, wait"),
    ({"replies": "shout"}, "session.longcompress.replies", "must be one of drop, keep, log"),
    ({"trigger": {"rule": "always"}}, "session.longcompress.trigger.rule", "must be one of single"),
    ({"trigger": {"heads": ["smell"]}}, "session.longcompress", "heads must be some of"),
    ({"trigger": {"heads": ["relevance"]}}, "update", "need a model with heads"),
    ({"trigger": {"threshold": 7}}, "session.longcompress", "threshold must be in"),
    ({"trigger": {"window": 10**8}}, "session.longcompress.trigger.window", "must be from 1 to"),
    ({"text_tokens": 5000}, "update", "live needs up to"),
    ({"patience_s": 100}, "session.longcompress.patience_s", "must be from 0 to 5"),
    ({"max_reply_tokens": 50_000}, "session.longcompress.max_reply_tokens", "must be at most"),
    ({"poll": "{request:>999999999}"}, "session.longcompress.poll", "must hold {request} as it is"),
    ({"poll": "{request.__class__}"}, "session.longcompress", "no other field"),
    ({"poll": "{request"}, "session.longcompress.poll", "braces that don't fit"),
    ({"poll_yes": "x" * 65}, "session.longcompress.poll_yes", "at most 64 signs"),
    ({"speed": 2}, "session.longcompress.speed", "is no known field"),
]
BINARY = [
    (b"", "must have a head of 16 bytes and data"),
    (HEAD.pack(1, 0.0), "must have a head of 16 bytes and data"),
    (HEAD.pack(9, 0.0) + PNG, "must begin with 1 (frame) or 2 (audio), got 9"),
    (HEAD.pack(1, -1.0) + PNG, "must have a second from 0"),
    (HEAD.pack(1, float("inf")) + PNG, "must have a second from 0"),
    (HEAD.pack(2, 0.0) + b"abc", "samples of 2 bytes each, got 3 bytes"),
    (HEAD.pack(1, 0.0) + PNG[:40], "image can't be decoded"),
    (HEAD.pack(1, 0.0) + b"\xff\xd8 no JPEG", "image can't be decoded"),
    (HEAD.pack(1, 0.0) + b"\xff\xd8" + b"\xff\xda" * 200, "at most 100 scans, got 200"),
    (HEAD.pack(1, 0.0) + png(40_000, 40_000, b"x"), "at most 10000 pixels, got 40000 x 40000"),
    (HEAD.pack(1, 0.0) + png(16, 16, BOMB), "holds more than the 16 x 16 pixels"),
    (HEAD.pack(1, 1e8) + PNG, "times count from the start"),
]


@pytest.mark.parametrize("text, name, message", TEXTS, ids=range(len(TEXTS)))
def test_events_that_cannot_be(live, text, name, message):
    live.socket.send(text)
    error = live.until("error")["error"]
    assert message in error["message"] and name in (error["param"], error["code"])
    assert error["type"] in ("invalid_request_error", "rate_limit_error")
    assert error["event_id"] == ("mine" if '"mine"' in text else error["event_id"])
    goes_on(live)


@pytest.mark.parametrize("own, name, message", SETTINGS, ids=range(len(SETTINGS)))
def test_settings_that_cannot_be(live, own, name, message):
    error = live.settings(**own)["error"]
    assert message in error["message"] and name in (error["param"], error["code"])
    assert live.settings(scores=True)["session"]["longcompress"]["near_s"] == 8  # all is as before
    goes_on(live)


@pytest.mark.parametrize("data, message", BINARY, ids=range(len(BINARY)))
def test_binary_messages_that_cannot_be(live, data, message):
    live.socket.send(data)
    assert message in live.until("error")["error"]["message"]
    goes_on(live)


def goes_on(live):
    """The session lives: a frame is read as if nothing had been."""
    live.text("what is seen", "may")
    live.until("conversation.item.added")
    live.frame(PNG, 50.0)
    assert live.until("longcompress.scores")["time_s"] == 50.0


def test_texts_and_profiles_of_a_png_are_never_inflated(live):
    """2 MB that the decoder would inflate to gigabytes."""
    packed = zlib.compress(PIXELS.tobytes()[:0] + b"".join(b"\0" + bytes(48) for _ in range(16)))
    for kind, head in ((b"zTXt", b"key\0\0"), (b"iCCP", b"key\0\0")):
        start_s = time.process_time()
        live.frame(png(16, 16, packed, chunk(kind, head + BOMB * 4)), 1.0 if kind == b"zTXt" else 2.0)
        live.text("what is seen")
        live.send("response.create")
        live.until("response.done")
        assert time.process_time() - start_s < 3


def test_settings_are_fixed_once_media_came(live):
    live.frame(PNG, 0.0)
    assert live.settings(budget=60)["error"]["code"] == "session_begun"
    assert live.settings(scores=False)["session"]["longcompress"]["scores"] is False
    live.send(
        "session.update", session={"audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}}}}
    )
    assert "must be 16000, got 24000" in live.until("error")["error"]["message"]


def test_a_question_before_anything_was_seen(live):
    live.text("what is seen")
    live.send("response.create")
    assert "session holds no token" in live.until("error")["error"]["message"]
    live.text("what is seen", id="item_a")
    live.text("what is seen", id="item_a")
    assert live.until("error")["error"]["code"] == "item_exists"


def test_frames_out_of_order_and_twice(live):
    for second in (3.0, 3.0, 1.0, 4.0):
        live.frame(PNG, second)
    drops = [live.until("longcompress.dropped") for _ in range(2)]
    assert [drop["start_s"] for drop in drops] == [3.0, 1.0]
    assert all(drop["what"] == "video" and drop["reason"].startswith("late") for drop in drops)


def test_a_request_that_is_too_long_for_the_context(live):
    live.frame(PNG, 0.0)
    live.text("red " * 200, "may")
    assert "together at most live.text_tokens = 60" in live.until("error")["error"]["message"]
    live.text("red " * 4500)
    live.send("response.create")
    assert "the language model's context has room for" in live.until("error")["error"]["message"]


def test_a_message_that_is_too_large(model, tmp_path):
    """It is refused by the length that it declares; for the session it is as if the cable had been cut."""
    message = HEAD.pack(1, 0.0) + bytes(2 << 20)
    with running(model, tmp_path, live_message_mb=1) as (app, client):
        with Live(client) as live:
            name = live.id
            live.socket.socket.sendall(struct.pack(">BBQI", 0x82, 0xFF, len(message), 0))  # a frame's start
            assert live.rest() == 1009
        with Live(client, f"&session={name}&after=event_1") as again:
            assert again.until("longcompress.resumed")["received"] == 0
            with suppress(ConnectionClosed):  # the server hangs up before all is sent, and then its code
                again.socket.send(message)  # may be lost
            assert again.rest() in (1009, None)
        with Live(client, f"&session={name}&after=event_1") as again:
            assert again.until("longcompress.resumed")["received"] == 0
        until(lambda: not app.live.sessions)


def test_keys_origins_and_names(model, tmp_path):
    key, other = "k" * 16, "o" * 16
    with running(model, tmp_path, api_keys=[key, other]) as (app, client):
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": f"Bearer {key}", "Origin": "http://evil.example"}, 403),
        ):
            with pytest.raises(InvalidStatus) as caught:
                Live(client, additional_headers=headers)
            response = caught.value.response
            assert response.status_code == status and "message" in json.loads(response.body)["error"]
        for options in (
            {"additional_headers": {"Authorization": f"Bearer {key}"}},
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]},
            {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"], "origin": str(client.base_url)},
        ):
            with Live(client, **options) as live:
                name = live.id
                assert live.socket.subprotocol == ("realtime" if "subprotocols" in options else None)
        with Live(client, additional_headers={"Authorization": f"Bearer {key}"}) as live:
            name = live.id
            for query in (f"&session={name}", "&session=sess_x", f"&session={name}&after=x"):
                owner = other if query == f"&session={name}" else key
                headers = {"Authorization": f"Bearer {owner}"}
                with Live(client, query, additional_headers=headers) as stranger:
                    code = 4400 if "after" in query else 4404
                    assert stranger.rest() == code and stranger.events[0]["type"] == "error"
        with Live(client, "&x=1&model=other", additional_headers={"Authorization": f"Bearer {key}"}) as live:
            assert live.rest() == 4404
        assert all(session.owner for session in app.live.sessions.values())


def test_the_number_of_sessions_is_bounded(model, tmp_path):
    with running(model, tmp_path, live_sessions=3, client_live=2) as (app, client):
        lives = [Live(client) for _ in range(2)]
        assert len({live.id for live in lives}) == 2
        with Live(client) as more:
            assert more.rest() == 4429
            assert more.events[0]["error"]["type"] == "rate_limit_error"
        lives[0].socket.close()
        until(lambda: len(app.live.sessions) == 1)
        with Live(client) as more:
            assert more.id
        lives[1].socket.close()
    with running(model, tmp_path, client_requests=2) as (app, client):
        lives = [Live(client) for _ in range(2)]
        with pytest.raises(InvalidStatus) as caught:
            Live(client)
        assert caught.value.response.status_code == 429
        for live in lives:
            live.socket.close()
        until(lambda: app.metrics.active._value.get() == 0)


def test_a_session_ends_when_nothing_comes_and_when_nobody_comes_back(model, tmp_path):
    with running(model, tmp_path, live_idle_s=0.6, live_keep_s=0.3) as (app, client):
        with Live(client) as live:
            live.settings(**POLLED, media=["video"])
            live.frame(PNG, 0.0)
            assert live.rest() == 4408
            closed = live.events[-1]
            assert closed["type"] == "session.closed" and closed["longcompress"]["stats"]["steps"] == 1
            assert "nothing came for 0.6 s" in closed["longcompress"]["reason"]
        live = Live(client)
        name = live.id
        live.socket.socket.close()
        until(lambda: name not in app.live.sessions)
        with Live(client, f"&session={name}") as late:
            assert late.rest() == 4404
        assert app.metrics.active._value.get() == 0


def test_a_second_connection_takes_a_session_over(server):
    """The first may be a half-open one, of a cable that is cut."""
    with Live(server[1]) as first:
        name = first.id
        with Live(server[1], f"&session={name}&after=event_1") as second:
            assert second.until("longcompress.resumed")["session"]["id"] == name
            assert first.rest() == 4409
            second.settings(**POLLED, media=["video"])
            second.frame(PNG, 0.0)


def test_a_client_that_reads_nothing_is_left(model, tmp_path, monkeypatch):
    """What it would have been sent is bounded; others go on."""
    monkeypatch.setattr(live_session, "SENT_BYTES", 1 << 20)
    with (
        running(model, tmp_path, stall_s=0.5) as (app, client),
        Live(client) as other,
        socket.create_connection(("127.0.0.1", client.base_url.port)) as connection,
    ):
        name = other.id
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        shake(connection, client)
        until(lambda: len(app.live.sessions) == 2)
        session = next(session for session in app.live.sessions.values() if session.id != name)
        loop = next(iter(app.live._tasks)).get_loop()
        for _ in range(200):
            loop.call_soon_threadsafe(session._tell, {"type": "longcompress.segment", "x": "y" * 100_000})
        until(lambda: session._cut is None)
        assert session._num_bytes <= 1 << 20
        other.settings(**POLLED, media=["video"], scores=True)
        goes_on(other)


def shake(connection, client):
    name = ": ".join(("host", f"127.0.0.1:{client.base_url.port}"))
    head = (
        f"GET /v1/realtime HTTP/1.1\r\n{name}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(12) == b"HTTP/1.1 101"


def test_a_half_open_connection_is_cut(model, tmp_path):
    """It answers no ping."""
    with running(model, tmp_path, stall_s=0.4, live_keep_s=0.4) as (app, client):
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
            shake(connection, client)
            until(lambda: len(app.live.sessions) == 1)
            until(lambda: not app.live.sessions)
        assert client.get("/health").status_code == 200


def test_a_fault_of_the_server_shows_no_trace(server, monkeypatch):
    async def broken(self, call):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(type(server[0].engine), "alone", broken)
    with Live(server[1]) as live:
        live.settings(**POLLED, media=["video"])
        live.frame(PNG, 0.0)
        assert live.rest() == 1011
        error = next(e for e in live.events if e["type"] == "error")["error"]
        assert error["message"] == "the server failed; its log says why" and "secret" not in str(live.events)


def test_other_paths_and_no_upgrade(server):
    client = server[1]
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{client.base_url.port}/v1/live", proxy=None)
    assert caught.value.response.status_code in (403, 404)
    assert client.get("/v1/realtime").status_code == 404


def test_sigterm_ends_sessions(tmp_path):
    words = ["longcompress", "serve", "--port", "0", "--folder", tmp_path / "served"]
    with ranks.started(*words, out=tmp_path / "log") as process:
        port = int(ranks.first_line(process, tmp_path / "log").rpartition(":")[2].split("/")[0])

        class Client:
            base_url = f"http://127.0.0.1:{port}"

        with Live(Client()) as live:
            assert live.id
            process.terminate()
            assert live.rest() == 1001
        process.join(30)
        assert process.exitcode == 143
