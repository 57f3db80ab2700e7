"""Synthetic videos for training, and the overfit check."""

import json

import numpy as np
import pytest

from longcompress.cli.main import main
from longcompress.config_values import load_config
from longcompress.presets import load
from longcompress.synthetic.scenes import make_scene
from longcompress.train.overfit_check import arbitrary_question, first_samples
from longcompress.train.records import parse_record
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import JSON, read_sample
from longcompress.train.tiny.shards import all_questions, synthetic_shards


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    where = tmp_path_factory.mktemp("synthetic")
    return synthetic_shards(load("tiny", device="cpu"), range(3), 20.0, where, progress=False)


def test_synthetic_shards_say_all_that_happens(painted, tmp_path):
    assert [entry.key for entry in painted.entries] == ["scene_0", "scene_1", "scene_2"]
    for i in range(3):
        members, scene = painted.read(i), make_scene(i, 20.0)
        assert set(read_sample(members, "here").num_frames) == {"video", "audio"}
        content = json.loads(members[JSON])
        record = parse_record(
            {k: v for k, v in content.items() if k != "features"} | {"video": "x"}, tmp_path, "x"
        )
        assert {e.text for e in record.events} == {h.name for h in scene.events}
        questions = all_questions(scene, np.random.default_rng(i))
        assert [(a.text, b.text) for a, b in record.dialogues] == questions


def test_what_is_learned_by_heart_can_not_be_guessed(painted, tmp_path):
    scene = make_scene(1, 20.0)
    ((question, answer),) = arbitrary_question(scene, np.random.default_rng(1))
    assert question and len(answer.split(", ")) == 3
    first_samples(str(painted.folder), tmp_path / "few")
    assert [e.key for e in load_index(tmp_path / "few").entries] == [e.key for e in painted.entries]


@pytest.mark.slow
def test_the_check_says_whether_it_learns(tmp_path, capsys):
    """It knows three samples by heart after a few steps, and not after one."""
    from longcompress.train import overfit_check as module

    words = ["train", "--overfit-check", "--out", str(tmp_path / "a"), "--engine.workers", "0", "--json"]
    assert main([*words, "--steps", "2"]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not report["ok"] and report["asked"] == module.NUM_SAMPLES
    words[3] = str(tmp_path / "b")
    assert main([*words, "--steps", "60"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["ok"] and report["last_loss"] < 0.1 * report["first_loss"]


@pytest.mark.parametrize("name", ["overfit_check"])
def test_the_recipes_load(name):
    from longcompress.train import stages
    from longcompress.train.stages import StageRecipe

    path = stages.Path(stages.__file__).parent / "recipes" / f"{name}.yaml"
    assert load_config(StageRecipe, path).shards == []


def test_the_command_draws(tmp_path, capsys):
    assert main(["shards", "synthesize", "--num", "2", "--seconds", "10", "--out", str(tmp_path / "d")]) == 0
    assert "2 samples in 1 shards" in capsys.readouterr().out and len(load_index(tmp_path / "d")) == 2
    assert main(["shards", "synthesize", "--num", "0", "--out", str(tmp_path / "e")]) == 2
    assert "--num must be > 0, got 0" in capsys.readouterr().err
