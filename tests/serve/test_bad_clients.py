"""Clients that lie, stall or come in crowds: others are served, nothing stays behind."""

import asyncio
import base64
import json
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest

import longcompress as lc
from longcompress.serve import reading
from longcompress.synthetic.scenes import make_scene, write_video

import ranks
from serving import body, data_url, png_of, running, until, video

NAMED = ": ".join(("host", "localhost"))  # what HTTP 1.1 asks of a request


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


def connect(client):
    return socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60)


def is_idle(app):
    return app.metrics.active._value.get() == 0 and not list(app.sources.incoming.iterdir())


def test_a_client_that_reads_nothing_is_left(model, tmp_path):
    with running(model, tmp_path, stall_s=0.5) as (app, client):
        form = {"files": {"file": bytes(40 << 20)}, "data": {"purpose": "user_data"}}
        file = client.post("/v1/files", **form).json()
        with connect(client) as connection:
            connection.sendall(f"GET /v1/files/{file['id']}/content HTTP/1.1\r\n{NAMED}\r\n\r\n".encode())
            until(lambda: app.metrics.active._value.get() == 1)
            assert client.get("/v1/models").status_code == 200
            until(lambda: is_idle(app))  # more than the connection's buffers hold is never sent


def test_an_answered_request_has_left_nothing(model, tmp_path):
    with running(model, tmp_path, client_requests=1) as (app, client):
        opened = app.sources.opened

        @asynccontextmanager
        async def slow(*args):
            async with opened(*args) as sources:
                yield sources
                await asyncio.sleep(0.2)

        app.sources.opened = slow
        url = "data:video/mp4;base64,AAAA"
        for stream in (False, True):
            answer = client.post("/v1/chat/completions", json=body(video(url), stream=stream))
            assert answer.status_code == (200 if stream else 400)
            assert is_idle(app)
            assert client.get("/v1/models").status_code == 200


def test_an_upload_that_ends_early_leaves_nothing(model, tmp_path):
    with running(model, tmp_path) as (app, client):
        head = (
            f"POST /v1/files HTTP/1.1\r\n{NAMED}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
            "content-length: 100000\r\n\r\n"
        )
        part = '--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\nabc'
        with connect(client) as connection:
            connection.sendall((head + part).encode())
            until(lambda: app.metrics.active._value.get() == 1)
        until(lambda: is_idle(app))
        assert client.get("/v1/files").json()["data"] == [] and not list(app.sources.folder.iterdir())


def test_a_png_is_decoded_without_its_texts(model, tmp_path, monkeypatch):
    """400 KB of them would become 800 MB. The client's own file stays as it was."""
    plain = png_of(np.full((32, 32, 3), 90, np.uint8))
    bomb = b"key\0\0" + zlib.compress(bytes(50 << 20))
    text = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    image, probed = plain[:33] + text + plain[33:], []  # behind its header
    opened = reading.probe
    monkeypatch.setattr(
        reading, "probe", lambda path, **o: probed.append(path.read_bytes()) or opened(path, **o)
    )
    with running(model, tmp_path) as (_, client):
        form = {"files": {"file": image}, "data": {"purpose": "user_data"}}
        file = client.post("/v1/files", **form).json()
        for kind in ("image_url", "video_url"):
            part = {"type": kind, kind: {"url": file["id"]}}
            answer = client.post("/v1/chat/completions", json=body(part, longcompress={"budget": 16}))
            assert answer.status_code == (200 if kind == "image_url" else answer.status_code)
        assert client.get(f"/v1/files/{file['id']}/content").content == image
        with running(model, tmp_path / "small", max_pixels=1000) as (_, other):
            url = "data:image/png;base64," + base64.b64encode(plain).decode()
            large = body({"type": "image_url", "image_url": {"url": url}})
            error = other.post("/v1/chat/completions", json=large).json()["error"]
            assert "at most 1000 pixels, got 32 x 32" in error["message"]
    assert probed and all(b"zTXt" not in data and len(data) < 2000 for data in probed)


def test_connections_that_say_nothing_hold_nothing(model, tmp_path):
    with running(model, tmp_path, connections=64) as (app, client):
        silent = [connect(client) for _ in range(20)]
        try:
            for connection in silent[::2]:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")
            assert client.get("/health").status_code == 200 and is_idle(app)
        finally:
            for connection in silent:
                connection.close()


def test_a_hundred_clients_at_once(model, tmp_path):
    """Each gets an answer, or is told to wait."""
    clip = write_video(make_scene(3, 8.0), tmp_path / "clip.mp4", size_px=64)
    with running(model, tmp_path / "served", client_requests=24) as (app, client):
        form = {"files": {"file": clip.open("rb")}, "data": {"purpose": "user_data"}}
        request = body(video(client.post("/v1/files", **form).json()["id"]), longcompress={"budget": 48})
        expected = client.post("/v1/chat/completions", json=request).json()["choices"]
        limits = httpx.Limits(max_connections=100)
        with (
            httpx.Client(base_url=client.base_url, timeout=120, trust_env=False, limits=limits) as crowd,
            ThreadPoolExecutor(100) as pool,
        ):
            send = lambda _: crowd.post("/v1/chat/completions", json=request)  # noqa: E731
            answers = list(pool.map(send, range(100)))
        statuses = Counter(answer.status_code for answer in answers)
        assert set(statuses) <= {200, 429} and statuses[200] >= 24, statuses
        assert all(a.json()["choices"] == expected for a in answers if a.status_code == 200)
        assert all(a.json()["error"]["type"] == "rate_limit_error" for a in answers if a.status_code == 429)
        until(lambda: is_idle(app))
        assert client.post("/v1/chat/completions", json=request).status_code == 200


@pytest.mark.parametrize("how", ["killed", "half-closed"])
def test_a_client_that_is_killed_or_closes_its_half_is_left(model, tmp_path, how):
    """A reset, as of a killed process, or the end of all that the client sends, while its video is read."""
    clip = write_video(make_scene(3, 8.0), tmp_path / "clip.mp4", size_px=64)
    with running(model, tmp_path / "served") as (app, client):
        held = threading.Event()
        blocked = app.engine._answerer.submit(held.wait)  # no answer comes before the client has gone
        try:
            content = json.dumps(body(video(data_url(clip)), longcompress={"budget": 48})).encode()
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\n{NAMED}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(content)}\r\n\r\n"
            )
            connection = connect(client)
            connection.sendall(head.encode() + content)
            until(lambda: app.engine._questions or app.metrics.waiting._value.get() or app.engine._turn)
            if how == "killed":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            else:
                connection.shutdown(socket.SHUT_WR)
            until(lambda: is_idle(app))
            assert not app.engine._jobs and client.get("/v1/models").status_code == 200
        finally:
            held.set()
            connection.close()
        blocked.result()
        answer = client.post(
            "/v1/chat/completions", json=body(video(data_url(clip)), longcompress={"budget": 48})
        )
        assert answer.json()["longcompress"]["memory"] == "kept"  # it was whole when its client left


def test_a_length_that_is_a_lie(model, tmp_path):
    """Shorter than what comes, or no number: an answer, and the connection ends."""
    with running(model, tmp_path) as (app, client):
        for length, sent in (("1", b"{}{}{}"), ("-1", b"{}"), ("9" * 40, b"{}"), ("x", b"{}")):
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\n{NAMED}\r\ncontent-type: application/json\r\n"
                f"content-length: {length}\r\n\r\n"
            )
            with connect(client) as connection:
                connection.sendall(head.encode() + sent)
                if len(length) < 40:
                    assert b" 400 " in connection.recv(1000).partition(b"\r\n")[0]
            until(lambda: is_idle(app))
        assert client.get("/v1/models").status_code == 200


def test_a_stop_under_load_leaves_whole_memories_and_nothing_else(model, tmp_path, monkeypatch):
    """SIGTERM while videos are read and answered, streams are read slowly, and files come and go."""
    clips = [write_video(make_scene(n, 20.0), tmp_path / f"{n}.mp4", size_px=64) for n in (3, 4)]
    folder, spool = tmp_path / "served", tmp_path / "spool"
    spool.mkdir()
    words = ["longcompress", "serve", "--port", "0", "--folder", folder, "--client-requests", "64"]
    monkeypatch.setenv("TMPDIR", str(spool))
    requests = [
        body(video(data_url(clips[number % 2])), stream=number % 3 == 0, longcompress={"budget": 40 + number})
        for number in range(24)
    ]

    def send(request):
        """The status, and whether a stream has an end or an error; None where the connection was closed."""
        try:
            response = client.post("/chat/completions", json=request)
        except httpx.TransportError:
            return None
        return response.status_code, "[DONE]" in response.text or '"error"' in response.text

    with ranks.started(*words, out=tmp_path / "log") as process:
        address = ranks.first_line(process, tmp_path / "log").split()[-1]
        limits = httpx.Limits(max_connections=64)
        with (
            httpx.Client(base_url=address, timeout=120, trust_env=False, limits=limits) as client,
            connect(client) as upload, connect(client) as download, ThreadPoolExecutor(24) as pool,
        ):  # fmt: skip
            form = {"files": {"file": bytes(20 << 20)}, "data": {"purpose": "x"}}
            file = client.post("/files", **form).json()
            download.sendall(f"GET /v1/files/{file['id']}/content HTTP/1.1\r\n{NAMED}\r\n\r\n".encode())
            upload.sendall(
                f"POST /v1/files HTTP/1.1\r\n{NAMED}\r\ncontent-type: multipart/form-data; boundary=x\r\n"
                'content-length: 9000000\r\n\r\n--x\r\ncontent-disposition: form-data; name="file"; '
                'filename="a.mp4"\r\n\r\n'.encode()
                + bytes(3 << 20)
            )
            waiting = [pool.submit(send, request) for request in requests]
            until(lambda: any(future.done() for future in waiting))
            process.terminate()
            stop_s = time.monotonic()
            answers = [future.result() for future in waiting]
            assert b" 503 " in upload.recv(1000).partition(b"\r\n")[0]
            process.join(60)
            assert process.exitcode == 143
            assert time.monotonic() - stop_s < 40
    statuses = Counter(answer if answer is None else answer[0] for answer in answers)
    assert set(statuses) <= {200, 503, None} and statuses[200] >= 1, statuses
    for request, answer in zip(requests, answers, strict=True):
        if answer is not None and answer[0] == 200 and request["stream"]:
            assert answer[1]
    left = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lcm")
    assert left == [f"{file['id']}.bin", f"{file['id']}.json"]
    memories = list((folder / "memories").iterdir())
    assert memories and not list(spool.iterdir()) and not list(folder.glob("incoming-*"))
    for path in memories:
        assert lc.load_memory(path, model).num_tokens > 0
