"""Shards in an object store: the folder's samples whatever it does, none twice, an end where it stays down.

S3 is moto's server, the hub a server that answers as its API does. A proxy before both spoils answers.
"""

import http.client
import http.server
import json
import socket
import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.stream import ShardStream
from longcompress.train.shards.tar import write_tar

pytestmark = pytest.mark.slow

FAULTS = ("503", "cut", "slow")


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to server.target; spoils answers for tars as server.spoil says."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        connection = http.client.HTTPConnection(*self.server.target, timeout=30)
        headers = {n: v for n, v in self.headers.items() if n.lower() != "connection"}
        connection.request(self.command, self.path, self.rfile.read(length), headers)
        answer = connection.getresponse()
        body, code = answer.read(), answer.status
        what = None
        if self.command == "GET" and ".tar" in self.path:
            byte_range = self.headers.get("Range", "")
            what = self.server.spoil(self.path)
            self.server.asked.append((self.path.rpartition("/")[2], byte_range, what))
        if what == "503":
            body = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
            code = 503
        self.send_response(code)
        for name, value in [] if what == "503" else answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if what == "cut":
            body, self.close_connection = body[: len(body) // 2], True
        for at in range(0, len(body), 2048):
            self.wfile.write(body[at : at + 2048])
            if what == "slow":
                threading.Event().wait(0.005)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *_):
        """Say nothing."""


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's API says of the data set a/b, whose files are server.folder's."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.partition("?")[0].rpartition("/")[2]
        path = self.server.folder / name
        if self.path.startswith("/api/datasets/a/b/tree/"):
            return self.send(200, json.dumps(self.entries(sorted(self.server.folder.iterdir()))).encode())
        if self.path.startswith("/api/datasets/a/b"):
            content = {
                "id": "a/b",
                "sha": "0" * 40,
                "siblings": [],
                "private": False,
                "downloads": 0,
                "tags": [],
            }
            return self.send(200, json.dumps(content).encode())
        if not path.is_file():
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data, headers, code = path.read_bytes(), {}, 200
        if byte_range := self.headers.get("Range"):
            first, last = byte_range.removeprefix("bytes=").split("-")
            headers = {"Content-Range": f"bytes {byte_range[6:]}/{len(data)}"}
            data, code = data[int(first) : int(last) + 1], 206
        return self.send(code, data, headers)

    def do_POST(self):
        """paths-info: the entries of files that exist."""
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            names = json.loads(asked)["paths"]
        except ValueError:
            from urllib.parse import parse_qs

            names = parse_qs(asked)["paths"]
        names = [names] if isinstance(names, str) else names
        self.send(200, json.dumps(self.entries(self.server.folder / name for name in names)).encode())

    def entries(self, paths):
        return [
            {"type": "file", "oid": "1" * 40, "size": p.stat().st_size, "path": p.name}
            for p in paths
            if p.is_file()
        ]

    def send(self, code, body, headers=None):
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def serve():
    """Handler -> a server on this machine that ends with the test."""
    running = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def index(tmp_path):
    """Nine samples in three shards."""
    folder, generator = tmp_path / "folder", np.random.default_rng(0)
    folder.mkdir()
    for shard in range(3):
        keys = [f"s{shard}{i}" for i in range(3)]
        samples = (
            (k, {"json": json.dumps({"key": k}).encode(), "mp4": generator.bytes(40_000)}) for k in keys
        )
        write_tar(folder / f"shard-{shard:06d}.tar", samples)
    return make_index(folder, progress=False)


@pytest.fixture
def proxy(serve):
    server = serve(Proxy)
    server.asked, server.spoil = [], lambda path: None
    return server


@pytest.fixture
def s3(index, proxy, monkeypatch):
    """(URL, proxy) of the shards in a bucket."""
    pytest.importorskip("s3fs", reason="reading s3:// needs s3fs")
    moto = pytest.importorskip("moto.server", reason="the server of S3 is moto's")
    import boto3
    import s3fs

    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the client's own tries, which ours come on top of
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        proxy.target = free.getsockname()
    server = moto.ThreadedMotoServer(*proxy.target, verbose=False)
    server.start()
    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    for path in index.folder.iterdir():
        client.upload_file(str(path), "data", f"x/{path.name}")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://data/x", proxy
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def hub(index, proxy, serve, monkeypatch):
    """(URL, proxy) of the shards in a data set of the hub."""
    import huggingface_hub
    from huggingface_hub import HfFileSystem

    server = serve(Hub)
    server.folder = index.folder
    proxy.target = server.server_address
    endpoint = f"http://127.0.0.1:{proxy.server_port}"
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})  # of its own tries, below ours
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    HfFileSystem.clear_instance_cache()
    yield "hf://datasets/a/b", proxy
    HfFileSystem.clear_instance_cache()


@pytest.fixture(params=["s3", "hub"])
def store(request):
    return request.getfixturevalue(request.param)


load = partial(load_index, tries=4, wait_s=0.01)


def members(items):
    return [
        {n: data for n, data in item.items() if n != "__url__" and n != "__local_path__"} for item in items
    ]


def everything(index):
    return [index.read(number) for number in range(len(index))]


def failing(times, what):
    """Spoils the first so many requests for each tar."""
    left = {}

    def spoil(path):
        left[path] = left.get(path, times) - 1
        return what if left[path] >= 0 else None

    return spoil


def test_a_store_has_the_samples_of_the_folder(store, index, tmp_path):
    url, _ = store
    for cache in (None, tmp_path / "cache"):
        remote = load(url, cache)
        assert everything(remote) == everything(index)
        assert members(ShardStream(remote, shuffle=0)) == members(ShardStream(index, shuffle=0))


@pytest.mark.parametrize("what", FAULTS)
def test_faults_that_pass_leave_the_same_samples_once_each(store, index, what):
    url, proxy = store
    remote = load(url)
    proxy.spoil = failing(2, what)
    assert members(ShardStream(remote, shuffle=0)) == members(ShardStream(index, shuffle=0))
    proxy.spoil = failing(2, what)
    assert everything(remote) == everything(index)


@pytest.mark.parametrize("what", ["503", "cut"])
def test_a_shard_that_stays_down_is_named_after_a_bounded_number_of_requests(store, what):
    url, proxy = store
    remote = load(url)
    proxy.spoil = lambda path: what if "000001" in path else None
    proxy.asked.clear()
    items = list(ShardStream(remote, shuffle=0))
    bad = {item["__key__"]: str(item["__error__"]) for item in items if "__error__" in item}
    assert sorted(bad) == ["s10", "s11", "s12"] and len(items) == 9
    assert all("shard-000001.tar couldn't be read in 4 tries" in text for text in bad.values())
    assert 4 <= len([name for name, _, _ in proxy.asked if "000001" in name]) <= 24
    with pytest.raises(OSError, match=r"shard-000001\.tar couldn't be read in 4 tries"):
        remote.read(4)


def test_a_store_that_is_gone_ends_clearly(store):
    url, proxy = store
    remote = load(url, tries=2)
    proxy.target = ("127.0.0.1", 9)  # nothing listens there: the proxy drops the connection
    with pytest.raises(OSError, match=r"shard-000000\.tar couldn't be read in 2 tries"):
        remote.read(0)


def test_what_is_not_there_is_said_at_once(store):
    url, _ = store
    with pytest.raises(FileNotFoundError, match=r"no index .*/nothing/index\.json; make one"):
        load(f"{url}/nothing")
