"""Bodies and images that become more than they say, or come short: others are unharmed."""

import base64
import gzip
import io
import json
import socket
import time
import zlib

import pytest

import longcompress as lc
from longcompress.synthetic.scenes import make_scene, write_video

from serving import body, data_url, running, video

CHAT = "/v1/chat/completions"
OWN = {"budget": 48}
MB = 1 << 20


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [write_video(make_scene(n, 6.0), folder / f"{n}.mkv", size_px=64) for n in (3, 4, 5)]


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with running(model, tmp_path_factory.mktemp("bad"), stall_s=1, request_mb=2, upload_mb=64) as pair:
        yield pair


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_unharmed(server, clips):
    """The next client gets its answer, and nothing of the bad one stays."""
    app, client = server
    until(lambda: app.metrics.active._value.get() == 0)
    assert not list(app.sources.incoming.iterdir())
    assert client.post(CHAT, json=body(video(data_url(clips[0])), longcompress=OWN)).status_code == 200


def connected(client):
    return socket.create_connection(("127.0.0.1", client.base_url.port))


def head(path, kind, length):
    text = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    )
    return text.encode()


@pytest.mark.parametrize("path", ["/v1/files", CHAT])
@pytest.mark.parametrize("ends", ["leaves", "is silent", "resets"])
def test_a_body_that_is_shorter_than_it_says(server, clips, path, ends):
    app, client = server
    kind = "multipart/form-data; boundary=x" if path == "/v1/files" else "application/json"
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(5000)
    connection = connected(client)
    connection.sendall(head(path, kind, 9000) + form)
    until(lambda: app.metrics.active._value.get() == 1)
    if ends == "is silent":  # as a client whose network is gone
        assert b" 408 " in connection.recv(1000)
    elif ends == "resets":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    is_unharmed(server, clips)
    assert client.get("/v1/files").json()["data"] == []


def test_a_form_that_never_ends_leaves_no_file(server, clips):
    _, client = server
    form = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(5000)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    response = client.post("/v1/files", content=form, headers=headers)
    assert response.status_code == 400 and response.json()["error"]["message"]
    assert client.get("/v1/files").json()["data"] == []
    is_unharmed(server, clips)


def test_bodies_and_data_urls_that_blow_up(server, clips):
    _, client = server
    zeros = base64.b64encode(bytes(2 * MB)).decode()
    response = client.post(CHAT, json=body(video(f"data:video/mp4;base64,{zeros}")))
    assert response.status_code == 413 and response.json()["error"]["code"] == "too_large"
    packed = gzip.compress(json.dumps(body(video("data:;base64," + "A" * 50 * MB))).encode())
    assert len(packed) < MB  # is never unpacked
    kind = {"content-type": "application/json", "content-encoding": "gzip"}
    response = client.post(CHAT, content=packed, headers=kind)
    assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_json"
    is_unharmed(server, clips)


def png(width, height):
    """Zeros: a thousandth of the bytes that they become."""

    def chunk(name, data):
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    packer, rows = zlib.compressobj(9), io.BytesIO()
    for _ in range(height):
        rows.write(packer.compress(bytes(1 + 3 * width)))
    rows.write(packer.flush())
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    parts = chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", rows.getvalue()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def image(data):
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def test_images_that_blow_up(server, clips):
    _, client = server
    bomb = image(png(3001, 3000))
    assert len(bomb["image_url"]["url"]) < MB
    response = client.post(CHAT, json=body(bomb, longcompress=OWN))
    assert response.status_code == 400 and "3001 x 3000 pixels" in response.json()["error"]["message"]
    small = image(png(64, 64))
    response = client.post(CHAT, json=body(*[small] * 7, bomb, longcompress=OWN))
    assert response.status_code == 400 and "content[8]" in response.json()["error"]["param"]
    is_unharmed(server, clips)
