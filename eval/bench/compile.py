"""The compiler's report on every Triton kernel: `longcompress bench kernels --compile`. No GPU is needed.

Registers, stack (spills), shared memory, reads of 16 bytes and tensor cores of each variant that is
launched, for sm_80 (A100) and sm_90 (H100, H200).
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .rows import Job, Row, make_row

CHIPS = {80: 163 * 1024, 90: 227 * 1024}
"""Compute capability -> bytes of shared memory a program may have."""

KINDS = {"bf16": "*bf16", "fp32": "*fp32", "fp16": "*fp16"}
INTEGERS = (
    "partner", "rank", "count", "order", "target", "first_slot", "group", "rows", "tails", "steps", "key",
    "offsets", "previous", "tokens", "groups",
)  # fmt: skip
NUMBERS = ("blocks", "num")


class Variant(NamedTuple):
    """A kernel as it is launched: which pointers have the features' type, and what is constant."""

    kernel: Any
    kind: str
    features: tuple[str, ...]
    wide_integers: tuple[str, ...]
    constants: dict[str, Any]
    warps: int
    tensor_cores: bool

    @property
    def name(self) -> str:
        """Kernel, type of the features and the constants that tell variants apart."""
        shown = ("C", "D", "WARD", "REFERENCE", "RANKED", "FAST", "SPLIT", "ODDS")
        words = [f"{k}={int(v)}" for k, v in self.constants.items() if k in shown]
        return f"{self.kernel.__name__.removesuffix('_kernel')} {self.kind} {' '.join(words)}"


def variants() -> Iterator[Variant]:
    """All kernels in the forms that are launched, at the widths of the encoders in use."""
    from ...kernels.gpu import attend as attend_triton
    from ...kernels.gpu import head_mean as head_mean_triton
    from ...kernels.gpu import novelty as novelty_triton
    from ...kernels.gpu import pool as pool_triton

    attend: dict[str, Any] = {"E": 16, "QUERIES": 16, "ROWS": attend_triton.ROWS} | {
        "CHANNELS": attend_triton.CHANNELS
    }
    pool: dict[str, Any] = {"ROWS": pool_triton.ROWS, "CHANNELS": pool_triton.CHANNELS}
    for kind in KINDS:
        for width in (384, 1024):
            wide = {"C": width} | pool
            yield Variant(pool_triton.means_kernel, kind, ("x", "out"), ("order", "first"), wide, 4, False)
            yield Variant(pool_triton.spread_kernel, kind, ("y", "out"), ("group",), wide, 4, False)
            lanes, channels = pool_triton.HOT_SPLIT if kind == "bf16" else pool_triton.HOT_WHOLE
            product = {"C": width, "SPLIT": kind == "bf16", "TOKENS": lanes, "CHANNELS": channels}
            product |= {"GROUPS": pool_triton.HOT_GROUPS}
            warps = pool_triton.HOT_WARPS
            mean = {"C": width, "D": 64, "WIDE": 64, "ROWS": head_mean_triton.ROWS}
            yield Variant(head_mean_triton.head_mean_kernel, kind, ("x",), (), mean, 4, False)
            yield Variant(pool_triton.product_kernel, kind, ("x", "out"), ("group",), product, warps, True)
        narrow = {"C": 64, "WIDE": 64, "GROUPS": pool_triton.NARROW_GROUPS}
        yield Variant(pool_triton.narrow_kernel, kind, ("x", "out"), ("order", "first"), narrow, 4, False)
        yield Variant(
            novelty_triton.novelty_kernel, kind, ("metric",), (),
            {"D": 64, "WIDE": 64, "ROWS": novelty_triton.ROWS}, 4, False,
        )  # fmt: skip
        wide = {"C": 1024} | attend
        yield Variant(attend_triton.scores_kernel, kind, ("x",), (), wide | {"BIASED": True}, 4, True)
        yield Variant(attend_triton.read_kernel, kind, ("x",), (), wide, 4, True)
        yield Variant(attend_triton.score_grad_kernel, kind, ("x",), ("first",), wide, 4, True)
        yield Variant(attend_triton.token_grad_kernel, kind, ("x", "dx"), (), wide, 4, True)
    yield from _plan_variants()


def _plan_variants() -> Iterator[Variant]:
    from ...kernels.gpu import plan as plan_triton
    from ...kernels.gpu import plan_rounds as plan_rounds_triton

    keys = {"NO_KEY": (1 << 31) - 1, "SEATS": plan_triton.SEATS, "KEYS": plan_triton.KEYS}
    warps = plan_triton.WARPS
    yield Variant(plan_rounds_triton.rank_kernel, "fp32", (), (), keys, warps, False)
    yield Variant(plan_rounds_triton.count_kernel, "fp32", (), (), keys, 1, False)
    for ranked in (True, False):
        for reference in (True, False):
            how = keys | {"RANKED": ranked, "REFERENCE": reference}
            yield Variant(plan_rounds_triton.place_kernel, "fp32", (), (), how, warps, False)
    for width in (32, 64, 1024):
        deep = {"D": width, "WIDE": width, "SLICE": width if width <= plan_triton.DEEP else plan_triton.SLICE}
        for ward in (True, False):
            of = deep | {"WARD": ward}
            rest = {"GROUPS": plan_triton.GROUPS, "TOKENS": plan_triton.TOKENS}
            last = rest | {"GROUPS": plan_triton.TAIL_GROUPS}
            yield Variant(
                plan_rounds_triton.squares_kernel,
                "fp32",
                (),
                (),
                of | {"ROWS": plan_triton.ROWS},
                warps,
                False,
            )
            yield Variant(
                plan_rounds_triton.merge_kernel, "fp32", (), (), of | rest, plan_triton.MERGE_WARPS, False
            )
            for fast in (0, 2):
                tile = plan_triton.tile_of(width)
                how = of | {"FAST": fast, "EVENS": tile["EVENS"], "ODDS": tile["ODDS"]}
                yield Variant(plan_rounds_triton.match_kernel, "fp32", (), (), how, tile["num_warps"], True)
            few = of | {"FAST": 0, "EVENS": plan_triton.FEW_EVENS, "ODDS": plan_triton.ODDS}
            for reference in (True, False):
                whole = few | keys | last | {"REFERENCE": reference}
                yield Variant(
                    plan_rounds_triton.tail_kernel, "fp32", (), (), whole, plan_triton.TAIL_WARPS, True
                )


def compiled(variant: Variant, chip: int) -> dict[str, Any]:
    """REG, STACK, LOCAL and shared bytes, and whether it reads 16 bytes at a time and uses tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, names = variant.kernel, list(variant.kernel.arg_names)
    types = {}
    for name in names:
        if name in variant.constants:
            types[name] = "constexpr"
        elif name in NUMBERS:
            types[name] = "i32"
        elif name in variant.wide_integers:
            types[name] = "*i64"
        elif name in variant.features:
            types[name] = KINDS[variant.kind]
        else:
            types[name] = "*i32" if name in INTEGERS else "*fp32"
    constants = {(names.index(n),): v for n, v in variant.constants.items() if n in names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n].startswith("*")}
    source = ASTSource(kernel, types, constants, attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", chip, 32), options={"num_warps": variant.warps})
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        usage = subprocess.run(
            [tools / "cuobjdump", "-res-usage", cubin], check=True, capture_output=True, text=True
        ).stdout
    report: dict[str, Any] = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    if len(report) != 3:
        raise ValueError(
            f"{variant.name}: cuobjdump reported no registers, stack and local memory: {usage!r}"
        )
    ptx = binary.asm["ptx"]
    wide = re.search(r"ld\.global[\w.:]*\.v4\.b32|cp\.async\.\w+\.shared\.global[^;]*16", ptx)
    cores = re.search(r"\bw?gmma|\bmma\.sync", ptx)
    return report | {"shared": binary.metadata.shared, "wide_reads": bool(wide), "tensor_cores": bool(cores)}


def compile_jobs(words: Sequence[str]) -> Iterator[Job]:
    """A job for each variant and chip; `words` leaves those in whose names one of them stands.

    Raises:
        ValueError: Triton interprets kernels in this process.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError("kernels can't be compiled where TRITON_INTERPRET is 1; unset it")
    for chip in CHIPS:
        for variant in variants():
            if not words or any(word in variant.name for word in words):
                run = partial(report_on, variant, chip)
                yield Job("compile", variant.name, f"sm_{chip}", "warps", variant.warps, run)


def report_on(variant: Variant, chip: int) -> list[Row]:
    """The row of a variant on a chip: its registers, with all else in the settings."""
    report = compiled(variant, chip)
    settings = {"stack_bytes": report["STACK"], "shared_bytes": report["shared"], "warps": variant.warps}
    settings |= {"wide_reads": report["wide_reads"], "tensor_cores": report["tensor_cores"]}
    job = Job("compile", variant.name, f"sm_{chip}", "warps", variant.warps, settings=settings)
    return [make_row(job, [float(report["REG"])], "registers", "registers")]
