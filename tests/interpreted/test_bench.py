"""The benchmark's checks hold for the Triton kernels too."""

from longcompress.eval.bench import kernels
from longcompress.eval.bench.rows import load_rows

CASES = ["metric", "pool", "medoid", "novelty", "attend", "merge, published", "merge, default", "one segment"]


def test_triton_passes_the_gates_of_the_benchmark(tmp_path):
    out = tmp_path / "k.csv"
    options = {"segments": 2, "tokens": 128, "channels": 192, "repeat": 1}
    assert kernels.bench_kernels(str(out), dtypes=["bf16", "fp32"], cases=CASES, **options) == 0
    rows = {(row.case, row.provider, row.settings["dtype"]) for row in load_rows(out)}
    for case in ("metric", "pool", "medoid", "novelty", "attend", "merge, published", "merge, default"):
        for dtype in ("bf16", "fp32"):
            assert {(case, "triton", dtype), (case, "reference", dtype)} <= rows
