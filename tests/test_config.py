"""Configs from plain values and files; what they refuse."""

import json
from dataclasses import asdict

import pytest

from longcompress.config import MergeConfig, ModelConfig, VisionConfig, from_dict, load_config


def test_a_config_comes_back_from_its_values(tmp_path):
    config = ModelConfig(name="x", video=VisionConfig(base="./video", summary_until=3))
    assert from_dict(ModelConfig, json.loads(json.dumps(asdict(config)))) == config
    assert from_dict(ModelConfig, {}) == ModelConfig()
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nvideo: {base: ./video, summary_until: 3}\n")
    assert load_config(ModelConfig, path) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            ModelConfig,
            {"video": {"blok": 3}},
            r"unknown key 'video.blok'; VisionConfig has \['attention', 'base'",
        ),
        (ModelConfig, {"nope": 1}, r"unknown key 'nope'; ModelConfig has \['audio', 'budget', 'format'"),
        (ModelConfig, {"video": {"layer": 2.5}}, r"(^|json: )video.layer must be int, got 2.5"),
        (
            ModelConfig,
            {"segments": {"cut": "x"}},
            r"segments.cut must be Literal\['fixed', 'change', .* got x",
        ),
        (MergeConfig, {"schedule": "a"}, r"schedule: .*\[float, list\[int\]\] .* Given value: a"),
        (ModelConfig, {"format": 3}, "format must be 1, got 3; upgrade longcompress"),
        (ModelConfig, {"segments": {"length_s": 0}}, "length_s must be > 0, got 0"),
    ],
)
def test_values_that_no_config_has(kind, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_dict(kind, values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        load_config(kind, tmp_path / "config.json")


def test_files_that_hold_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config: no file .*none.json"):
        load_config(ModelConfig, tmp_path / "none.json")
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config.yaml must hold a mapping, got list"):
        load_config(ModelConfig, tmp_path / "config.yaml")
