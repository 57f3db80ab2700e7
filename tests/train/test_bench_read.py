"""The bench reads the same bytes on every way; others open our shards."""

import json
import tarfile
from dataclasses import replace

import pytest
import webdataset

from longcompress.cli.main import main
from longcompress.train import bench_read
from longcompress.train.bench_read import by_ranges, compressed, memory_along, plain, repeated, streamed
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.index import load_index

import models
import videos

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    """Three videos with events in two shards."""
    where = tmp_path_factory.mktemp("bench")
    (where / "in").mkdir()
    for name in "abc":
        videos.write(where / "in" / f"{name}.mp4", videos.Video())
        content = {"events": [{"start_s": 1, "end_s": 2, "text": "red ball"}]}
        (where / "in" / f"{name}.json").write_text(json.dumps(content))
    records = read_records(where / "in")
    shards.make(records, where / "out", model, progress=False)
    packed = shards.pack(where / "out", records, shard_bytes=60_000, progress=False)
    model.save_pretrained(where / "model", include_base=True)
    return packed


def size_of(index):
    return sum(member.num_bytes for entry in index.entries for member in entry.members.values())


@pytest.mark.slow
def test_webdataset_hands_out_our_members(index):
    urls = [str(index.folder / shard.name) for shard in index.shards]
    results = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in results] == [entry.key for entry in index.entries]
    for number, sample in enumerate(results):
        members = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert members == index.read(number)


def test_tarfile_reads_our_members(index):
    results = {}
    for shard in index.shards:
        with tarfile.open(index.folder / shard.name) as tar:
            results |= {info.name: tar.extractfile(info).read() for info in tar}
    want = {
        f"{e.key}.{name}": data for i, e in enumerate(index.entries) for name, data in index.read(i).items()
    }
    assert results == want


def test_an_epoch_by_repetition_has_keys_of_its_own_and_the_same_bytes(index):
    many = repeated(index, 7)
    assert len({entry.key for entry in many.entries}) == len(many) == 7
    assert [many.read(i) for i in range(7)] == [index.read(i % 3) for i in range(7)]
    assert [entry.key for entry in repeated(index, 2).entries] == ["a-0", "b-1"]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_loader_gives_all_samples_and_all_their_bytes(index, model, workers):
    epoch = repeated(index, 12)
    for steps in (plain(epoch, workers), by_ranges(epoch, workers)):
        results = list(steps)
        assert (len(results), sum(size for _, size in results)) == (12, size_of(epoch))
    options = {"model": model, "budget": 20}
    for steps in (compressed(epoch, workers, **options), streamed(epoch, workers, **options, stored=index)):
        results = list(steps)
        assert sum(samples for samples, _ in results) >= 12
        assert sum(size for _, size in results) >= size_of(epoch)


def test_memory_is_seen_along_the_epoch(index):
    results = memory_along(by_ranges(repeated(index, 400), 1), 400)
    assert results["samples"] == 400
    assert 0 < results["first_mb"] <= results["peak_mb"] and 0 < results["last_mb"] <= results["peak_mb"]


def test_as_a_person_types_it(index, tmp_path, capsys):
    words = ["--model", str(index.folder.parent / "model"), "--budget", "20", "--workers", "1"]
    words += ["--samples", "24", "--repeat", "9", "--rounds", "1", "--out", str(tmp_path / "read.json")]
    assert main(["shards", "bench", str(index.folder), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("24 samples of 0.") and [line.split()[0] for line in lines[2:6]] == [
        "webdataset",
        "bytes",
        "examples",
        "streamed",
    ]
    content = json.loads((tmp_path / "read.json").read_text())
    assert set(content["of_webdataset"]) == {"bytes", "examples", "streamed"} == set(content["memory"])
    assert all(len(speed["runs"]) == 1 and speed["samples_per_s"] > 0 for speed in content["speeds"].values())


def test_what_can_not_be_is_refused(index):
    options = {"samples": 3, "workers": 1, "rounds": 1, "budget": 20}
    with pytest.raises(ValueError, match="samples, workers and rounds must be >= 1, got 3, 0 and 1"):
        bench_read.bench(index, None, **options | {"workers": 0})
    remote = replace(index, folder=load_index(f"file://{index.folder}").folder)
    with pytest.raises(ValueError, match="bench reads a folder, got file://"):
        bench_read.bench(remote, None, **options)
