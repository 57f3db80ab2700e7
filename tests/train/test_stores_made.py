"""Shards made into an object store: the folder's bytes, no half one ever, a restart goes on."""

import json
import re

import numpy as np
import pytest
import stores
from stores import every, objects

from longcompress.cli.main import main
from longcompress.train.records import Record, read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.index import load_index
from longcompress.train.shards.remote import Remote
from longcompress.train.shards.stream import ShardStream

import videos

pytestmark = pytest.mark.slow

WRITES = ("PUT", "POST")
MB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three short videos with audio, and a file that is none."""
    where = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("a.mp4", "b.mkv", "c.mp4")):
        videos.write(where / name, videos.Video(stamps=range(0, 1000 * (2 + i), 40), audio_s=2.0 + i))
    (where / "d.mp4").write_bytes(b"nothing")
    return where


@pytest.fixture
def s3(monkeypatch):
    """(boto3's client past the proxy, proxy) of an empty bucket."""
    with stores.bucket(monkeypatch.setenv) as pair:
        yield pair


def build(out, records, **options):
    """The index of media shards, one video each."""
    results = shards.make(records, out, None, kind="media", progress=False, **options)
    return results, shards.pack(out, records, shard_bytes=1, progress=False)


def content(client):
    """Name -> bytes of what was made below x."""
    names = {key.removeprefix("x/"): data for key, data in objects(client).items()}
    return {name: data for name, data in names.items() if ".lock-" not in name}


def content_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file() and ".lock-" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def writes(proxy, name=r".*\.tar"):
    return [r for r in proxy.requests if r[0] in WRITES and re.search(rf"/{name}(\?|$)", r[1])]


def large(mb, calls=None):
    """Makes a part of `mb` random MiB a record, without a video."""

    def part(record, folder):
        def read():
            if calls is not None:
                calls.append(record.key)
            return {
                "json": json.dumps({"key": record.key}).encode(),
                "mp4": np.random.default_rng(ord(record.key)).bytes(round(mb * MB)),
            }

        return shards.try_sample(record, folder, read)

    return shards.each(part)


RECORDS = [Record(key, f"{key}.mp4") for key in "abc"]


def test_media_shards_in_a_store_are_those_of_a_folder(s3, folder, tmp_path):
    client, proxy = s3
    records = read_records(folder)
    _, index = build(tmp_path, records)
    results, remote = build("s3://data/x", records)
    assert [r.status for r in results] == ["made", "made", "made", "failed"]
    assert content(client) == content_of(tmp_path) and "index.json" in content(client)
    assert remote.entries == index.entries and remote.shards == index.shards
    again = load_index("s3://data/x")
    assert [again.read(i) for i in range(3)] == [index.read(i) for i in range(3)]
    assert [i["__key__"] for i in ShardStream(again, shuffle=0)] == ["a", "b", "c"]
    proxy.requests.clear()
    results, _ = build("s3://data/x", records)
    assert [r.status for r in results] == ["exists", "exists", "exists", "failed"]
    assert not writes(proxy) and content(client) == content_of(tmp_path)  # what is there isn't sent again


def test_fewer_videos_leave_no_shard_of_before(s3, folder, tmp_path):
    client, _ = s3
    records = read_records(folder)
    build("s3://data/x", records)
    build("s3://data/x", records[:2])
    build(tmp_path, records[:2])
    names = {name for name in content(client) if "/" not in name}
    assert names == {name for name in content_of(tmp_path) if "/" not in name}


def test_faults_that_pass_leave_the_same_bytes(s3, folder, tmp_path):
    client, proxy = s3
    records = read_records(folder)
    build(tmp_path, records)
    proxy.spoil = every(3, "503", "drop", "cut", "lost", commands=("GET", "HEAD", "PUT", "POST", "DELETE"))
    build("s3://data/x", records)
    assert sum(bool(r[3]) for r in proxy.requests) > 10
    assert content(client) == content_of(tmp_path)


class TestLarge:
    """Files that are sent in parts."""

    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch):
        monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda *_, **__: 5 * MB)

    def test_parts_of_a_file_that_fail_are_sent_again(self, s3, tmp_path):
        client, proxy = s3
        shards.make_share(RECORDS, tmp_path, large(11), progress=False)
        proxy.spoil = every(4, "503", "drop", commands=("PUT",))
        shards.make_share(RECORDS, "s3://data/x", large(11), progress=False)
        assert content(client) == content_of(tmp_path)
        assert len([r for r in proxy.requests if "uploadId" in r[1] and r[0] == "PUT" and r[3]]) > 1
        assert len([r for r in proxy.requests if "?uploads" in r[1]]) == 3  # none was begun a second time

    @pytest.mark.parametrize("is_gone", [False, True])
    def test_a_store_that_fails_in_the_middle_shows_no_half_file_and_a_restart_goes_on(
        self, s3, tmp_path, is_gone, monkeypatch
    ):
        client, proxy = s3
        monkeypatch.setattr("longcompress.train.shards.remote.time.sleep", lambda seconds: None)
        monkeypatch.setattr(Remote, "__init__", quick(Remote.__init__))
        seen = []

        def spoil(command, path):
            down = (len(seen) > 0 and is_gone) or ("/b.tar" in path and "partNumber=2" in path)
            if down:
                seen.append(path)
            return "drop" if down else None

        proxy.spoil = spoil
        with pytest.raises(
            OSError, match=r"s3://data/x/parts/b\.tar couldn't be written in 2 tries.*run again"
        ):
            shards.make_share(RECORDS, "s3://data/x", large(11), progress=False)
        assert set(content(client)) == {"parts/a.tar"}
        uploads = client.list_multipart_uploads(Bucket="data").get("Uploads", [])
        assert bool(uploads) == is_gone  # a store that is gone can't be told to drop the parts
        proxy.spoil, calls = lambda command, path: None, []
        results = shards.make_share(RECORDS, "s3://data/x", large(11, calls), progress=False)
        assert calls == ["b", "c"] and [r.status for r in results] == ["exists", "made", "made"]
        shards.make_share(RECORDS, tmp_path, large(11), progress=False)
        assert content(client) == content_of(tmp_path)


def quick(init):
    """Two tries, as the default."""

    def changed(self, url, cache=None, tries=2, wait_s=0.0):
        init(self, url, cache, 2, 0.0)

    return changed


def test_packing_that_fails_leaves_no_index_of_other_shards_and_goes_on(s3, tmp_path):
    client, proxy = s3
    shards.make_share(RECORDS[:2], "s3://data/x", large(0.1), progress=False)
    shards.pack("s3://data/x", RECORDS[:2], shard_bytes=1, progress=False)
    more = [Record("A", "A.mp4"), *RECORDS]  # the first by key: every shard is another one
    shards.make_share(more, "s3://data/x", large(0.1), progress=False)
    proxy.spoil = lambda command, path: "403" if "shard-000002" in path and command == "PUT" else None
    with pytest.raises(OSError, match=r"shard-000002\.tar can't be written: .*are the credentials valid"):
        shards.pack("s3://data/x", more, shard_bytes=1, progress=False)
    with pytest.raises(FileNotFoundError, match="no index"):
        load_index("s3://data/x")
    proxy.spoil = lambda command, path: None
    shards.pack("s3://data/x", more, shard_bytes=1, progress=False)
    shards.make_share(more, tmp_path, large(0.1), progress=False)
    shards.pack(tmp_path, more, shard_bytes=1, progress=False)
    assert content(client) == content_of(tmp_path)


@pytest.mark.parametrize("what", ["403", "expired"])
def test_a_bucket_without_rights_is_named_before_the_first_video(s3, what):
    _, proxy = s3
    proxy.spoil = lambda command, path: what if command == "PUT" else None
    calls = []
    with pytest.raises(
        OSError, match=r"s3://data/x/parts/\.lock-0-of-1 can't be written: .*credentials valid"
    ):
        shards.make_share(RECORDS, "s3://data/x", large(0.1, calls), progress=False)
    assert not calls and len([r for r in proxy.requests if r[0] == "PUT"]) == 1


def test_where_nothing_can_be_written(s3, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no file s3://none/x/parts/\.lock-0-of-1; is there such a buck"
    ):
        shards.make_share(RECORDS, "s3://none/x", large(0.1), progress=False)
    with pytest.raises(
        ValueError, match=r"files are written into a folder or below s3://; write into a folder"
    ):
        shards.make_share(RECORDS, "http://127.0.0.1/x", large(0.1), progress=False)


def test_a_folder_and_a_bucket_are_packed_into_each_other(s3, folder, tmp_path):
    build(tmp_path / "x", read_records(folder))
    assert main(["shards", "repack", str(tmp_path / "x"), "--out", "s3://data/x"]) == 0
    single = load_index("s3://data/x")
    assert len(single.shards) == 1 and len(single) == 3
    back = shards.repack("s3://data/x", tmp_path / "back", shard_bytes=1, progress=False)
    assert back.shards == load_index(tmp_path / "x").shards
    with pytest.raises(ValueError, match=r"out must be another folder than s3://data/x/"):
        shards.repack("s3://data/x/", "s3://data/x", shard_bytes=1)


def test_the_command_makes_them_and_says_what_failed(s3, folder, tmp_path, capsys):
    client, proxy = s3
    command = ["shards", "make", str(folder), "--kind", "media", "--out"]
    assert main([*command, "s3://data/x"]) == 3 == main([*command, str(tmp_path / "x")])
    assert content(client) == content_of(tmp_path / "x")
    assert "s3://data/x: 3 made, 0 there already, 1 failed" in capsys.readouterr().out
    assert main(["shards", "info", "s3://data/x"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 3
    proxy.spoil = lambda command, path: "403"
    assert main([*command, "s3://data/x"]) != 0
    assert "are the credentials valid" in capsys.readouterr().err
    assert main(["shards", "export-npy", str(folder), "--out", "s3://data/x", "--preset", "vtimellm"]) != 0
    assert "--out must be a folder here, got the URL s3://data/x" in capsys.readouterr().err
