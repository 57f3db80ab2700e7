"""Every Triton kernel is compiled ahead of time for A100 and H100/H200; no GPU is needed for that.

What the compiler reports is gated: nothing spilled, shared memory within the chip's, reads of 16 bytes,
products on tensor cores.
"""

import os
from importlib import import_module
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("kernels can't be compiled in a process whose TRITON_INTERPRET is 1")

pytest.importorskip("triton", reason="Triton has no wheel for this system")
from longcompress.eval.bench.compile import CHIPS, NUMBERS, binary_of, compiled, variants

pytestmark = pytest.mark.compiled

SMALL = ("select", "finish", "extremes", "fp64")  # they read single numbers
ALL = [pytest.param(v, chip, id=f"{v.name} sm_{chip}") for chip in CHIPS for v in variants()]


@pytest.mark.parametrize(("variant", "chip"), ALL)
def test_nothing_spills_and_rows_are_read_16_bytes_at_a_time(variant, chip):
    got = compiled(variant, chip)
    assert got["STACK"] == got["LOCAL"] == 0, got
    assert got["REG"] * 32 * variant.warps <= 65536 and got["shared"] <= CHIPS[chip]
    assert got["tensor_cores"] == variant.tensor_cores
    thin = variant.constants.get("SLICE", 64) < 64  # slices of 128 bytes, which are whole lines of the cache
    if not any(word in variant.name for word in SMALL) and not thin:
        assert got["wide_reads"]


MEASURING = [v for v in variants() if not v.fusion]


@pytest.mark.parametrize("variant", [pytest.param(v, id=v.name) for v in MEASURING])
def test_what_measures_tokens_fuses_no_product_with_a_sum(variant):
    """Else two kernels would round the same squares and means in different ways."""
    assert "fma." not in binary_of(variant, 90).asm["ptx"]


def test_lengths_that_were_not_seen_before_compile_nothing():
    """Triton specialises integers on 1 and on multiples of 16, and pointers on their alignment."""
    for variant in variants():
        for parameter in variant.kernel.params:
            if parameter.name in NUMBERS and not parameter.is_constexpr:
                assert parameter.do_not_specialize, (variant.name, parameter.name)


def test_every_kernel_is_among_them():
    import triton

    from longcompress.kernels import gpu

    files = [
        path.stem for path in Path(gpu.__file__).parent.glob("[!_]*.py") if path.stem != "attend_xformers"
    ]
    kernels = {
        value
        for file in files
        for name, value in vars(import_module(f"longcompress.kernels.gpu.{file}")).items()
        if isinstance(value, triton.JITFunction) and name.endswith("_kernel")
    }
    assert {v.kernel for v in variants()} == kernels
