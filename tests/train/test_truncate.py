"""What is too long for the language model loses whole turns and events, or is bad with both numbers."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.llm import Example
from longcompress.llm.prompt import encode
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.questions import Room
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.records import read_records
from longcompress.train.shards import make as shards

import models
import videos

TURNS = [
    ("what is seen", "the red ball .\n the blue box .\n nothing"),
    ("when", "12"),
    ("what", "the red ball"),
]
READER = models.llm()


def length_of(example):
    """Positions it takes, as the batch says."""
    batch = READER.collate([example])
    return int(batch["position_ids"].max()) + 1


@pytest.mark.parametrize("dialogue", [False, True])
def test_what_fits_is_left_alone_and_one_position_less_drops_as_little_as_can_be(dialogue):
    whole = Example(models.video(1), TURNS, dialogue)
    length = length_of(whole)
    room = Room(READER.context, READER.sizes)
    assert replace(room, context=length).fitted(whole, "here") == (whole, 0)
    assert replace(room, context=None).fitted(whole, "here") == (whole, 0)
    cut, dropped = replace(room, context=length - 1).fitted(whole, "here")
    assert dropped == 1 and length_of(cut) < length
    if dialogue:
        assert cut.turns == TURNS[:2]  # the last turn
    else:
        assert cut.turns == [
            (TURNS[0][0], "the red ball .\n the blue box ."),
            *TURNS[1:],
        ]  # of the one too long


@given(st.integers(40, 120), st.booleans(), st.permutations(TURNS))
@settings(max_examples=60, deadline=None)
def test_what_is_kept_fits_and_nothing_that_fits_is_refused(context, dialogue, turns):
    whole = Example(models.video(1), turns, dialogue)
    room = replace(Room(READER.context, READER.sizes), context=context)
    firsts = [(q, a.split("\n")[0]) for q, a in turns]
    shortest = min(length_of(replace(whole, turns=[turn])) for turn in (firsts[:1] if dialogue else firsts))
    if shortest > context:
        with pytest.raises(
            ValueError, match=rf"here: its video takes \d+ positions .* of the {context} that"
        ):
            room.fitted(whole, "here")
        return
    cut, dropped = room.fitted(whole, "here")
    assert length_of(cut) <= context and cut.video is whole.video and cut.dialogue == dialogue
    assert (dropped == 0) == (list(cut.turns) == list(turns))


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    """Two videos with a dialogue each."""
    where = tmp_path_factory.mktemp("data")
    (where / "in").mkdir()
    turns = [
        {"role": role, "text": text}
        for question, answer in TURNS
        for role, text in (("user", question), ("assistant", answer))
    ]
    for i in range(2):
        path = where / "in" / f"v{i}.mp4"
        videos.write(path, videos.Video(stamps=range(0, 5000 + 1000 * i, 40), audio_s=5 + i))
        path.with_suffix(".json").write_text(json.dumps({"dialogues": [turns]}))
    records = read_records(where / "in")
    shards.make(records, where / "out", model, progress=False)
    return shards.pack(where / "out", records, progress=False)


def loaded(index, model, **question_sampling):
    asked = QuestionConfig(kinds={"conversation": 1.0}, **question_sampling)
    return next(iter(ShardData(BatchSampler([index], 3, 40, (20,), min_videos=2), model, asked)))


def test_conversations_are_learned_as_dialogues(index, model):
    batch = loaded(index, model)
    assert [(e.dialogue, e.turns) for e in batch.examples] == [(True, TURNS)] * 2
    packed = model.llm.collate(batch.examples, row_tokens=500)
    loss, same = (model(**b)["loss"] for b in (packed, model.llm.collate(batch.examples)))
    torch.testing.assert_close(loss, same, rtol=1e-5, atol=1e-6)
    two = sum(len(encode(model.llm.tokenizer, text)) for turn in TURNS[:2] for text in turn)
    shorter = loaded(index, model, max_text_tokens=two)  # whole last turns go
    assert [e.turns for e in shorter.examples] == [TURNS[:2]] * 2 and shorter.dropped == 2


def test_a_sample_longer_than_the_context_is_bad_with_both_numbers(index, model, monkeypatch):
    config = model.llm.lm.config
    monkeypatch.setattr(config, "max_position_embeddings", 60)
    assert {len(e.turns) for e in loaded(index, model).examples} <= {1, 2, 3}
    monkeypatch.setattr(config, "max_position_embeddings", 25)
    batch = loaded(index, model)
    assert not batch.examples
    assert {bad.key for bad in batch.bad} == {entry.key for entry in index.entries}  # others were tried too
    for bad in batch.bad:
        assert f"sample {bad.key!r}: its video takes 2" in bad.reason and "of the 25 that the" in bad.reason
