"""Videos that are drawn for training, videos in words, the self-check, and the small reader."""

import json

import numpy as np
import pytest
import torch

from longcompress.cli.main import main
from longcompress.config import load_config
from longcompress.presets import load, new_tiny
from longcompress.synthetic.questions import printed_seconds
from longcompress.synthetic.scenes import OBJECTS, make_scene
from longcompress.train.data.records import parse_record
from longcompress.train.overfit_check import by_heart, few
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import JSON, hold_of
from longcompress.train.text_films import NAMES, Spelled, TextMix, TextVideos, in_words
from longcompress.train.tiny.shards import asked, drawn_shards


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    where = tmp_path_factory.mktemp("drawn")
    return drawn_shards(load("tiny", device="cpu"), range(3), 20.0, where, progress=False)


def test_drawn_videos_are_shards_that_say_all_that_happens(drawn, tmp_path):
    assert [entry.key for entry in drawn.entries] == ["scene_0", "scene_1", "scene_2"]
    for i in range(3):
        members, scene = drawn.read(i), make_scene(i, 20.0)
        hold = hold_of(members, "here")
        assert set(hold.streams()) == {"video", "audio"}
        given = json.loads(members[JSON])
        record = parse_record(
            {k: v for k, v in given.items() if k != "features"} | {"video": "x"}, tmp_path, "x"
        )
        assert {e.text for e in record.events} == {h.name for h in scene.events}
        told = asked(scene, np.random.default_rng(i))
        assert [(a.text, b.text) for a, b in record.dialogues] == told


def test_a_video_in_words_has_each_event_in_its_seconds():
    scene = make_scene(11, 60.0)
    video = in_words(scene.events, 60.0, 100, np.random.default_rng(0))
    for stream, names in NAMES.items():
        tokens = video.streams[stream]
        assert bool((tokens.time_s.diff() >= 0).all()) and bool((tokens.x.count_nonzero(1) <= 1).all())
        for one in scene.of(stream):
            mine = tokens.x[:, names.index(one.name)] > 0
            covered = {
                s
                for a, b in zip(tokens.start_s[mine], tokens.end_s[mine], strict=True)
                for s in range(int(a), int(b))
            }
            first, last = printed_seconds(one, offset_s=100)
            assert set(range(first, last + 1)) <= covered


def test_words_are_the_language_models_own_and_batches_are_pure():
    model = new_tiny(0)
    table = model.llm.lm.get_input_embeddings()
    spelled = Spelled(table, model.llm.tokenizer, OBJECTS)
    (ids,) = model.llm.tokenizer([OBJECTS[3]], add_special_tokens=False)["input_ids"]
    want = torch.eye(len(OBJECTS))[3:4]
    torch.testing.assert_close(spelled(want)[0], 2 * table.weight[ids].mean(0))
    mixes = [TextMix(2, 4, (20,), 3, {"when_seen": 1.0}), TextMix(2, 4, (60,), 3, {"when_heard": 1.0})]
    one, two = TextVideos(mixes, 0), TextVideos(mixes, 0)
    for number in (0, 1, 2, 9):
        a, b = one.batch(number), two.batch(number)
        assert [x.turns for x in a] == [x.turns for x in b] and len(a) == 4
    assert one.batch(0)[0].turns != one.batch(1)[0].turns


def test_what_is_learned_by_heart_can_not_be_guessed(drawn, tmp_path):
    scene = make_scene(1, 20.0)
    ((question, answer),) = by_heart(scene, np.random.default_rng(1))
    assert question and len(answer.split(", ")) == 3
    few(str(drawn.folder), tmp_path / "few")
    assert [e.key for e in load_index(tmp_path / "few").entries] == [e.key for e in drawn.entries]


def test_the_check_says_whether_it_learns(tmp_path, capsys):
    """It knows three samples by heart after a few steps, and not after one."""
    from longcompress.train import overfit_check as module

    words = ["train", "--check", "--out", str(tmp_path / "a"), "--engine.workers", "0", "--json"]
    assert main([*words, "--steps", "2"]) == 1
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not told["ok"] and told["asked"] == module.SAMPLES
    words[3] = str(tmp_path / "b")
    assert main([*words, "--steps", "60"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["ok"] and told["last_loss"] < 0.1 * told["first_loss"]


def test_a_reader_keeps_the_encoders_and_its_projectors_are_fresh(tmp_path):
    from longcompress.train.reader import ReaderRecipe, train_reader

    mixes = [TextMix(3, 2, (20,), 2, {"when_seen": 1.0})]
    made = train_reader(ReaderRecipe(mixes=mixes, warmup=1), tmp_path)
    model, tiny = load(made), load("tiny")
    assert model.identity() == tiny.identity()
    fresh = new_tiny(0)
    for name, value in fresh.llm.project.state_dict().items():
        assert torch.equal(model.llm.project.state_dict()[name], value)
    before = fresh.llm.lm.get_input_embeddings().weight
    assert not torch.equal(model.llm.lm.get_input_embeddings().weight, before)


@pytest.mark.parametrize("name", ["learn_align", "learn_instruct", "check"])
def test_the_recipes_load(name):
    from longcompress.train import stages
    from longcompress.train.stages import StageRecipe

    path = stages.Path(stages.__file__).parent / "recipes" / f"{name}.yaml"
    assert load_config(StageRecipe, path).shards == []


def test_the_command_draws(tmp_path, capsys):
    assert main(["shards", "draw", "--num-videos", "2", "--seconds", "10", "--out", str(tmp_path / "d")]) == 0
    assert "2 samples in 1 shards" in capsys.readouterr().out and len(load_index(tmp_path / "d")) == 2
    assert main(["shards", "draw", "--num-videos", "0", "--out", str(tmp_path / "e")]) == 2
    assert "--videos must be > 0, got 0" in capsys.readouterr().err
