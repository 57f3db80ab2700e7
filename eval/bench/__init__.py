"""Benchmarks: `longcompress bench kernels`, `bench throughput` and `bench report`."""
