"""The small thinker of Qwen3-Omni: what it has of tiny-vl, what its first layer begins with, its recipe."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

import longcompress as lc
from longcompress.config_values import load_config
from longcompress.llm.stock import StockLM
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.train.tiny import omni, omni_audio, vl
from longcompress.train.tiny import recipe as recipes
from longcompress.train.tiny.clips import Mix
from longcompress.train.tiny.encoders import EncoderConfig, audio_samples, scenes, score
from longcompress.train.tiny.omni_audio import AudioTask
from longcompress.train.tiny.recipe import RECIPE, TinyRecipe, train_tiny
from longcompress.train.tiny.vl_score import HEARD, KINDS, score_answers


@pytest.fixture(scope="module")
def model():
    return omni.new_model(0)


def full(model, seconds: float):
    """The memory of a video in which nothing is merged."""
    session = lc.Session(model, 5000)
    for part in parts_of(make_scene(3, seconds), model.config.media.rate_fps):
        session.push(part)
    session.close()
    return session.state().compress(5000)


def test_it_sees_what_tiny_vl_sees(model):
    pixels = torch.randint(0, 255, (8, vl.SIZE_PX, vl.SIZE_PX, 3)).byte()
    source = lc.load("tiny-vl", device="cpu")
    for ours, theirs in zip(model.video.features(pixels), source.video.features(pixels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    tokens, words = (part.llm.tokenizer.get_vocab() for part in (model, source))
    assert words.items() <= tokens.items() and set(tokens) - set(words) == set(omni.AUDIO)


def test_the_first_layer_begins_with_reading_seconds_rows_and_columns(model):
    """Tokens of frames and of audio attend to their second on the ruler, whenever it is."""
    base, llm = model.llm.lm, model.llm
    lm, _ = omni.new_tiny_omni(lc.load("tiny-vl", device="cpu").llm.lm, 0)
    lm.set_attn_implementation("eager")
    weights = []
    lm.model.language_model.layers[0].self_attn.register_forward_hook(
        lambda module, args, out: weights.append(out[1][0].detach())
    )
    video = full(model, 60.0)
    layout, tokenizer = llm.prompt.lay_out(video), llm.tokenizer
    num = {name: len(tokens) for name, tokens in video.streams.items()}
    assert num == {"video": 30 * vl.GRID**2, "audio": 60 * omni.TOKENS_PER_S}
    marked = {
        f"{name}_x": torch.zeros(n, base.get_input_embeddings().weight.shape[1]) for name, n in num.items()
    }
    marked["video_x"] = torch.zeros(num["video"], model.video.width)
    for x in marked.values():
        x[:, vl.FRAME_AXIS] = 2.0
    stock = StockLM(lm, tokenizer, llm.settings, llm.family, llm.prompt.media, vl.GRID)
    with torch.no_grad():
        inputs = {"input_ids": layout.ids[None], "position_ids": layout.position[None]}
        stock(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **marked)
    ruler = [
        i for i, t in enumerate(tokenizer.convert_ids_to_tokens(layout.ids.tolist())) if t.startswith("▁<")
    ]
    assert len(ruler) == omni.SECONDS
    for placeholder in llm.prompt.placeholders:
        here = (layout.ids == placeholder).nonzero()[:, 0]
        second = layout.position[0, here] - layout.position[0, ruler[0]] - omni.RULER_BEFORE
        read = weights[0][0, here][:, ruler]  # (tokens, seconds)
        near = (torch.arange(omni.SECONDS) - second[:, None]).abs() < 1
        assert float((read * near).sum(1).min()) > 0.75
    frames = (layout.ids == llm.prompt.placeholders[0]).nonzero()[:, 0]
    start = layout.ids.tolist().index(tokenizer.convert_tokens_to_ids("<|vision_start|>"))
    grid = weights[0][1:, frames, start].view(2, 30, vl.GRID, vl.GRID)
    for means in (grid[0].mean((0, 2)), grid[1].mean((0, 1))):
        assert (means.diff() < 0).all() and means[0] - means[-1] > 0.8


def test_the_encoders_task_is_learned_and_scored(model):
    task = AudioTask(omni.new_model(1))
    samples = partial(audio_samples, seconds=20.0, rate=omni.TOKENS_PER_S)
    batch = next(iter(DataLoader(scenes(samples, 3), batch_size=2)))
    assert batch["labels"].shape == (2, 10 * omni.TOKENS_PER_S, len(lc.synthetic.scenes.SOUNDS))
    task.requires_grad_(True)
    optimizer = torch.optim.AdamW(task.encoder.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = task(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert set(score(task, iter([batch]), 1)) == {"something", "nothing"}


def test_the_recipe_runs_and_gives_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "VALIDATION", 1)
    monkeypatch.setattr(omni_audio, "score", lambda task, batches, num: score(task, batches, 1))
    recipe = load_config(TinyRecipe, RECIPE.with_name("tiny_omni.yaml"))
    assert recipe.kind == "omni" and all(set(mix.methods) == {"full"} for mix in recipe.mixes)
    mix = Mix(2, 10, (1.0,), 4, (1.0,), recipe.mixes[0].kinds, offset_tens=1, methods={"full": 1})
    recipe = replace(
        recipe, audio=EncoderConfig(2, 4, 1e-3, 10.0), clips=3, clip_s=20.0, mixes=[mix], warmup=1
    )
    trained = lc.load(train_tiny(tmp_path, recipe), device="cpu")
    assert trained.media == ("video", "audio") and trained.config.llm.system == omni.RULER
    scores = score_answers(trained, 2, seconds=(20.0,), questions=1)
    assert set(scores) <= {*KINDS, HEARD} and all(0 <= s["score"] <= 1 for s in scores.values())
