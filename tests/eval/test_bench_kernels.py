"""`longcompress bench kernels` times what is right and refuses what is wrong."""

import sys

import pytest
import torch

from longcompress.eval import bench_kernels, bench_rows

SMALL = {"device": "cpu", "segments": 2, "tokens": 96, "channels": 128, "repeat": 2}


def test_every_operation_is_checked_timed_and_kept(tmp_path, capsys):
    rows = bench_kernels.measure(**SMALL, out=str(tmp_path / "k.csv"))
    whats = {"copy", "metric", "pool", "novelty", "attend", "plan, published", "plan, default"}
    assert {row.what for row in rows} == whats | {"merge, published", "merge, default"}
    assert {row.provider for row in rows} == {"torch", "step by step"}
    assert all(0 < row.low <= row.value <= row.high for row in rows)
    kept = bench_rows.load(tmp_path / "k.csv")
    assert len(kept) == len(rows) and kept[0]["torch"] == torch.__version__
    out, err = capsys.readouterr()
    assert "merge, default" in out and "no GPU" in err


def test_what_is_wrong_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_kernels, "timed", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(bench_kernels, "_copy_and_metric", lambda batch: iter(()))
    right = bench_kernels.pool
    monkeypatch.setattr(bench_kernels, "pool", lambda x, made: right(x, made) * 1.01)
    with pytest.raises(ValueError, match=r"pool by torch \(bf16\) is wrong by 1.*nothing is timed"):
        bench_kernels.measure(**SMALL, out=str(tmp_path / "k.csv"))
    assert not list(tmp_path.iterdir())


def test_a_gradient_that_is_wrong_is_not_timed(monkeypatch):
    module = sys.modules["longcompress.kernels.pool"]

    right = module._Pool.backward
    wrong = staticmethod(lambda ctx, dy: (2 * right(ctx, dy)[0], *[None] * 5))
    monkeypatch.setattr(module._Pool, "backward", wrong)
    cases = bench_kernels._pooling(bench_kernels.batch_of("cpu", 2, 96, 128, "fp32"))
    errors = {case.mode: case.error() for case in cases}
    assert errors["forward"] < 1e-6 and errors["backward"] > 0.5


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="dtypes must be of"):
        bench_kernels.measure(**SMALL, dtypes=("int8",))
