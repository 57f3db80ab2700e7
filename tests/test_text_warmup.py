"""The text warm-up example: videos in words are right, and its command runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from longcompress.presets import load, new_tiny
from longcompress.synthetic.questions import printed_seconds
from longcompress.synthetic.scenes import OBJECTS, make_scene
from longcompress.train.data.sampler import Batches

import helpers

FOLDER = Path(__file__).parents[1] / "examples" / "text_warmup"
sys.path.insert(0, str(FOLDER))
from text_videos import NAMES, Spelled, TextMix, TextVideos, in_words  # noqa: E402 - beside the package

example = helpers.program(FOLDER / "run.py")
pytestmark = pytest.mark.slow


def test_a_video_in_words_has_each_event_in_its_seconds():
    scene = make_scene(11, 60.0)
    video = in_words(scene.events, 60.0, 100, np.random.default_rng(0))
    for stream, names in NAMES.items():
        tokens = video.streams[stream]
        assert bool((tokens.time_s.diff() >= 0).all()) and bool((tokens.x.count_nonzero(1) <= 1).all())
        for event in scene.of(stream):
            mine = tokens.x[:, names.index(event.name)] > 0
            covered = {
                s
                for a, b in zip(tokens.start_s[mine], tokens.end_s[mine], strict=True)
                for s in range(int(a), int(b))
            }
            first, last = printed_seconds(event, offset_s=100)
            assert set(range(first, last + 1)) <= covered


def test_words_are_the_language_models_own_and_batches_are_pure():
    model = new_tiny(0)
    table = model.llm.lm.get_input_embeddings()
    spelled = Spelled(table, model.llm.tokenizer, OBJECTS)
    (ids,) = model.llm.tokenizer([OBJECTS[3]], add_special_tokens=False)["input_ids"]
    want = torch.eye(len(OBJECTS))[3:4]
    torch.testing.assert_close(spelled(want)[0], 2 * table.weight[ids].mean(0))
    mixes = [TextMix(2, 4, (20,), 3, {"when_seen": 1.0}), TextMix(2, 4, (60,), 3, {"when_heard": 1.0})]
    videos, again = TextVideos(mixes, 0), TextVideos(mixes, 0)
    for number in (0, 1, 2, 9):
        a, b = videos.batch(number), again.batch(number)
        assert [x.turns for x in a] == [x.turns for x in b] and len(a) == 4
    assert videos.batch(0)[0].turns != videos.batch(1)[0].turns
    resumed = next(iter(Batches(videos.batch, 9)))
    assert [x.turns for x in resumed] == [x.turns for x in videos.batch(9)]


def test_the_encoders_are_tinys_and_the_projectors_new(tmp_path):
    mixes = [TextMix(3, 2, (20,), 2, {"when_seen": 1.0})]
    model, tiny = load(example.train_on_text(tmp_path, mixes, warmup=1)), load("tiny")
    assert model.identity() == tiny.identity()
    new = new_tiny(0)
    for name, value in new.llm.project.state_dict().items():
        assert torch.equal(model.llm.project.state_dict()[name], value)
    before = new.llm.lm.get_input_embeddings().weight
    assert not torch.equal(model.llm.lm.get_input_embeddings().weight, before)


@pytest.mark.slow
def test_the_command_runs_all_stages_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "KINDS", example.KINDS[:1])  # untrained, it babbles at length
    words = ["--out", str(tmp_path), "--steps", "2", "--videos", "8", "--seconds", "10", "--test-videos", "1"]
    results = example.main([*words, "--threads", "1"])
    assert set(results) == {"text", "learn_align", "learn_instruct"}
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert example.main([*words, "--threads", "1"]) == results
