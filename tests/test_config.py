"""Configs from plain values and files; what they refuse."""

import json
from dataclasses import asdict

import pytest

from longcompress.config import BudgetConfig, MergeConfig, ModelConfig, VisionConfig
from longcompress.config_values import from_dict, load_config


def test_a_config_comes_back_from_its_values(tmp_path):
    config = ModelConfig(name="x", video=VisionConfig(base="./video", summary_until=3))
    assert from_dict(ModelConfig, json.loads(json.dumps(asdict(config)))) == config
    assert from_dict(ModelConfig, {}) == ModelConfig()
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nvideo: {base: ./video, summary_until: 3}\n")
    assert load_config(ModelConfig, path) == config


def test_new_models_have_what_measured_best():
    """docs/results.md has the tables."""
    config = ModelConfig()
    assert (config.merge.schedule, config.budget.allocation, config.memory.kind) == ("tree", "height", "none")


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
        (
            MergeConfig,
            {"schedule": "a"},
            r"schedule: .*\[float, list\[int\], Literal\[.tree., .blocks.\]\] .* Given value: a",
        ),
        (ModelConfig, {"format": 3}, "format must be 2, got 3; upgrade longcompress"),
        (ModelConfig, {"segments": {"length_s": 0}}, "length_s must be > 0, got 0"),
        (ModelConfig, {"segments": {"length_s": float("inf")}}, r"length_s must be (> 0|float), got [iI]nf"),
        (ModelConfig, {"media": 2.0}, "media must be a mapping, got 2.0"),
        (ModelConfig, {"media": "config.json"}, "media must be a mapping, got 'config.json'"),
        (ModelConfig, {"video": {"reuse_below": None}}, "reuse_below must not be null; leave it out"),
        (ModelConfig, {"media": {"rate_fps": 10**400}}, "too large to convert to float"),
        (ModelConfig, {"media": {"rate_fps": 1e9}}, "rate_fps must be at most 1000, got 1000000000.0"),
        (ModelConfig, {"media": {"frames": 10**30}}, "frames must be at most 1000000, got 10000"),
        (ModelConfig, {"media": {"threads": 10**30}}, "threads must be at most 1024, got 10000"),
        (ModelConfig, {"media": {"threads": -1}}, "threads must be >= 0, got -1"),
        (
            MergeConfig,
            {"schedule": 0.9},
            r"schedule must be a fraction in \(0, 0.5\], a list of pairs .* got 0.9",
        ),
        (
            MergeConfig,
            {"schedule": "tree", "score": "cosine"},
            "schedule 'tree' needs score 'ward' and order",
        ),
        (MergeConfig, {"schedule": []}, r"schedule must be .* got \[\]"),
        (MergeConfig, {"tokens_per_segment": {"*": 0}}, "tokens_per_segment must be >= 1 for each stream"),
        (BudgetConfig, {"stream_weights": {"*": -1.0}}, "stream_weights must be > 0 for each stream"),
    ],
)
def test_values_that_no_config_has(kind, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        from_dict(kind, values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        load_config(kind, tmp_path / "config.json")


def test_files_that_hold_no_config(tmp_path):
    for data in (b"name: \xff", b"name: " + b"[" * 20_000, b"name: [", b"name: \0"):
        (tmp_path / "bytes.yaml").write_bytes(data)
        with pytest.raises(ValueError, match=r"config: .*bytes.yaml must be YAML or JSON"):
            load_config(ModelConfig, tmp_path / "bytes.yaml")
    (tmp_path / "key.yaml").write_text("1: 2")
    with pytest.raises(ValueError, match=r"key.yaml: unknown key 1; ModelConfig has \['audio'"):
        load_config(ModelConfig, tmp_path / "key.yaml")
    with pytest.raises(FileNotFoundError, match=r"config: no file .*none.json"):
        load_config(ModelConfig, tmp_path / "none.json")
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"config.yaml must hold a mapping, got list"):
        load_config(ModelConfig, tmp_path / "config.yaml")
