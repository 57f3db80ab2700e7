"""Every Triton kernel is compiled ahead of time for A100 and H100/H200; no GPU is needed for that.

What the compiler reports is gated: nothing spilled, shared memory within the chip's, reads of 16
bytes, products on tensor cores.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    raise pytest.UsageError("kernels can't be compiled in a process whose TRITON_INTERPRET is 1")

triton = pytest.importorskip("triton", reason="Triton has no wheel for this system")
from longcompress.kernels import attend_triton, novelty_triton, plan_triton, pool_triton  # noqa: E402

SHARED = {80: 163 * 1024, 90: 227 * 1024}
POINTERS = {"bf16": "*bf16", "fp32": "*fp32", "fp16": "*fp16"}


def means_of(kind: str, channels: int) -> tuple:
    signature = {
        "x": POINTERS[kind],
        "order": "*i64",
        "first": "*i64",
        "share": "*fp32",
        "out": POINTERS[kind],
    }
    constants = {"C": channels, "ROWS": pool_triton.ROWS, "CHANNELS": pool_triton.CHANNELS}
    return pool_triton.means_kernel, signature, constants


def spread_of(kind: str, channels: int) -> tuple:
    signature = {"y": POINTERS[kind], "group": "*i64", "share": "*fp32", "out": POINTERS[kind], "num": "i32"}
    constants = {"C": channels, "ROWS": pool_triton.ROWS, "CHANNELS": pool_triton.CHANNELS}
    return pool_triton.spread_kernel, signature, constants


def novelty_of(kind: str, width: int) -> tuple:
    signature = {"metric": POINTERS[kind], "previous": "*i32", "out": "*fp32", "num": "i32"}
    constants = {"D": width, "WIDE": width, "ROWS": novelty_triton.ROWS}
    return novelty_triton.novelty_kernel, signature, constants


def scores_of(kind: str, channels: int) -> tuple:
    signature = {"query": "*fp32", "x": POINTERS[kind], "bias": "*fp32", "scores": "*fp32", "num": "i32"}
    return attend_triton.scores_kernel, signature, attend_constants(channels) | {"BIASED": True}


def read_of(kind: str, channels: int) -> tuple:
    state = ("old_max", "old_sum", "old_acc", "new_max", "new_sum", "new_acc")
    signature = {"x": POINTERS[kind], "scores": "*fp32", "offsets": "*i32"} | dict.fromkeys(state, "*fp32")
    return attend_triton.read_kernel, signature, attend_constants(channels)


def score_grad_of(kind: str, channels: int) -> tuple:
    signature = {"x": POINTERS[kind], "scores": "*fp32", "offsets": "*i32", "dtotal": "*fp32"}
    signature |= {"dacc": "*fp32", "dm": "*fp32", "top": "*fp32", "first": "*i64", "dscore": "*fp32"}
    return attend_triton.score_grad_kernel, signature, attend_constants(channels)


def token_grad_of(kind: str, channels: int) -> tuple:
    signature = {"query": "*fp32", "x": POINTERS[kind], "scores": "*fp32", "offsets": "*i32"}
    signature |= {"dacc": "*fp32", "top": "*fp32", "dscore": "*fp32", "dx": POINTERS[kind], "dquery": "*fp32"}
    return attend_triton.token_grad_kernel, signature, attend_constants(channels)


def attend_constants(channels: int) -> dict:
    sizes = {"ROWS": attend_triton.ROWS, "CHANNELS": attend_triton.CHANNELS}
    return {"E": 16, "QUERIES": 16, "C": channels} | sizes


def ward_of(kind: str, width: int, ward: bool = True) -> tuple:
    pointers = {"x": "*fp32", "square": "*fp32", "inverse": "*fp32", "best": "*fp32", "partner": "*i64"}
    sizes = {"EVENS": plan_triton.EVENS, "ODDS": plan_triton.ODDS}
    return (
        plan_triton.match_kernel,
        pointers | {"n": "i32"},
        {"D": width, "WIDE": width, "WARD": ward} | sizes,
    )


def cosine_of(kind: str, width: int) -> tuple:
    return ward_of(kind, width, ward=False)


TENSOR_CORES = (scores_of, read_of, score_grad_of, token_grad_of, ward_of, cosine_of)
VARIANTS = [
    (of, kind, wide)
    for of, wides in (
        *((of, (1024,)) for of in TENSOR_CORES[:4]),
        (means_of, (384, 1024)),
        (spread_of, (384, 1024)),
        (novelty_of, (64,)),
    )
    for kind in POINTERS
    for wide in wides
] + [(of, "fp32", 64) for of in (ward_of, cosine_of)]


def compiled(of, kind: str, wide: int, chip: int, folder: Path) -> dict:
    """Registers, bytes of stack, bytes of shared memory and the assembly of a variant."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants = of(kind, wide)
    names = list(kernel.arg_names)
    attrs = {(names.index(n),): [["tt.divisibility", 16]] for n, t in signature.items() if t.startswith("*")}
    whole = {n: signature.get(n, "constexpr") for n in names}
    constexprs = {(names.index(n),): v for n, v in constants.items()}
    warps = plan_triton.WARPS if kernel is plan_triton.match_kernel else 4
    source = ASTSource(kernel, whole, constexprs, attrs)
    made = triton.compile(source, target=GPUTarget("cuda", chip, 32), options={"num_warps": warps})
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    usage = subprocess.run(
        [tools / "cuobjdump", "-res-usage", cubin], check=True, capture_output=True, text=True
    ).stdout
    found = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    assert {"REG", "STACK", "LOCAL"} <= set(found), usage
    return found | {"shared": made.metadata.shared, "ptx": made.asm["ptx"]}


@pytest.mark.parametrize("chip", SHARED)
@pytest.mark.parametrize(("of", "kind", "wide"), VARIANTS, ids=lambda v: getattr(v, "__name__", str(v)))
def test_nothing_spills_and_rows_are_read_16_bytes_at_a_time(of, kind, wide, chip, tmp_path):
    got = compiled(of, kind, wide, chip, tmp_path)
    assert got["STACK"] == got["LOCAL"] == 0, {k: v for k, v in got.items() if k != "ptx"}
    assert got["REG"] <= (200 if of in TENSOR_CORES else 128) and got["shared"] <= SHARED[chip]
    assert bool(re.search(r"\bw?gmma|\bmma\.sync", got["ptx"])) == (
        of in TENSOR_CORES
    )  # products on tensor cores
    wide_loads = re.findall(r"ld\.global[\w.:]*\.v4\.b32|cp\.async\.\w+\.shared\.global[^;]*16", got["ptx"])
    assert wide_loads, sorted(set(re.findall(r"ld\.global[\w.:]*", got["ptx"])))
