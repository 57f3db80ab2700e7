"""Media of requests as files: what is fetched and what never is, quotas, and that nothing stays."""

import asyncio
import errno
import http.server
import threading
import time

import pytest

from longcompress.serve import sources as module
from longcompress.serve.limits import ApiError, Limits
from longcompress.serve.request import Part
from longcompress.serve.sources import Sources, fetch, is_public

PRIVATE = """
    127.0.0.1 127.8.8.8 0.0.0.0 10.0.0.1 172.16.3.4 192.168.1.1 169.254.169.254 100.64.0.1 224.0.0.1
    240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
    64:ff9b::7f00:1 2002:7f00:1:: 2001:0:7f00:1::
""".split()  # noqa: SIM905
OPEN = Limits(protocols=["http"], stall_s=5)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are(address):
    assert is_public(address)


async def all_of(url, limits=OPEN):
    return b"".join([chunk async for chunk in fetch(url, "video_url", limits)])


@pytest.fixture
def site():
    """A server at 127.0.0.1, and the paths it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["host"]))
            to = {
                "/away": "http://127.0.0.2:1/secret",
                "/round": "/round",
                "/on": "/bytes",
                "/file": "file:///x",
            }
            self.send_response(302 if self.path in to else 200 if self.path == "/bytes" else 404)
            if self.path in to:
                self.send_header("location", to[self.path])
            self.end_headers()
            self.wfile.write(b"bytes")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/a.mp4", "the id of a file or a URL of http, got"),
        ("file:///etc/passwd", "paths are never read"),
        ("/etc/passwd", "paths are never read"),
        ("../a.mp4", "paths are never read"),
        ("http://", "with a server's name"),
        ("http://me:secret@example.com/", "no password"),
        ("http://[::1/", "is no URL"),
        ("http://a:99999999/", "is no URL"),
        ("http://localhost/", "private network"),
        ("http://0x7f.1/", "private network"),
        ("http://2130706433/", "private network"),
        ("http://[::ffff:127.0.0.1]/", "private network"),
        ("http://169.254.169.254/latest/meta-data/", "private network"),
        ("http://no-such-name.invalid/", "no server of its name"),
    ],
)
def test_urls_that_are_never_fetched(url, message):
    with pytest.raises(ApiError, match=message) as caught:
        asyncio.run(all_of(url))
    assert "secret" not in str(caught.value) and caught.value.status == 400


def test_without_protocols_no_url_is_fetched(site):
    with pytest.raises(ApiError, match="must be a data URL or the id of a file, got"):
        asyncio.run(all_of(f"{site[0]}/bytes", Limits()))
    assert not site[1]


def test_redirects_are_checked_like_the_first_address(site, monkeypatch):
    address, asked = site
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
    assert asyncio.run(all_of(f"{address}/on")) == b"bytes"
    assert asked == [("/on", address[7:]), ("/bytes", address[7:])]
    for path, message in {
        "/away": "private network", "/round": "at most 3 redirects", "/file": "paths are never read",
        "/none": "answers 404",
    }.items():  # fmt: skip
        with pytest.raises(ApiError, match=message):
            asyncio.run(all_of(f"{address}{path}"))


def test_the_name_is_asked_for_once_so_it_cannot_change_its_mind(site, monkeypatch):
    """A name that is public when it is checked and private when it is connected to (DNS rebinding)."""
    answers = iter(["127.0.0.1", "127.0.0.2"])
    port = int(site[0].rpartition(":")[2])

    async def getaddrinfo(*_, **__):
        return [(2, 1, 6, "", (next(answers), port))]

    async def run():
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return await all_of(f"http://name.example:{port}/bytes")

    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.1")
    assert asyncio.run(run()) == b"bytes"
    assert site[1] == [("/bytes", f"name.example:{port}")]


async def chunks_of(*parts):
    for part in parts:
        yield part


def add(sources, data, owner="me"):
    return asyncio.run(sources.add(chunks_of(*data), "a.mp4", "user_data", owner))


def files(tmp_path):
    return sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file())


def test_uploads_belong_to_their_client_and_survive_a_restart(tmp_path):
    sources = Sources(Limits(folder=str(tmp_path)))
    upload = add(sources, [b"ab", b"c"])
    again = Sources(Limits(folder=str(tmp_path)))
    assert again.find(upload.id, "me", "id") == upload and upload.num_bytes == 3
    assert again.of("other") == []
    for name, owner in ((upload.id, "other"), ("file-../../etc/passwd", "me"), ("file-", "me")):
        with pytest.raises(ApiError, match="is no file of yours") as caught:
            again.find(name, owner, "id")
        assert caught.value.status == 404
    again.remove(upload)
    again.close()
    sources.close()
    assert not files(tmp_path)


def test_uploads_are_removed_when_their_time_is_over(tmp_path, monkeypatch):
    sources = Sources(Limits(folder=str(tmp_path), upload_hours=2))
    upload = add(sources, [b"abc"])
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 7000)
    assert sources.of("me") == [upload]
    monkeypatch.setattr(time, "time", lambda: now_s + 7300)
    assert sources.of("me") == [] and not files(tmp_path)


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        ({"upload_mb": 1}, 413, "at most 1048576 bytes"),
        ({"client_gb": 1e-3}, 429, "delete some"),
        ({"uploads_gb": 1e-3}, 507, "has no room"),
    ],
)
def test_uploads_past_a_limit_are_refused_and_leave_nothing(tmp_path, limits, status, message):
    sources = Sources(Limits(folder=str(tmp_path), **limits))
    with pytest.raises(ApiError, match=message) as caught:
        add(sources, [bytes(1 << 20), bytes(1 << 20)])
    assert caught.value.status == status and not files(tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    sources = Sources(Limits(folder=str(tmp_path)))

    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(asyncio, "to_thread", full)
    with pytest.raises(ApiError, match="disk is full") as caught:
        add(sources, [b"abc"])
    assert caught.value.status == 507 and not files(tmp_path)


def test_what_a_request_brings_is_there_for_it_alone(tmp_path):
    sources = Sources(Limits(folder=str(tmp_path)))
    upload = add(sources, [b"uploaded"])

    async def run():
        parts = [Part("video", "a", "data:;base64,YWJj"), Part("video", "b", upload.id)]
        async with sources.opened(parts, "me") as (data, file):
            sources.remove(upload)  # meanwhile
            assert (data.path.read_bytes(), file.path.read_bytes()) == (b"abc", b"uploaded")
            assert data.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    asyncio.run(run())
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "url", ["data:video/mp4,abc", "data:;base64,a", "data:;base64", "data:;base64,Y W J j"]
)
def test_data_urls_that_are_none(tmp_path, url):
    sources = Sources(Limits(folder=str(tmp_path)))

    async def run():
        async with sources.opened([Part("video", "video_url", url)], "me"):
            pass

    with pytest.raises(ApiError, match=r"video_url (must be a data URL|is no base64)"):
        asyncio.run(run())
    assert not files(tmp_path)


def test_files_of_servers_that_were_killed_are_removed(tmp_path):
    left = tmp_path / "incoming-999999999-abc" / "x"
    left.parent.mkdir()
    left.write_text("x")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file-1.bin").write_text("without its record")
    Sources(Limits(folder=str(tmp_path))).close()
    assert not files(tmp_path)
