"""The recipes that come with it: what the papers give; each runs on made-up data of the published shapes."""

import json
from dataclasses import replace

import pytest

from longcompress.presets import load
from longcompress.train import stages as module
from longcompress.train.data.convert import convert
from longcompress.train.shards import make as shards
from longcompress.train.stages import train_stage

import models
import stages
import videos
from stages import recipe_of

PAPERS = {
    "vtimellm_align": (1e-3, 1, 128),
    "vtimellm_boundary": (1e-4, 2, 128),
    "vtimellm_instruct": (1e-4, 2, 128),
    "longvale_boundary": (1e-4, 2, 128),
    "longvale_instruct": (1e-4, 2, 128),
    "longvlm": (2e-5, 3, 32),
}


@pytest.mark.parametrize("name", PAPERS)
def test_schedules_are_the_papers(name):
    recipe = recipe_of(name)
    assert (recipe.lr, recipe.epochs, recipe.min_videos) == PAPERS[
        name
    ] and recipe.max_videos == recipe.min_videos
    assert recipe.schedule == "cosine" and recipe.warmup == 0.03 and recipe.weight_decay == 0
    assert (
        recipe.min_videos % recipe.engine.accumulate == 0
        and recipe.engine.bf16
        and recipe.engine.checkpointing
    )
    if "lora" in recipe.train:
        assert (recipe.lora["r"], recipe.lora["lora_alpha"], recipe.lora["lora_dropout"]) == (64, 128, 0.05)
    assert recipe.merge_lora == name.endswith("instruct")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards of two videos, with annotations in VTimeLLM's and in VideoInstruct's shape."""
    where = tmp_path_factory.mktemp("recipes")
    (where / "in").mkdir()
    for name in ("v0", "v1"):
        videos.write(where / "in" / f"{name}.mp4", videos.Video())
    dialogues = [
        {
            "source": "made", "id": name,
            "conversations": [
                {"from": "human", "value": "<video>\nWhen is the ball red?"},
                {"from": "gpt", "value": "From <s0> to <e0>."},
                {"from": "human", "value": "And then?"},
                {"from": "gpt", "value": "A box."},
            ],
            "meta": {"duration": 4.0, "token": {"<s0>": 1.0, "<e0>": 2.0}},
        }
        for name in ("v0", "v1")
    ]  # fmt: skip
    asked = [{"q": "What is red?", "a": "The ball.", "video_id": name} for name in ("v0", "v1")]
    trained = {}
    for shape, rows in (("dialogues", dialogues), ("qa", asked)):
        (where / f"{shape}.json").write_text(json.dumps(rows))
        records, missing = convert(where / f"{shape}.json", shape, where / "in")
        assert not missing and len(records) == 2
        records = [replace(record, captions=("a red ball, a blue box",)) for record in records]
        shards.make(records, where / shape, models.model(), progress=False)
        trained[shape] = str(shards.pack(where / shape, records, progress=False).folder)
    return trained


def small(name, folder):
    """A recipe as it stands, but for sizes: 4 videos a step instead of 128, and encoders of two streams."""
    recipe = recipe_of(name)
    train = [part for part in recipe.train if part != "projectors.speech"]
    lora = recipe.lora | {"r": 4}
    engine = replace(stages.CPU, accumulate=2, checkpointing=True)
    return replace(
        recipe,
        shards=[folder],
        train=train,
        lora=lora,
        min_videos=4,
        max_videos=4,
        engine=engine,
        lr=0.001,
        epochs=24,
        log_steps=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "reader"), [("vtimellm", "indexed"), ("longvale", "indexed"), ("vtimellm", "webdataset")]
)
def test_stages_run_one_after_the_other_and_the_loss_falls(data, tmp_path, family, reader):
    models.model().save_pretrained(tmp_path / "base", include_base=True)
    before = tmp_path / "base"
    for stage in ("align", "boundary", "instruct")[family == "longvale" :]:
        recipe = small(f"{family}_{stage}", data["dialogues"])
        recipe = replace(recipe, model=str(before), save_steps=12, reader=reader)
        before = train_stage(load(before, device="cpu"), recipe, tmp_path / stage)
        losses = stages.losses(tmp_path / stage)
        assert len(losses) == 12 and losses[-1] < losses[0]
    assert (before / "adapter").is_dir()


@pytest.mark.slow
def test_longvlms_recipe_trains_its_projector(data, tmp_path):
    recipe = replace(small("longvlm", data["qa"]), save_steps=12)
    train_stage(models.model(), recipe, tmp_path)
    losses = stages.losses(tmp_path)
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_one_streams_projector_alone(data, tmp_path):
    recipe = replace(small("longvale_boundary", data["dialogues"]), train=["projectors.audio"], save_steps=12)
    model = models.model()
    before = {n: p.detach().clone() for n, p in model.llm.project.named_parameters()}
    train_stage(model, recipe, tmp_path)
    changed = {n.split(".")[0] for n, p in model.llm.project.named_parameters() if not p.equal(before[n])}
    assert changed == {"audio"}
    with pytest.raises(ValueError, match=r"no parameters of part 'projectors\.smell'"):
        module.prepare(models.model(), replace(recipe, train=["projectors.smell"]))
