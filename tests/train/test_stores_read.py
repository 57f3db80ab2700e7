"""Source videos in an object store: the samples and records of a folder, whatever the store does."""

import json

import pytest
import stores
from stores import every

import longcompress as lc
from longcompress.cli.main import main
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards import remote
from longcompress.train.shards.remote import Remote, StoreDown, place_of

import videos

pytestmark = pytest.mark.slow

URL = "s3://data/v"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three short videos with audio, one of which has subtitles and one a record, and a file that is none."""
    where = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("a.mp4", "b.mkv", "c.mp4")):
        videos.write(where / name, videos.Video(stamps=range(0, 1000 * (2 + i), 40), audio_s=2.0 + i))
    (where / "a.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nHello.\n")
    (where / "c.json").write_text(json.dumps({"events": [{"start_s": 0, "end_s": 1, "text": "A dog."}]}))
    (where / "d.mp4").write_bytes(b"nothing")
    return where


@pytest.fixture
def s3(monkeypatch, folder):
    """(boto3's client past the proxy, proxy) of a bucket with the folder's files. Tries don't wait."""
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(remote, "REQUEST_BYTES", 3_000)  # each video takes several requests
    with stores.bucket(monkeypatch.setenv) as (client, proxy):
        stores.upload(client, folder, "v")
        yield client, proxy


def files_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_shards_of_a_bucket_with_faults_are_those_of_a_folder(s3, folder, tmp_path, capsys):
    _, proxy = s3
    words = ["shards", "make", "--kind", "media", "--out"]
    assert main([*words, str(tmp_path / "here"), str(folder)]) == 3  # d.mp4 is none
    here = capsys.readouterr()
    proxy.spoil = every(3, "503", "cut", "drop", "slow", commands=("GET", "HEAD"))
    assert main([*words, str(tmp_path / "there"), URL]) == 3
    stored = capsys.readouterr()
    assert sum(what is not None for *_, what in proxy.requests) > 5
    want, got = files_of(tmp_path / "here"), files_of(tmp_path / "there")
    lines = [json.loads(line) for line in got.pop("manifest.jsonl").splitlines()]
    assert [line["status"] for line in lines] == ["made"] * 3 + ["failed"]
    assert lines[3]["video"] == f"{URL}/d.mp4" and lines[3]["reason"].startswith(f"{URL}/d.mp4: no video")
    del want["manifest.jsonl"]
    assert got == want
    assert f"d: {URL}/d.mp4: no video" in stored.err.replace("\n", " ") and "d.mp4: no video" in here.err


def test_records_of_a_list_in_a_bucket_lie_beside_it(s3, folder):
    client, _ = s3
    client.put_object(
        Bucket="data", Key="v/l/some.jsonl", Body=b'{"video": "a.mp4"}\r\n{"video": "/x/b.mp4"}\n'
    )
    records = read_records(Remote(f"{URL}/l/some.jsonl"))
    assert [record.video for record in records] == [f"{URL}/l/a.mp4", "/x/b.mp4"]
    assert [r.key for r in read_records(Remote(URL))] == ["a", "b", "c", "d"]
    assert read_records(Remote(URL))[2].events == read_records(folder)[2].events != ()


def test_a_store_must_be_allowed_and_one_that_is_down_ends_the_work_without_blaming_a_video(
    s3, folder, tmp_path
):
    _, proxy = s3
    records = read_records(Remote(URL))
    results = shards.make(records[:1], tmp_path / "a", None, kind="media", progress=False)
    assert "protocols must have 's3', got only file" in results[0].reason
    proxy.spoil = lambda command, path: "503" if "b.mkv" in path else None
    with pytest.raises(StoreDown, match=rf"{URL}/b.mkv couldn't be read in 5 tries.*run again"):
        shards.make(records, tmp_path, None, kind="media", progress=False, protocols=["s3"])
    names = sorted(p.name for p in (tmp_path / "parts").iterdir() if p.name[0] != ".")
    assert names == ["a.tar"]
    proxy.spoil = lambda command, path: None
    results = shards.make(records, tmp_path, None, kind="media", progress=False, protocols=["s3"])
    assert [result.status for result in results] == ["exists", "made", "made", "failed"]


def test_a_bucket_without_rights_is_named_at_once_and_a_video_without_them_alone(s3, tmp_path, capsys):
    _, proxy = s3
    records = read_records(Remote(URL))
    proxy.spoil = lambda command, path: "403"
    assert main(["shards", "make", URL, "--kind", "media", "--out", str(tmp_path / "x")]) == 3
    assert f"{URL} can't be read" in (error := capsys.readouterr().err) and "credentials valid" in error
    proxy.spoil = lambda command, path: "403" if "a.mp4" in path else None
    results = shards.make(records, tmp_path, None, kind="media", progress=False, protocols=["s3"])
    assert [result.status for result in results] == ["failed", "made", "made", "failed"]
    assert f"{URL}/a.mp4 can't be read" in results[0].reason and "credentials valid" in results[0].reason


def test_annotations_of_a_bucket_are_those_of_a_folder(s3, folder, tmp_path, capsys):
    _, proxy = s3
    words = ["annotate", "--captions", "none", "--out"]
    assert main([*words, str(tmp_path / "here"), str(folder)]) == 3
    proxy.spoil = every(4, "503", "cut", "drop", commands=("GET", "HEAD"))
    assert main([*words, str(tmp_path / "there"), URL]) == 3
    local, stored = (read_records(tmp_path / name / "records.jsonl") for name in ("here", "there"))
    assert [record.video for record in stored] == [f"{URL}/{name}" for name in ("a.mp4", "b.mkv", "c.mp4")]
    for mine, theirs in zip(local, stored, strict=True):
        assert (theirs.events, theirs.text, theirs.duration_s) == (mine.events, mine.text, mine.duration_s)
    assert stored[0].text[0].text == "Hello."
    report = json.loads((tmp_path / "there" / "report.json").read_text())
    assert report["failed"]["d"].startswith(f"{URL}/d.mp4")
    proxy.spoil = lambda command, path: "403" if ".srt" in path else None
    assert main([*words, str(tmp_path / "again"), f"{URL}"]) == 3
    report = json.loads((tmp_path / "again" / "report.json").read_text())
    assert report["text_faults"] == {"can't be read": 3}
    assert f"{URL}/a.srt can't be read" in report["text_places"]["a"][0]


def test_features_of_a_bucket_are_those_of_a_folder(s3, folder, tmp_path):
    model = lc.load("tiny", device="cpu")
    for name, source in (("here", str(folder)), ("there", URL)):
        records = read_records(place_of(source))[:1]
        shards.make(records, tmp_path / name, model, progress=False, protocols=["file", "s3"])
    assert files_of(tmp_path / "here" / "parts") == files_of(tmp_path / "there" / "parts")
