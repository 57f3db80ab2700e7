"""The benchmark's checks hold for the Triton kernels too."""

from longcompress.eval import bench_kernels


def test_triton_passes_the_gates_of_the_benchmark():
    rows = bench_kernels.measure(segments=2, tokens=128, channels=192, repeat=1)
    found = {(row.what, row.provider, row.settings["dtype"]) for row in rows}
    for what in ("metric", "pool", "novelty", "attend", "merge, published", "merge, default"):
        for dtype in ("bf16", "fp32"):
            assert {(what, "triton", dtype), (what, "torch", dtype)} <= found
