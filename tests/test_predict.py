"""Memory of a long step, told from shorter ones."""

import json

import pytest
import torch

from longcompress.cli import main
from longcompress.train.engine import Engine
from longcompress.train.predict import predict, synthetic, told
from longcompress.train.stages import StageRecipe

import models

RECIPE = StageRecipe(lora={"r": 4}, engine=Engine(device="cpu", report=[]))


def test_a_longer_step_is_told_from_shorter_ones_and_the_weights_stay():
    model = models.model()
    model.host.lm.config.max_position_embeddings = 1 << 16
    before = {n: p.detach().clone() for n, p in model.host.named_parameters()}
    found = predict(model, RECIPE, 16384, seconds=3600, measure=True)
    out = told(found)
    assert [tokens for tokens, *_ in found.shorter] == [4096, 8192]
    assert found.shorter[0][1] < found.shorter[1][1] < found.predicted_gib and found.step_s > 0
    assert abs(out["off"]) < 0.15
    after = {n.replace(".base_layer.", "."): p for n, p in model.host.named_parameters()}
    after = {n.replace("lm.base_model.model.", "lm."): p for n, p in after.items()}
    assert all(torch.equal(after[n], p) for n, p in before.items())


def test_the_film_has_the_tokens_and_the_seconds():
    (film, *_), turns = synthetic(models.model(), 1000, 3600.0).film.streams.values(), 1
    assert turns and float(film.end_s.max()) == 3600
    total = sum(len(t) for t in synthetic(models.model(), 1000, 3600.0).film.streams.values())
    assert abs(total - 1000) <= 1


def test_too_few_tokens():
    with pytest.raises(ValueError, match="tokens must be >= 256 to be told from shorter steps, got 100"):
        predict(models.model(), RECIPE, 100, seconds=10)


def test_the_command(tmp_path, capsys):
    models.model().save_pretrained(tmp_path / "m", include_base=True)
    words = ["train", "boundary", "--predict", "2000", "--model", str(tmp_path / "m"), "--out", str(tmp_path)]
    assert main([*words, "--engine.report", "[]", "--engine.device", "cpu"]) == 0
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["tokens"] == 2000 and out["measured_gib"] is None and out["predicted_gib"] > 0
