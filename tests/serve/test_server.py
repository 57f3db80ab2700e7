"""The server as its clients meet it: answers of the library, counts, errors, and what it does under load."""

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

import longcompress as lc
from longcompress.llm import Example
from longcompress.media.thumbnails import to_jpeg
from longcompress.serve import guard, reading
from longcompress.serve.app import App, listen, server_of
from longcompress.serve.limits import ApiError, Limits
from longcompress.serve.reading import Turns
from longcompress.synthetic.scenes import make_scene, write_video

import ranks
from serving import QUESTION, body, data_url, running, until, video

BUDGET = {"budget": 48}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(make_scene(n, 8.0), folder / f"{n}.mkv", size_px=64) for n in (3, 4, 5)]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with running(model, tmp_path_factory.mktemp("server"), max_seconds=9, upload_mb=1) as (app, client):
        yield app, client


@pytest.fixture(scope="module")
def memory(model, clips):
    return lc.compress(model, clips[0], budget=48, progress=False)


def counts(client, name):
    lines = [
        line for line in client.get("/metrics").text.splitlines() if line.startswith(f"longcompress_{name}")
    ]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def read_videos(client):
    return counts(client, "memories").get('longcompress_memories_total{origin="read"}', 0)


@pytest.fixture
def gate(monkeypatch):
    """Videos are read up to their first segment, and on when it is opened; `begun` counts them."""

    class Gate(threading.Event):
        begun = 0

    gate = Gate()

    def compress(*args, progress, **options):
        def wait(*seconds):
            progress(*seconds)
            gate.begun += 1
            gate.wait(60)
            progress(*seconds)

        return lc.compress(*args, progress=wait, **options)

    monkeypatch.setattr(reading, "compress", compress)
    yield gate
    gate.set()


def test_openai_client_and_plain_http_give_the_librarys_answer(server, clips, model, memory):
    _, client = server
    expected = memory.ask(QUESTION)
    openai_client = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
    request = body(video(data_url(clips[0])), longcompress=BUDGET | {"evidence": True})
    extra = {"extra_body": {"longcompress": request.pop("longcompress")}}

    done = openai_client.chat.completions.create(**request, **extra)
    assert done.choices[0].message.content == expected.text and done.choices[0].finish_reason == "stop"
    own = done.longcompress
    assert own["tokens"] == own["budget"] == 48 == sum(own["streams"].values()) + own["globals"]
    assert own["events"] == expected.to_json()["events"] and own["evidence"] == expected.to_json()["cites"]
    assert own["coverage"] == expected.to_json()["coverage"] and own["memory"] == "read"
    num_video, size = model.llm.sizes(Example(memory.video, [(QUESTION, None)]))
    assert done.usage.prompt_tokens == num_video + size([(QUESTION, None)]) > 48
    ids = model.llm.tokenizer(expected.text, add_special_tokens=False)["input_ids"]
    assert done.usage.completion_tokens == len(ids) + 1  # and the end token
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
    assert done.usage.prompt_tokens_details.audio_tokens == len(memory.streams["audio"])

    num_read = read_videos(client)
    options = {"include_usage": True}
    stream = openai_client.chat.completions.create(**request, **extra, stream=True, stream_options=options)
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == expected.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "stop"
    ]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == done.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == num_video
    assert (
        chunks[-2].longcompress["memory"] == "kept" and chunks[-2].longcompress["evidence"] == own["evidence"]
    )

    plain = client.post(CHAT, json=request | {"longcompress": BUDGET}).json()
    assert plain["choices"][0]["message"]["content"] == expected.text
    assert "evidence" not in plain["longcompress"]
    with client.stream("POST", CHAT, json=request | {"longcompress": BUDGET, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]" and {json.loads(line)["object"] for line in lines[:-1]} == {
        "chat.completion.chunk"
    }
    assert read_videos(client) == num_read  # nothing was read again


def test_files_models_and_a_second_start(model, clips, tmp_path, memory):
    with running(model, tmp_path) as (_, client):
        openai_client = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
        assert [m.id for m in openai_client.models.list()] == ["tiny"]
        assert openai_client.models.retrieve("tiny").longcompress["media"] == ["video", "audio"]
        with pytest.raises(openai.NotFoundError, match="this server has the model"):
            openai_client.models.retrieve("gpt")
        file = openai_client.files.create(file=clips[0], purpose="user_data")
        assert (file.bytes, file.filename, file.status) == (
            clips[0].stat().st_size,
            clips[0].name,
            "processed",
        )
        assert [f.id for f in openai_client.files.list()] == [file.id]
        first = client.post(CHAT, json=body(video(file.id), longcompress=BUDGET)).json()
        dialogue = [
            body({"type": "file", "file": {"file_id": file.id}})["messages"][0],
            {"role": "assistant", "content": "5 to 7"},
            {"role": "user", "content": "And the bell?"},
        ]  # fmt: skip
        second = client.post(
            CHAT, json={"model": "tiny", "messages": dialogue, "longcompress": BUDGET}
        ).json()
        turns = [(QUESTION, "5 to 7"), ("And the bell?", None)]
        assert second["choices"][0]["message"]["content"] == memory.ask_all([turns])[0].text
        assert second["longcompress"]["memory"] == "kept"
    with running(model, tmp_path) as (_, client):
        again = client.post(CHAT, json=body(video(file.id), longcompress=BUDGET)).json()
        assert again["choices"] == first["choices"] and again["longcompress"]["memory"] == "kept"
        assert read_videos(client) == 0
        assert client.delete(f"/v1/files/{file.id}").json()["deleted"] is True
        refused = client.post(CHAT, json=body(video(file.id), longcompress=BUDGET))
        assert refused.status_code == 404 and "is no file of yours" in refused.json()["error"]["message"]
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 1 and left[0].endswith(".lcm")


def test_images_and_audio_become_a_video(server, model, clips):
    _, client = server
    frames, audio = [], []
    with lc.media.read(clips[0], model.config.media) as parts:
        for part in parts:
            (frames if isinstance(part, lc.Frames) else audio).append(part)
    frames = lc.Frames.join(frames)
    images = [
        {
            "type": "image_url",
            "image_url": {"url": "data:image/jpeg;base64," + _base64(to_jpeg(p.numpy(), 64, 64))},
        }
        for p in frames.pixels
    ]
    sound = {"type": "input_audio", "input_audio": {"data": _base64(clips[0].read_bytes()), "format": "mkv"}}
    own = client.post(CHAT, json=body(*images, sound, longcompress=BUDGET)).json()["longcompress"]
    assert own["tokens"] == 48 and own["streams"]["video"] and own["streams"]["audio"]
    assert own["coverage"]["video"]["read_s"] == len(frames) == 8
    alone = client.post(CHAT, json=body(sound, longcompress=BUDGET | {"budget": 8})).json()["longcompress"]
    assert alone["coverage"]["audio"]["read_s"] == pytest.approx(8, abs=0.1)


def test_settings_make_another_memory(server, clips, model):
    _, client = server
    own = {"budget": 40, "rate_fps": 2, "start_s": 1, "end_s": 5}
    answer = client.post(CHAT, json=body(video(data_url(clips[0])), longcompress=own)).json()["longcompress"]
    assert answer["part_s"] == [1.0, 5.0] and answer["tokens"] == 40
    twin = model.twin({"media": {"rate_fps": 2}})
    expected = lc.compress(twin, clips[0], budget=40, start_s=1, end_s=5, progress=False)
    assert answer["streams"] == {name: len(tokens) for name, tokens in expected.streams.items()}
    assert model.config.media.rate_fps == 1


def _base64(data):
    return base64.b64encode(data).decode()


def unsupported(path):
    return path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NOCODEC/ISO/X").replace(b"A_AAC", b"A_NOC")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"{", 400, "is no JSON"),
        (b"[" * 100_000, 400, "is no JSON"),
        (b"\xff\xfe", 400, "is no JSON"),
        (b"", 400, "is no JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b'{"model": "gpt"}', 404, "not served"),
    ],
)
def test_bodies_that_are_no_request(server, content, status, message):
    response = server[1].post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status and message in response.json()["error"]["message"]


def test_media_that_cannot_be_read(server, clips, tmp_path):
    app, client = server
    whole = clips[1].read_bytes()
    bomb = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (30000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    cases = {
        b"no video": "no video or audio file",
        b"": "is empty",
        unsupported(clips[1]): "no video or audio that can be decoded",
        b"#EXTM3U\nhttp://127.0.0.1/secret": "points to other files",
        bomb + bytes(100): "",
    }
    for data, message in cases.items():
        url = f"data:video/mp4;base64,{_base64(data)}"
        for stream in (False, True):
            response = client.post(CHAT, json=body(video(url), stream=stream, longcompress=BUDGET))
            text = response.text if stream else response.json()["error"]["message"]
            assert response.status_code == (200 if stream else 400)
            assert message in text and str(app.limits.path) not in text and "Traceback" not in text
            if stream:
                error = json.loads(text.split("data: ")[-1])["error"]
                assert error["type"] == "invalid_request_error" and "[DONE]" not in text
    own = {"start_s": 9.5}
    late = client.post(CHAT, json=body(video(data_url(clips[1])), longcompress=own)).json()["error"]
    assert late["param"] == "longcompress.start_s"
    small = client.post(CHAT, json=body(video(data_url(clips[1])), longcompress={"budget": 1})).json()[
        "error"
    ]
    assert small["param"] == "longcompress.budget"
    long = write_video(make_scene(1, 10.0), tmp_path / "long.mkv", size_px=64)
    error = client.post(CHAT, json=body(video(data_url(long)), longcompress=BUDGET)).json()["error"]
    assert error["code"] == "too_long" and "at most 9 s" in error["message"]
    half = f"data:;base64,{_base64(whole[: len(whole) // 2])}"
    done = client.post(CHAT, json=body(video(half), longcompress=BUDGET)).json()
    read_s = done["longcompress"]["coverage"]["video"]["read_s"]
    assert 1 <= read_s < 8 and done["choices"][0]["message"]["content"]
    (warning, *_) = done["longcompress"]["warnings"]
    assert warning.startswith("messages[0].content[1].video_url") and str(app.limits.path) not in warning
    for url in ("https://example.com/a.mp4", "http://127.0.0.1/a.mp4", "file:///etc/passwd", "/etc/passwd"):
        error = client.post(CHAT, json=body(video(url), longcompress=BUDGET)).json()["error"]
        assert error["code"] == "url_not_allowed"
        assert "must be a data URL or the id of a file" in error["message"]
    assert not list(app.sources.incoming.iterdir())


def test_uploads_and_bodies_that_are_too_large(server):
    _, client = server
    form = {"file": ("a.mp4", bytes(2 << 20))}
    response = client.post("/v1/files", files=form, data={"purpose": "user_data"})
    assert response.status_code == 413 and response.json()["error"]["code"] == "too_large"
    response = client.post("/v1/files", data={"purpose": "x"}, files={"other": ("a", b"b")})
    assert response.status_code == 400 and response.json()["error"]["param"] == "file"
    assert client.post("/v1/files", json={}).status_code == 415

    def endless():
        for _ in range(40):
            yield bytes(1 << 20)

    try:
        response = client.post(CHAT, content=endless(), headers={"content-type": "application/json"})
        assert response.status_code == 413
    except httpx.TransportError:  # the server has hung up before all was sent
        pass
    assert client.get("/health").json() == {"status": "ok", "model": "tiny"}


def test_equal_videos_are_read_once_and_questions_share_a_batch(server, clips, model, gate):
    app, client = server
    before = counts(client, "")
    request = body(video(data_url(clips[2])), longcompress=BUDGET)
    texts = [QUESTION, "When is the bell heard?", "What is seen?"]
    with ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(
                client.post, CHAT, json=body(video(data_url(clips[2])), text=text, longcompress=BUDGET)
            )
            for text in texts
        ]
        until(lambda: app.metrics.active._value.get() == 3 and gate.begun and sum(
            len(job.listeners) for job in app.engine._jobs.values()) == 3)  # fmt: skip
        gate.set()
        answers = [future.result().json()["choices"][0]["message"]["content"] for future in waiting]
    memory = lc.compress(model, clips[2], budget=48, progress=False)
    assert answers == [memory.ask(text).text for text in texts]
    after = counts(client, "")
    change = {name: after[name] - before.get(name, 0) for name in after}
    assert change['longcompress_memories_total{origin="read"}'] == 1
    assert change['longcompress_memories_total{origin="shared"}'] == 2
    assert (
        change["longcompress_batch_questions_sum"] == 3 and change["longcompress_batch_questions_count"] < 3
    )
    assert client.post(CHAT, json=request).json()["longcompress"]["memory"] == "kept"


def test_readings_take_turns_but_for_long_ones(monkeypatch):
    turns, entered, go_on = Turns(), [], [threading.Event() for _ in range(3)]

    def read(k):
        with turns:
            entered.append(k)
            assert go_on[k].wait(30)

    monkeypatch.setattr(reading, "ALONE_S", 3600.0)
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(read, 0)]
        until(lambda: entered == [0])
        done.append(pool.submit(read, 1))
        assert not go_on[1].wait(0.3) and entered == [0]
        go_on[0].set()
        until(lambda: entered == [0, 1])
        monkeypatch.setattr(reading, "ALONE_S", 0.0)  # what is at work is at work for long
        done.append(pool.submit(read, 2))
        until(lambda: entered == [0, 1, 2])
        for event in go_on:
            event.set()
        assert [future.result() for future in done] == [None] * 3 and not turns._since


def test_several_videos_share_a_batch(model, clips, tmp_path, gate, monkeypatch):
    """Questions about different videos are answered together, each as alone."""
    monkeypatch.setattr(reading, "ALONE_S", 0.0)
    with running(model, tmp_path, readers=3) as (app, client):
        start = app.engine._answerer.submit(gate.wait)  # nothing is answered until all wait
        with ThreadPoolExecutor(3) as pool:
            waiting = [
                pool.submit(client.post, CHAT, json=body(video(data_url(clip)), longcompress=BUDGET))
                for clip in clips
            ]
            until(lambda: gate.begun == 3)
            gate.set()
            answers = [future.result().json()["choices"][0]["message"]["content"] for future in waiting]
        start.result()
    expected = [lc.compress(model, clip, budget=48, progress=False).ask(QUESTION).text for clip in clips]
    assert answers == expected


@pytest.mark.parametrize("stream", [False, True])
def test_work_stops_when_its_client_leaves(model, clips, tmp_path, gate, stream):
    with running(model, tmp_path) as (app, client):
        request = body(video(data_url(clips[0])), longcompress=BUDGET, stream=stream)
        other = httpx.Client(base_url=client.base_url, trust_env=False)

        def leave():
            with other.stream("POST", CHAT, json=request) as response:
                for _ in response.iter_text():
                    if gate.begun:
                        return

        if stream:
            leave()
        else:
            with pytest.raises(httpx.ReadTimeout):
                other.post(CHAT, json=request, timeout=httpx.Timeout(30, read=3))
        other.close()
        until(lambda: not app.engine._jobs)  # nobody waits for it
        gate.set()
        until(lambda: app.metrics.reading._value.get() == 0)
        assert not list(tmp_path.rglob("*.lcm")) and not list(app.sources.incoming.iterdir())
        assert client.get("/metrics").status_code == 200
        until(lambda: app.metrics.active._value.get() == 0)
        assert client.post(CHAT, json=request | {"stream": False}).status_code == 200


def test_a_busy_server_says_so(model, clips, tmp_path, gate):
    with running(model, tmp_path, requests=2, client_requests=1) as (_, client):
        request = body(video(data_url(clips[0])), longcompress=BUDGET)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.post, CHAT, json=request)
            until(lambda: gate.begun)
            refused = client.post(CHAT, json=request)
            assert refused.status_code == 429 and refused.headers["retry-after"]
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert client.get("/health").status_code == 200
            gate.set()
            assert waiting.result().status_code == 200
        assert client.post(CHAT, json=request).status_code == 200


def test_a_key_is_needed_where_there_are_keys(model, tmp_path):
    keys = ["a" * 16, "b" * 16]
    with running(model, tmp_path, api_keys=keys, client_minute=3) as (_, client):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {keys[0]}x"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/metrics").status_code == 401 and client.get("/health").status_code == 200
        first, second = ({"authorization": f"Bearer {key}"} for key in keys)
        codes = [client.get("/v1/models", headers=first).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        assert client.get("/v1/models", headers=second).status_code == 200


def test_other_sites_and_strange_names_are_refused(server):
    client = server[1]
    assert client.get("/v1/models", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": str(client.base_url)}).status_code == 200
    assert client.get("/v1/models", headers={"host": "evil.example:80"}).status_code == 403
    assert client.get("/v1/models", headers={"host": f"localhost:{client.base_url.port}"}).status_code == 200
    simple = client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})  # pages may send these
    assert simple.status_code == 415
    for method, path, status in (("GET", CHAT, 405), ("GET", "/v1/none", 404), ("GET", "/etc/passwd", 404)):
        response = client.request(method, path)
        assert response.status_code == status and response.json()["error"]["message"]


def test_a_fault_of_ours_tells_a_client_nothing(server, clips, monkeypatch):
    _, client = server

    def fail(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr(reading, "compress", fail)
    for stream in (False, True):
        own = {"budget": 47}
        response = client.post(CHAT, json=body(video(data_url(clips[0])), stream=stream, longcompress=own))
        assert "the server failed" in response.text and "secret" not in response.text
        assert response.status_code == (200 if stream else 500)


def test_a_slow_body_is_left(model, tmp_path):
    with running(model, tmp_path, stall_s=0.5) as (app, client):
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: 100\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(1000)
        until(lambda: app.metrics.active._value.get() == 0)


def test_idle_connections_are_closed_by_clients(server):
    alive_s = server_of(server[0]).config.timeout_keep_alive
    for limits in (httpx.Limits(), openai.DEFAULT_CONNECTION_LIMITS):
        assert alive_s > 2 * limits.keepalive_expiry


def test_only_this_machine_is_served_without_a_key():
    with pytest.raises(ValueError, match="api_keys must be set"):
        listen(Limits(address="0.0.0.0", port=0))
    with pytest.raises(ValueError, match="at least 16 signs"):
        Limits(api_keys=["short"])
    with pytest.raises(ValueError, match="must be an IP address"):
        Limits(address="example.com")
    with pytest.raises(ValueError, match="protocols must be"):
        Limits(protocols=["file"])
    with pytest.raises(ValueError, match="readers must be > 0"):
        Limits(readers=0)
    with listen(Limits(port=0)) as socket:
        assert socket.getsockname()[0] == "127.0.0.1"
    page = ("/page.css", "/page.js", "/chart.js", "/live.js", "/live-audio.js")
    assert ("/health", "/", *page) == guard.OPEN


def test_a_model_without_a_language_model_is_not_served(tmp_path):
    with pytest.raises(ValueError, match="must have a language model to answer with, 'pixels' has none"):
        App(lc.load("pixels"), "pixels", Limits(folder=str(tmp_path)))


def test_many_clients_leave_no_trace(model, tmp_path):
    """Clients that were refused are forgotten like all others."""
    now_s = time.monotonic()
    app = App(model, "tiny", Limits(folder=str(tmp_path), requests=1))
    with app.asgi._admitted("first"):
        for number in range(20):
            with pytest.raises(ApiError, match="busy"), app.asgi._admitted(str(number)):
                pass
    assert list(app.asgi._begun) == ["first"] and not app.asgi._active
    assert app.asgi._begun["first"][0] >= now_s
    app.close()


@pytest.mark.slow
def test_the_command_serves_and_ends_when_it_is_told(clips, tmp_path):
    """SIGTERM while a video is read: the work gets an answer, and nothing half-written stays."""
    folder = tmp_path / "served"
    words = ["longcompress", "serve", "--port", "0", "--folder", folder]
    with ranks.started(*words, out=tmp_path / "log") as process, ThreadPoolExecutor(1) as pool:
        name, _, address = ranks.first_line(process, tmp_path / "log").split()
        assert name == "tiny"
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            assert client.get("models").json()["data"][0]["id"] == "tiny"
            waiting = pool.submit(client.post, "chat/completions", json=body(video(data_url(clips[0]))))
            until(
                lambda: (
                    "videos_reading 1" in httpx.get(address.replace("/v1", "/metrics"), trust_env=False).text
                    or waiting.done()
                )
            )
            process.terminate()
            assert waiting.result().status_code in (200, 503)
            process.join(60)
            assert process.exitcode == 143
    left = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert left <= {".lcm"} and not list(folder.glob("incoming-*"))
