"""Memory of a long step, told from shorter ones."""

import json

import pytest
import torch

from longcompress.cli.main import main
from longcompress.encoders import tokens_a_second
from longcompress.train.engine import Engine
from longcompress.train.memory_estimate import estimate_memory, synthetic_example
from longcompress.train.stages import StageRecipe

import models
import ranks

RECIPE = StageRecipe(lora={"r": 4}, engine=Engine(device="cpu", report=[]))


@pytest.mark.slow
def test_a_longer_step_is_told_from_shorter_ones(tmp_path):
    """In a process of its own, as the command has it: what others have freed would be taken again."""
    models.model().save_pretrained(tmp_path / "m", include_base=True)
    words = ["train", "boundary", "--estimate-memory", "8192", "--measure", "--model", str(tmp_path / "m")]
    words += ["--engine.report", "--engine.device", "cpu", "--lora.r", "4", "--out", str(tmp_path)]
    with ranks.started("longcompress", *words, out=tmp_path / "log") as process:
        process.join(300)
        assert process.exitcode == 0
    out = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    (less, low, _), (more, high, _) = out["shorter"]
    assert (less, more) == (2048, 4096) and low < high < out["estimated_gib"] and out["step_s"] > 0
    assert abs(out["error"]) < 0.15


def test_the_weights_stay():
    model = models.model()
    before = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    assert estimate_memory(model, RECIPE, 512, seconds=60, measure=True)["measured_gib"] > 0
    after = {n.replace(".base_layer.", "."): p for n, p in model.llm.named_parameters()}
    after = {n.replace("lm.base_model.model.", "lm."): p for n, p in after.items()}
    assert all(torch.equal(after[n], p) for n, p in before.items())


def test_the_video_has_the_tokens_and_the_seconds():
    streams = synthetic_example(models.model(), 1000, 3600.0).video.streams
    assert set(streams) == {"video", "audio"}
    assert all(float(tokens.end_s.max()) == 3600 for tokens in streams.values())
    assert abs(sum(len(tokens) for tokens in streams.values()) - 1000) <= 1


def test_a_video_for_three_streams_has_each_in_its_raw_share():
    model = models.three_streams("kept")
    streams = synthetic_example(model, 4000, 60.0).video.streams
    assert set(streams) == {"video", "audio", "speech"}
    rates = {n: tokens_a_second(encoder, 60.0, model.config.media) for n, encoder in model.encoders.items()}
    for name, tokens in streams.items():
        assert abs(len(tokens) - max(1, 4000 * rates[name] / sum(rates.values()))) <= 0.5


def test_too_few_tokens():
    with pytest.raises(ValueError, match="tokens must be >= 256 to be estimated from shorter steps, got 100"):
        estimate_memory(models.model(), RECIPE, 100, seconds=10)


def test_the_command(tmp_path, capsys):
    models.model().save_pretrained(tmp_path / "m", include_base=True)
    words = [
        "train",
        "boundary",
        "--estimate-memory",
        "2000",
        "--model",
        str(tmp_path / "m"),
        "--out",
        str(tmp_path),
    ]
    assert main([*words, "--engine.report", "--engine.device", "cpu"]) == 0
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["tokens"] == 2000 and out["measured_gib"] is None and out["estimated_gib"] > 0
