"""Tokens in words: what stands for a token, what the language model reads, and for how long."""

from dataclasses import replace

import pytest
import torch
from samples import sample, two_events, write

from longcompress.llm.causal import SPELLING_NOISE
from longcompress.llm.prompt import lay_out
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.data.words import MAX_IDS, words_of
from longcompress.train.records import Record
from longcompress.train.shards.index import load_index
from longcompress.train.stages import train_stage
from longcompress.types import CompressedVideo, Event, Tokens

import models
import stages
from helpers import assert_within

STEPS = 3


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    where = tmp_path_factory.mktemp("words") / "shards"
    return write(where, [sample(model, i, two_events(i)) for i in range(8)])


def data_of(folder, model, text_steps):
    questions = QuestionConfig(kinds={"grounding": 1.0})
    return ShardData(BatchSampler([load_index(folder)], 0, 60, [12]), model, questions, text_steps=text_steps)


def ids_of(model, text):
    return model.llm.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]


def video_of(*spans):
    start, end = (torch.tensor(times, dtype=torch.float64) for times in zip(*spans, strict=True))
    tokens = Tokens(torch.randn(len(spans), 32), torch.ones(len(spans)), (start + end) / 2, start, end)
    return CompressedVideo({"video": tokens}, {}, len(spans), 9.0)


def test_a_token_has_the_words_of_the_events_of_more_than_half_its_time(model):
    events = (Event(0.0, 2.0, "red ball"), Event(1.0, 5.0, "the ball"))
    video = video_of((0, 1), (0, 2), (0, 4), (1, 2), (1, 9), (6, 8))
    got = words_of(video, Record("v", "v", 9.0, events, (), ()), model.llm.tokenizer)["video"]
    red, ball = (ids_of(model, event.text) for event in events)
    # half of (0, 2) and of (0, 4) and of (1, 9) is not more than half
    want = [red, red, ball, red + ball, [], []]
    assert [[i for i in row if i >= 0] for row in got.tolist()] == want
    whole = words_of(video, Record("v", "v", 9.0, events, (), ("blue box",)), model.llm.tokenizer)["video"]
    want[-2:] = [ids_of(model, "blue box")] * 2
    assert [[i for i in row if i >= 0] for row in whole.tolist()] == want


def test_a_long_text_is_cut_and_none_leaves_no_words(model):
    video = video_of((0, 1), (1, 2))
    long = Record("v", "v", 9.0, (Event(0.0, 1.0, "red ball " * (MAX_IDS + 8)),), (), ())
    rows = words_of(video, long, model.llm.tokenizer)["video"]
    assert rows.shape == (2, MAX_IDS) and bool((rows[1] < 0).all())
    assert words_of(video, replace(long, events=()), model.llm.tokenizer)["video"].numel() == 0


def test_only_the_first_batches_have_words_and_the_rest_is_as_without(folder, model):
    plain = iter(data_of(folder, model, 0))
    for number, loaded in zip(range(5), data_of(folder, model, STEPS), strict=False):
        assert loaded.number == number
        for example, other in zip(loaded.examples, next(plain).examples, strict=True):
            assert bool(example.video.words) == (number < STEPS) and example.turns == other.turns
            batch, same = model.llm.collate([example]), model.llm.collate([other])
            assert set(batch) - set(same) == ({"video_words", "audio_words"} if number < STEPS else set())
            assert all(torch.equal(batch[key], same[key]) for key in same)


def test_words_lie_in_the_order_of_their_tokens(model):
    video = video_of((5, 6), (0, 1), (6, 7), (1, 2))
    words = torch.arange(4)[:, None]
    layout = lay_out(
        replace(video, words={"video": words}), model.llm.tokenizer, model.llm.settings, model.llm.names
    )
    assert torch.equal(layout.streams["video"].x, video.streams["video"].x[layout.words["video"][:, 0]])
    assert layout.words["video"][:, 0].tolist() == [1, 3, 0, 2]


def test_the_language_model_reads_words_in_place_of_features(folder, model):
    llm, loaded = model.llm, next(iter(data_of(folder, model, 1)))
    batch = llm.collate(loaded.examples)
    table = llm.lm.get_input_embeddings().weight.detach()

    def rows(seed, **changes):
        torch.manual_seed(seed)
        time, llm.time = llm.time, None
        try:
            return llm._rows("video", batch | changes, llm.lm.get_input_embeddings())
        finally:
            llm.time = time

    got = rows(0)
    assert torch.equal(got, rows(0, video_x=torch.randn_like(batch["video_x"])))  # features have no effect
    assert not torch.equal(got, rows(1))
    got.sum().backward()  # whatever trains projectors finds a gradient: of zero
    assert all(p.grad is not None and not p.grad.any() for p in llm.project["video"].parameters())
    # by hand, a token at a time, without the noise, which is the mean's error
    means = [
        table[[i for i in row if i >= 0]].mean(0) if max(row) >= 0 else None
        for row in batch["video_words"].tolist()
    ]
    centre = torch.stack([m for m in means if m is not None]).mean(0)
    used = torch.tensor([i for row in batch["video_words"].tolist() for i in row if i >= 0])
    unit = llm.settings.token_norm * table[used].norm(dim=1).mean()
    num = 400
    mean = torch.stack([rows(seed).detach() for seed in range(num)]).mean(0)
    for i, of_token in enumerate(means):
        want = torch.zeros(len(centre)) if of_token is None else of_token - centre
        want = want * unit / max(float(want.norm()), 1e-12)
        left = float((mean[i] - want).norm())
        assert left < 3 * SPELLING_NOISE * float(unit) / num**0.5, (i, left)
    lengths = (rows(0) - mean).norm(dim=1)
    assert_within("noise", lengths, torch.full_like(lengths, SPELLING_NOISE * float(unit)), 0.2 * float(unit))


def test_interrupted_in_words_or_behind_a_run_goes_on_to_the_same_bits(folder, tmp_path):
    recipe = replace(stages.make_recipe(folder), text_steps=STEPS, max_tokens=60, steps=6, save_steps=2)
    train_stage(models.model(), recipe, tmp_path / "whole")
    for at in (3, 5):
        part = tmp_path / str(at)
        stages.interrupted(models.model(), recipe, part, at)
        train_stage(models.model(), recipe, part, resume=True)
        whole, resumed = stages.weights(tmp_path / "whole"), stages.weights(part)
        assert set(whole) == set(resumed) and all(torch.equal(whole[n], resumed[n]) for n in whole)


@pytest.mark.parametrize("changes", [{"text_steps": -1}, {"text_steps": 2, "kinds": {"narrate": 1.0}}])
def test_steps_in_words_are_a_number_and_not_of_duets(changes):
    kinds = changes.pop("kinds", {"grounding": 1.0})
    with pytest.raises(ValueError, match="text_steps must be >= 0, and 0 for duets, got"):
        replace(stages.make_recipe("x"), questions=QuestionConfig(kinds=kinds), **changes)
