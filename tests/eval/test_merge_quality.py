"""Merge quality: losses against sums written out, orders between methods that are known."""

import json

import numpy as np
import pytest
import torch

from longcompress.eval.runner.merge_quality import (
    DEFAULT,
    compare,
    lost_variance,
    measure,
    merge,
    merge_by_height,
    merge_exactly,
    patch_major,
    summary,
)  # fmt: skip
from longcompress.kernels import tree
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.types import Encoded, Tokens

import models
from helpers import drifting_patches


@pytest.fixture(scope="module")
def parts():
    """Three segments of 10 frames of 48 patches."""
    video = drifting_patches(30, 48, 16, 3, still=0.02).float().view(30, 48, 16)
    out = []
    for s in range(3):
        x = video[10 * s : 10 * s + 10].flatten(0, 1)
        start_s = torch.arange(10 * s, 10 * s + 10).double().repeat_interleave(48)
        tokens = Tokens(x, torch.ones(480), start_s + 0.5, start_s, start_s + 1)
        out.append(Encoded(tokens, x.clone(), patches=48))
    return out


def test_losses_are_those_of_sums_written_out(parts):
    raw, tokens = Tokens.join(p.tokens for p in parts), merge(parts, 20, "patch", "ward", 0.25)["video"]
    assert len(tokens) == 60 and float(tokens.size.sum()) == 1440
    whole = lost_variance(raw, tokens)[0]
    each = lost_variance(raw, tokens, [10.0, 20.0, 30.0])
    mean, shares = raw.x.mean(0), []
    for s in range(3):
        of = (tokens.time_s > 10 * s) & (tokens.time_s < 10 * s + 10)
        total = float((parts[s].tokens.x - mean).square().sum())
        between = float((tokens.size[of, None] * (tokens.x[of] - mean).square()).sum())
        assert each[s] == pytest.approx(1 - between / total, abs=1e-5)
        shares.append(total)
    assert whole == pytest.approx(np.average(each, weights=shares), abs=1e-5)
    assert lost_variance(raw, raw)[0] == pytest.approx(0, abs=1e-6)


def test_the_tree_loses_less_than_rounds_and_one_cut_no_more_than_three(parts):
    raw = Tokens.join(p.tokens for p in parts)
    metric = torch.cat([p.metric for p in parts])[patch_major(parts)]
    forest = tree(metric, torch.tensor([0, 480, 960, 1440], dtype=torch.int32))
    for keep in (10, 40):
        losses = {
            s: lost_variance(raw, merge(parts, keep, "patch", "ward", s)["video"])[0] for s in (0.25, "tree")
        }
        exact, tokens = merge_exactly(parts, keep)["video"], merge_by_height(parts, keep, forest)["video"]
        assert len(exact) == len(tokens) == 3 * keep
        assert losses["tree"] < losses[0.25]
        assert lost_variance(raw, tokens)[0] <= losses["tree"] + 1e-3
        assert lost_variance(raw, exact)[0] == pytest.approx(losses["tree"], rel=0.06)


def test_rows_and_their_summary(parts):
    rows = list(compare("video", parts, [20], None))
    assert all(row["num_tokens"] == 20 for row in rows if row["method"] != "pool")
    assert all(len(row["segments"]) == 3 for row in rows)
    table = summary(rows).splitlines()
    mean = np.mean(next(row["segments"] for row in rows if row["method"] == DEFAULT))
    assert "mean of 3 segments" in table[0] and len(table) == 2 + len(rows)
    assert f"| {DEFAULT} | {mean:.4f} (-0.0%, worst +0.0000) |" in table


def test_synthetic_videos_to_a_file(tmp_path, capsys):
    measure(seconds=20, num_synthetic=1, keep=[8], out=str(tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["video"] for row in rows} == {"synthetic 0"} and all(0 <= row["read"] <= 1 for row in rows)
    assert "mean of 2 segments" in capsys.readouterr().out


def test_audio_of_files(tmp_path, capsys):
    models.model().audio.save_pretrained(tmp_path / "whisper")
    path = write_video(make_scene(3, 25.0), tmp_path / "video.mkv", size_px=64)
    options = {"encoder": str(tmp_path / "whisper"), "audio": True, "layer": -1, "num_synthetic": 0}
    measure(**options, files=[str(path)], keep=[4, 9], out=str(tmp_path / "rows.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["keep"]: row["num_tokens"] for row in rows if row["method"] == DEFAULT} == {4: 4, 9: 9}
    losses = {(row["method"], row["keep"]): row["lost_variance"] for row in rows}
    assert all(losses[method, 9] < losses[method, 4] for method, _ in losses)
    assert "mean of 2 segments" in capsys.readouterr().out
    with pytest.raises(ValueError, match="encoder must name the folder of a Whisper where audio is set"):
        measure(audio=True)
