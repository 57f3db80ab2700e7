"""Training from samples as they arrive: in the order of the indexed reader, its batches and its losses."""

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

import longcompress.train
from longcompress.cli.main import main
from longcompress.config import SegmentConfig
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler, BatchSizes
from longcompress.train.data.streaming import StreamData
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.index import load_index, make_index
from longcompress.train.shards.stream import ShardStream
from longcompress.train.shards.tar import write_tar
from longcompress.train.stages import BAD_SAMPLES, data_of, last_checkpoint, train_stage

import models
import stages
import videos
from stages import CPU, losses, weights

RECIPES = ("align", "boundary", "instruct", "longvale_boundary", "longvale_instruct", "longvlm")
RECIPES = (*RECIPES, "vtimellm_align", "vtimellm_boundary", "vtimellm_instruct")


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    """Five videos with all kinds of annotations, a shard each."""
    where = tmp_path_factory.mktemp("streaming")
    (where / "in").mkdir()
    for i in range(5):
        seconds = 4 + i
        stamps = range(0, 1000 * seconds, 40)
        videos.write(where / "in" / f"v{i}.mp4", videos.Video(stamps=stamps, audio_s=seconds))
        events = [
            {"start_s": s, "end_s": s + 1.5, "text": f"red ball {i} {s}"} for s in range(0, seconds - 2, 2)
        ]
        turns = [{"role": "user", "text": "What is it?"}, {"role": "assistant", "text": f"A ball, {i}."}]
        content = {"events": events, "captions": ["a red ball"], "dialogues": [turns]}
        (where / "in" / f"v{i}.json").write_text(json.dumps(content))
    records = read_records(where / "in")
    shards.make(records, where / "out", model, progress=False)
    return shards.pack(where / "out", records, shard_bytes=1, progress=False)


@pytest.fixture
def recipe(index):
    return replace(stages.make_recipe(index.folder), log_steps=1)


def content(loaded):
    """Everything of it that can be compared."""
    videos_of = [
        (key, e.turns, e.video.budget, {n: t.x.sum().item() for n, t in sorted(e.video.streams.items())})
        for key, e in zip(loaded.keys, loaded.examples, strict=True)
    ]
    return loaded.number, loaded.video_s, loaded.dropped, videos_of


def in_order(index, batches, num, folder):
    """Tars of the samples that `num` batches have, in their order, in which a sample may come again."""
    order = [number for batch in islice(iter(batches), num + 1) for _, number in batch.samples]
    for place, number in enumerate(order):
        write_tar(folder / f"{place:03d}.tar", [(index.entries[number].key, index.read(number))])
    return [str(path) for path in sorted(folder.glob("*.tar"))]


def stock(urls, **options):
    """The plain pipeline."""
    return webdataset.WebDataset(urls, shardshuffle=False, **options).map(longcompress.train.decode)


@pytest.mark.parametrize("questions", [QuestionConfig(), QuestionConfig({"qa": 1.0}, drop_stream=0.5)])
def test_a_stock_pipeline_gives_the_batches_of_the_indexed_reader(index, model, tmp_path, questions):
    batches = BatchSampler([index], 3, 60, (8, 20), min_videos=2)
    urls = in_order(index, batches, 9, tmp_path)
    streamed = StreamData([stock(urls)], [1.0], batches.sizes(), model, questions)
    want = [content(loaded) for loaded in islice(ShardData(batches, model, questions), 9)]
    assert [content(loaded) for loaded in islice(streamed, 9)] == want
    undecoded = webdataset.WebDataset(urls, shardshuffle=False)
    streamed = StreamData([undecoded], [1.0], batches.sizes(), model, questions)
    assert [content(loaded) for loaded in islice(streamed, 9)] == want


def test_a_stock_pipeline_trains_to_the_same_weights(index, recipe, tmp_path):
    train_stage(models.model(), recipe, tmp_path / "indexed")
    batches = BatchSampler([index], recipe.seed, recipe.max_tokens, recipe.budgets)
    (tmp_path / "tars").mkdir()
    pipeline = stock(in_order(index, batches, recipe.steps, tmp_path / "tars"))
    out = tmp_path / "stock"
    train_stage(models.model(), replace(recipe, shards=[]), out, samples=pipeline)
    assert losses(out) == losses(tmp_path / "indexed") and len(losses(out)) == recipe.steps
    ours, want = weights(out), weights(tmp_path / "indexed")
    assert set(ours) == set(want) and all(torch.equal(ours[name], want[name]) for name in want)
    assert "of a pipeline of the caller's own" in (out / "model" / "README.md").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_ranks_together_read_each_sample_once_a_pass(index, model, recipe, workers):
    recipe = replace(recipe, reader="webdataset", min_videos=2, max_videos=2, max_tokens=10**6)
    arrived = []
    for rank in range(2):
        data = data_of(model, recipe, [index], None, 0, rank, 2)
        loader = DataLoader(data, batch_size=None, num_workers=workers)
        # of five shards a reader has one or two, and a batch of a rank here is one sample
        num = len(range(rank * workers, 5, 2 * workers)) * workers if workers == 1 else 2
        arrived += [key for loaded in islice(loader, num) for key in loaded.keys]
    assert len(arrived) == len(set(arrived)) and (workers > 1 or len(arrived) == 5)


def test_parts_of_a_step_have_its_number_and_budget(index, model):
    sizes = BatchSizes(3, 120, (8, 20), min_videos=2, max_videos=4)
    whole = BatchSampler([index], 3, 120, (8, 20), min_videos=2, max_videos=4)
    budgets = [batch.budget for batch in islice(iter(whole), 4)]
    data = StreamData(
        [ShardStream(index)], [1.0], sizes, model, QuestionConfig(), start=1, accumulate=2
    )  # fmt: skip
    parts = list(islice(data, 6))
    assert [part.number for part in parts] == [1, 1, 2, 2, 3, 3]
    assert [part.examples[0].video.budget for part in parts] == [b for b in budgets[1:] for _ in range(2)]
    assert all(1 <= len(part.keys) <= 2 for part in parts)
    with pytest.raises(
        ValueError, match=r"multiples of ranks x accumulate = 4, got 2 and 4; .* reader indexed"
    ):
        sizes.part(4)


def test_data_sets_are_mixed_by_weight_and_none_starves(index, model, recipe):
    recipe = replace(recipe, reader="webdataset", weights=[3.0, 1.0], min_videos=4, max_videos=4)
    other = replace(index, entries=index.entries[:1], shards=index.shards[:1])
    recipe = replace(recipe, max_tokens=10**6, shuffle=0)
    for loaded in islice(data_of(model, recipe, [index, other], None, 0, 0, 1), 5):
        assert loaded.keys.count("v0") in (1, 2)  # of `other`, and at times of the first set
    with pytest.raises(ValueError, match="weights must be a number > 0 for each of 2 data sets"):
        data_of(model, replace(recipe, weights=[1.0]), [index, other], None, 0, 0, 1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_by_webdataset(index, model, name):
    recipe = replace(stages.recipe_of(name), reader="webdataset", max_tokens=160, budgets=[20])
    sizes = {"min_videos": 4, "max_videos": 4} if recipe.max_videos else {}
    recipe = replace(recipe, engine=replace(CPU, accumulate=2), **sizes)
    data = data_of(model, recipe, [index], None, 0, 0, 1)
    for loaded in islice(data, 2):
        loss = model(**model.llm.collate(loaded.examples))["loss"]
        assert bool(torch.isfinite(loss)) and not loaded.bad


def test_the_command_reads_by_webdataset_and_goes_on(index, model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "base", include_base=True)
    some = "train: [projectors, lora]\nlora: {r: 2}\nbudgets: [8]\nmax_tokens: 20\n"
    (tmp_path / "r.yaml").write_text(some + "engine: {workers: 0, report: []}\n")
    words = ["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--save-steps", "2"]
    words += ["--shards", str(index.folder), "--model", str(tmp_path / "base"), "--reader", "webdataset"]
    assert main([*words, "--steps", "2"]) == 0
    assert main([*words, "--steps", "4", "--resume"]) == 0
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4"
    assert "in a new order at step 2; reader indexed goes on exactly" in capsys.readouterr().out
    assert main([*words[:-1], "indexed", "--steps", "6", "--resume"]) == 2
    assert "resume: reader differ from" in capsys.readouterr().err


@pytest.fixture
def broken(index, tmp_path):
    """The same shards: v1 lacks a member, v2's shard is gone, v3's was cut; v4 is whole."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for number, entry in enumerate(index.entries):
        write_tar(folder / f"shard-{number:06d}.tar", [(entry.key, index.read(number))])
    members = {n: data for n, data in index.read(1).items() if n != "audio.safetensors"}
    write_tar(folder / "shard-000001.tar", [("v1", members)])
    packed = make_index(folder, progress=False)
    (folder / "shard-000002.tar").unlink()
    path = folder / "shard-000003.tar"
    path.write_bytes(path.read_bytes()[:6000])
    return packed


REASONS = {
    "v1": "shard-000001.tar: sample 'v1': member audio.safetensors is missing",
    "v2": "no file",
    "v3": "shard-000003.tar has 6000 bytes",
}


def test_what_is_bad_is_listed_with_its_reason_and_the_rest_trains(broken, recipe, tmp_path):
    recipe = replace(recipe, shards=[str(broken.folder)], reader="webdataset", engine=replace(CPU, workers=1))
    train_stage(models.model(), recipe, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / BAD_SAMPLES).read_text().splitlines()]
    reasons = {line["key"]: line["reason"] for line in lines}
    assert set(reasons) == set(REASONS) and all(REASONS[key] in reasons[key] for key in REASONS)
    with pytest.raises((ValueError, OSError), match=r"v1|shard-00000[123]"):
        train_stage(models.model(), replace(recipe, on_error="stop"), tmp_path / "stop")


def test_a_stock_pipeline_of_another_model_s_shards_ends_after_a_pass(index, recipe, tmp_path):
    other = models.model(segments=SegmentConfig(length_s=7.0))
    urls = [str(index.folder / shard.name) for shard in index.shards]
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"no sample that can be used, 5 that can't, .*cut into segments by"):
        train_stage(other, replace(recipe, shards=[]), out, samples=stock(urls))
    with pytest.raises(ValueError, match=r"out: features were cut into segments by"):
        train_stage(other, replace(recipe, reader="webdataset"), tmp_path / "at_once")
    with pytest.raises(ValueError, match="holds media, not features"):
        data_of(other, replace(recipe, reader="webdataset"), [replace(index, features={})], None, 0, 0, 1)


def test_a_sample_of_another_encoder_among_others_is_listed(index, model, tmp_path):
    members = index.read(1)
    record = json.loads(members["json"])
    record["features"]["identity"] = "another"
    write_tar(tmp_path / "a.tar", [("v0", index.read(0))])
    write_tar(tmp_path / "b.tar", [("v1", members | {"json": json.dumps(record).encode()})])
    urls = [str(tmp_path / name) for name in ("a.tar", "b.tar")]
    data = StreamData([stock(urls)], [1.0], BatchSizes(0, 60, (20,), 3), model, QuestionConfig())
    loaded = next(iter(data))
    assert set(loaded.keys) == {"v0"} and {bad.key for bad in loaded.bad} == {"v1"}
    assert "b.tar: sample 'v1': features of other encoders" in loaded.bad[0].reason


def test_nothing_can_be_asked_about_is_bad_and_a_step_of_none_stops(index, model):
    sizes, nothing = BatchSizes(0, 60, (20,), 2), QuestionConfig({"choice": 1.0})
    urls = [str(index.folder / index.shards[0].name)]  # its one event has no other to choose from
    loaded = next(iter(StreamData([stock(urls)], [1.0], sizes, model, nothing)))
    assert not loaded.examples and "nothing of the kinds choice" in loaded.bad[0].reason
    with pytest.raises(ValueError, match="nothing of the kinds choice"):
        next(iter(StreamData([stock(urls)], [1.0], sizes, model, nothing, on_error="stop")))


def test_no_sample_is_lost_between_batches(index, model):
    data = StreamData(
        [ShardStream(index, shuffle=0)], [1.0], BatchSizes(0, 10**6, (20,), 2, 2), model, QuestionConfig()
    )  # fmt: skip
    arrived = [sorted(loaded.keys) for loaded in islice(data, 10)]
    assert arrived == [sorted((f"v{i % 5}", f"v{(i + 1) % 5}")) for i in range(0, 20, 2)]


def test_what_decode_can_not_read_is_said(index, tmp_path):
    urls = [str(index.folder / index.shards[0].name)]
    decoded = webdataset.WebDataset(urls, shardshuffle=False).decode().map(longcompress.train.decode)
    with pytest.raises(ValueError, match=r"members as bytes, got .*without webdataset's own decode"):
        list(decoded)
    for item in ({"__key__": "a", "__url__": "x"}, ("a",), {"json": b"{}"}):
        with pytest.raises(ValueError, match="decode takes a sample of webdataset"):
            longcompress.train.decode(item)
    with pytest.raises(ValueError, match=r"x\.tar: sample 'a': member json is missing"):
        longcompress.train.decode({"__key__": "a", "__url__": "x.tar", "video.safetensors": b""})
    record = json.loads(index.read(0)["json"])
    del record["key"]
    item = {"__key__": "a", "__url__": "x.tar", "json": json.dumps(record).encode()}
    with pytest.raises(ValueError, match="member json must have the sample's key, got None"):
        longcompress.train.decode(item)


def test_samples_and_shards_exclude_each_other(recipe, tmp_path):
    for bad in (recipe, replace(recipe, shards=[], epochs=1, min_videos=2, max_videos=2)):
        with pytest.raises(ValueError, match="samples come instead of shards and have no length"):
            train_stage(models.model(), bad, tmp_path / "never", samples=[])
    with pytest.raises(
        ValueError, match="a pass over the data gave no sample that can be used, 0 that can't"
    ):
        train_stage(models.model(), replace(recipe, shards=[]), tmp_path / "none", samples=[])


def test_the_same_samples_are_written_as_the_same_bytes(index, tmp_path):
    shutil.copytree(index.folder, tmp_path / "copy")
    again = shards.repack(tmp_path / "copy", tmp_path / "again", shard_bytes=1, progress=False)
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in index.shards]
    assert load_index(Path(again.folder)).shards == again.shards
