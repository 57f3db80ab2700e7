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
    "partner", "rank", "count", "order", "target", "first_slot", "group", "rows", "tails", "steps", "key",
    "offsets", "previous", "tokens", "groups",
)  # fmt: skip
NUMBERS = ("blocks", "num")


class Variant(NamedTuple):
    """A kernel as it is launched: what is constant, and which pointers have the features' type or 64 bits
    (integers, or numbers)."""

    kernel: Any
    kind: str
    constants: dict[str, Any]
    warps: int = 4
    tensor_cores: bool = False
    features: tuple[str, ...] = ()
    wide_integers: tuple[str, ...] = ()
    wide_numbers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Kernel, type of the features and the constants that tell variants apart."""
        shown = ("C", "D", "WARD", "REFERENCE", "RANKED", "FAST", "SPLIT", "ODDS", "CENTERED")
        words = [f"{k}={int(v)}" for k, v in self.constants.items() if k in shown]
        return f"{self.kernel.__name__.removesuffix('_kernel')} {self.kind} {' '.join(words)}"


def variants() -> Iterator[Variant]:
    """All kernels in the forms that are launched, at the widths of the encoders in use."""
    from ...kernels.gpu import attend, head_mean, medoid, novelty, pool

    block = {"ROWS": pool.ROWS, "CHANNELS": pool.CHANNELS}
    for kind in KINDS:
        for width in (384, 1024):
            wide = {"C": width} | block
            yield Variant(pool.means_kernel, kind, wide, 4, False, ("x", "out"), ("order", "first"))
            yield Variant(pool.spread_kernel, kind, wide, 4, False, ("y", "out"), ("group",))
            mean = {"C": width, "D": 64, "WIDE": 64, "ROWS": head_mean.ROWS}
            yield Variant(head_mean.head_mean_kernel, kind, mean, 4, False, ("x",))
            lanes, channels = pool.HOT_SPLIT if kind == "bf16" else pool.HOT_WHOLE
            product = {"C": width, "SPLIT": kind == "bf16", "TOKENS": lanes, "CHANNELS": channels}
            product |= {"GROUPS": pool.HOT_GROUPS}
            yield Variant(pool.product_kernel, kind, product, pool.HOT_WARPS, True, ("x", "out"), ("group",))
        narrow = {"C": 64, "WIDE": 64, "GROUPS": pool.NARROW_GROUPS}
        yield Variant(pool.narrow_kernel, kind, narrow, 4, False, ("x", "out"), ("order", "first"))
        rows = {"D": 64, "WIDE": 64, "ROWS": novelty.ROWS}
        yield Variant(novelty.novelty_kernel, kind, rows, 4, False, ("metric",))
        for centered in (False, True):
            rows = {"D": 64, "WIDE": 64, "GROUPS": medoid.NUMBERS // 64, "CENTERED": centered}
            names = ("metric",), ("order", "first", "out"), ("share", "center")
            yield Variant(medoid.medoid_kernel, kind, rows, medoid.WARPS, False, *names)
        wide = {"C": 1024, "E": 16, "QUERIES": 16, "ROWS": attend.ROWS, "CHANNELS": attend.CHANNELS}
        yield Variant(attend.scores_kernel, kind, wide | {"BIASED": True}, 4, True, ("x",))
        yield Variant(attend.read_kernel, kind, wide, 4, True, ("x",))
        yield Variant(attend.score_grad_kernel, kind, wide, 4, True, ("x",), ("first",))
        yield Variant(attend.token_grad_kernel, kind, wide, 4, True, ("x", "dx"))
    yield from _plan_variants()


def _plan_variants() -> Iterator[Variant]:
    from ...kernels.gpu import plan
    from ...kernels.gpu import plan_rounds as rounds

    variant = lambda kernel, *how: Variant(kernel, "fp32", *how)  # noqa: E731
    keys = {"NO_KEY": (1 << 31) - 1, "SEATS": plan.SEATS, "KEYS": plan.KEYS}
    yield variant(rounds.rank_kernel, keys, plan.WARPS)
    yield variant(rounds.count_kernel, keys, 1)
    for ranked, reference in product((True, False), repeat=2):
        yield variant(rounds.place_kernel, keys | {"RANKED": ranked, "REFERENCE": reference}, plan.WARPS)
    for width, ward in product((32, 64, 1024), (True, False)):
        metric = {"D": width, "WIDE": width, "SLICE": width if width <= plan.DEEP else plan.SLICE}
        metric |= {"WARD": ward}
        rest = {"GROUPS": plan.GROUPS, "TOKENS": plan.TOKENS}
        yield variant(rounds.squares_kernel, metric | {"ROWS": plan.ROWS}, plan.WARPS)
        yield variant(rounds.merge_kernel, metric | rest, plan.MERGE_WARPS)
        tile = plan.tile_of(width)
        for fast in (0, 2):
            how = metric | {"FAST": fast, "EVENS": tile["EVENS"], "ODDS": tile["ODDS"]}
            yield variant(rounds.match_kernel, how, tile["num_warps"], True)
        tail = metric | {"FAST": 0, "EVENS": plan.FEW_EVENS, "ODDS": plan.ODDS} | keys | rest
        tail |= {"GROUPS": plan.TAIL_GROUPS}
        for reference in (True, False):
            yield variant(rounds.tail_kernel, tail | {"REFERENCE": reference}, plan.TAIL_WARPS, True)


def compiled(variant: Variant, chip: int) -> dict[str, Any]:
    """REG, STACK, LOCAL and shared bytes, and whether it reads 16 bytes at a time and uses tensor cores."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, names = variant.kernel, list(variant.kernel.arg_names)
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(INTEGERS, "*i32") | dict.fromkeys(NUMBERS, "i32")
    types |= dict.fromkeys(variant.wide_integers, "*i64")
    types |= dict.fromkeys(variant.wide_numbers, "*fp64")
    types |= dict.fromkeys(variant.features, f"*{variant.kind}")
    types |= dict.fromkeys(variant.constants, "constexpr")
    types = {name: types[name] for name in names}
    constants = {(names.index(n),): v for n, v in variant.constants.items() if n in names}
    attrs = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n].startswith("*")}
    source = ASTSource(kernel, types, constants, attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", chip, 32), options={"num_warps": variant.warps})
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
