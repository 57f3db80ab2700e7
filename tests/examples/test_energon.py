"""The layout that Megatron-Energon 7.4.1 reads: recorded from `energon prepare`, and its rules for tars.

Real runs: docs/scale.md. Here nothing of it is installed.
"""

import json
import re
import runpy
import sqlite3
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import stores
import yaml

from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.tar import write_tar

prepare = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "energon.py"))["main"]
# megatron/energon/flavors/webdataset/config.py
SPLIT_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
SKIP_META = re.compile(r"__[^/]*__($|/)")
# energon prepare FOLDER --non-interactive --split-parts 'train:.*' --sample-type CrudeWebdataset
SAMPLES = [(0, "v0", 0, 0, 2560), (0, "v1", 1, 2560, 2560), (1, "v2", 0, 0, 2560), (1, "v3", 1, 2560, 3072)]
PARTS = [
    (0, 0, "json", 512, 13), (0, 0, "mp4", 1536, 700), (0, 1, "json", 3072, 13), (0, 1, "mp4", 4096, 1000),
    (1, 0, "json", 512, 13), (1, 0, "mp4", 1536, 1024), (1, 1, "json", 3072, 13), (1, 1, "mp4", 4096, 1025),
]  # fmt: skip
IDX = {"shard-000000.tar.idx": [0, 2560, 5120], "shard-000001.tar.idx": [0, 2560, 5632]}


@pytest.fixture
def index(tmp_path):
    """Four samples in two shards."""
    sizes = {"v0": 700, "v1": 1000, "v2": 1024, "v3": 1025}
    samples = [
        (key, {"json": json.dumps({"key": key}).encode(), "mp4": np.random.default_rng(0).bytes(num)})
        for key, num in sizes.items()
    ]
    for number in range(2):
        write_tar(tmp_path / f"shard-{number:06d}.tar", samples[2 * number : 2 * number + 2])
    return make_index(tmp_path, progress=False)


def rows(path):
    database = sqlite3.connect(path)
    try:
        return [database.execute(f"SELECT * FROM {name}").fetchall() for name in ("samples", "sample_parts")]
    finally:
        database.close()


def test_the_files_are_those_of_energon_prepare(index):
    prepare([str(index.folder)])
    meta = index.folder / ".nv-meta"
    assert {path.name for path in meta.iterdir()} == {
        "dataset.yaml", "split.yaml", ".info.json", "index.sqlite", "index.uuid",
    }  # fmt: skip
    assert json.loads((meta / ".info.json").read_text()) == {
        "energon_version": "7.4.1",
        "shard_counts": {"shard-000000.tar": 2, "shard-000001.tar": 2},
    }
    assert yaml.safe_load((meta / "split.yaml").read_text()) == {
        "split_parts": {"train": ["shard-000000.tar", "shard-000001.tar"]},
        "exclude": [],
    }
    assert yaml.safe_load((meta / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon",
        "__class__": "CrudeWebdataset",
        "decoder": None,
    }
    assert rows(meta / "index.sqlite") == [SAMPLES, PARTS]
    for name, offsets in IDX.items():
        assert (index.folder / name).read_bytes() == struct.pack("<3Q", *offsets)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", (meta / "index.uuid").read_text())


def test_energons_rules_find_our_samples_in_our_tars(index):
    """Its names of samples and parts are ours, none is skipped, each sample's bytes are a tar of its own."""
    prepare([str(index.folder)])
    samples, parts = rows(index.folder / ".nv-meta" / "index.sqlite")
    for shard, key, number, start, size in samples:
        path = index.folder / index.shards[shard].name
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(size)
        (index.folder / "single").write_bytes(data + bytes(1024))
        with tarfile.open(index.folder / "single", "r:") as tar:
            matches = [SPLIT_NAME.match(info.name) for info in tar]
            assert all(match[1] == key and not SKIP_META.match(match[0]) for match in matches)
            content = {match[2]: tar.extractfile(match[0]).read() for match in matches}
        entry = next(i for i, e in enumerate(index.entries) if e.key == key)
        assert content == index.read(entry)
        assert [p[2] for p in parts if p[:2] == (shard, number)] == list(content)


def test_a_bucket_gets_them_too(index, monkeypatch):
    with stores.bucket(monkeypatch.setenv) as (client, _):
        stores.upload(client, index.folder, "x")
        prepare(["s3://data/x"])
        prepare([str(index.folder)])
        stored = stores.objects(client)
    assert load_index(index.folder).shards == index.shards
    for path in index.folder.rglob("*"):
        if path.is_file() and path.name != "index.sqlite":
            assert stored[f"x/{path.relative_to(index.folder)}"] == path.read_bytes()
    (index.folder / "stored").write_bytes(stored["x/.nv-meta/index.sqlite"])
    assert rows(index.folder / "stored") == [SAMPLES, PARTS]
