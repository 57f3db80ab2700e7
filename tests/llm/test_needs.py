"""What a model needs of a GPU is counted from its config, and is what the model itself has."""

import json

import pytest
from transformers import DynamicCache

from longcompress.cli.main import main
from longcompress.encoders.families import FAMILIES
from longcompress.encoders.stock import encoder_state
from longcompress.llm.needs import needs_of

from stock_folders import save
from stock_inputs import stock_pixels
from stock_models import MODELS
from stock_videos import raw_video, stock_lm, video_of

NAMES = ("qwen3_vl", "qwen3_5", "llava_onevision", "qwen2_5_omni", "gemma4")


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_model(name):
    model, tokenizer = MODELS[name]()
    needs = needs_of(model.config)
    assert needs.num_parameters == sum(p.numel() for p in model.parameters())
    assert needs.num_encoder == sum(value.numel() for value in encoder_state(model).values())
    video = raw_video(model, stock_pixels(model, 4))
    assert needs.token_bytes == 2 * video.x.shape[1]
    assert 1 + FAMILIES[model.config.model_type].deepstack == video.x.shape[1] // 64
    prefix = stock_lm(model, tokenizer).prefill(video_of(video=video))
    assert isinstance(prefix.cache, DynamicCache)
    layers = [layer for layer in prefix.cache.layers if getattr(layer, "keys", None) is not None]
    num_bytes = sum(
        2 * layer.keys[..., 0, :].numel() * 2 for layer in layers
    )  # keys and values, two bytes each
    assert needs.position_bytes == num_bytes


def test_fewer_bits_and_tokens_need_less():
    needs = needs_of(MODELS["qwen3_vl"]()[0].config)
    by_bits = [needs.gpu_bytes(4096, bits) for bits in (16, 8, 4)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert needs.weight_bytes(4) > 2 * needs.num_encoder  # encoders keep their sixteen bits
    assert needs.gpu_bytes(8192) > needs.gpu_bytes(4096)


def test_the_command_prints_one_models_needs(tmp_path, capsys):
    folder = str(save("qwen3_vl", tmp_path / "qwen"))
    capsys.readouterr()
    assert main(["models", folder, "--budget", "100", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["budget"] == 100 and set(printed["gpu_bytes"]) == {"16", "8", "4"}
    assert main(["models", folder]) == 0
    assert "GPU, weights in 4 bits" in capsys.readouterr().out
    assert main(["models", folder, "--budget", "0"]) == 2
