"""Sources that are read over the network (loopback only), or fail while they are read."""

import http.server
import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from longcompress.config import MediaConfig
from longcompress.media.reader import read

from readings import SMALL, gather, joined, media_threads
from videos import Video, write

PLAIN = Video(stamps=range(0, 3000, 40), audio_s=3, options={"g": "10", "sc_threshold": "0"})


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not media_threads()


class CutServer(http.server.BaseHTTPRequestHandler):
    """Serves ranges of `data`, and nothing from `limit` on: the connection is cut."""

    data = b""
    limit = 1 << 60

    def do_HEAD(self):
        self._head()

    def _head(self):
        first, last = 0, len(self.data) - 1
        if "Range" in self.headers:
            first, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        return first, last

    def do_GET(self):
        first, last = self._head()
        self.wfile.write(self.data[first : min(last + 1, self.limit)])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (CutServer,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}/video"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_url_is_read_like_a_file(server, tmp_path, suffix):
    handler, url = server
    options = {"movflags": "+faststart"} if suffix == "mp4" else {}
    path = write(tmp_path / f"plain.{suffix}", replace(PLAIN, container_options=options))
    handler.data = path.read_bytes()
    got, want = gather(url, protocols=("file", "http")), gather(path)
    assert got[1] == want[1] and all(map(torch.equal, got[0], want[0]))
    assert np.array_equal(joined(got[2]), joined(want[2]))


def test_a_url_that_fails_half_way_gives_what_came_then_an_error(server, tmp_path):
    handler, url = server
    video = replace(PLAIN, size=(320, 192), codec="rawvideo")
    handler.data = write(tmp_path / "heavy.mkv", video).read_bytes()
    assert len(handler.data) > 3_000_000
    handler.limit = len(handler.data) // 2
    seen = []
    with pytest.raises(
        OSError, match=r"http://127.*/video: reading failed at \d+\.\d s; what came .*try again: "
    ):
        for item in read(url, MediaConfig(**SMALL), protocols=("http",)):
            seen.append(item)
    assert seen


def test_a_url_that_is_not_there(server):
    handler, url = server
    handler.do_GET = handler.do_HEAD = lambda self: self.send_error(404)
    with pytest.raises(FileNotFoundError, match="no file http://"):
        read(url, protocols=("http",))


def test_a_file_object_that_fails_names_time_and_cause(tmp_path):
    class Failing(io.BytesIO):
        def read(self, num=-1):
            if self.tell() > 30_000:
                raise ConnectionResetError("gone")
            return super().read(num)

    data = write(tmp_path / "big.mkv", replace(PLAIN, codec="ffv1", pix_fmt="yuv444p")).read_bytes()
    with pytest.raises(OSError, match=r"<Failing>: reading failed at .*ConnectionResetError"):
        gather(Failing(data))
