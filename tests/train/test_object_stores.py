"""Shards in an object store: the folder's samples whatever happens, none twice; an end if it stays down."""

import json
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import stores
import torch
from stores import every, failing

from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.remote import Remote
from longcompress.train.shards.stream import ShardStream
from longcompress.train.shards.tar import write_tar
from longcompress.train.stages import train_stage

import models
import stages
from stages import weights

pytestmark = pytest.mark.slow

FAULTS = ("503", "cut", "slow", "drop")


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
def s3(index, monkeypatch):
    """(URL, proxy) of the shards in a bucket."""
    with stores.bucket(monkeypatch.setenv) as (client, proxy):
        stores.upload(client, index.folder, "x")
        yield "s3://data/x", proxy


@pytest.fixture
def hub(index, monkeypatch):
    """(URL, proxy) of the shards in a data set of the hub."""
    import huggingface_hub
    from huggingface_hub import HfFileSystem

    with stores.serving(stores.Hub) as server, stores.proxying(server.server_address) as proxy:
        server.folder = index.folder
        endpoint = f"http://127.0.0.1:{proxy.server_port}"
        clock = SimpleNamespace(
            **vars(time) | {"sleep": lambda seconds: None}
        )  # of its own tries, below ours
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


def of_shard(proxy, number):
    """The requests for the bytes of a shard."""
    return [r for r in proxy.requests if r[0] == "GET" and f"shard-{number:06d}.tar" in r[1]]


def test_a_store_has_the_samples_of_the_folder(store, index, tmp_path):
    url, _ = store
    for cache in (None, tmp_path / "cache"):
        remote = load(url, cache)
        assert everything(remote) == everything(index)
        assert members(ShardStream(remote, shuffle=0)) == members(ShardStream(index, shuffle=0))


@pytest.mark.parametrize("what", FAULTS)
def test_faults_that_pass_leave_the_same_samples_once_each_in_the_same_order(store, index, what):
    url, proxy = store
    remote = load(url)
    for shuffle in (0, 4):
        proxy.spoil = failing(2, what)
        want = members(ShardStream(index, [7], shuffle=shuffle))
        assert members(ShardStream(remote, [7], shuffle=shuffle)) == want
    proxy.spoil = failing(2, what)
    order = index.order(3, 1).tolist()
    assert [remote.read(i) for i in order] == [index.read(i) for i in order]


def test_a_cache_is_filled_through_faults(store, index, tmp_path):
    url, proxy = store
    proxy.spoil = failing(1, "cut")
    remote = load(url, tmp_path / "cache")
    assert everything(remote) == everything(index)
    proxy.spoil = lambda command, path: "503"
    assert everything(remote) == everything(index)


@pytest.mark.parametrize("what", ["503", "cut"])
def test_a_shard_that_stays_down_is_named_after_a_bounded_number_of_requests(store, what):
    url, proxy = store
    remote = load(url)
    proxy.spoil = lambda command, path: what if "000001" in path else None
    proxy.requests.clear()
    items = list(ShardStream(remote, shuffle=0))
    bad = {item["__key__"]: str(item["__error__"]) for item in items if "__error__" in item}
    assert sorted(bad) == ["s10", "s11", "s12"] and len(items) == 9
    assert all("shard-000001.tar couldn't be read in 4 tries" in text for text in bad.values())
    assert all("see whether the server is up, then run again" in text for text in bad.values())
    # the hub's client makes six requests of each try, and sleeps between them
    assert len(of_shard(proxy, 1)) in ([4] if url.startswith("s3") else range(4, 25))
    with pytest.raises(OSError, match=r"shard-000001\.tar couldn't be read in 4 tries"):
        remote.read(4)


def test_a_store_that_is_gone_ends_clearly(store):
    url, proxy = store
    remote = load(url, tries=2)
    proxy.target = ("127.0.0.1", 9)  # nothing listens there: the proxy drops the connection
    with pytest.raises(
        OSError, match=r"shard-000000\.tar couldn't be read in 2 tries.*is up, then run again"
    ):
        remote.read(0)


@pytest.mark.parametrize("what", ["403", "expired"])
def test_a_store_that_refuses_is_named_at_once(s3, what):
    url, proxy = s3
    remote = load(url)
    proxy.spoil = lambda command, path: what
    proxy.requests.clear()
    match = r"s3://data/x/shard-000000\.tar can't be read: .*; are the credentials valid, and do they allow"
    with pytest.raises(OSError, match=match):
        remote.read(0)
    assert len(proxy.requests) == 1
    for act in (lambda: load(url), lambda: Remote(url).sizes(), lambda: (Remote(url) / "a").is_file()):
        proxy.requests.clear()
        with pytest.raises(OSError, match=r"s3://data/x.* can't be read: .*are the credentials valid"):
            act()
        assert len(proxy.requests) <= 2  # a 400 may be of another region: the client asks for the bucket's


def test_a_hub_that_refuses_is_named_at_once(hub):
    url, proxy = hub
    remote = load(url)
    proxy.spoil = failing(99, "403")
    with pytest.raises(OSError, match=r"shard-000000\.tar can't be read: .*403.*are the credentials valid"):
        remote.read(0)
    assert len(of_shard(proxy, 0)) == 1


def test_credentials_that_are_not_there(s3, monkeypatch):
    url, proxy = s3
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    proxy.requests.clear()
    with pytest.raises(OSError, match=r"index\.json can't be read: NoCredentials.*are the credentials valid"):
        load(url)
    assert not proxy.requests


def test_an_answer_of_another_length_is_named(store, index):
    url, proxy = store
    remote = load(url)
    proxy.spoil = lambda command, path: "short" if "000001" in path else None
    with pytest.raises(ValueError, match=r"shard-000001\.tar was cut: sample 's12' is not whole"):
        remote.read(5)
    items = list(ShardStream(remote, shuffle=0))
    bad = {item["__key__"]: str(item["__error__"]) for item in items if "__error__" in item}
    # all of an object has a checksum, which S3's client compares
    match = "FlexibleChecksumError" if url.startswith("s3") else "it ends too early; get the shard again"
    assert set(bad) == {"s10", "s11", "s12"} and match in bad["s10"]
    assert members(i for i in items if "__error__" not in i) == [
        m for m in members(ShardStream(index, shuffle=0)) if m["__key__"] not in bad
    ]


def test_an_object_that_was_cut_in_the_store(s3, index):
    url, _ = s3
    remote = load(url)
    path = index.folder / "cut"
    path.write_bytes((index.folder / "shard-000002.tar").read_bytes()[:1000])
    (Remote(url) / "shard-000002.tar").put(path)
    with pytest.raises(ValueError, match=r"shard-000002\.tar was cut"):
        remote.read(7)  # the range begins behind the end


def test_what_is_not_there_is_said_at_once(store, index):
    url, proxy = store
    with pytest.raises(FileNotFoundError, match=r"no index .*/nothing/index\.json; make one"):
        load(f"{url}/nothing")
    missing = replace(load(url), shards=tuple(replace(s, name=f"no-{s.name}") for s in index.shards))
    proxy.requests.clear()
    with pytest.raises(FileNotFoundError, match=r"no file .*/no-shard-000000\.tar; upload it"):
        missing.read(0)
    assert len([r for r in proxy.requests if "no-shard" in r[1]]) <= 1
    assert all("no file" in str(item["__error__"]) for item in ShardStream(missing, shuffle=0))


def test_settings_of_the_user_for_s3_stay(s3, monkeypatch):
    import fsspec

    url, proxy = s3
    conf = {"s3": {"config_kwargs": {"user_agent_extra": "mine", "retries": {"total_max_attempts": 2}}}}
    monkeypatch.setattr(fsspec.config, "conf", conf)
    remote = load(url)
    proxy.requests.clear()
    proxy.spoil = lambda command, path: "503"
    with pytest.raises(OSError, match="in 4 tries"):
        remote.read(0)
    assert len(proxy.requests) == 8


@pytest.mark.parametrize("reader", ["indexed", "webdataset"])
def test_training_from_a_store_with_faults_is_training_from_the_folder(tmp_path, monkeypatch, reader):
    """To the bit; the indexed reader also where the run was interrupted, and resumed."""
    folder = stages.make_folder(tmp_path)
    recipe = replace(stages.make_recipe(folder), reader=reader, shuffle=2)
    if reader == "webdataset":
        recipe = replace(recipe, engine=replace(recipe.engine, workers=0))
    train_stage(models.model(), recipe, tmp_path / "here")
    with stores.bucket(monkeypatch.setenv) as (client, proxy):
        stores.upload(client, folder, "x")
        proxy.spoil = every(3, "503", "cut", "drop", commands=("GET", "HEAD"))
        remote = replace(recipe, shards=["s3://data/x"])
        if reader == "indexed":
            stages.interrupted(models.model(), remote, tmp_path / "there", 6)
        train_stage(models.model(), remote, tmp_path / "there", resume=reader == "indexed")
        assert any(r[3] for r in proxy.requests if ".tar" in r[1])
    here, other = weights(tmp_path / "here"), weights(tmp_path / "there")
    assert set(here) == set(other) and all(torch.equal(here[n], other[n]) for n in here)
