"""Shards read from end to end: every sample once a pass, whoever reads; what doesn't arrive is named."""

import json
import re
import tarfile
from dataclasses import replace

import pytest
import webdataset
from torch.utils.data import DataLoader

from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.stream import ShardStream
from longcompress.train.shards.tar import write_tar

COUNTS = (3, 1, 2, 2, 0, 4, 1)  # samples of each shard


def sample(key, size=3000):
    return key, {"json": json.dumps({"key": key}).encode(), "mp4": key.encode() * size}


@pytest.fixture
def index(tmp_path):
    for shard, count in enumerate(COUNTS):
        write_tar(tmp_path / f"shard-{shard:06d}.tar", (sample(f"s{shard}{i}") for i in range(count)))
    return make_index(tmp_path, progress=False)


def keys(items):
    return [item["__key__"] for item in items]


def failures(stream):
    """(key -> text of its error, keys that arrived)."""
    items = list(stream)
    bad = {item["__key__"]: str(item["__error__"]) for item in items if "__error__" in item}
    return bad, [key for key in keys(items) if key not in bad]


def path_of(index, shard):
    return index.folder / index.shards[shard].name


def test_the_samples_are_the_index_s(index):
    items = list(ShardStream(index, shuffle=0))
    assert keys(items) == [entry.key for entry in index.entries]
    for number, item in enumerate(items):
        assert {n: data for n, data in item.items() if not n.startswith("__")} == index.read(number)
        assert item["__url__"] == str(path_of(index, index.entries[number].shard))


def test_they_are_those_of_a_stock_pipeline(index):
    urls = [str(path_of(index, shard)) for shard in range(len(COUNTS))]
    stock = webdataset.WebDataset(urls, shardshuffle=False)
    ours = [
        {n: item[n] for n in ("__key__", "__url__", "json", "mp4")} for item in ShardStream(index, shuffle=0)
    ]
    assert ours == [{name: item[name] for name in ours[0]} for item in stock]


@pytest.mark.parametrize("shuffle", [0, 2, 64])
@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_has_every_sample_once_for_any_ranks_and_workers(index, world, workers, shuffle):
    parts = []
    for rank in range(world):
        stream = ShardStream(index, (5,), shuffle=shuffle, rank=rank, world=world)
        parts.append(keys(DataLoader(stream, batch_size=None, num_workers=workers)))
    everything = [key for part in parts for key in part]
    assert sorted(everything) == sorted(entry.key for entry in index.entries)
    assert shuffle or world > 1 or workers or everything == sorted(everything)


def test_passes_differ_and_a_seed_repeats_them(index):
    stream, again = ShardStream(index, (1, 2)), ShardStream(index, (1, 2))
    passes = [keys(stream) for _ in range(4)]
    assert [keys(again) for _ in range(4)] == passes
    assert len(set(map(tuple, passes))) == 4
    assert keys(ShardStream(index, (1, 3))) != passes[0]


def test_more_readers_than_shards_are_refused(index):
    with pytest.raises(
        ValueError, match=r"8 readers \(8 ranks x 1 workers\) need a shard each, got 7; .*repack"
    ):
        list(ShardStream(index, rank=7, world=8))
    loader = DataLoader(ShardStream(index, world=4), batch_size=None, num_workers=2)
    with pytest.raises(ValueError, match=r"8 readers \(4 ranks x 2 workers\)"):
        list(loader)
    with pytest.raises(ValueError, match="shuffle must be >= 0 samples, got -1"):
        ShardStream(index, shuffle=-1)


def removed(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def other(path):
    path.write_bytes(b"no tar " * (path.stat().st_size // 7 + 1))


FAULTS = {
    removed: "no file .*shard-000005.tar; get it again",
    cut: r"shard-000005.tar has 5000 bytes, the shard that was indexed \d+: it was cut",
    other: r"shard-000005.tar has \d+ bytes, the shard",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_samples_of_a_shard_that_is_bad_are_all_named_and_the_others_arrive(index, fault):
    fault(path_of(index, 5))
    bad, arrived = failures(ShardStream(index))
    assert sorted(bad) == ["s50", "s51", "s52", "s53"]
    assert sorted(arrived) == sorted(e.key for e in index.entries if e.shard != 5)
    for text in bad.values():
        assert re.search(FAULTS[fault], text), text


def ends(path):
    """The offset after each sample of a tar."""
    with tarfile.open(path) as tar:
        offsets = {}
        for info in tar:
            offsets[info.name.partition(".")[0]] = info.offset_data + -(-info.size // 512) * 512
    return list(offsets.values())


@pytest.mark.parametrize(("at", "count"), [("between", 2), ("within", 2), ("header", 2), ("nothing", 0)])
def test_a_tar_of_the_right_size_that_ends_too_early_loses_no_name(index, at, count):
    """What a plain pipeline doesn't notice between two samples."""
    path = path_of(index, 5)
    after = ends(path)[1]
    whole = path.read_bytes()
    size = {"between": after, "within": after + 900, "header": after + 200, "nothing": 0}[at]
    path.write_bytes(whole[:size])
    if at == "between":
        assert len(list(webdataset.WebDataset([str(path)], shardshuffle=False))) == 2
    shards = tuple(replace(s, num_bytes=size) if i == 5 else s for i, s in enumerate(index.shards))
    bad, arrived = failures(ShardStream(replace(index, shards=shards)))
    assert sorted(bad) == [f"s5{i}" for i in range(count, 4)]
    assert len(arrived) == sum(COUNTS) - len(bad) == len(set(arrived))
    assert all("shard-000005.tar" in text and "get the shard again" in text for text in bad.values())
    assert all("object at 0x" not in text and " @ " not in text for text in bad.values())


def test_a_shard_made_anew_under_its_old_name_is_noticed(index):
    path = path_of(index, 2)
    write_tar(path, (sample(f"t2{i}") for i in range(2)))
    bad, arrived = failures(ShardStream(index))
    assert sorted(bad) == ["s20", "s21"] and not any(key.startswith("t") for key in arrived)
    assert "sample 't20' is not in the index" in bad["s20"] and "index the folder again" in bad["s20"]
    make_index(index.folder, progress=False)
    assert not failures(ShardStream(load_index(index.folder)))[0]


def test_a_sample_that_stands_twice_is_handed_out_once(index):
    """As a server's tar may be, which no index was made of."""
    write_tar(path_of(index, 2), [sample("s20"), sample("s21"), sample("s20")])
    shards = tuple(replace(s, num_bytes=path_of(index, i).stat().st_size) for i, s in enumerate(index.shards))
    bad, arrived = failures(ShardStream(replace(index, shards=shards)))
    assert not bad and sorted(arrived) == sorted(entry.key for entry in index.entries)
