"""Bodies and media that are small to send and large to open: refused by what they say of themselves."""

import base64
import errno
import gzip
import tempfile
import time
import zlib
from pathlib import Path

import pytest

import longcompress as lc
from longcompress.synthetic.scenes import make_scene, write_video

from serving import body, data_url, running, until, video

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model = lc.load("tiny", device="cpu")
    with running(model, tmp_path_factory.mktemp("bombs"), request_mb=1, max_images=4) as (app, client):
        yield app, client


@pytest.fixture(autouse=True)
def unharmed(server):
    """Behind each of them nothing is left, and others are answered."""
    yield
    app, client = server
    until(lambda: app.metrics.active._value.get() == 0)
    assert not list(app.sources.incoming.iterdir()) and not list(app.sources.folder.iterdir())
    assert client.get("/v1/models").status_code == 200


def png(width, height):
    """A true image of one colour, whose lines are a few bytes each."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image(data):
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("part", ["image", "video"])
def test_an_image_of_many_pixels_is_refused_by_its_header(server, part):
    data = png(12_000, 12_000)
    assert len(data) < 1 << 16
    medium = image(data) if part == "image" else video(image(data)["image_url"]["url"])
    start_s = time.process_time()
    response = server[1].post(CHAT, json=body(medium))
    assert response.status_code == 400 and time.process_time() - start_s < 2
    message = response.json()["error"]["message"]
    assert "12000 x 12000" in message and "9000000" in message
    small = body(image(png(640, 480)), longcompress={"budget": 8})
    assert server[1].post(CHAT, json=small).status_code == 200


def test_a_video_of_many_pixels_is_refused_by_its_header(server, tmp_path):
    clip = write_video(make_scene(3, 2.0), tmp_path / "a.mp4", size_px=64)
    with running(server[0].engine.model, tmp_path / "served", max_pixels=64 * 64 - 1) as (app, client):
        error = client.post(CHAT, json=body(video(data_url(clip)))).json()["error"]
        assert "has 64 x 64 pixels, more than 4095" in error["message"] and error["code"] == "too_large"
        until(lambda: app.metrics.active._value.get() == 0)
        assert not list(app.sources.incoming.iterdir()) and not list((tmp_path / "served").rglob("*.lcm"))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_packed_bodies_are_not_unpacked(server, coding):
    bomb = gzip.compress(b'{"model": "' + b"a" * (50 << 20) + b'"}') if coding == "gzip" else b"{}"
    assert len(bomb) < 1 << 16
    response = server[1].post(CHAT, content=bomb, headers=JSON | {"content-encoding": coding})
    assert response.status_code == 415
    assert "content-encoding must be identity" in response.json()["error"]["message"]
    form = {"files": {"file": b"x"}, "data": {"purpose": "x"}}
    response = server[1].post("/v1/files", **form, headers={"content-encoding": coding})
    assert response.status_code == 415


@pytest.mark.parametrize(
    "content",
    [
        b'{"messages":' * 80_000,
        b'{"model": "tiny", "messages": ' + b"[" * 400_000 + b"]" * 400_000 + b"}",
        b'{"model": "tiny", "messages": [], "seed": ' + b"9" * 900_000 + b"}",
        b'{"model": "tiny", "messages": [' + b"{}," * 300_000 + b"{}]}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": ['
        + b'{"type":"text","text":"a"},' * 36_000
        + b'{"type":"text","text":"a"}]}]}',
        b'{"a": 1, ' + b'"a": 1, ' * 120_000 + b'"model": "tiny"}',
    ],
    ids=["objects", "lists", "digits", "messages", "parts", "names"],
)
def test_json_that_is_deep_or_wide(server, content):
    assert len(content) < 1 << 20
    start_s = time.process_time()
    response = server[1].post(CHAT, content=content, headers=JSON)
    assert response.status_code == 400 and response.json()["error"]["message"]
    assert len(response.content) < 2000 and time.process_time() - start_s < 5


def test_data_urls_that_are_too_large_or_too_many(server):
    client = server[1]
    large = body(video("data:video/mp4;base64," + "A" * (1 << 20)))
    assert client.post(CHAT, json=large).status_code == 413
    many = client.post(CHAT, json=body(*[image(b"")] * 5))
    assert many.status_code == 400 and "at most 4 images, got 5" in many.json()["error"]["message"]
    nested = video("data:text/plain;base64," + base64.b64encode(b"data:video/mp4;base64,AAAA").decode())
    assert "no video or audio" in client.post(CHAT, json=body(nested)).json()["error"]["message"]


def test_forms_with_endless_headers_or_names(server):
    client = server[1]
    kind = {"content-type": "multipart/form-data; boundary=x"}
    start = b'--x\r\ncontent-disposition: form-data; name="file"; filename="'
    for content in (
        b"--x\r\na: " + b"b" * (4 << 20),
        b"--x\r\n" + b"a: b\r\n" * 300_000,
        start.replace(b'; filename="', b"\r\n\r\n") + b"a" * (4 << 20) + b"\r\n--x--\r\n",
    ):
        assert client.post("/v1/files", content=content, headers=kind).status_code == 400
    named = start + b"../../" + b"a" * 2000 + b"\r\n\r\nabc\r\n--x--\r\n"
    response = client.post("/v1/files", content=named.replace(b"\r\n\r\nabc", b'"\r\n\r\nabc'), headers=kind)
    if response.status_code == 200:  # a name is a label, never a path
        assert len(response.json()["filename"]) <= 255
        client.delete(f"/v1/files/{response.json()['id']}")


@pytest.mark.parametrize("what", ["data URL", "upload", "record", "form"])
def test_a_full_disk_is_told_wherever_it_is_full(server, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "form":
        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    elif what == "upload":
        monkeypatch.setattr("os.replace", full)
    else:
        monkeypatch.setattr(Path, {"data URL": "write_bytes", "record": "write_text"}[what], full)
    client = server[1]
    if what == "data URL":
        response = client.post(CHAT, json=body(video("data:;base64,AAAA")))
    else:
        response = client.post("/v1/files", files={"file": b"abc"}, data={"purpose": "x"})
    assert response.status_code == 507, response.text
    error = response.json()["error"]
    assert "the disk is full" in error["message"] and error["code"] == "no_room"
    assert error["param"].endswith("video_url" if what == "data URL" else "file")
