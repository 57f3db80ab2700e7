"""Benchmarks: `longcompress bench kernels`, `bench throughput`, `bench stock` and `bench report`."""
