"""Cost of many hours: measured stages scaled up, and operations counted as hooks on layers count them."""

import json
import math

import pytest
import torch

from longcompress.cli.main import main
from longcompress.eval.bench.cost import bench_cost, flops_per_second, measured, predicted
from longcompress.eval.bench.rows import Row, save_rows

import models


def stage(case, minutes, value, **about):
    settings = {"model": "m", "dtype": "float32", "video_s": 60.0 * minutes} | about
    times = {"value": value, "low": value, "high": value, "runs": 1}
    return Row("stages", case, "longcompress", "time", "s", "minutes", minutes, settings=settings,
               machine={"device": "card"}, **times)  # fmt: skip


ROWS = [
    stage("decode", 1, 99.0), stage("decode", 10, 60.0), stage("encode video", 10, 20.0),
    stage("encode audio", 10, 10.0), stage("merge", 10, 6.0, budget=256),
    stage("merge", 10, 99.0, budget=1024),
    stage("prefill", 10, 99.0), stage("compress", 10, 99.0),
]  # fmt: skip


def test_the_longest_videos_stages_are_scaled_to_the_hours(tmp_path, capsys):
    (cost,) = measured(ROWS, 1000.0, 2.0)
    assert (cost.device, cost.basis) == ("card", "measured, m in float32, 10 minutes")
    assert cost.decode_hours == pytest.approx(1000 * 60 / 600)
    assert cost.device_hours == pytest.approx(1000 * 36 / 600) and cost.price == pytest.approx(120)
    save_rows(tmp_path / "f.csv", ROWS)
    words = ["bench", "cost", "--figures", str(tmp_path / "f.csv"), "--hours", "1000"]
    assert main([*words, "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert "price" not in got and got["device_hours"] == pytest.approx(60)
    assert main([*words, "--price", "2"]) == 0
    assert "card: 100 h decoding, 60 h encoding and merging, price 120 (measured" in capsys.readouterr().out


def test_a_prediction_says_that_it_is_one(capsys):
    first, second = predicted(312e9, {"A100": 1.5, "L4": 0.5}, 10_000, 0.5)
    assert first.device_hours == pytest.approx(20) and first.price == pytest.approx(30)
    assert second.device_hours == pytest.approx(20 * 312 / 121)
    assert first.basis.startswith("PREDICTED, not measured: 312 GFLOP a second of video, MFU 0.5")
    assert math.isnan(first.decode_hours)
    bench_cost(gpus={"L4": 0.5}, seconds=1)
    line = capsys.readouterr().out
    assert line.startswith("L4: ") and " h encoding, price" in line and "merging" not in line


def test_operations_are_at_least_those_of_all_linear_layers_and_grow_with_the_video():
    model, counts = models.model(), []

    def count(layer, inputs, _):
        counts.append(2 * inputs[0].numel() * layer.out_features)

    for encoder in model.encoders.values():
        for layer in encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_hook(count)
    flops = flops_per_second(model, 60.0)
    linear = sum(counts) / 60.0
    assert linear < flops < 3 * linear  # convolutions, attention and the metric are the rest
    assert flops_per_second(model, 120.0) == pytest.approx(flops, rel=0.1)


def test_what_can_not_be_computed_is_refused():
    with pytest.raises(ValueError, match="figures or gpus must be given"):
        bench_cost()
    with pytest.raises(ValueError, match=r"hours must be > 0, 0 < mfu <= 1 and seconds >= 1, got 0"):
        bench_cost(hours=0, gpus={"L4": 1.0})
    with pytest.raises(ValueError, match=r"gpus must be some of L4, .* got 'B9'"):
        predicted(1.0, {"B9": 1.0}, 1.0, 0.3)
    with pytest.raises(ValueError, match="figures must have the case stages"):
        measured([], 1.0, 1.0)
