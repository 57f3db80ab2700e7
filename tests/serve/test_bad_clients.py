"""Clients that lie, stall or come in crowds: others are served, nothing stays behind."""

import asyncio
import base64
import socket
import struct
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

from serving import body, png_of, running, video

NAMED = ": ".join(("host", "localhost"))  # what HTTP 1.1 asks of a request


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


def connect(client):
    return socket.create_connection(("127.0.0.1", client.base_url.port), timeout=60)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
