"""Shards below a URL: samples of the folder, whatever a server does; or an error with the shard's name."""

import http.server
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import fsspec
import numpy as np
import pytest
from huggingface_hub import HfFileSystem
from huggingface_hub.errors import HfHubHTTPError
from torch.utils.data import DataLoader

from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards import remote as remote_module
from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.remote import Remote
from longcompress.train.shards.stream import ShardStream
from longcompress.train.shards.tar import write_tar

import models
import videos

pytestmark = pytest.mark.slow  # servers that fail, and retries that wait


class Handler(http.server.BaseHTTPRequestHandler):
    """Files of server.folder, with ranges; every request is noted, and may be spoiled by server.spoil."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.server.folder / self.path.lstrip("/")
        byte_range = self.headers.get("Range")
        self.server.asked.append((path.name, byte_range))
        what = self.server.spoil(path.name)
        data = path.read_bytes() if path.is_file() else b""
        code = what if isinstance(what, int) else (200 if path.is_file() else 404)
        if code == 200 and byte_range and what != "no ranges":
            first, last = byte_range.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                code, data = 416, b""
            else:
                code, data = 206, data[int(first) : int(last) + 1]
        body = data if code < 300 else b""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if what == "cut":
            body, self.close_connection = body[: len(body) // 2], True
        for at in range(0, len(body), 4096):
            self.wfile.write(body[at : at + 4096])
            if what == "slow":
                time.sleep(0.05)

    do_HEAD = do_GET

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def serving():
    """folder -> (server, URL); servers end with the test."""
    running = []

    def serve(folder):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.folder, server.asked, server.spoil = folder, [], lambda name: None
        running.append((server, threading.Thread(target=server.serve_forever)))
        running[-1][1].start()
        return server, f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def served(tmp_path, serving):
    """(server, URL, index) of nine samples in three shards."""
    folder = tmp_path / "served"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for shard in range(3):
        samples = [
            (
                f"s{shard}{i}",
                {"json": json.dumps({"key": f"s{shard}{i}"}).encode(), "mp4": generator.bytes(40_000)},
            )
            for i in range(3)
        ]
        write_tar(folder / f"shard-{shard:06d}.tar", samples)
    index = make_index(folder, progress=False)
    return *serving(folder), index


load = partial(load_index, wait_s=0.01)


def everything(index):
    return [index.read(i) for i in range(len(index))]


def failing(times, what=503):
    """Spoils the first so many requests for a shard."""
    left = [times]

    def spoil(name):
        if name.endswith(".tar") and left[0]:
            left[0] -= 1
            return what
        return None

    return spoil


class TestRanges:
    def test_a_server_gives_the_samples_of_the_folder_in_one_range_each(self, served):
        server, url, index = served
        remote = load(url)
        assert remote.entries == index.entries and str(remote.folder) == url
        assert everything(remote) == everything(index)
        asked = [byte_range for name, byte_range in server.asked if name.endswith(".tar")]
        assert len(asked) == 9 and all(asked)
        assert remote.order(3, 1).tolist() == index.order(3, 1).tolist()

    def test_any_file_system_of_fsspec(self, served):
        server, _, index = served
        fsspec.filesystem("memory").put(str(server.folder), "/test-store", recursive=True)
        assert everything(load("memory://test-store")) == everything(index)
        assert everything(load(f"file://{server.folder}/")) == everything(index)
        assert everything(load(server.folder)) == everything(load(str(server.folder))) == everything(index)

    def test_a_file_system_whose_arguments_stand_in_another_order(self, served, monkeypatch):
        """s3's takes a version before the range."""
        server, _, index = served
        memory = fsspec.filesystem("memory")
        memory.put(str(server.folder), "/test-order", recursive=True)
        cat = memory.cat_file

        def order(path, version_id=None, start=None, end=None):
            return cat(path, start=start, end=end)

        monkeypatch.setattr(memory, "cat_file", order)
        assert everything(load("memory://test-order")) == everything(index)

    @pytest.mark.parametrize("what", [503, 429, "cut"])
    def test_what_passes_is_waited_out(self, served, what):
        server, url, index = served
        server.spoil = failing(3, what)
        assert load(url, tries=4).read(4) == index.read(4)
        server.spoil = failing(99, what)
        with pytest.raises(OSError, match=r"http://.*/shard-000001.tar couldn't be read in 4 tries"):
            load(url, tries=4).read(4)

    def test_waiting_doubles(self, served, monkeypatch):
        server, url, _ = served
        server.spoil, waits = failing(99), []
        monkeypatch.setattr(time, "sleep", waits.append)
        with pytest.raises(OSError, match="in 4 tries"):
            load_index(url, tries=4, wait_s=0.5).read(0)
        assert waits == [0.5, 1.0, 2.0]

    def test_what_does_not_pass_is_said_at_once(self, served):
        server, url, _ = served
        index = load(url)
        server.spoil = failing(99, 403)
        with pytest.raises(OSError, match=r"shard-000000.tar can't be read: .*403"):
            index.read(0)
        server.spoil = failing(99, "no ranges")
        with pytest.raises(
            ValueError, match=r"shard-000000.tar: asked for \d+ bytes, the server sent \d+: .*cache"
        ):
            index.read(0)
        server.spoil = lambda name: None
        (server.folder / "shard-000001.tar").unlink()
        with pytest.raises(FileNotFoundError, match=r"no file http://.*/shard-000001.tar"):
            index.read(3)
        data = (server.folder / "shard-000002.tar").read_bytes()
        for keep in (50_000, 1_000):
            (server.folder / "shard-000002.tar").write_bytes(data[:keep])
            with pytest.raises(ValueError, match=r"shard-000002.tar was cut"):
                index.read(7)
        assert [name for name, _ in server.asked].count("shard-000001.tar") == 1

    def test_a_server_that_is_gone(self, served):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        index = replace(served[2], folder=Remote(url, tries=2, wait_s=0.01))
        with pytest.raises(OSError, match=r"shard-000000.tar couldn't be read in 2 tries"):
            index.read(0)

    def test_workers_forked_from_a_process_that_has_read_already(self, served, tmp_path):
        _, url, index = served
        for cache in (None, tmp_path / "cache"):
            remote = load(url, cache)
            assert pickle.loads(pickle.dumps(remote)) == remote
            assert remote.read(0) == index.read(0)
            loader = DataLoader(Samples(remote), batch_size=None, num_workers=2)
            assert list(loader) == everything(index)


def plain(items):
    """Items without what names their file."""
    return [{n: data for n, data in item.items() if n not in ("__url__", "__local_path__")} for item in items]


class TestStream:
    """Reading from end to end."""

    @pytest.fixture(autouse=True)
    def small_requests(self, monkeypatch):
        monkeypatch.setattr(remote_module, "REQUEST_BYTES", 30_000)

    @pytest.mark.parametrize("what", [503, "cut", "slow"])
    def test_faults_that_pass_leave_the_samples_of_the_folder_once_each(self, served, what):
        server, url, index = served
        server.spoil = failing(3, what)
        stream = ShardStream(load(url, tries=4), shuffle=0)
        assert plain(stream) == plain(ShardStream(index, shuffle=0))
        asked = [byte_range for name, byte_range in server.asked if name == "shard-000002.tar"]
        assert len(asked) == len(set(asked)) == -(-index.shards[2].num_bytes // 30_000)

    def test_a_shard_that_stays_down_is_named_after_a_bounded_number_of_requests(self, served):
        server, url, _ = served
        server.spoil = lambda name: 503 if name == "shard-000001.tar" else None
        items = list(ShardStream(load(url, tries=3), shuffle=0))
        bad = {item["__key__"]: str(item["__error__"]) for item in items if "__error__" in item}
        assert list(bad) == ["s10", "s11", "s12"] and len(items) == 9
        assert all("shard-000001.tar couldn't be read in 3 tries" in text for text in bad.values())
        assert [name for name, _ in server.asked].count("shard-000001.tar") == 3

    def test_what_fails_in_the_middle_keeps_what_came_before_and_names_the_rest(self, served):
        server, url, _ = served
        remote = load(url, tries=2)
        requests = []

        def spoil(name):
            requests.append(name)
            return 503 if requests.count("shard-000000.tar") > 3 and name == "shard-000000.tar" else None

        server.spoil = spoil
        items = list(ShardStream(remote, shuffle=0))
        keys = [item["__key__"] for item in items]
        assert sorted(keys) == sorted(set(keys)) and len(keys) == 9
        assert 0 < sum("__error__" in item for item in items) < 3

    def test_what_does_not_pass(self, served, tmp_path):
        server, url, _ = served
        faults = {}
        data = (server.folder / "shard-000001.tar").read_bytes()
        (server.folder / "shard-000000.tar").unlink()
        (server.folder / "shard-000001.tar").write_bytes(data[:50_000])
        server.spoil = lambda name: "no ranges" if name == "shard-000002.tar" else None
        for item in ShardStream(load(url), shuffle=0):
            faults.setdefault(item["__key__"][:2], str(item.get("__error__")))
        assert "no file" in faults["s0"] and "get the shard again" in faults["s1"]
        assert "it knows no ranges; give a cache" in faults["s2"]
        (server.folder / "shard-000001.tar").write_bytes(data)
        items = list(ShardStream(load(url, tmp_path / "cache"), shuffle=0))
        assert [item["__key__"] for item in items if "__error__" not in item] == [
            f"s{shard}{i}" for shard in (1, 2) for i in range(3)
        ]


class Samples:
    """A data set of an index's samples."""

    def __init__(self, index):
        self.index = index

    def __len__(self):
        return len(self.index)

    def __getitem__(self, number):
        if number >= len(self):
            raise IndexError
        return self.index.read(number)


def reader(url, cache, out):
    """A process that reads the first sample through a cache, and writes it to `out`."""
    running = get_context("fork").Process(target=_read_first, args=(url, cache, out))
    running.start()
    return running


def _read_first(url, cache, out):
    out.write_bytes(load(url, cache).read(0)["mp4"])


class TestCache:
    def test_each_shard_is_fetched_once_and_then_read_without_the_network(self, served, tmp_path):
        server, url, index = served
        remote = load(url, tmp_path / "cache")
        assert everything(remote) == everything(index)
        assert [name for name, _ in server.asked] == ["index.json", *(s.name for s in index.shards)]
        server.spoil = lambda name: 503
        assert everything(remote) == everything(index)
        tars = sorted(path.name for path in (tmp_path / "cache").glob("*.tar"))
        assert tars == sorted(f"{shard.sha256}.tar" for shard in index.shards)

    def test_a_server_without_ranges_will_do(self, served, tmp_path):
        server, url, index = served
        server.spoil = lambda name: "no ranges"
        assert everything(load(url, tmp_path / "cache")) == everything(index)

    @pytest.mark.parametrize("what", [500, "cut"])
    def test_a_transfer_that_broke_is_begun_anew(self, served, tmp_path, what):
        server, url, index = served
        server.spoil = failing(2, what)
        assert load(url, tmp_path, tries=3).read(4) == index.read(4)

    @pytest.mark.parametrize(("change", "match"), [(0, "another hash"), (-1, r"\d+ bytes, not \d+")])
    def test_an_altered_shard_is_refused_and_nothing_of_it_kept(self, served, tmp_path, change, match):
        server, url, index = served
        path = server.folder / "shard-000001.tar"
        whole = path.read_bytes()
        path.write_bytes(whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001 : len(whole) + change])
        remote = load(url, tmp_path / "cache")
        with pytest.raises(ValueError, match=rf"shard-000001.tar has {match}.*upload that one again"):
            remote.read(4)
        assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]
        path.write_bytes(whole)
        assert remote.read(4) == index.read(4)

    def test_a_shard_made_anew_under_its_old_name_is_another_one(self, served, tmp_path):
        server, url, _ = served
        load(url, tmp_path).read(0)
        write_tar(server.folder / "shard-000000.tar", [("s00", {"json": b"{}", "mp4": b"new"})])
        make_index(server.folder, progress=False)
        assert load(url, tmp_path).read(0)["mp4"] == b"new"

    def test_processes_and_threads_that_want_one_shard_at_once_fetch_it_once(self, served, tmp_path):
        server, url, index = served
        server.spoil = lambda name: "slow" if name.endswith(".tar") else None
        with ThreadPoolExecutor(4) as pool:
            running = [reader(url, tmp_path / "cache", tmp_path / f"out{i}") for i in range(2)]
            local = list(pool.map(lambda _: load(url, tmp_path / "cache").read(0)["mp4"], range(4)))
        for process in running:
            process.join()
        outs = [(tmp_path / f"out{i}").read_bytes() for i in range(2)]
        assert outs == [index.read(0)["mp4"]] * 2 and local == [index.read(0)["mp4"]] * 4
        assert [name for name, _ in server.asked].count("shard-000000.tar") == 1

    def test_a_process_killed_while_it_fetches_leaves_a_cache_that_works(self, served, tmp_path):
        server, url, index = served
        server.spoil = lambda name: "slow" if name.endswith(".tar") else None
        cache = tmp_path / "cache"
        running = reader(url, cache, tmp_path / "out")
        until = time.monotonic() + 60
        while not any(p.stat().st_size for p in cache.glob(".*.part.tar")) and time.monotonic() < until:
            assert running.is_alive()
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.join()
        assert list(cache.glob(".*.part.tar")) and not list(cache.glob("[!.]*.tar"))
        server.spoil = lambda name: None
        assert load(url, cache).read(0) == index.read(0)
        assert not list(cache.glob(".*.part.tar"))


class TestRefused:
    def test_no_index(self, served, tmp_path):
        _, url, _ = served
        with pytest.raises(FileNotFoundError, match=r"no index http://.*/nothing/index.json; make one"):
            load(f"{url}/nothing")

    @pytest.mark.parametrize("name", ["../x.tar", "/etc/x.tar", "a\\b.tar", "http://x/y.tar"])
    def test_shards_that_lie_elsewhere(self, served, name):
        _, url, index = served
        replace(index, shards=(replace(index.shards[0], name=name),)).save()
        with pytest.raises(ValueError, match="must be a file beside the index"):
            load(url)

    def test_a_hash_that_is_none(self, served):
        _, url, index = served
        replace(index, shards=(replace(index.shards[0], sha256="../x"),)).save()
        with pytest.raises(ValueError, match="must have bytes and a sha256"):
            load(url)

    def test_what_can_not_be(self, served):
        url = served[1]
        with pytest.raises(ValueError, match="chained URLs are not read"):
            load("simplecache::http://x")
        with pytest.raises(ValueError, match="tries must be >= 1 and wait_s >= 0, got 0"):
            load(url, tries=0)
        with pytest.raises(ValueError, match=r"index\.json: files are written into a folder or below s3://"):
            load(url).save()

    def test_hub_errors_are_waited_out_too(self, monkeypatch):
        """They are those of the client that the hub's own is built on, whichever that is."""
        tries = []

        def down(files, path, **_):
            tries.append(path)
            raise HfHubHTTPError.__bases__[0]("down")

        monkeypatch.setattr(HfFileSystem, "cat_file", down)
        with pytest.raises(OSError, match=r"hf://datasets/a/b/index.json couldn't be read in 2 tries.*down"):
            load("hf://datasets/a/b", tries=2)
        assert tries == ["datasets/a/b/index.json"] * 2

    def test_missing_packages_are_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        known = sys.modules["fsspec.registry"]._registry
        monkeypatch.delitem(known, "s3", raising=False)  # what was imported before
        with pytest.raises(ImportError, match=r"s3://bucket/x/index.json.*pip install 'fsspec\[s3\]'"):
            load("s3://bucket/x")
        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(ImportError, match=r"needs fsspec: pip install 'longcompress\[web\]'"):
            load("s3://bucket/x")


def test_remote_names_files():
    assert Remote("http://x/y/").of("z") == Remote("http://x/y").of("z") == "http://x/y/z"


def test_a_server_that_dies_while_a_stage_trains_makes_bad_samples_that_name_the_shard(tmp_path, serving):
    """Or ends it, where the user said so."""
    model = models.model()
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        videos.write(tmp_path / "in" / f"{name}.mp4", videos.Video())
        lines = {"events": [{"start_s": 1, "end_s": 2, "text": "red ball"}]}
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps(lines))
    records = read_records(tmp_path / "in")
    shards.make(records, tmp_path / "out", model, progress=False)
    shards.pack(tmp_path / "out", records, shard_bytes=1, progress=False)
    server, url = serving(tmp_path / "out")
    for cache in (None, tmp_path / "cache"):
        server.spoil = lambda name: 503 if name == "shard-000001.tar" else None
        indexes = [load(url, cache, tries=2)]
        batches = BatchSampler(indexes, 1, 40, (20,), min_videos=2)
        loaded = next(iter(ShardData(batches, model, QuestionConfig())))
        assert loaded.keys == ["a"] and [bad.key for bad in loaded.bad] == ["b"]
        assert "shard-000001.tar couldn't be read in 2 tries" in loaded.bad[0].reason
        with pytest.raises(OSError, match=r"shard-000001.tar couldn't be read in 2 tries"):
            next(iter(ShardData(batches, model, QuestionConfig(), on_error="stop")))
