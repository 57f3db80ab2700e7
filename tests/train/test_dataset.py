"""Shards to examples: the same for any ranks and workers; what is bad is named."""

import json
import multiprocessing
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from longcompress.config import SegmentConfig
from longcompress.train.data.dataset import BadSample, QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler, enter_worker
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards
from longcompress.train.shards.index import load_index
from longcompress.train.shards.tar import write_tar
from longcompress.train.stages import BadSampleList
from longcompress.train.trainer import plain_errors

import models
import videos


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    """Four videos with events each, as features."""
    where = tmp_path_factory.mktemp("data")
    (where / "in").mkdir()
    for i in range(4):
        seconds = 5 + i
        videos.write(
            where / "in" / f"v{i}.mp4", videos.Video(stamps=range(0, 1000 * seconds, 40), audio_s=seconds)
        )
        events = [
            {"start_s": s, "end_s": s + 1.5, "text": f"red ball {i} {s}"} for s in range(0, seconds - 2, 2)
        ]
        (where / "in" / f"v{i}.json").write_text(json.dumps({"events": events}))
    records = read_records(where / "in")
    shards.make(records, where / "out", model, progress=False)
    return shards.pack(where / "out", records, shard_bytes=60_000, progress=False)


def data(index, model, **options):
    questions = options.pop("questions", QuestionConfig())
    batches = BatchSampler([index], 3, 60, (8, 20), min_videos=2, start=options.pop("start", 0))
    return ShardData(batches, model, questions, **options)


def content(loaded):
    """Everything of it that can be compared."""
    videos_of = [
        (e.turns, e.video.budget, {n: t.x.sum().item() for n, t in sorted(e.video.streams.items())})
        for e in loaded.examples
    ]
    return loaded.number, list(zip(loaded.keys, videos_of, strict=True))


@pytest.mark.slow
def test_any_workers_give_the_same_batches_in_the_same_order(index, model):
    want = [content(x) for x in islice(data(index, model), 12)]
    for workers in (1, 2):
        loader = DataLoader(data(index, model), batch_size=None, num_workers=workers)
        assert [content(x) for x in islice(loader, 12)] == want


@pytest.mark.slow
def test_ranks_together_have_what_one_alone_has_and_resume_with_another_number(index, model):
    alone = [content(x) for x in islice(data(index, model), 8)]
    for start, world in ((0, 2), (3, 2)):
        parts = [
            list(islice(data(index, model, rank=r, world=world, start=start), 8 - start))
            for r in range(world)
        ]
        for at, batch in enumerate(zip(*parts, strict=True)):
            number, expected = alone[start + at]
            assert {x.number for x in batch} == {number}
            assert sorted((c for x in batch for c in content(x)[1]), key=str) == sorted(expected, key=str)


@pytest.mark.slow
def test_stopped_with_one_rank_of_two_workers_and_resumed_with_two_of_one_sees_the_same_samples(index, model):
    def keys(loader, num):
        return [(x.number, x.keys) for x in islice(loader, num)]

    whole = keys(DataLoader(data(index, model), batch_size=None, num_workers=2), 9)
    first = keys(DataLoader(data(index, model), batch_size=None, num_workers=2), 4)
    ranks = [
        keys(DataLoader(data(index, model, rank=r, world=2, start=4), batch_size=None, num_workers=1), 5)
        for r in range(2)
    ]
    together = [(a[0], sorted(a[1] + b[1])) for a, b in zip(*ranks, strict=True) if a[0] == b[0]]
    assert [(n, sorted(k)) for n, k in first] + together == [(n, sorted(k)) for n, k in whole]


@pytest.mark.slow
def test_shares_of_a_batch_are_the_batch_for_any_workers(index, model):
    whole = [content(x) for x in islice(data(index, model), 6)]
    for workers in (0, 2):
        parts = DataLoader(data(index, model, accumulate=2), batch_size=None, num_workers=workers)
        results = [content(x) for x in islice(parts, 12)]
        for (number, want), item, two in zip(whole, results[::2], results[1::2], strict=True):
            assert item[0] == two[0] == number
            assert sorted(item[1] + two[1], key=str) == sorted(want, key=str)


def test_questions_are_worded_as_they_are_asked_to_be(index, model):
    question_sampling = QuestionConfig(kinds={"grounding": 1.0}, templates={"grounding": ["WHEN: {text}"]})
    for loaded in islice(data(index, model, questions=question_sampling), 3):
        assert all(q.startswith("WHEN: ") for e in loaded.examples for q, _ in e.turns)
    for wording in ({"other": ["x"]}, {"dense": []}):
        with pytest.raises(ValueError, match="templates must give forms to some of grounding"):
            QuestionConfig(templates=wording)


def test_examples_are_learned_from(index, model):
    loaded = next(iter(data(index, model)))
    assert not loaded.bad and len(loaded.examples) == len(loaded.keys) >= 2
    for example in loaded.examples:
        remaining = sum(map(len, example.video.streams.values())) + sum(
            map(len, example.video.globals.values())
        )
        assert remaining <= example.video.budget and example.turns and all(a for _, a in example.turns)
    batch = model.llm.collate(loaded.examples)
    loss = model(**batch)["loss"]
    assert bool(torch.isfinite(loss))


def test_a_stream_is_dropped_as_often_as_told(index, model):
    for drop, want in ((0.0, {2}), (1.0, {1})):
        loaded = list(islice(data(index, model, questions=QuestionConfig(drop_stream=drop)), 4))
        assert {len(e.video.streams) for x in loaded for e in x.examples} == want


def test_texts_are_shortened_by_whole_events_and_counted(index, model):
    short = QuestionConfig(kinds={"dense": 1.0}, max_text_tokens=30)
    loaded = list(islice(data(index, model, questions=short), 4))
    assert sum(x.dropped for x in loaded) > 0
    answers = [a for x in loaded for e in x.examples for _, a in e.turns]
    assert all(line.startswith("From ") for a in answers for line in a.split("\n"))


@pytest.fixture
def broken(index, tmp_path):
    """The same shards, one sample of which has lost a member, and one its shard."""
    samples = [(e.key, dict(index.read(i))) for i, e in enumerate(index.entries)]
    for n, (key, members) in enumerate(samples):
        write_tar(tmp_path / f"shard-{n:06d}.tar", [(key, members)])
    from longcompress.train.shards.index import make_index

    packed = make_index(tmp_path, progress=False)
    entries = list(packed.entries)
    entries[1] = replace(
        entries[1], members={k: m for k, m in entries[1].members.items() if "audio" not in k}
    )
    (tmp_path / "shard-000002.tar").unlink()
    return replace(packed, entries=tuple(entries))


def test_bad_samples_are_left_out_by_name_or_stop_everything(broken, model):
    loaded = list(islice(data(broken, model), 10))
    bad = {b.key: b.reason for x in loaded for b in x.bad}
    assert set(bad) == {"v1", "v2"}
    assert "member audio.safetensors is missing" in bad["v1"] and "shard-000002.tar" in bad["v2"]
    assert {k for x in loaded for k in x.keys} == {"v0", "v3"}
    with pytest.raises((ValueError, FileNotFoundError)):
        list(islice(data(broken, model, on_error="stop"), 10))


def test_an_error_of_a_worker_is_the_message_it_had_there(broken, model):
    loader = DataLoader(data(broken, model, on_error="stop"), batch_size=None, num_workers=1)
    with pytest.raises((ValueError, OSError)) as caught, plain_errors():
        list(islice(loader, 10))
    with pytest.raises((ValueError, OSError)) as plain:
        list(islice(data(broken, model, on_error="stop"), 10))
    assert str(caught.value) == str(plain.value) and type(caught.value) is type(plain.value)


def appended(path, worker):
    """Batches of a worker with bad samples whose reasons are longer than a pipe's buffer."""
    listed = BadSampleList(path)
    for number in range(20):
        bad = [BadSample(f"{worker}-{number}-{i}", f"{worker}" * 5000) for i in range(4)]
        listed.append(number, bad)


def test_workers_that_list_bad_samples_at_once_lose_no_line_and_mix_none(tmp_path):
    path = tmp_path / "bad.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=appended, args=(path, i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 4 * 20 * 4
    assert all(line["reason"] == line["key"][0] * 5000 for line in lines)


def test_bad_samples_are_summed_up_by_reason(tmp_path):
    listed = BadSampleList(tmp_path / "bad.jsonl")
    assert listed.summary() == ""
    listed.append(0, [BadSample("a", "x"), BadSample("b", "x"), BadSample("c", "y")])
    assert listed.summary().endswith("3 samples were left out: 2 x x; 1 x y")
    listed.path.unlink()
    assert listed.summary() == ""


@pytest.mark.slow
def test_reading_in_the_training_process_leaves_its_threads(index, model):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        next(iter(data(index, model)))
        assert torch.get_num_threads() == 2
        loader = DataLoader(WorkerThreads(), batch_size=None, num_workers=1)
        assert list(loader) == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


class WorkerThreads(IterableDataset):
    """The number of torch threads of a worker that has entered."""

    def __iter__(self):
        enter_worker()
        yield torch.get_num_threads()


def test_a_video_that_nothing_can_be_asked_about_is_bad(index, model):
    loaded = next(iter(data(index, model, questions=QuestionConfig(kinds={"conversation": 1.0}))))
    assert not loaded.examples and "nothing of the kinds conversation" in loaded.bad[0].reason


def test_other_features_than_the_models_are_refused_at_once(index, model):
    other = models.model(segments=SegmentConfig(length_s=7.0))
    with pytest.raises(ValueError, match="cut into segments"):
        data(index, other)
    with pytest.raises(ValueError, match="holds media, not features"):
        data(replace(index, features={}), model)
    for kinds in ({"other": 1.0}, {}, {"dense": 0.0}):
        with pytest.raises(ValueError, match="kinds must give a weight > 0 to some of grounding"):
            QuestionConfig(kinds=kinds)
    with pytest.raises(ValueError, match="min_videos must be at least ranks x accumulate = 3 x 1 = 3, got 2"):
        data(index, model, world=3)


def test_the_index_reads_back(index):
    assert load_index(index.folder) == index
