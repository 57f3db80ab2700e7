"""The benchmark's checks hold for the Triton kernels too."""

from longcompress.eval.bench import kernels
from longcompress.eval.bench.rows import load_rows

CASES = ["metric", "pool", "medoid", "novelty", "attend"]
MERGES = ["merge, published", "merge, default"]


def test_triton_passes_the_gates_of_the_benchmark(tmp_path):
    options = {"segments": 2, "tokens": 128, "channels": 192, "repeat": 1}
    for dtype, cases in (("bf16", CASES), ("fp32", [*CASES, *MERGES, "one segment"])):
        out = tmp_path / f"{dtype}.csv"
        assert kernels.bench_kernels(str(out), dtypes=[dtype], cases=cases, **options) == 0
        rows = {(row.case, row.provider) for row in load_rows(out)}
        for case in cases[:7]:
            assert {(case, "triton"), (case, "reference")} <= rows
