"""The stock models of the tests are fit for the law "no merging = stock logits": their inputs matter."""

import re
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel, Qwen2VLImageProcessorPil

import longcompress as lc

from helpers import assert_within
from stock_inputs import (
    SOURCES,
    number_words,
    patches_of,
    stock_inputs,
    stock_logits,
    stock_mel,
    stock_pixels,
)
from stock_models import ALL_MODELS, ALONE, INSTALLED, MISSING, MODELS, SEALED, WITHOUT_FAMILY, names_of

CONSTRAINTS = Path(__file__).parents[1] / "constraints-cpu.txt"
(PINNED,) = map(Version, re.findall(r"^transformers==(\S+)$", CONSTRAINTS.read_text(), re.M))
QUESTION = "What happens?"
STEP_S = 0.5
MIN_CHANGE = 0.01  # the smallest mean difference that counts as a change, of logits whose deviation is 1 to 4


def times(frames: int) -> Tensor:
    """(T,) float64."""
    return torch.arange(frames, dtype=torch.float64) * STEP_S


def placeholders(model: PreTrainedModel, inputs: dict) -> int:
    """How many ids of the prompt stand for tokens of frames."""
    fields = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    known = [
        getattr(model.config, field) for field in fields if getattr(model.config, field, None) is not None
    ]
    return int(torch.isin(inputs["input_ids"], torch.tensor(known)).sum())


def rows(name: str, model: PreTrainedModel, inputs: dict) -> int:
    """How many tokens the model's own encoder makes of the frames."""
    thinker = getattr(model, "model", model)
    calls = {
        "smolvlm": lambda: thinker.get_image_features(inputs["pixel_values"]),
        "internvl": lambda: thinker.get_image_features(inputs["pixel_values"]),
        "video_llama_3": lambda: thinker.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], inputs["video_merge_sizes"]
        ),
        "gemma4": lambda: thinker.get_video_features(
            inputs["pixel_values_videos"], inputs["video_position_ids"], inputs["num_frames_per_video"]
        ),
    }
    calls |= dict.fromkeys(("gemma4_bidirectional", "gemma4_unified"), calls["gemma4"])
    if name in calls:
        out = calls[name]()
    elif "video_grid_thw" in inputs:
        source = thinker if hasattr(thinker, "get_video_features") else model
        out = source.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    else:
        out = thinker.get_video_features(inputs["pixel_values_videos"])
    features = out.pooler_output
    parts = [features] if isinstance(features, Tensor) else features
    return sum(part.flatten(0, -2).shape[0] for part in parts)


def changes(got: Tensor, want: Tensor) -> bool:
    """Whether the last token's logits differ."""
    return float((got[-1] - want[-1]).abs().mean()) > MIN_CHANGE


@pytest.fixture(scope="module", params=names_of(ALL_MODELS, SEALED))
def stock(request):
    """(name, model, tokenizer) of a family."""
    torch.manual_seed(1)
    return request.param, *ALL_MODELS[request.param]()


def test_every_model_has_its_inputs():
    assert set(ALL_MODELS) == set(SOURCES)


@pytest.mark.parametrize("frames", [8, 7])
def test_the_prompt_has_a_place_for_each_token_of_the_frames(stock, frames):
    name, model, tokenizer = stock
    x = stock_pixels(model, frames)
    inputs = stock_inputs(name, model, tokenizer, x, times(frames), STEP_S, QUESTION)
    with torch.no_grad():
        num = rows(name, model, inputs)
    assert num > frames
    assert placeholders(model, inputs) == num
    assert QUESTION in tokenizer.decode(inputs["input_ids"][0])
    logits = stock_logits(name, model, tokenizer, x, times(frames), STEP_S, QUESTION)
    assert logits.shape == (inputs["input_ids"].shape[1], model.config.get_text_config().vocab_size)
    assert torch.isfinite(logits).all()


def test_logits_depend_on_frames_their_order_and_the_question(stock):
    name, model, tokenizer = stock
    x = stock_pixels(model, 8)

    def logits(frames: Tensor = x, question: str = QUESTION) -> Tensor:
        return stock_logits(name, model, tokenizer, frames, times(8), STEP_S, question)

    want = logits()
    assert torch.equal(logits(), want)  # the same inputs, the same bits
    last = x.clone()
    last[-1] = stock_pixels(model, 1, seed=9)[0]
    assert changes(logits(last), want)
    assert changes(logits(x.flip(0)), want)
    assert changes(logits(x.flip(3)), want)
    assert changes(logits(question="Who is it?"), want)


TIMELESS = {
    "qwen2_vl",
    "llava_onevision",
    "llava_next_video",
    "video_llava",
    "internvl",
    "exaone4_5",
    "hyperclovax_vision_v2",
}


def test_logits_depend_on_time_where_the_family_has_it(stock):
    name, model, tokenizer = stock
    x = stock_pixels(model, 8)
    slow, fast = (stock_logits(name, model, tokenizer, x, times(8) * k, STEP_S * k, QUESTION) for k in (6, 1))
    assert changes(slow, fast) != (name in TIMELESS)


def test_families_say_which_have_no_time():
    assert {f.model_type for f in lc.families() if f.time == "none"} == TIMELESS - WITHOUT_FAMILY.keys()


@pytest.mark.skipif(
    Version("5.23") > INSTALLED,
    reason="minimax_m3_vl: the processor of transformers counts the first chunk of a video alone",
)
def test_a_long_video_of_minimax_is_chunks():
    model, tokenizer = ALL_MODELS["minimax_m3_vl"]()
    inputs = stock_inputs(
        "minimax_m3_vl", model, tokenizer, stock_pixels(model, 19), times(19), STEP_S, QUESTION
    )
    assert inputs["video_grid_thw"][:, 0].tolist() == [4, 4, 2]
    with torch.no_grad():
        assert placeholders(model, inputs) == rows("minimax_m3_vl", model, inputs)


@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
@pytest.mark.parametrize("seconds", [4.0, 2.6, 9.0], ids="audio of {} s".format)
def test_an_omni_model_gets_audio_between_frames(name, seconds):
    model, tokenizer = MODELS[name]()
    x, audio = stock_pixels(model, 8), stock_mel(seconds)
    inputs = stock_inputs(name, model, tokenizer, x, times(8), STEP_S, QUESTION, audio)
    with torch.no_grad():
        heard = model.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
        want = model(**inputs, use_cache=False).logits[0]
    field = "audio_token_index" if name == "qwen2_5_omni" else "audio_token_id"
    sounds = inputs["input_ids"][0] == getattr(model.config, field)
    assert int(sounds.sum()) == len(heard.last_hidden_state.flatten(0, -2)) > 20
    assert placeholders(model, inputs) == rows(name, model, inputs) == 96
    runs = int((sounds[1:] & ~sounds[:-1]).sum())
    assert runs > 1  # audio lies between frames, not behind them
    other, shorter = stock_mel(seconds, seed=8), stock_mel(seconds - 0.5)
    for changed in (other, shorter, None):
        got = stock_logits(name, model, tokenizer, x, times(8), STEP_S, QUESTION, changed)
        assert changes(got, want)


def test_patches_are_those_of_the_released_image_processor():
    """Two equal frames are what a still becomes; the released class needs no torchvision for stills."""
    still = torch.randint(0, 256, (56, 84, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(do_resize=False, patch_size=14, merge_size=2, temporal_patch_size=2)
    want = processor(images=[still.numpy()], return_tensors="pt")
    mean, std = (torch.tensor(value)[:, None, None] for value in (processor.image_mean, processor.image_std))
    x = (still.permute(2, 0, 1) / 255 - mean) / std
    got = patches_of(x.repeat(2, 1, 1, 1), 14, 2, 2)
    assert got["video_grid_thw"].tolist() == want["image_grid_thw"].tolist()
    assert_within("rows", got["pixel_values_videos"], want["pixel_values"], 1e-6)


def test_numbers_in_words():
    words = [number_words(number) for number in (0, 7, 13, 20, 42, 64)]
    assert words == ["zero", "seven", "thirteen", "twenty", "forty-two", "sixty-four"]


@pytest.mark.skipif(INSTALLED < PINNED, reason=f"this is transformers {INSTALLED}, older than that of CI")
def test_nothing_is_skipped_with_the_transformers_of_ci():
    assert not MISSING
    assert not SEALED
    assert not ALONE
