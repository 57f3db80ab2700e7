"""The folders of the stock models load as released checkpoints do, with the pixel numbers of the model."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import AutoTokenizer, WhisperFeatureExtractor

from stock_folders import save, save_whole_omni
from stock_inputs import stock_inputs, stock_logits, stock_pixels
from stock_models import ALL_MODELS, MODELS, SEALED, names_of

QUESTION = "What happens?"
OMNI = {"qwen2_5_omni": "Qwen2_5OmniThinker", "qwen3_omni": "Qwen3OmniMoeThinker"}


def content(folder: Path) -> dict:
    """The fields of the processor's files, those of a video first."""
    fields = {}
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / name).is_file():
            whole = json.loads((folder / name).read_text())
            fields |= whole | whole.get("video_processor", {})
    return fields


@pytest.mark.parametrize("name", names_of(ALL_MODELS, SEALED))
def test_a_folder_holds_the_model_the_tokenizer_and_the_pixel_numbers(name, tmp_path):
    folder = save(name, tmp_path)
    model, tokenizer = ALL_MODELS[name]()
    read = type(model).from_pretrained(folder)
    assert read.config.model_type == model.config.model_type
    state = read.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    x, time_s = stock_pixels(model, 4), torch.arange(4, dtype=torch.float64)
    again = AutoTokenizer.from_pretrained(folder)
    got, want = (stock_inputs(name, model, t, x, time_s, 1.0, QUESTION) for t in (again, tokenizer))
    assert got.keys() == want.keys()
    assert torch.equal(got["input_ids"], want["input_ids"])
    fields = content(folder)
    assert all(len(fields[key]) == 3 for key in ("image_mean", "image_std"))
    vision = model.config.vision_config
    if "patch_size" in fields:
        assert fields["patch_size"] == vision.patch_size
    else:
        side = fields.get("video_sampling", {}).get("video_size") or fields.get("crop_size") or fields["size"]
        assert set(side.values()) == {x.shape[-1]}


def test_a_folder_may_have_its_template_in_json_alone(tmp_path):
    folder = save("llava_onevision", tmp_path, template="chat_template.json")
    assert not (folder / "chat_template.jinja").exists()
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    assert template == MODELS["llava_onevision"]()[1].chat_template


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma4"])
def test_a_folder_may_have_no_preprocessor(name, tmp_path):
    folder = save(name, tmp_path, preprocessor=False)
    assert content(folder) == {}
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize("name", list(OMNI))
def test_a_whole_omni_checkpoint_has_the_thinker_inside(name, tmp_path):
    folder = save_whole_omni(name, tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        parts = {key.split(".")[0] for key in file.keys()}  # noqa: SIM118
    assert {"thinker", "talker"} < parts
    assert json.loads((folder / "config.json").read_text())["thinker_config"]["model_type"].endswith(
        "thinker"
    )
    kind = getattr(transformers, f"{OMNI[name]}ForConditionalGeneration")
    read, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    model, tokenizer = MODELS[name]()
    x, time_s = stock_pixels(model, 4), torch.arange(4, dtype=torch.float64)
    got, want = (stock_logits(name, m, tokenizer, x, time_s, 1.0, QUESTION) for m in (read.eval(), model))
    assert torch.equal(got, want)
    hearing = WhisperFeatureExtractor.from_pretrained(folder)
    assert hearing.feature_size == model.config.audio_config.num_mel_bins
