"""Object stores on this machine, for tests: S3 is moto's server, the hub answers as its API does.

A proxy stands before both. It spoils the answers that a test chooses:

503: SlowDown. cut: half of the answer, then no connection. slow: 2 KB at a time. short: half of the object,
as if that were all. 403: AccessDenied. expired: what S3 says to credentials whose time is over. drop: the
connection ends before the request is done. lost: the request is done, its answer never comes.

python tests/stores.py measures reading from a folder, from the store, and from the store with faults.
"""

import http.client
import http.server
import json
import os
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs

ERRORS = {
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}
HOP = ("content-length", "transfer-encoding", "connection", "date", "server")


class Proxy(http.server.BaseHTTPRequestHandler):
    """Hands requests on to server.target; spoils answers as server.spoil(command, path) says."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        what = self.server.spoil(self.command, self.path)
        self.server.requests.append((self.command, self.path, self.headers.get("Range", ""), what))
        sent = self._body()
        if what == "drop":
            self.close_connection = True
            return
        if what in ERRORS:
            code, name = ERRORS[what]
            body = f"<Error><Code>{name}</Code><Message>no</Message></Error>".encode()
            self._send(code, [("Content-Type", "application/xml")], body, len(body))
            return
        connection = http.client.HTTPConnection(*self.server.target, timeout=30)
        try:
            headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP}
            connection.request(self.command, self.path, sent, headers)
            answer = connection.getresponse()
            body = answer.read()
        except OSError:
            self.close_connection = True
            return
        finally:
            connection.close()
        if what == "lost":
            self.close_connection = True
            return
        if what == "short":
            body = body[: len(body) // 2]
        size = int(answer.getheader("Content-Length") or 0) if self.command == "HEAD" else len(body)
        if what == "cut":
            body, self.close_connection = body[: len(body) // 2], True
        self._send(answer.status, answer.getheaders(), body, size, slow=what == "slow")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _body(self) -> bytes:
        """What the client sends; S3's may send it in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _send(self, code, headers, body, size, slow=False):
        self.send_response(code)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(0, len(body), 2048 if slow else 1 << 20):
            self.wfile.write(body[at : at + (2048 if slow else 1 << 20)])
            if slow:
                threading.Event().wait(0.005)

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
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            names = json.loads(text)["paths"]
        except ValueError:
            names = parse_qs(text)["paths"]
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


class Server(http.server.ThreadingHTTPServer):
    """A server of this machine; clients that hang up are no news."""

    def handle_error(self, request, client_address):
        """Say nothing."""


@contextmanager
def serving(handler: type) -> Iterator[Server]:
    """A server on a free port that ends with the block."""
    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def proxying(target: tuple[str, int] = ("127.0.0.1", 9)) -> Iterator[Server]:
    """A proxy that spoils nothing yet."""
    with serving(Proxy) as proxy:
        proxy.requests, proxy.spoil, proxy.target = [], lambda command, path: None, target
        yield proxy


@contextmanager
def bucket(setenv: Callable[[str, str], None]) -> Iterator[tuple[object, Server]]:
    """(boto3's client, proxy) of S3 with an empty bucket `data`; the environment leads others to it."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        setenv(f"AWS_{name}", value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        target = free.getsockname()
    with proxying(target) as proxy:
        setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        server = ThreadedMotoServer(*target, verbose=False)
        server.start()
        client = boto3.client("s3", endpoint_url=f"http://{target[0]}:{target[1]}")  # past the proxy
        client.create_bucket(Bucket="data")
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield client, proxy
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            reset = urllib.request.Request(f"http://{target[0]}:{target[1]}/moto-api/reset", method="POST")
            urllib.request.urlopen(reset).close()  # what it holds would outlive the server
            server.stop()


def upload(client, folder: Path, prefix: str) -> None:
    """Put the files of a folder into the bucket."""
    for path in filter(Path.is_file, folder.iterdir()):
        client.upload_file(str(path), "data", f"{prefix}/{path.name}")


def objects(client) -> dict[str, bytes]:
    """Key -> bytes of all there is in the bucket."""
    items = client.list_objects_v2(Bucket="data").get("Contents", [])
    return {i["Key"]: client.get_object(Bucket="data", Key=i["Key"])["Body"].read() for i in items}


def failing(times: int, what: str, commands: tuple[str, ...] = ("GET",)) -> Callable[[str, str], str | None]:
    """Spoils the first so many requests for each tar."""
    left: dict[str, int] = {}

    def spoil(command: str, path: str) -> str | None:
        if ".tar" not in path or command not in commands:
            return None
        left[path] = left.get(path, times) - 1
        return what if left[path] >= 0 else None

    return spoil


def every(number: int, *faults: str, commands: tuple[str, ...]) -> Callable[[str, str], str | None]:
    """Spoils each so-many-th request of these commands, by one fault after the other."""
    count = [0]

    def spoil(command: str, path: str) -> str | None:
        if command not in commands:
            return None
        count[0] += 1
        turn, rest = divmod(count[0], number)
        return None if rest else faults[turn % len(faults)]

    return spoil


def measure(num: int = 96, kilobytes: int = 512, rounds: int = 5) -> None:
    """Print samples a second of both readers, medians of rounds that take turns. All runs in this process."""
    import numpy as np

    from longcompress.train.shards.index import load_index, make_index
    from longcompress.train.shards.stream import ShardStream
    from longcompress.train.shards.tar import write_tar

    with tempfile.TemporaryDirectory() as name, bucket(os.environ.__setitem__) as (client, proxy):
        folder, generator = Path(name), np.random.default_rng(0)
        for shard in range(4):
            keys = [f"s{i:04d}" for i in range(shard, num, 4)]
            samples = ((k, {"json": b"{}", "mp4": generator.bytes(kilobytes << 10)}) for k in keys)
            write_tar(folder / f"shard-{shard:06d}.tar", samples)
        here = make_index(folder, progress=False)
        upload(client, folder, "x")
        remote = load_index("s3://data/x", wait_s=0.05)
        readers = {
            "indexed": lambda index: [index.read(i) for i in index.order(0, 0)],
            "webdataset": lambda index: list(ShardStream(index, shuffle=8)),
        }
        faults = {"": lambda command, path: None}
        for percent in (5, 20):
            faults[f", {percent} % faults"] = every(100 // percent, "503", "cut", "drop", commands=("GET",))
        cases = {("folder", ""): here} | {("store", fault): remote for fault in faults}
        for reader, read in readers.items():
            speeds: dict[str, list[float]] = {}
            for _ in range(rounds):
                for (place, fault), index in cases.items():
                    proxy.spoil = faults[fault]
                    start_s = time.perf_counter()
                    items = read(index)
                    seconds = time.perf_counter() - start_s
                    assert len(items) == num and not any("__error__" in item for item in items)
                    speeds.setdefault(place + fault, []).append(num / seconds)
            for name, values in speeds.items():
                print(f"{reader:<12}{name:<20}{statistics.median(values):8.0f} samples/s")


if __name__ == "__main__":
    measure()
