"""The compiler's report on every Triton kernel: `longcompress bench kernels --compile`. No GPU is needed.

Registers, stack (spills), shared memory, reads of 16 bytes and tensor cores of each variant that is
launched, for sm_80 (A100) and sm_90 (H100, H200).
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from .rows import Recorder, Row

# Compute capability -> bytes of shared memory a program may have.
CHIPS = {80: 163 * 1024, 90: 227 * 1024}

KINDS = ("bf16", "fp32", "fp16")
INTEGERS = (
    "partner", "order", "first", "group", "rows", "programs", "steps", "row", "offsets", "previous",
    "bad", "target", "source", "home", "starts",
)  # fmt: skip
NUMBERS = ("split", "even_round", "num", "num_groups", "tiles")


class Variant(NamedTuple):
    """A kernel as it is launched: what is constant, and the types of arguments that have other types than
    most of their name."""

    kernel: Any
    kind: str
    constants: dict[str, Any]
    warps: int
    tensor_cores: bool
    types: dict[str, str]
    fusion: bool = True  # of products with sums
    stages: int = 3

    @property
    def name(self) -> str:
        """Kernel, type of the features and the constants that tell variants apart."""
        shown = ("C", "D", "WARD", "EQUAL", "REFERENCE", "SELECT", "FAST", "SEATS", "CENTERED", "WEIGHTED")
        words = [f"{k}={int(v)}" for k, v in self.constants.items() if k in shown]
        return f"{self.kernel.__name__.removesuffix('_kernel')} {self.kind} {' '.join(words)}"


def variants() -> Iterator[Variant]:
    """All kernels in the forms that are launched, at the widths of the encoders in use."""
    from triton import language as tl

    from ...kernels.gpu import attend, head_mean, medoid, novelty, pool

    block = {"ROWS": pool.ROWS, "CHANNELS": pool.CHANNELS}
    for kind in KINDS:
        features = lambda *names: dict.fromkeys(names, f"*{kind}")  # noqa: B023, E731
        for width in (384, 1024):
            wide = {"C": width} | block
            yield Variant(pool.means_kernel, kind, wide, pool.WARPS, False, features("x", "out"))
            back = wide | {"KIND": tl.float32}
            yield Variant(pool.spread_kernel, kind, back, pool.WARPS, False, features("y", "out"))
            mean = {"C": width, "D": 64, "WIDE": 64, "ROWS": head_mean.ROWS}
            yield Variant(head_mean.head_mean_kernel, kind, mean, 4, False, features("x"))
        narrow = {"C": 64, "WIDE": 64, "GROUPS": pool.NARROW_GROUPS, "KIND": tl.float32}
        yield Variant(pool.narrow_kernel, kind, narrow, pool.WARPS, False, features("x", "out"), False)
        rows = {"D": 64, "WIDE": 64, "ROWS": novelty.ROWS}
        yield Variant(novelty.novelty_kernel, kind, rows, 4, False, features("metric"))
        for centered in (False, True):
            rows = {"D": 64, "WIDE": 64, "GROUPS": medoid.NUMBERS // 64, "CENTERED": centered}
            types = features("metric") | {"center": "*fp64", "out": "*i64"}
            yield Variant(medoid.medoid_kernel, kind, rows, medoid.WARPS, False, types)
        wide = {"C": 1024, "E": 16, "QUERIES": 16, "ROWS": attend.ROWS, "CHANNELS": attend.CHANNELS}
        yield Variant(attend.scores_kernel, kind, wide | {"BIASED": True}, 4, True, features("x"))
        yield Variant(attend.read_kernel, kind, wide, 4, True, features("x"))
        yield Variant(attend.score_grad_kernel, kind, wide, 4, True, features("x") | {"first": "*i64"})
        yield Variant(attend.token_grad_kernel, kind, wide, 4, True, features("x", "dx"))
    times = dict.fromkeys(("x", "y", "out", "low", "high", "lowest", "highest"), "*fp64")
    for width in (1, 4):  # times and places
        narrow = {"C": width, "WIDE": width, "GROUPS": pool.NARROW_GROUPS, "KIND": tl.float64}
        yield Variant(pool.narrow_kernel, "fp64", narrow, pool.WARPS, False, times, False)
    yield Variant(pool.spread_kernel, "fp64", block | {"C": 4, "KIND": tl.float64}, pool.WARPS, False, times)
    yield Variant(pool.extremes_kernel, "fp64", {"GROUPS": pool.NARROW_GROUPS}, 1, False, times)
    yield from _plan_variants()


def _plan_variants() -> Iterator[Variant]:
    from ...kernels.gpu import plan, tree, tree_plan
    from ...kernels.gpu import plan_rounds as rounds

    def variant(name: str, constants: dict[str, Any], warps: int, cores: bool, fusion: bool) -> Variant:
        types = {"high": "*fp16", "low": "*fp16"}
        return Variant(getattr(rounds, name), "fp32", constants, warps, cores, types, fusion)

    for seats in (1024, 2048, 4096):
        for reference in (True, False):
            how = {"SEATS": seats, "REFERENCE": reference}
            yield variant("select_kernel", how, plan.warps_of(seats), False, True)
        yield variant("finish_kernel", {"SEATS": seats}, plan.warps_of(seats), False, True)
    names = "low key children near place alive searching num_merges goals starts out_row"
    types = dict.fromkeys(names.split(), "*i32") | {"halves": "*fp16"}
    for width in (tree.DEEP, 1024):
        how = {"D": width, "WIDTH": width, "SLICE": tree.slice_of(width)}
        yield Variant(tree.grow_kernel, "fp32", how, tree.WARPS, True, types, stages=tree.STAGES)
    for width, seats in product((tree.DEEP, 1024), tree_plan.SEATS):
        how = {"D": width, "WIDTH": width, "SLICE": tree_plan.SLICE, "SEATS": seats, "MEANS": True}
        yield Variant(tree_plan.cut_kernel, "fp32", how, plan.warps_of(seats), False, types)
    for width, ward in product((32, 64, 1024), (True, False)):
        metric = {"D": width, "SLICE": plan.slice_of(width), "WARD": ward}
        wide, rest = {"WIDE": plan.wide_of(width)}, {"GROUPS": plan.GROUPS, "TOKENS": plan.TOKENS}
        for weighted in (True, False):
            start = metric | {"WEIGHTED": weighted, "ROWS": plan.ROWS}
            yield variant("start_kernel", start, plan.START_WARPS, False, False)
        tile = plan.tile_of(width)
        for equal, fast in product((True, False) if ward else (False,), (True, False)):
            how = metric | wide | {"EQUAL": equal, "FAST": fast, "EVENS": tile["EVENS"], "ODDS": tile["ODDS"]}
            yield variant("match_kernel", how, tile["num_warps"], True, True)
        yield variant("merge_kernel", metric | rest, plan.MERGE_WARPS, False, False)
        for reference in (True, False):
            how = (
                metric
                | wide
                | rest
                | {"GROUPS": plan.TAIL_GROUPS}
                | {"EVENS": plan.FEW_EVENS, "ODDS": plan.ODDS, "SEATS": plan.TAIL}
            )
            how |= {"REFERENCE": reference}
            yield variant("tail_kernel", how, plan.TAIL_WARPS, True, False)


def binary_of(variant: Variant, chip: int) -> Any:
    """What Triton compiles: its `asm` has "ptx" and "cubin"."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, names = variant.kernel, list(variant.kernel.arg_names)
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(INTEGERS, "*i32") | dict.fromkeys(NUMBERS, "i32")
    types |= variant.types | dict.fromkeys(variant.constants, "constexpr")
    types = {name: types[name] for name in names}
    constants = {(names.index(n),): v for n, v in variant.constants.items() if n in names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n].startswith("*")}
    source = ASTSource(kernel, types, constants, attrs)
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": variant.fusion}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)


def compiled(variant: Variant, chip: int) -> dict[str, Any]:
    """REG, STACK, LOCAL and shared bytes, and whether it reads 16 bytes at a time and uses tensor cores."""
    import triton

    binary = binary_of(variant, chip)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        words = [str(tools / "cuobjdump"), "-res-usage", str(cubin)]
        usage = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    report: dict[str, Any] = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    if len(report) != 3:
        raise ValueError(f"{variant.name}: cuobjdump reported no registers, stack, local memory: {usage!r}")
    ptx = binary.asm["ptx"]
    wide = re.search(r"ld\.global[\w.:]*\.v4\.b32|cp\.async\.\w+\.shared\.global[^;]*16", ptx)
    cores = re.search(r"\bw?gmma|\bmma\.sync", ptx)
    return report | {"shared": binary.metadata.shared, "wide_reads": bool(wide), "tensor_cores": bool(cores)}


def bench_compile(out: str | None, words: Sequence[str]) -> int:
    """Report each variant and chip in whose name one of `words` stands; exit code 1 if one failed."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise ValueError("kernels can't be compiled where TRITON_INTERPRET is 1; unset it")
    recorder = Recorder(out, "cpu", ["compile"])
    for chip, variant in product(CHIPS, variants()):
        if not words or any(word in variant.name for word in words):
            row = Row("compile", variant.name, f"sm_{chip}", x_name="warps", x=variant.warps)
            recorder.run(row, report_on, variant, chip)
    return int(recorder.num_failed > 0)


def report_on(row: Row, variant: Variant, chip: int) -> list[Row]:
    """The row of a variant on a chip: its registers, with all else in the settings."""
    report = compiled(variant, chip)
    settings = {"stack_bytes": report["STACK"], "shared_bytes": report["shared"], "warps": variant.warps}
    settings |= {"wide_reads": report["wide_reads"], "tensor_cores": report["tensor_cores"]}
    return [row.figure([float(report["REG"])], "registers", "registers", settings=settings)]
