"""The laws of live sessions over WebSockets: what is said there is what a session in this process says."""

import base64
import json
import random
import time
from itertools import pairwise

import numpy as np
import openai
import pytest
import torch

from longcompress.media.image import decode_image
from longcompress.serve import live_session
from longcompress.session import Session
from longcompress.session_events import Asked, Dropped, Reply, ReplyBegan, ReplyPart, Scored, SegmentClosed

from clips import make_clip
from models import with_heads
from serving import LIVE, OWN, TEXT, Live, png_of, running


@pytest.fixture(scope="module")
def model():
    return with_heads()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    limits = {"live_sessions": 20, "client_live": 16, "client_minute": 10_000}
    with running(model, tmp_path_factory.mktemp("live"), **limits) as (app, client):
        yield app, client


def pushes(seconds, seed=0, cut=0):
    """(kind, second, data) of a clip in the order in which a camera gives them, audio in random stretches."""
    frames, sound = make_clip(seconds, seed)
    samples = (sound.samples.numpy() * 32767).astype(np.int16)
    generator, at, parts = random.Random(cut), 0, []
    while at < len(samples):
        num = generator.randint(800, 24_000) if cut else 16_000
        parts.append(("audio", at / 16000, samples[at : at + num]))
        at += num
    parts += [
        ("frame", float(s), png_of(p)) for s, p in zip(frames.time_s, frames.pixels.numpy(), strict=True)
    ]
    return sorted(parts, key=lambda part: (part[1], part[0] == "audio"))


def push(live, part):
    kind, second, data = part
    (live.frame if kind == "frame" else live.audio)(data, second)


def in_process(model, parts, texts=(), live=LIVE):
    """Events of a session in this process; texts are (place among the parts, text, reply)."""
    session = Session(model, 40, media=["video", "audio"], live=live)
    events = []
    for number, (kind, second, data) in enumerate(parts):
        for _, text, reply in [t for t in texts if t[0] == number]:
            events += session.push_text(text, reply=reply)
        if kind == "frame":
            events += session.push_frame(torch.from_numpy(decode_image(data, 10_000)), second)
        else:
            events += session.push_audio(data, 16000, second)
    return [row for event in events + session.close() for row in rows_of(event)]


def rows_of(event):
    """An event as it is seen over the socket."""
    match event:
        case Asked():
            return [("asked", event.text, event.request, event.time_s)]
        case Scored():
            return [("scored", event.time_s, event.scores, event.fired, event.request)]
        case SegmentClosed():
            return [("segment", event.index, event.end_s, event.tokens_held)]
        case ReplyBegan():
            return [("began", event.request, event.time_s)]
        case ReplyPart():
            return [("part", event.text)]
        case Reply():
            row = ("reply", event.request, event.answer.text, event.done_s, event.is_repeat)
            if event.request is not None:
                return [row]
            parts = [("part", event.answer.text)] if event.answer.text else []
            return [("began", None, event.time_s), *parts, row]
        case Dropped():
            if event.what == "reply":
                return [("cancelled", event.end_s, event.reason)]
            return [("dropped", event.what, event.time_s, event.end_s, event.reason)]


def rows_over(events):
    """The same of events over the socket, in their order."""
    rows = []
    for event in events:
        own = event.get("longcompress", event.get("response", {}).get("longcompress", {}))
        match event["type"]:
            case "conversation.item.added" if "request" in own:
                content = event["item"]["content"][0]
                rows.append(("asked", content["text"], own["request"], own["time_s"]))
            case "longcompress.scores":
                rows.append(("scored", *(event[n] for n in ("time_s", "scores", "fired", "request"))))
            case "longcompress.segment":
                rows.append(("segment", event["index"], event["end_s"], event["tokens_held"]))
            case "response.created":
                rows.append(("began", own["request"], own["time_s"]))
            case "response.output_text.delta":
                rows.append(("part", event["delta"]))
            case "response.done" if event["response"]["status"] == "completed":
                text = event["response"]["output"][0]["content"][0]["text"]
                rows.append(("reply", own["request"], text, own["done_s"], own["is_repeat"]))
            case "response.done":
                rows.append(("cancelled", own["done_s"], own["reason"]))
            case "longcompress.dropped":
                rows.append(("dropped", *(event[n] for n in ("what", "start_s", "end_s", "reason"))))
            case "error":
                rows.append(("error", event["error"]["message"]))
    return rows


def say(live, text, reply):
    live.text(text, reply)
    if reply == "must":
        live.send("response.create")


def over(client, parts, texts=()):
    """The same, over a socket."""
    with Live(client) as live:
        assert live.settings(**OWN, overflow="wait", scores=True)["type"] == "session.updated"
        for number, part in enumerate(parts):
            for _, text, reply in [t for t in texts if t[0] == number]:
                say(live, text, reply)
            push(live, part)
        live.send("session.close")
        assert live.rest() == 1000
        return live.events


TEXTS = [(0, TEXT, "may"), (20, "what is seen", "must"), (23, "what happens", "may")]


@pytest.mark.slow
@pytest.mark.parametrize("cut", [0, 1])
def test_what_is_said_is_what_a_session_in_this_process_says(server, model, cut):
    parts = pushes(18.0, cut=cut)
    want = in_process(model, parts, TEXTS)
    events = over(server[1], parts, TEXTS)
    assert rows_over(events) == want
    kinds = {row[0] for row in want}
    assert kinds >= {"asked", "scored", "segment", "began", "part", "reply", "cancelled"}
    assert [event["event_id"] for event in events] == [f"event_{i + 1}" for i in range(len(events))]
    closed = events[-1]
    assert closed["type"] == "session.closed" and closed["longcompress"]["stats"]["steps"] == 18
    assert closed["longcompress"]["dropped"] == {"video": 0, "audio": 0}
    texts = [e for e in events if e["type"].startswith("response.output_text")]
    for done in [e for e in texts if e["type"].endswith("done")]:
        deltas = [e["delta"] for e in texts if "delta" in e and e["response_id"] == done["response_id"]]
        assert "".join(deltas).strip() == done["text"]


@pytest.mark.slow
def test_events_do_not_depend_on_how_audio_is_cut(server):
    texts = [(0, TEXT, "may")]
    first, second = (rows_over(over(server[1], pushes(12.0, cut=cut), texts)) for cut in (2, 3))
    assert first == second and len(first) > 24


@pytest.mark.slow
def test_resumed_is_uninterrupted(server):
    """The connection is cut amid what both sides send; nothing is missing, nothing comes twice."""
    app, client = server
    parts = pushes(14.0, cut=1)
    messages = [("text", TEXT, "may"), *parts]
    want = rows_over(over(client, parts, [(0, TEXT, "may")]))
    live = Live(client)
    assert live.settings(**OWN, overflow="wait", scores=True)["type"] == "session.updated"
    name, events, before = live.id, live.events, 1  # the update is a message too

    def send(live, message):
        if message[0] == "text":
            live.text(*message[1:])
        else:
            push(live, message)

    position, connections = 0, 0
    generator = random.Random(5)
    while True:
        last = min(len(messages), position + generator.randint(4, 10))
        for message in messages[position:last]:
            send(live, message)
        if last == len(messages):
            break
        for _ in range(generator.randint(0, 4)):
            live.next()
        live.socket.socket.close()  # no farewell: a cable that is pulled
        live = Live(client, f"&session={name}&after={events[-1]['event_id']}")
        live.events = events
        resumed = live.until("longcompress.resumed")
        assert resumed["missed"] == 0 and resumed["session"]["id"] == name
        position, connections = resumed["received"] - before, connections + 1
        assert 0 <= position <= last
    live.send("session.close")
    assert live.rest() == 1000 and connections >= 3
    numbers = [int(event["event_id"].removeprefix("event_")) for event in events]
    assert numbers == list(range(1, len(numbers) + 1))
    assert rows_over(events) == want
    assert name not in app.live.sessions


@pytest.mark.slow
def test_two_sessions_and_the_chat_do_not_touch(server, model):
    app, client = server
    clips = [pushes(12.0, seed) for seed in (1, 2)]
    want = [in_process(model, parts, [(0, TEXT, "may")]) for parts in clips]
    lives = [Live(client), Live(client)]
    for live in lives:
        live.settings(**OWN, overflow="wait", scores=True)
        live.text(TEXT, "may")
    image = "data:image/png;base64," + base64.b64encode(clips[0][0][2]).decode()
    content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "what is seen"}]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 6}
    answers = [client.post("/v1/chat/completions", json=chat).json()["choices"]]
    for pair in zip(*clips, strict=True):
        for live, part in zip(lives, pair, strict=True):
            push(live, part)
        if pair[0][0] == "frame" and pair[0][1] % 4 == 0:
            answers.append(client.post("/v1/chat/completions", json=chat).json()["choices"])
    for live, rows in zip(lives, want, strict=True):
        live.send("session.close")
        assert live.rest() == 1000 and rows_over(live.events) == rows
    assert want[0] != want[1] and len(answers) == 4 and all(a == answers[0] for a in answers)
    assert not app.live.sessions and app.metrics.live._value.get() == 0


def test_a_request_stands_until_it_is_taken_away_and_answers_can_be_stopped(server):
    with Live(server[1]) as live:
        live.settings(**OWN, overflow="wait")
        parts = [part for part in pushes(14.0) if part[0] == "frame"]
        live.text(TEXT, "may", id="item_ball")
        added = live.until("conversation.item.added")
        assert added["item"]["id"] == "item_ball" and added["longcompress"]["request"] == 1
        for part in parts[:8]:
            push(live, part)
        began = live.until("response.created")["response"]
        assert began["longcompress"]["item_id"] == "item_ball" and began["status"] == "in_progress"
        live.send("response.cancel")
        done = live.until("response.done")["response"]
        assert done["id"] == began["id"] or done["status"] == "completed"
        live.send("conversation.item.delete", item_id="item_ball")
        assert live.until("conversation.item.deleted")["item_id"] == "item_ball"
        for part in parts[8:]:
            push(live, part)
        live.text("what is seen")
        live.send("response.create")
        rest = [live.until("response.created", "error"), live.until("response.done")]
        assert rest[0]["response"]["longcompress"]["request"] is None  # the question's, nobody else's
        live.send("response.cancel")
        assert live.until("error")["error"]["code"] == "response_cancel_not_active"


def test_the_memory_can_be_asked(server, model):
    parts = pushes(14.0)
    session = Session(model, 40, media=["video", "audio"], live=LIVE)
    for kind, second, data in parts:
        if kind == "frame":
            session.push_frame(torch.from_numpy(decode_image(data, 10_000)), second)
        else:
            session.push_audio(data, 16000, second)
    want = session.ask("what is seen", max_new_tokens=6)
    with Live(server[1]) as live:
        live.settings(**OWN, overflow="wait")
        for part in parts:
            push(live, part)
        live.text("what is seen")
        live.send("response.create", response={"longcompress": {"memory": True}})
        done = live.until("response.done")["response"]
        assert done["output"][0]["content"][0]["text"] == want.text
        assert done["longcompress"]["coverage"] == json.loads(json.dumps(want.to_json()["coverage"]))


def test_scores_come_when_they_are_wanted(server):
    with Live(server[1]) as live:
        live.settings(**OWN, overflow="wait", media=["video"])
        live.text(TEXT, "may")
        for scores, part in zip([False, False, True, True, False, False], pushes(6.0)[::2], strict=True):
            live.settings(scores=scores)
            push(live, part)
        live.send("session.close")
        live.rest()
    assert [e["time_s"] for e in live.events if e["type"] == "longcompress.scores"] == [2.0, 3.0]


def test_late_media_are_dropped_and_said_so(server, monkeypatch):
    """The model stands still: of the frames that wait the newest stays. Texts are never dropped."""
    app, client = server
    monkeypatch.setattr(live_session, "LAG_S", 0.2)
    with Live(client) as live:
        live.settings(**OWN, scores=True, media=["video"])
        parts = [part for part in pushes(20.0) if part[0] == "frame"]
        busy = app.engine._answerer.submit(time.sleep, 1.5)
        for part in parts[:10]:
            push(live, part)
        live.text("what is seen")
        time.sleep(0.4)
        for part in parts[10:19]:
            push(live, part)
        time.sleep(0.4)
        push(live, parts[19])
        live.send("response.create")
        dropped = live.until("longcompress.dropped")
        busy.result()
        live.until("response.done")
        live.send("session.close")
        live.rest()
    drops = [e for e in live.events if e["type"] == "longcompress.dropped"]
    scored = [e["time_s"] for e in live.events if e["type"] == "longcompress.scores"]
    assert dropped["what"] == "video" and dropped["reason"].startswith("late: ")
    num = sum(drop["num"] for drop in drops)
    assert num + len(scored) == 20 and scored == [0.0, 19.0]
    assert live.events[-1]["longcompress"]["dropped"] == {"video": num, "audio": 0}


def test_media_without_a_time_have_that_of_their_arrival(server):
    with Live(server[1]) as live:
        live.settings(**OWN, scores=True, rate_fps=8, media=["video"])
        image = pushes(1.0)[0][2]
        for _ in range(4):
            live.frame(image, float("nan"))
            time.sleep(0.3)
        live.send("session.close")
        live.rest()
    times = [e["time_s"] for e in live.events if e["type"] == "longcompress.scores"]
    assert times[0] == 0.0 and all(0.2 <= b - a <= 0.5 for a, b in pairwise(times))


def test_openais_own_client(server):
    """Frames as data URLs, audio in base64, a request, a question; deltas as it knows them."""
    address = str(server[1].base_url)
    parts = pushes(8.0)
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client,
        client.realtime.connect(model="tiny", websocket_connection_options={"proxy": None}) as connection,
    ):
        assert connection.recv().type == "session.created"
        connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": ["text"],
                "longcompress": OWN | {"overflow": "wait"},
            }
        )
        assert connection.recv().type == "session.updated"
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": TEXT}]}
        connection.conversation.item.create(item=item | {"longcompress": {"reply": "may"}})
        for kind, second, data in parts:
            encoded = base64.b64encode(data if kind == "frame" else data.tobytes()).decode()
            if kind == "frame":
                image = {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"}
                own = {"longcompress": {"time_s": second}}
                connection.conversation.item.create(
                    item={"type": "message", "role": "user", "content": [image], **own}
                )
            else:
                connection.input_audio_buffer.append(audio=encoded)
        connection.conversation.item.create(item=item)
        connection.response.create()
        texts, asked = {}, False
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.output_text.delta":
                texts[event.response_id] = texts.get(event.response_id, "") + event.delta
            if event.type == "response.output_text.done":
                assert event.text == texts.get(event.response_id, "").strip()
            if event.type == "response.done" and event.response.longcompress["request"] is None:
                asked = True
                break
        assert asked and len(texts) > 1


def test_bounded_memory(server):
    """What a session holds does not grow: neither what waits, nor what was sent."""
    app, client = server
    with Live(client) as live:
        live.settings(**OWN, overflow="wait", scores=True, media=["video"])
        live.text(TEXT, "may")
        session = app.live.sessions[live.id]
        parts = [part for part in pushes(20.0) if part[0] == "frame"]
        caches = []
        for minute in range(5):
            for _, second, image in parts:
                live.frame(image, 20.0 * minute + second)
                waiting = [op.kind for op in list(session._waiting)]
                assert waiting.count("frame") <= live_session.MAX_MEDIA
            live.text(f"what is seen {minute}")
            live.send("response.create")
            while live.until("response.done")["response"]["longcompress"]["request"] is not None:
                pass
            stats = session._session.stats()
            caches.append(stats["cache_bytes"])
            assert stats["cache_tokens"] <= stats["max_cache_tokens"]
        assert max(caches[3:]) <= 1.1 * max(caches[1:3])
        session._tell({"type": "longcompress.segment", "x": "y" * live_session.SENT_BYTES})
        assert len(session._sent) == 1
