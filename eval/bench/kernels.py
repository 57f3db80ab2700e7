"""Every operation of `kernels/` beside other implementations of it: `longcompress bench kernels`.

On a GPU the Triton kernels, the torch reference and `torch.compile` of it; on a CPU plain torch. Merging
also in the published step-by-step form, replayed as a CUDA graph, and inside the layers of a vision encoder.
A case is checked before it is timed; a wrong or failing case becomes a row with its error. On a GPU the
inputs rotate, so that none is found in the cache.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from einops import reduce
from torch import Tensor

from ... import kernels as ops
from ...kernels._dispatch import use_triton
from .rows import Recorder, Row
from .timer import DTYPES, relative_rms, timed

KEEP, WIDTH, QUERIES = 30, 64, 16
TOLERANCE = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 3e-3}  # relative RMS error of a mean
CACHE_BYTES = 1 << 27  # more than any GPU's second cache
MAX_CASE_S = 10.0  # of timed runs; a slower case has fewer of them, three at least
MIN_RUN_S = 1e-3  # of a timed run on a GPU, so that launching one call is no part of it
PUBLISHED = [1280, 640, 320, 160, 80, 40, 10]  # LongVLM: 2560 -> 30
MERGES: dict[str, dict[str, Any]] = {
    "published": {"schedule": PUBLISHED, "score": "cosine", "order": "reference"},
    "default": {},
    "fast": {"precision": "fast"},
    "blocks": {"schedule": "blocks"},
    "tree": {"schedule": "tree"},
}


class Case(NamedTuple):
    """One operation by one implementation: the timed call, its bytes and operations, and its check."""

    case: str
    provider: str
    work: Callable[[int], Any]  # gets the number of the input
    num_bytes: int
    flop: int = 0
    error: Callable[[], float] = lambda: 0.0  # of its result, beside float64 or another implementation
    tolerance: float = 0.0

    def checked(self, expected: Tensor, tolerance: float, read: Any = lambda result: result) -> "Case":
        """The case, whose result on the first input (what `read` takes of it) must be `expected`."""
        return self._replace(error=lambda: relative_rms(read(self.work(0)), expected), tolerance=tolerance)


class Inputs(NamedTuple):
    """What the operations get. N tokens of S segments, C channels; several copies take turns."""

    xs: list[Tensor]  # (N, C) each
    metrics: list[Tensor]  # (N, d) each
    offsets: Tensor  # (S + 1,) int32 on the CPU
    plan: ops.Plan
    fused: bool  # the Triton kernels run
    tolerance: float

    @property
    def num_bytes(self) -> int:
        """Bytes of one copy."""
        return self.xs[0].nbytes

    def x(self, i: int) -> Tensor:
        """(N, C) the features of call i."""
        return self.xs[i % len(self.xs)]

    def metric(self, i: int) -> Tensor:
        """(N, d) their metric."""
        return self.metrics[i % len(self.xs)]

    def providers(self, op: Any, reference: Any, *, compiles: bool = True) -> dict[str, Any]:
        """Name -> function of each implementation that runs here."""
        if not self.fused:
            return {"torch": op}
        compiled = {"compiled": torch.compile(reference)} if self.xs[0].is_cuda and compiles else {}
        return {"triton": op, "reference": reference} | compiled


def bench_kernels(
    out: str | None = None, device: str | None = None, dtypes: list[str] | None = None,
    cases: list[str] | None = None, segments: int | None = None, tokens: int = 2560, channels: int = 1024,
    repeat: int = 20, threads: int | None = None, compile: bool = False,
    encoder: str = "", encoder_px: int = 224, pairs: list[int] | None = None, blocks: list[int] | None = None,
) -> int:  # fmt: skip
    """Time every operation of `kernels/` beside other implementations; exit code 1 if a case failed.

    Args:
        out: CSV file of the figures.
        device: "cuda" or "cpu"; the GPU if there is one.
        dtypes: of the features, of fp32, fp16, bf16; all if not given.
        cases: only cases whose names contain one of these words, pool or encoder for example.
        segments: of the batch; 360 (an hour at a frame a second) on a GPU, 10 on a CPU.
        tokens: of each segment.
        channels: of each token.
        repeat: timed runs of each.
        threads: of torch.
        compile: report registers, stack and shared memory of all kernels instead; needs no GPU.
        encoder: folder or hub name of a CLIP, SigLIP, DINOv2 or ViT encoder to merge in; if not given
            a random DINOv2-small, whose times hold for its size and whose features say nothing of fidelity.
        encoder_px: side of its frames.
        pairs: pairs of patches that merge in each of its layers.
        blocks: frames of a block; 8 if not given, on a GPU 8, 64 and 256.
    """
    if compile:
        from .compile import bench_compile

        return bench_compile(out, cases or [])
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    if threads:
        torch.set_num_threads(threads)
    if not on_gpu:
        print("no GPU: torch on the CPU is timed; --compile reports on the Triton kernels", file=sys.stderr)
    segments = segments or (360 if on_gpu else 10)
    about: dict[str, Any] = {"segments": segments, "tokens": tokens, "channels": channels, "keep": KEEP}
    recorder = Recorder(out, device, ["kernels"])
    for name in list(DTYPES) if dtypes is None else dtypes:
        if name not in DTYPES:
            raise ValueError(f"dtypes must be of {', '.join(DTYPES)}, got {name!r}")
        settings = about | {"dtype": name}
        row = Row("kernels", f"inputs, {name}", x_name="segments", x=segments, settings=settings)
        with recorder.attempt(row):  # the kernels themselves make the inputs
            inputs = make_inputs(device, segments, tokens, channels, name)
            time_operations(recorder, row, inputs, cases, repeat)
        if not cases or any(word in "encoder, pairs" for word in cases):
            from .encoder import time_encoder

            row = Row("kernels", "encoder", "stock and merging", x_name="block", settings={"dtype": name})
            options = encoder, encoder_px, pairs or [2, 4, 8], min(repeat, 5), device
            for block in blocks or ([8, 64, 256] if on_gpu else [8]):
                recorder.run(replace(row, x=block), time_encoder, *options)
    return int(recorder.num_failed > 0)


def make_inputs(device: str, segments: int, tokens: int, channels: int, dtype: str) -> Inputs:
    """Random inputs, in enough copies that none is still in the cache when its turn comes."""
    num_bytes = segments * tokens * channels * torch.finfo(DTYPES[dtype]).bits // 8
    copies = max(1, -(-CACHE_BYTES // num_bytes)) if device != "cpu" else 1
    xs = [normal(segments * tokens, channels, seed, device).to(DTYPES[dtype]) for seed in range(copies)]
    metrics = [ops.head_mean_reference(x, WIDTH) for x in xs]
    offsets = torch.arange(segments + 1, dtype=torch.int32, device="cpu") * tokens
    fused = use_triton("pool", xs[0])
    first = ops.plan(metrics[0], offsets, KEEP)
    return Inputs(xs, metrics, offsets, first, fused, TOLERANCE[dtype])


def time_operations(
    recorder: Recorder, row: Row, inputs: Inputs, words: list[str] | None, repeat: int
) -> None:
    """Rows of each operation and implementation; an operation that can't be set up has a row that says so."""
    for operation in (copies, head_means, pools, medoids, novelties, attends, merges, graphs, steps):
        with recorder.attempt(replace(row, case=f"{operation.__name__}, {row.settings['dtype']}")):
            for case in operation(inputs):
                if not words or any(word in case.case for word in words):
                    own = replace(row, case=case.case, provider=case.provider)
                    recorder.run(own, time_case, case, repeat, inputs.xs[0].device)


def time_case(row: Row, case: Case, repeat: int, device: torch.device) -> Iterator[Row]:
    """Time, bandwidth and a GPU's extra memory of a case; ValueError, and nothing timed, if it is wrong."""
    error = case.error()
    if not error <= case.tolerance:
        raise ValueError(
            f"{case.case} by {case.provider} ({row.settings['dtype']}) is wrong by {error:.2e}, at most "
            f"{case.tolerance:.0e} is right; nothing is timed"
        )
    inputs, calls = count(), 1
    work = {case.case: lambda: case.work(next(inputs))}
    first_s = timed(work, 1, device, warm_up=2)[case.case][0].wall_s
    if device.type == "cuda":
        calls = min(50, max(1, round(MIN_RUN_S / first_s)))
    repeat = min(repeat, max(3, int(MAX_CASE_S / (calls * first_s))))
    took = [run.wall_s for run in timed(work, repeat, device, warm_up=0, calls=calls)[case.case]]
    about = {"bytes": case.num_bytes, "flop": case.flop, "error": error}
    row = replace(row, settings=row.settings | about)
    yield row.figure([1e3 * s for s in took], "time", "ms")
    if case.num_bytes:
        yield row.figure([case.num_bytes / s / 1e9 for s in took], "bandwidth", "GB/s")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.work(0)
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() - before
        yield row.figure([extra / 1e6], "memory", "MB")


def copies(inputs: Inputs) -> Iterator[Case]:
    """A plain copy: the memory's speed."""
    target = torch.empty_like(inputs.xs[0])
    yield Case("copy", "torch", lambda i: target.copy_(inputs.x(i)), 2 * inputs.num_bytes)


def head_means(inputs: Inputs) -> Iterator[Case]:
    """`head_mean`: the metric of features."""
    x = inputs.xs[0]
    expected = reduce(x.double(), "n (head d) -> n d", "mean", d=WIDTH)
    num_bytes = inputs.num_bytes + 4 * expected.numel()
    for provider, op in inputs.providers(ops.head_mean, ops.head_mean_reference).items():
        work = partial(lambda op, i: op(inputs.x(i), WIDTH), op)
        yield Case("metric", provider, work, num_bytes, x.numel()).checked(expected, 1e-6)


def pools(inputs: Inputs) -> Iterator[Case]:
    """`pool`, forward and backward."""
    x, merge = inputs.xs[0], inputs.plan
    expected = means64(x, merge)
    dy = normal(expected.shape[0], expected.shape[1], 7, x.device).to(x.dtype)
    num_bytes = inputs.num_bytes + dy.nbytes + 4 * len(x)
    group = merge.group[:4096].long()  # the gradient of as many tokens is checked
    weight = merge.weight[:4096].double() / merge.mass.double()[group]
    expected_dx = dy.double()[group] * weight[:, None]
    for provider, op in inputs.providers(ops.pool, ops.pool_reference).items():
        work = partial(lambda op, i: op(inputs.x(i), merge), op)
        yield Case("pool", provider, work, num_bytes, 2 * x.numel()).checked(expected, inputs.tolerance)
        leaf = x.detach().requires_grad_()
        y = op(leaf, merge)
        back = partial(lambda y, leaf, _: torch.autograd.grad(y, leaf, dy, retain_graph=True)[0], y, leaf)
        case = Case("pool, backward", provider, back, num_bytes, x.numel())
        yield case.checked(expected_dx, inputs.tolerance, lambda dx: dx[:4096])


def medoids(inputs: Inputs) -> Iterator[Case]:
    """`medoid`: the token of each group that is nearest to its mean."""
    merge = inputs.plan
    expected = ops.medoid_reference(inputs.metrics[0], merge)
    num_bytes = 2 * inputs.metrics[0].nbytes
    for provider, op in inputs.providers(ops.medoid, ops.medoid_reference).items():
        work = partial(lambda op, i: op(inputs.metric(i), merge), op)
        yield Case("medoid", provider, work, num_bytes).checked(expected, 0.0)


def novelties(inputs: Inputs) -> Iterator[Case]:
    """`novelty` of each token beside the token one frame before."""
    metric = inputs.metrics[0]
    previous = (torch.arange(len(metric), dtype=torch.int32, device=metric.device) - 256).clamp_min(-1)
    expected = ops.novelty_reference(metric.double(), previous)
    for provider, op in inputs.providers(ops.novelty, ops.novelty_reference).items():
        work = partial(lambda op, i: op(inputs.metric(i), previous), op)
        yield Case("novelty", provider, work, 4 * metric.numel()).checked(expected, 1e-5)


def attends(inputs: Inputs) -> Iterator[Case]:
    """`attend`: learned queries that read all tokens."""
    x, at = inputs.xs[0], inputs.offsets.tolist()
    query = normal(QUERIES, x.shape[1], 8, x.device) * x.shape[1] ** -0.5
    state = ops.start_state(len(at) - 1, QUERIES, x.shape[1], device=x.device)
    first = ops.State(*(part[:1] for part in state))
    expected = ops.attend_reference(query, x[: at[1]].float(), at[:2], None, first).read()
    op = lambda x: ops.attend(query, x, inputs.offsets, state=state)  # noqa: E731
    reference = lambda x: ops.attend_reference(query, x, at, None, state)  # noqa: E731
    for provider, read in inputs.providers(op, reference, compiles=False).items():
        work = partial(lambda read, i: read(inputs.x(i)), read)
        case = Case("attend", provider, work, inputs.num_bytes, 4 * x.numel() * QUERIES)
        yield case.checked(expected, 1e-4, lambda after: after.read()[:1])


def merges(inputs: Inputs) -> Iterator[Case]:
    """`plan` alone, and the whole merge: metric, plan and pool."""
    offsets, at = inputs.offsets, inputs.offsets.tolist()
    provider = "triton" if inputs.fused else "torch"

    def by_reference(options: dict[str, Any], i: int) -> Tensor:  # segment by segment
        complete: dict[str, Any] = {"schedule": 0.25, "score": "ward", "order": "seat"} | options
        metric = ops.head_mean_reference(inputs.x(i), WIDTH)
        merge = ops.plan_reference(metric, at, [KEEP] * (len(at) - 1), None, **complete)
        return ops.pool_reference(inputs.x(i), merge)

    for kind, options in MERGES.items():
        if kind == "fast" and not inputs.fused:  # torch does the same as for the default
            continue
        check = (0, partial(plan_error, inputs, options), 0.02)
        planning = partial(lambda options, i: ops.plan(inputs.metric(i), offsets, KEEP, **options), options)
        merging = partial(lambda options, i: composed(inputs.x(i), offsets, options), options)
        yield Case(f"plan, {kind}", provider, planning, inputs.metrics[0].numel() * 4, *check)
        yield Case(f"merge, {kind}", provider, merging, 2 * inputs.num_bytes, *check)
    for kind in ("published", "default") if inputs.fused else ():  # slow, so it comes last
        yield Case(f"merge, {kind}", "reference", partial(by_reference, MERGES[kind]), 2 * inputs.num_bytes)


def plan_error(inputs: Inputs, options: dict[str, Any]) -> float:
    """Relative error of the first segment's lost variance, beside float64's plan (near ties may differ)."""
    end = int(inputs.offsets[1])
    x, losses = inputs.xs[0][:end].double(), []
    for metric in (inputs.metrics[0][:end], inputs.metrics[0][:end].double()):
        merge = ops.plan(metric, inputs.offsets[:2], KEEP, **options)
        losses.append(float((x - means64(x, merge)[merge.group.long()]).square().sum()))
    return abs(losses[0] / losses[1] - 1)


def composed(x: Tensor, offsets: Tensor, options: dict[str, Any]) -> Tensor:
    """(M, C): plan on the small metric, then one read of the wide features."""
    return ops.pool(x, ops.plan(ops.head_mean(x, WIDTH), offsets, KEEP, **options))


def graphs(inputs: Inputs) -> Iterator[Case]:
    """One segment, metric, plan and pool: launched, and replayed as a CUDA graph."""
    if not inputs.xs[0].is_cuda:
        return
    x = inputs.xs[0][: int(inputs.offsets[1])].clone()
    offsets = torch.tensor([0, len(x)], dtype=torch.int32, device="cpu")  # a graph needs them on the CPU
    num_bytes = 2 * x.nbytes
    for kind, options in MERGES.items():
        launch = partial(lambda options, _: composed(x, offsets, options), options)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # the kernels are loaded, and the lengths planned, before the capture
            for _ in range(3):
                expected = launch(0)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = launch(0)

        def error(graph: Any = graph, result: Tensor = result, expected: Tensor = expected) -> float:
            graph.replay()
            return float((result.double() - expected.double()).abs().max())

        replay = partial(lambda graph, _: graph.replay(), graph)
        yield Case(f"one segment, {kind}", "graph", replay, num_bytes, 0, error)
        yield Case(f"one segment, {kind}", "triton", launch, num_bytes)


def steps(inputs: Inputs) -> Iterator[Case]:
    """The published step-by-step merge."""
    num_segments = len(inputs.offsets) - 1
    forms = {"step by step": step_by_step}
    if inputs.xs[0].is_cuda:
        forms["compiled steps"] = torch.compile(step_by_step, dynamic=False)

    def error() -> float:
        x = normal(2560, inputs.xs[0].shape[1], 9, inputs.xs[0].device).double()  # the schedule's own length
        offsets = torch.tensor([0, 2560], dtype=torch.int32, device="cpu")
        ours = composed(x, offsets, MERGES["published"])
        return float((ours - step_by_step(x[None], PUBLISHED)[0]).abs().max())

    for provider, form in forms.items():
        work = partial(lambda form, i: form(inputs.x(i).unflatten(0, (num_segments, -1)), PUBLISHED), form)
        yield Case("merge, published", provider, work, 2 * inputs.num_bytes, 0, error, 1e-12)


def step_by_step(x: Tensor, schedule: list[int]) -> Tensor:
    """(S, M, C) of x (S, n, C): each round merges the features by a metric made of them."""
    size = x.new_ones(*x.shape[:2], 1)
    for num_pairs in schedule:
        metric = x.unflatten(2, (-1, WIDTH)).mean(2)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        best = (metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)).max(-1)
        pairs = min(num_pairs, x.shape[1] // 2)
        order = best.values.argsort(dim=-1, descending=True)
        unmerged, sources = order[:, pairs:, None], order[:, :pairs, None]
        targets = best.indices[..., None].gather(1, sources)
        x, size = (_paired(t, unmerged, sources, targets) for t in (x * size, size))
        x = x / size
    return x


def _paired(t: Tensor, unmerged: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """(S, M, C): the unmerged even tokens, and the odd ones with their sources added."""
    even, odd = t[:, ::2], t[:, 1::2]
    wide = lambda index: index.expand(-1, -1, t.shape[2])  # noqa: E731
    odd = odd.scatter_add(1, wide(targets), even.gather(1, wide(sources)))
    return torch.cat([even.gather(1, wide(unmerged)), odd], 1)


def means64(x: Tensor, merge: ops.Plan) -> Tensor:
    """(M, C) float64 means of x (N, C) by a plain sum."""
    total = torch.zeros(len(merge.mass), x.shape[1], dtype=torch.float64, device=x.device)
    for first in range(0, len(x), 1 << 17):  # in parts, for memory
        rows = slice(first, first + (1 << 17))
        total.index_add_(0, merge.group[rows].long(), x[rows].double() * merge.weight[rows].double()[:, None])
    return total / merge.mass.double().clamp_min(1e-300)[:, None]


def normal(rows: int, columns: int, seed: int, device: str | torch.device) -> Tensor:
    """(rows, columns) float32 random numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, device=device)
