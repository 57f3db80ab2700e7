"""The small Qwen3-VL: its tokenizer, what its first layer begins with, its encoder's task, its recipe."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import longcompress as lc
from longcompress.config_values import load_config
from longcompress.llm.stock import StockLM
from longcompress.presets import TINY_VL
from longcompress.synthetic import places
from longcompress.synthetic.questions import ask
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.train.stages import last_checkpoint
from longcompress.train.tiny import recipe as recipes
from longcompress.train.tiny import vl, vl_vision
from longcompress.train.tiny.clips import Mix, load_clips
from longcompress.train.tiny.encoders import EncoderConfig, scenes
from longcompress.train.tiny.recipe import CLIPS, RECIPE, TinyRecipe, train_lm, train_tiny
from longcompress.train.tiny.vl_score import KINDS, score_answers
from longcompress.train.tiny.vl_vision import VisionTask, pair_samples, score


@pytest.fixture(scope="module")
def model():
    return vl.new_model(0)


def full(model, seconds: float = 20.0):
    """The memory of a video in which nothing is merged."""
    session = lc.Session(model, 5000)
    for part in parts_of(make_scene(3, seconds), model.config.media.rate_fps):
        if part.modality == "video":
            session.push(part)
    session.close()
    return session.state().compress(5000)


def test_the_tokenizer_gives_every_answer_back_and_has_a_token_a_timestamp(model):
    tokenizer = model.llm.tokenizer
    asked, options = [], {"num": 20, "kinds": KINDS, "paraphrase": True}
    for seed in range(9, 15):
        events = make_scene(seed, 60.0, letters=True).events
        asked += ask(events, 60.0, generator=np.random.default_rng(seed), **options)
    assert {question.kind for question in asked} == {*KINDS}
    for question in asked:
        ids = tokenizer(f"{question.text} {question.answer}", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        answer = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(answer).strip() == question.answer
    for text in ("<0.5 seconds>", "<12.0 seconds>", "<112.5 seconds>"):
        ids = tokenizer(f"{text}<|vision_start|>", add_special_tokens=False)["input_ids"]
        assert len(ids) == 2 and tokenizer.unk_token_id not in ids


def test_an_uncompressed_video_has_a_timestamp_for_each_pair_of_frames(model):
    video = full(model)
    assert len(video.streams["video"]) == 10 * vl.GRID**2
    layout = model.llm.prompt.lay_out(video)
    start = model.llm.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert int((layout.ids == start).sum()) == 1 + 10
    assert len(layout.ids) == 3 + 10 * (vl.GRID**2 + 3) - 1  # the last one's end belongs to what follows


def test_the_first_layers_begin_with_reading(model):
    """Tokens of frames take over the number of their timestamp, row and column; names find objects."""
    lm, llm = vl.new_tiny_vl(0)[0], model.llm
    lm.set_attn_implementation("eager")
    hidden, weights = [], []
    for layer in lm.model.language_model.layers[:2]:
        layer.register_forward_hook(lambda module, args, out: hidden.append(out[0].detach()))
        layer.self_attn.register_forward_hook(lambda module, args, out: weights.append(out[1][0].detach()))
    layout, tokenizer = llm.prompt.lay_out(full(model)), llm.tokenizer
    objects, _ = vl.words_of(lm, tokenizer)
    shown = torch.zeros(10, vl.GRID**2, 4 * vl.WIDTH)  # what the trained encoder gives: an object in 4 to 8 s
    shown[..., vl.FRAME_AXIS] = 2.0
    shown[2:4, 6:8, : vl.WIDTH] += objects[5]
    shown[5:, 11:13, : vl.WIDTH] += objects[6]
    name = vl.OBJECTS[5]
    ids = torch.cat([layout.ids, torch.tensor(llm.prompt.tail(layout, f"When does the {name} appear?"))])
    position = llm.prompt.behind(layout, torch.arange(len(ids) - len(layout.ids)))
    with torch.no_grad():
        inputs = {"input_ids": ids[None], "position_ids": torch.cat([layout.position, position], 1)[None]}
        mask = torch.ones_like(inputs["input_ids"])
        stock = StockLM(lm, tokenizer, llm.settings, llm.family, llm.prompt.media, vl.GRID)
        stock(**inputs, attention_mask=mask, video_x=shown.flatten(0, 1))
    is_frame = ids == llm.prompt.placeholders[0]
    out = hidden[0][is_frame].view(10, vl.GRID**2, vl.WIDTH)
    stamps = [i for i, t in enumerate(tokenizer.convert_ids_to_tokens(ids.tolist())) if t.startswith("▁<")]
    numbers = lm.get_input_embeddings().weight.detach()[ids[stamps]][:, vl.NUMBERS]  # (10, 64)
    likeness = torch.cosine_similarity(out[:, :, None, vl.NUMBERS], numbers, dim=-1)
    assert (likeness.argmax(-1) == torch.arange(10)[:, None]).float().mean() > 0.98
    grid = out.view(10, vl.GRID, vl.GRID, vl.WIDTH)
    for axis, means in ((vl.ROW_AXIS, grid.mean((0, 2))), (vl.COLUMN_AXIS, grid.mean((0, 1)))):
        assert (means[:, axis].diff() < 0.05).all() and means[0, axis] - means[-1, axis] > 2
    at = ids.tolist().index(tokenizer.convert_tokens_to_ids("▁" + name.replace(" ", "_")))
    read = weights[1][0, at][is_frame].view(10, vl.GRID**2)
    assert read[2:4, 6:8].sum() > 0.6 and read.sum() - read[2:4, 6:8].sum() < 0.1


def test_the_encoders_task_is_learned_and_scored():
    torch.manual_seed(0)
    lm, tokenizer = vl.new_tiny_vl(0)
    task = VisionTask(lm, vl.words_of(lm, tokenizer))
    batch = next(iter(DataLoader(scenes(partial(pair_samples, seconds=10.0), 3), batch_size=4)))
    assert batch["media"].shape == (4, 2, vl.SIZE_PX, vl.SIZE_PX, 3)
    optimizer = torch.optim.AdamW(lm.model.visual.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = task(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    scores = score(task, iter([batch]), 1)
    assert scores["background"] > 0.9 and set(scores) >= {"object", "letter", "letter_deep"}


def test_the_shipped_model_answers_about_videos_that_nothing_is_merged_in():
    shipped = lc.load("tiny-vl", device="cpu")
    scores = score_answers(shipped, 6)
    assert set(scores) == {"when_seen", *places.KINDS}
    assert all(value["score"] >= 0.8 for value in scores.values()), scores
    assert sum(file.stat().st_size for file in TINY_VL.parent.rglob("*")) < 20e6


def test_the_recipe_runs_goes_on_and_gives_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "VALIDATION", 1)
    monkeypatch.setattr(vl_vision, "score", lambda task, batches, num: score(task, batches, 1))
    recipe = load_config(TinyRecipe, RECIPE.with_name("tiny_vl.yaml"))
    assert recipe.kind == "vl" and all(set(mix.methods) == {"full"} for mix in recipe.mixes)
    mix = Mix(2, 10, (1.0,), 4, (1.0,), recipe.mixes[0].kinds, offset_tens=3, methods={"full": 1})
    recipe = replace(
        recipe, video=EncoderConfig(2, 4, 1e-3, 10.0), clips=3, clip_s=20.0, mixes=[mix], warmup=1
    )  # fmt: skip
    trained = lc.load(train_tiny(tmp_path, recipe), device="cpu")
    assert (trained.config.media.size_px, trained.config.media.rate_fps) == (vl.SIZE_PX, vl.RATE_FPS)
    clips = load_clips(tmp_path / CLIPS)
    assert (
        clips[1].segments[0].streams["video"].tokens.start_s[0] == 1.0
    )  # every second clip is a frame later
    assert {event.kind for clip in clips for event in clip.events} == {"video"}
    scores = score_answers(trained, 2, seconds=(20.0,), questions=1)
    assert set(scores) <= {"when_seen", *places.KINDS} and all(0 <= s["score"] <= 1 for s in scores.values())

    longer = replace(recipe, mixes=[replace(mix, steps=3)])
    start = lc.load(tmp_path / "encoders", device="cpu")
    train_lm(start, clips, longer, tmp_path, resume=True)
    assert last_checkpoint(tmp_path / "lm").name == "checkpoint-3"
