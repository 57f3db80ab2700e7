"""Rows of training data that are no good: counted, named, and all others are learned from."""

import json
from dataclasses import replace

import pytest
import torch
from samples import broken, sample, two_events, write

from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.shards.index import load_index
from longcompress.train.stages import BAD_SAMPLES, BadSampleList, train_stage
from longcompress.types import Event

import models
import stages


def recipe_of(folder, **changes):
    recipe = replace(stages.make_recipe(folder), budgets=[40], max_tokens=400, steps=4, save_steps=4)
    return replace(recipe, **changes)


def bad_of(out):
    """(samples left out by the run, key -> reason)."""
    path = out / BAD_SAMPLES
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["key"]: line["reason"] for line in lines}


def loaded_of(folder, model, kinds, num=1):
    """Batches of a video each."""
    index = load_index(folder)
    data = ShardData(BatchSampler([index], 0, 1, [40], 1, 1), model, QuestionConfig(kinds=kinds))
    batches = iter(data)
    return [next(batches) for _ in range(num)]


def test_rows_that_are_no_good_are_named_and_all_others_learned_from(tmp_path):
    model = models.model()
    samples = [sample(model, i, two_events(i)) for i in range(8)]
    samples[2] = (samples[2][0], broken(samples[2][1], "video"))
    samples[3] = sample(model, 3, [Event(0, 3, "красный мяч")])
    samples[5] = sample(model, 5, captions=("", " "))
    folder = write(tmp_path / "shards", samples)
    train_stage(model, recipe_of(folder, min_videos=8, max_videos=8), tmp_path / "run")
    bad = bad_of(tmp_path / "run")
    assert set(bad) == {"v002", "v003", "v005"}
    assert "not finite" in bad["v002"]
    assert "the tokenizer knows no token of 1 of its texts" in bad["v003"]
    assert "nothing of the kinds grounding, segment can be asked about it" in bad["v005"]
    assert BadSampleList(tmp_path / "run" / BAD_SAMPLES).summary().count("4 x ") == 3
    learned = [
        key for loaded in loaded_of(folder, models.model(), {"segment": 1.0}, 60) for key in loaded.keys
    ]
    assert sorted(set(learned)) == [f"v{i:03d}" for i in (0, 1, 4, 6, 7)]


def test_of_a_video_with_texts_in_two_scripts_those_it_knows_are_asked(tmp_path):
    model = models.model()
    events = [Event(0, 2, "красный мяч"), Event(2, 4, "red ball"), Event(4, 6, "塞翁失马")]
    folder = write(tmp_path / "shards", [sample(model, 0, events, ("мяч", "red ball"))])
    for kind in ("grounding", "segment", "caption"):
        ((loaded,),) = (loaded_of(folder, model, {kind: 1.0}),)
        (example,) = loaded.examples
        assert loaded.dropped == 3 and not loaded.bad
        assert len(example.turns) == 1 and "red ball" in "".join(map(str, example.turns[0]))


@pytest.mark.parametrize("captions", [("",), ("красный мяч",)])
def test_a_data_set_without_a_text_to_learn_ends_with_the_reason(tmp_path, captions):
    model = models.model()
    folder = write(tmp_path / "shards", [sample(model, i, captions=captions) for i in range(3)])
    recipe = recipe_of(folder, questions=QuestionConfig(kinds={"caption": 1.0}), min_videos=1)
    with pytest.raises(ValueError, match=r"batch 0: none of its samples could be used; .*bad_samples.jsonl"):
        train_stage(model, recipe, tmp_path / "run")
    reasons = bad_of(tmp_path / "run")
    assert len(reasons) == 3 and all("nothing of the kinds caption" in reason for reason in reasons.values())


def test_a_single_sample_is_learned_from(tmp_path):
    model = models.model()
    folder = write(tmp_path / "shards", [sample(model, 0, two_events(0))])
    train_stage(model, recipe_of(folder, log_steps=1, steps=12, save_steps=12, lr=2e-2), tmp_path / "run")
    first, *_, last = stages.losses(tmp_path / "run")
    assert last < first and not bad_of(tmp_path / "run")


def test_collinear_features_are_learned_from_and_the_ridge_says_their_rank(tmp_path, capsys):
    model = models.model()
    to = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))

    def flat(number):
        key, members = sample(model, number, two_events(number), streams=("video",))
        return key, members | {"video.safetensors": changed(members["video.safetensors"])}

    def changed(content):
        from safetensors.torch import load, save

        tensors = load(content)
        # in three directions, of numbers that bfloat16 has exactly
        directions = (to * 4).round() / 4
        tensors["x"] = ((tensors["x"][:, :3].float() * 2).round() / 2 @ directions).bfloat16()
        tensors.pop("summary")
        return save(tensors)

    def bare(item):
        key, members = item
        record = json.loads(members["json"])
        record["features"]["streams"]["video"]["summaries"] = 0
        return key, members | {"json": json.dumps(record).encode()}

    folder = write(tmp_path / "shards", [bare(flat(i)) for i in range(20)])
    recipe = recipe_of(folder, init="ridge", train=["projectors.video", "lora"], min_videos=4)
    train_stage(model, recipe, tmp_path / "run")
    (fit,) = json.loads((tmp_path / "run" / "init.json").read_text())["fits"]
    assert fit["width"] == 32 and f"rank {fit['rank']} of 32" in capsys.readouterr().out
    assert fit["rank"] == 3
