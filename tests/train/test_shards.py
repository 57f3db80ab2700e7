"""Shards: the same bytes however often making was interrupted; features compress as the video would have."""

import io
import json
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from longcompress.config import SegmentConfig
from longcompress.train.records import faults, num_overlapping, parse_record, read_records, slug
from longcompress.train.shards import index as indexes
from longcompress.train.shards import make as shards
from longcompress.train.shards.sample import Needs, members_of, read_sample
from longcompress.train.shards.tar import members_in, write_tar
from longcompress.types import Event
from longcompress.videos import read_session

import models
import ranks
import videos


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three short videos with audio, one of them with events, and a file that is none."""
    where = tmp_path_factory.mktemp("videos")
    for i, name in enumerate(("a.mp4", "b.one.mkv", "c.mp4")):
        seconds = 6 + i
        videos.write(where / name, videos.Video(stamps=range(0, 1000 * seconds, 40), audio_s=float(seconds)))
    (where / "a.json").write_text(json.dumps({"events": [{"start_s": 1, "end_s": 3, "text": "red"}]}))
    (where / "d.mp4").write_bytes(b"nothing")
    return where


@pytest.fixture(scope="module")
def dataset(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    records = read_records(folder)
    shards.make(records, out, model, progress=False)
    return shards.pack(out, records, shard_bytes=1, progress=False)


def contents(out):
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.is_file()}


def test_records_of_a_folder(folder):
    records = read_records(folder)
    assert [r.key for r in records] == ["a", "b_one", "c", "d"]
    assert records[0].events == (Event(1.0, 3.0, "red"),)


def test_every_video_is_a_sample_or_in_the_manifest_with_the_reason(dataset):
    assert [e.key for e in dataset.entries] == ["a", "b_one", "c"]
    lines = [json.loads(x) for x in (dataset.folder / "manifest.jsonl").read_text().splitlines()]
    assert [(x["key"], x["status"]) for x in lines] == [
        ("a", "made"),
        ("b_one", "made"),
        ("c", "made"),
        ("d", "failed"),
    ]
    assert "no video" in lines[3]["reason"]
    assert not shards.verify(dataset.folder, progress=False)


def test_the_tars_are_plain_webdataset(dataset):
    for number, entry in enumerate(dataset.entries):
        with tarfile.open(dataset.folder / dataset.shards[entry.shard].name) as tar:
            names = tar.getnames()
            assert names == sorted(names) and {n.partition(".")[0] for n in names} == {entry.key}
            assert {n.partition(".")[2] for n in names} == {"json", "video.safetensors", "audio.safetensors"}
            results = {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar.getmembers()}
            assert results == {(0, 0, 0, "", "", 0o644)}
        content = json.loads(dataset.read(number)["json"])
        assert content["key"] == entry.key and "/" not in content["video"]["name"]


def test_features_compress_as_the_video_would_have(dataset, model, folder):
    for budget in (30, 12, 6):
        session = read_session(model, folder / "a.mp4", budget=shards.ENDLESS, progress=False)
        want = session.state().compress(budget)
        got = read_sample(dataset.read(0), "a").state(model.merge_state()).compress(budget)
        assert set(got.streams) == set(want.streams) and set(got.globals) == set(want.globals)
        for name, tokens in want.streams.items():
            for field in ("size", "time_s", "start_s", "end_s"):
                assert torch.equal(getattr(got.streams[name], field), getattr(tokens, field))
            error = (got.streams[name].x - tokens.x).norm() / tokens.x.norm()
            assert float(error) < 4e-3  # x lies as bfloat16
        for name, rows in want.globals.items():
            assert torch.equal(got.globals[name], rows)


def test_making_again_changes_nothing_and_a_share_of_each_makes_the_whole(dataset, model, folder, tmp_path):
    records = read_records(folder)
    before = contents(dataset.folder)
    again = shards.make(records, dataset.folder, model, progress=False)
    assert [m.status for m in again] == ["exists", "exists", "exists", "failed"]
    shards.pack(dataset.folder, records, shard_bytes=1, progress=False)
    assert contents(dataset.folder) == before
    for i in (2, 0, 1):
        shards.make(records, tmp_path, model, share=(i, 3), progress=False)
    shards.pack(tmp_path, records, shard_bytes=1, progress=False)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_make_that_was_killed_and_resumed_gives_the_same_bytes(model, folder, tmp_path):
    model.save_pretrained(tmp_path / "model", include_base=True)
    script = tmp_path / "make.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from longcompress.model import LongCompress\n"
        "from longcompress.train.shards import make as shards\n"
        "from longcompress.train.records import read_records\n"
        "model = LongCompress.from_pretrained(sys.argv[1], device='cpu')\n"
        "shards.make(read_records(sys.argv[2]), sys.argv[3], model, progress=False)\n"
    )
    words = [script, tmp_path / "model", folder]
    out = tmp_path / "killed"
    with ranks.started(*words, out, out=tmp_path / "log") as running:
        until = time.monotonic() + 60
        while not list(out.glob("parts/a.tar")) and running.exitcode is None and time.monotonic() < until:
            time.sleep(0.005)
    for again in (out, tmp_path / "whole"):
        assert ranks.run(*words, again, out=tmp_path / "log")[0] == [0]
    records = read_records(folder)
    for where in (out, tmp_path / "whole"):
        shards.pack(where, records, progress=False)
    assert contents(out) == contents(tmp_path / "whole")


def test_two_makers_of_one_share_are_one_too_many(folder, tmp_path):
    (tmp_path / "parts").mkdir()
    with shards.share_lock(tmp_path / "parts", (0, 1)), pytest.raises(ValueError, match="another process"):
        shards.make(read_records(folder), tmp_path, None, kind="media", progress=False)


def test_media_shards_hold_the_files_own_bytes(folder, tmp_path):
    records = read_records(folder)
    shards.make(records, tmp_path, None, kind="media", progress=False)
    index = shards.pack(tmp_path, records, progress=False)
    assert [set(e.members) for e in index.entries] == [{"json", "mp4"}, {"json", "mkv"}, {"json", "mp4"}]
    assert index.read(1)["mkv"] == (folder / "b.one.mkv").read_bytes()
    assert index.entries[0].duration_s == pytest.approx(6, abs=0.1) and len(index.shards) == 1


def test_repacking_keeps_every_byte_of_every_sample(dataset, tmp_path):
    single = shards.repack(dataset.folder, tmp_path / "one", shard_bytes=1 << 30, progress=False)
    assert len(single.shards) == 1 and [e.key for e in single.entries] == [e.key for e in dataset.entries]
    assert all(single.read(i) == dataset.read(i) for i in range(len(dataset)))
    back = shards.repack(tmp_path / "one", tmp_path / "back", shard_bytes=1, progress=False)
    assert back.shards == dataset.shards
    with pytest.raises(ValueError, match="another folder"):
        shards.repack(dataset.folder, dataset.folder, shard_bytes=1)


class TestOrder:
    def test_epochs_differ_and_each_has_all(self, dataset):
        many = replace(dataset, entries=dataset.entries * 30)
        first, second = many.order(0, 0), many.order(0, 1)
        assert sorted(first) == sorted(second) == list(range(90))
        assert not np.array_equal(first, second) and np.array_equal(first, many.order(0, 0))


class TestBad:
    def shard(self, dataset, tmp_path, change):
        """A shard whose members went through `change`."""
        members = dict(dataset.read(0))
        change(members)
        write_tar(tmp_path / "shard-000000.tar", [("a", members)])
        return members

    def test_a_cut_tar(self, dataset, tmp_path):
        data = (dataset.folder / dataset.shards[0].name).read_bytes()
        for keep in (len(data) // 2, len(data) // 4, 2000, 700):
            (tmp_path / "x.tar").write_bytes(data[:keep])
            with pytest.raises(ValueError, match="cut"):
                indexes.make_index(tmp_path, progress=False)

    def test_an_altered_byte_is_found_by_verify_and_a_lost_shard_by_name(self, dataset, tmp_path):
        shards.repack(dataset.folder, tmp_path / "x", shard_bytes=1, progress=False)
        path = tmp_path / "x" / "shard-000001.tar"
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
        (tmp_path / "x" / "shard-000002.tar").unlink()
        results = shards.verify(tmp_path / "x", progress=False)
        assert any("shard-000001.tar was altered" in text for text in results)
        assert any("shard-000002.tar is missing" in text for text in results)
        with pytest.raises(FileNotFoundError):
            indexes.load_index(tmp_path / "x").read(2)

    def test_a_shard_that_was_cut_after_it_was_indexed(self, dataset, tmp_path):
        index = shards.repack(dataset.folder, tmp_path / "x", shard_bytes=1, progress=False)
        path = tmp_path / "x" / "shard-000000.tar"
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ValueError, match="sample 'a' is not whole"):
            index.read(0)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda m: m.pop("json"), "member json is missing"),
            (lambda m: m.update(json=b"{"), "no JSON"),
            (lambda m: m.update(json=b'{"features": 3}'), "sample 'a': member json holds no features"),
            (
                lambda m: m.update(json=b'{"duration_s": "x"}'),
                "duration_s must be a number of seconds, got 'x'",
            ),
            (lambda m: m.update({"old.pkl": b"x"}), "is a pickle, which is never read"),
        ],
    )
    def test_what_an_index_refuses(self, dataset, tmp_path, change, match):
        self.shard(dataset, tmp_path, change)
        with pytest.raises(ValueError, match=match):
            indexes.make_index(tmp_path, progress=False)

    def test_one_key_twice(self, dataset, tmp_path):
        for name in ("x.tar", "y.tar"):
            write_tar(tmp_path / name, [("a", dataset.read(0))])
        with pytest.raises(ValueError, match=r"sample 'a' is in x.tar too"):
            indexes.make_index(tmp_path, progress=False)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda t: t.pop("metric"), "lacks the tensor 'metric'"),
            (lambda t: t.update(size=t["size"].double()), "size must be torch.float32, got torch.float64"),
            (lambda t: t.update(time_s=t["time_s"][1:]), "shapes don't fit"),
            (lambda t: t["x"].fill_(float("nan")), "x is not finite"),
            (lambda t: t["time_s"].fill_(float("nan")), "times must be finite, each end after its start"),
            (lambda t: t["size"].fill_(0.0), "sizes must be finite and > 0"),
            (lambda t: t.update(x=t["x"][0, 0]), "shapes don't fit"),
            (lambda t: t["offsets"].add_(1), "offsets must rise from 0"),
        ],
    )
    def test_tensors_of_another_shape_type_or_value(self, dataset, tmp_path, change, match):
        members = dict(dataset.read(0))
        tensors = load(members["video.safetensors"])
        change(tensors)
        members["video.safetensors"] = save(tensors)
        with pytest.raises(ValueError, match=f"here: member video.safetensors.*{match}"):
            read_sample(members, "here")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda f: f.update(streams={"video": {}}), "can't be read: KeyError"),
            (lambda f: f.update(streams={"x": {}}), "can't be read: ValueError"),
            (
                lambda f: f.update(chunks=[[0, 1, 2]]),
                "lengths, chunks or counts of member json are no numbers",
            ),
            (lambda f: f.update(duration_s=float("nan")), "lengths, chunks or counts"),
            (lambda f: f["streams"]["video"].update(tokens=-1), "lengths, chunks or counts"),
            (lambda f: f.pop("duration_s"), "holds no features"),
        ],
    )
    def test_features_that_can_not_be(self, dataset, change, match):
        members = dict(dataset.read(0))
        content = json.loads(members["json"])
        change(content["features"])
        with pytest.raises(ValueError, match=f"here: .*{match}"):
            read_sample(members | {"json": json.dumps(content).encode()}, "here")

    def test_a_summary_of_another_width(self, dataset):
        members = dict(dataset.read(0))
        tensors = load(members["video.safetensors"])
        tensors["summary"] = tensors["summary"][:, 1:].contiguous()
        with pytest.raises(
            ValueError, match=r"here: summary of stream 'video' must be \(E, C\), got \(2, 31\)"
        ):
            read_sample(members | {"video.safetensors": save(tensors)}, "here")

    def test_a_stream_that_is_gone_or_cut(self, dataset):
        members = dict(dataset.read(0))
        cut = members.pop("audio.safetensors")[:100]
        with pytest.raises(ValueError, match=r"member audio\.safetensors is missing"):
            read_sample(members, "here")
        with pytest.raises(ValueError, match="or was cut"):
            read_sample(members | {"audio.safetensors": cut}, "here")

    def test_features_of_other_segments_or_encoders_are_refused_by_name(self, dataset, model):
        content = read_sample(dataset.read(0), "here").features
        Needs.of(model).check(content, "here")
        other = models.model(segments=SegmentConfig(length_s=7.0))
        with pytest.raises(ValueError, match=r"cut into segments by .*the model cuts by .*'length_s': 7.0"):
            Needs.of(other).check(content, "here")
        with pytest.raises(ValueError, match="features of other encoders"):
            Needs.of(model).check(content | {"identity": "?"}, "here")

    def test_features_that_are_not_finite_are_not_written(self, dataset, model):
        state = read_sample(dataset.read(0), "a").state(model.merge_state())
        state.chunks[0].groups["video"].tokens.x[0, 0] = float("inf")
        with pytest.raises(ValueError, match="stream 'video': x is not finite"):
            members_of(state, model, {}, 6.0)

    def test_annotations_that_can_not_be(self, model, folder, tmp_path):
        events = [(1, 3, "red"), (5, 4, "back"), (2, 2, "none"), (3, 90, "late"), (0, 1, " ")]
        events = [{"start_s": a, "end_s": b, "text": text} for a, b, text in events]
        value = {"key": "a", "video": str(folder / "a.mp4"), "events": events}
        record = parse_record(value, folder, "here")
        lines = faults(replace(record, duration_s=6.0))
        for match in ("events[1] 5 to 4 s ends before it starts", "lasts no time", "has no text",
                      "outside the video of 6 s"):  # fmt: skip
            assert any(match in line for line in lines)
        assert parse_record(record.to_json(), folder, "here") == record
        done = shards.make([record], tmp_path, model, progress=False)
        assert done[0].status == "failed" and "outside the video" in done[0].reason
        with pytest.raises(ValueError, match="ends before it starts"):
            shards.make([record], tmp_path, model, on_error="stop", progress=False)
        with pytest.raises(ValueError, match="none of 1 videos could be used"):
            shards.pack(tmp_path, [record], progress=False)
        assert num_overlapping([Event(0, 5, "a"), Event(1, 2, "b"), Event(4, 6, "c"), Event(6, 7, "d")]) == 2

    def test_records_that_are_none(self, tmp_path):
        path = tmp_path / "list.jsonl"
        for text, match in (
            ("{", "line 1 is no JSON"),
            ('{"key": "a"}', 'must be an object with "video"'),
            ('{"video": "a.mp4", "evnts": []}', "'evnts' is no field of a record"),
            ('{"video": "a.mp4"}\n{"video": "b/a.mkv"}', "key 'a' stands for 2 records"),
            ('{"video": "a.mp4", "meta": {"token": 3}}', "meta.token must be an object of symbols"),
            ('{"video": "a.mp4", "faults": 3}', "faults must be a list, got '3'"),
            (
                '{"video": "a.mp4", "duration_s": 1' + "0" * 400 + "}",
                "duration_s must be a number of seconds",
            ),
            ("", "no video in it"),
        ):
            path.write_text(text)
            with pytest.raises(ValueError, match=match):
                read_records(path)
        (tmp_path / "v.mp4").touch()
        (tmp_path / "v.json").write_text("3")
        with pytest.raises(ValueError, match=r"v.json: a record must be an object"):
            read_records(tmp_path)
        with pytest.raises(FileNotFoundError, match="no folder of videos and no JSONL"):
            read_records(tmp_path / "none")
        with pytest.raises(ValueError, match="must have a letter"):
            slug("...")

    def test_a_pack_before_all_are_made(self, folder, tmp_path):
        records = read_records(folder)
        shards.make(records, tmp_path, None, kind="media", share=(0, 2), progress=False)
        with pytest.raises(ValueError, match=r"2 of 4 videos aren't made yet, such as 'b_one'"):
            shards.pack(tmp_path, records, progress=False)
        with pytest.raises(ValueError, match="share must be i/N"):
            shards.make(records, tmp_path, None, kind="media", share=(2, 2))

    def test_an_index_that_is_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no index"):
            indexes.load_index(tmp_path)
        shard = {"name": "x.tar", "num_bytes": 9, "sha256": "0" * 64}
        sample = {
            "key": "a",
            "shard": 0,
            "members": {"json": [0, 9]},
            "duration_s": 1.0,
            "tokens": {"video": 3},
        }
        whole = {"format": 1, "shards": [shard], "samples": [sample], "features": {}}
        (tmp_path / "index.json").write_text(json.dumps(whole))
        assert len(indexes.load_index(tmp_path)) == 1
        for text, match in (
            ("{}", "is no index"), ("[" * 20_000, "is no index"), ('{"format": 9}', "this version reads 1"),
            (json.dumps(whole | {"shards": [shard | {"name": 3}]}), "is no index of shards .TypeError"),
            *((json.dumps(whole | {"samples": [sample | change]}), match) for change, match in (
                ({"shard": 1}, "sample 'a' has a wrong key, number or length"),
                ({"duration_s": float("nan")}, "sample 'a' has a wrong"),
                ({"members": {"json": [0, "9"]}}, "sample 'a' has a wrong"),
                ({"members": None}, "is no index of shards"),
                ({"tokens": {"x": 3}}, "streams must be of"),
            )),
        ):  # fmt: skip
            (tmp_path / "index.json").write_text(text)
            with pytest.raises(ValueError, match=match):
                indexes.load_index(tmp_path)
        with pytest.raises(ValueError, match="no tar in it"):
            indexes.make_index(tmp_path)


def test_a_tar_that_names_no_key(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("nodot")
        tar.addfile(info)
    with open(tmp_path / "x.tar", "rb") as file, pytest.raises(ValueError, match=r"has no KEY\.NAME"):
        members_in(file, "x.tar")


def test_files_that_a_mac_adds_to_a_tar_are_no_samples(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("./.DS_Store", "./._v0.json", "._d", "v0.json", "__MACOSX/._v0.json"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    with open(tmp_path / "x.tar", "rb") as file:
        assert {key: set(members) for key, members in members_in(file, "x.tar").items()} == {"v0": {"json"}}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst"])
def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} is compressed, .*gunzip {name}, or what made it"):
        indexes.make_index(tmp_path, progress=False)
