"""Ray only schedules: the parts have the bytes, and the manifest the lines, of a make without it."""

import json
import os
import sys

import pytest
import ray

from longcompress.cli.main import main
from longcompress.model import LongCompress
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards import ray as shards_ray

import models
import videos


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A model, four videos, one of which is none, and the parts made without Ray; all names are relative."""
    where = tmp_path_factory.mktemp("ray")
    before = os.getcwd()
    os.chdir(where)
    models.model().save_pretrained("model", include_base=True)
    os.mkdir("in")
    for name in ("a.mp4", "b.mp4", "d.mp4"):
        videos.write(where / "in" / name, videos.Video())
    (where / "in" / "c.mp4").write_bytes(b"nothing")
    (where / "in" / "a.json").write_text(json.dumps({"events": [{"start_s": 1, "end_s": 2, "text": "red"}]}))
    model = LongCompress.from_pretrained("model", device="cpu")
    model.change({"merge": {"tokens_per_segment": {"*": 7}}})
    shards.make(read_records("in"), "here", model, progress=False)
    shards.pack("here", read_records("in"), progress=False)
    yield where
    os.chdir(before)


@pytest.fixture(scope="module")
def running(where):
    """A Ray that several tests use."""
    with shards_ray._running(2) as running:
        yield running
    assert not ray.is_initialized()


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


DETAIL = {"detail": {"*": 7}, "device": "cpu", "progress": False}


@pytest.mark.slow
def test_actors_make_the_same_bytes_and_the_same_manifest(where, running, capsys):
    words = ["--out", "ray", "--model", "model", "--tokens-per-segment", '{"*": 7}', "--device", "cpu"]
    assert main(["shards", "make", "in", *words, "--engine", "ray", "--workers", "2"]) == 3
    out, err = capsys.readouterr()
    assert "ray: 3 made, 0 there already, 1 failed" in out and "error: c: in/c.mp4" in err
    assert contents(where / "ray") == contents(where / "here")


@pytest.mark.slow
def test_stop_ends_at_a_bad_video_with_the_words_of_a_make_without_ray(where, running):
    messages = []
    for make, model in ((shards.make, None), (shards_ray.make, None)):
        with pytest.raises(ValueError, match=r"in/c.mp4") as error:
            make(read_records("in"), "stop", model, kind="media", on_error="stop", progress=False)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.slow
def test_what_an_actor_can_not_load_is_said_as_it_is_here(where, running):
    with pytest.raises(ValueError, match=r"^name must be one of .* got 'nothing'"):
        shards_ray.make(read_records("in"), "no", "nothing", **DETAIL)
    shards_ray.make(read_records("in"), "ray", "model", share=(0, 2), **DETAIL)
    again = shards_ray.make(read_records("in"), "ray", "model", share=(0, 2), **DETAIL)
    assert [(m.key, m.status) for m in again] == [("a", "exists"), ("c", "failed")]


@pytest.mark.slow
def test_what_can_not_be_is_refused(where, running, monkeypatch):
    records = read_records("in")
    with pytest.raises(ValueError, match=r"workers must be >= 1 and gpus_per_worker >= 0, got 0"):
        shards_ray.make(records, "no", "model", workers=0)
    with pytest.raises(ValueError, match=r"gpus_per_worker must be at most the cluster's GPUs, 0, got 1"):
        shards_ray.make(records, "no", "model", gpus_per_worker=1)
    with pytest.raises(ValueError, match="needs a model"):
        shards_ray.make(records, "no", None)
    with pytest.raises(ValueError, match="share must be i/N"):
        shards_ray.make(records, "no", "model", share=(1, 1))
    assert shards_ray.make(records, "no", "model", share=(9, 10)) == []
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"engine 'ray' needs Ray .*pip install 'longcompress\[ray\]'"):
        shards_ray.make(records, "no", "model")
