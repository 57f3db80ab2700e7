"""Every operation of `kernels/` against what else does it: `longcompress bench kernels`.

Triton (on a GPU), the same algorithm in plain torch, and the published step-by-step merge, eager and
compiled; in float32 and bfloat16, forward and backward. Nothing is timed before it was found right: a wrong
answer is an error and no figure. On a GPU times are CUDA events, and inputs are rotated so that none is found
in the cache.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import (
    Plan,
    State,
    attend,
    attend_reference,
    head_mean,
    head_mean_reference,
    novelty,
    novelty_reference,
    plan,
    plan_reference,
    pool,
    pool_reference,
    start_state,
)
from ..kernels._dispatch import use_triton
from .bench_merge import PUBLISHED, step_by_step
from .bench_rows import Row, line, median, save

KEEP, WIDTH, QUERIES = 30, 64, 16
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCE = {"bf16": 3e-3, "fp32": 1e-6}
CACHE_BYTES = 1 << 27  # more than any GPU's second cache; inputs are rotated through so many bytes
MERGES: dict[str, dict[str, Any]] = {
    "published": {"schedule": PUBLISHED, "score": "cosine", "order": "reference"},
    "default": {},
}


class Case(NamedTuple):
    """One operation by one provider: what is timed, what it must move and compute, and what it must equal."""

    what: str
    provider: str
    mode: str
    work: Callable[[int], Any]  # the number of the input to take
    num_bytes: int
    flop: int
    error: Callable[[], float] | None  # of its answer against a float64 oracle or another provider's
    most: float


def measure(
    device: str | None = None, segments: int | None = None, tokens: int = 2560, channels: int = 1024,
    dtypes: tuple[str, ...] = ("bf16", "fp32"), repeat: int = 20, step_segments: int | None = None,
    out: str | None = None,
) -> list[Row]:  # fmt: skip
    """Check, then time.

    Args:
        device: "cuda" or "cpu"; the GPU if there is one.
        segments: of the batch; 360 (an hour at a frame a second) on a GPU, 10 on a CPU.
        tokens: of each segment.
        channels: of each token.
        dtypes: of the features.
        repeat: timed runs of each.
        step_segments: segments the step-by-step form gets at once; all of them if not given.
        out: CSV file to keep the figures in.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    segments = segments or (360 if on_gpu else 10)
    rows: list[Row] = []
    settings = {"segments": segments, "tokens": tokens, "channels": channels, "keep": KEEP}
    if not on_gpu:
        print(
            "no GPU: torch on the CPU is timed; `longcompress bench compile` tells what Triton compiles to",
            file=sys.stderr,
        )
    for name in dtypes:
        if name not in DTYPES:
            raise ValueError(f"dtypes must be of {tuple(DTYPES)}, got {name!r}")
        for case in cases(batch_of(device, segments, tokens, channels, name), step_segments or segments):
            wrong = case.error() if case.error is not None else 0.0
            if not wrong <= case.most:
                raise ValueError(
                    f"{case.what} by {case.provider} ({name}) is wrong by {wrong:.2e}, right is at most "
                    f"{case.most:.0e}; nothing is timed"
                )
            found = timed(case.work, repeat, on_gpu)
            told = settings | {"dtype": name, "bytes": case.num_bytes, "flop": case.flop, "error": wrong}
            row = _row(case, "time", "ms", found, segments, told)
            rows.append(row)
            print(line(row), flush=True)
            if case.num_bytes:
                speeds = [case.num_bytes / ms / 1e6 for ms in found]
                rows.append(_row(case, "bandwidth", "GB/s", speeds, segments, told))
            if on_gpu:
                rows.append(_row(case, "memory", "MB", [extra_mb(case.work)], segments, told))
    if out is not None:
        save(out, rows, device)
    return rows


class Batch(NamedTuple):
    """What the operations are given. N tokens of S segments, C channels; several inputs take turns."""

    xs: list[Tensor]  # (N, C) each
    metrics: list[Tensor]  # (N, d) each
    offsets: Tensor
    made: Plan
    fused: bool
    most: float  # error of a mean that is right

    @property
    def size(self) -> int:
        """Bytes of an input."""
        return self.xs[0].numel() * self.xs[0].element_size()

    def x(self, i: int) -> Tensor:
        """The input of run i."""
        return self.xs[i % len(self.xs)]

    def metric(self, i: int) -> Tensor:
        """Its metric."""
        return self.metrics[i % len(self.xs)]

    def providers(self, ours: Any, reference: Any) -> list[tuple[str, Any]]:
        """Who does an operation: on a GPU Triton and plain torch, else torch."""
        return [("triton", ours), ("torch", reference)] if self.fused else [("torch", ours)]


def batch_of(device: str, segments: int, tokens: int, channels: int, name: str) -> Batch:
    """Random inputs, enough of them that none is still in the cache when its turn comes."""
    size = segments * tokens * channels * torch.finfo(DTYPES[name]).bits // 8
    copies = max(1, -(-CACHE_BYTES // size)) if device != "cpu" else 1
    xs = [normal(segments * tokens, channels, seed, device).to(DTYPES[name]) for seed in range(copies)]
    metrics = [head_mean_reference(x, WIDTH) for x in xs]
    offsets = torch.arange(segments + 1, dtype=torch.int32) * tokens
    return Batch(
        xs, metrics, offsets, plan(metrics[0], offsets, KEEP), use_triton("pool", xs[0]), TOLERANCE[name]
    )


def cases(batch: Batch, step_segments: int) -> Iterator[Case]:
    """All operations by all that can run where the batch is."""
    yield from _copy_and_metric(batch)
    yield from _pooling(batch)
    yield from _novelty_and_attend(batch)
    for kind, options in MERGES.items():
        yield from _merging(batch, kind, options)
        if batch.xs[0].is_cuda:
            yield from _captured(batch.xs[0][: int(batch.offsets[1])], kind, options)
    yield from _published(batch, step_segments)


def _copy_and_metric(batch: Batch) -> Iterator[Case]:
    x = batch.xs[0]
    target = torch.empty_like(x)
    yield Case("copy", "torch", "forward", lambda i: target.copy_(batch.x(i)), 2 * batch.size, 0, None, 0.0)
    want = x.double().unflatten(1, (-1, WIDTH)).mean(1)
    moved = batch.size + 4 * want.numel()
    for provider, mean in batch.providers(head_mean, head_mean_reference):

        def error(mean: Any = mean) -> float:
            return relative(mean(x, WIDTH), want)

        work = partial(_on_x, batch, mean, WIDTH)
        yield Case("metric", provider, "forward", work, moved, x.numel(), error, 1e-6)


def _pooling(batch: Batch) -> Iterator[Case]:
    x, made = batch.xs[0], batch.made
    want = means64(x, made)
    dy = normal(want.shape[0], want.shape[1], 7, x.device).to(x.dtype)
    moved = batch.size + dy.numel() * dy.element_size() + 4 * len(x)
    for provider, mean in batch.providers(pool, pool_reference):

        def error(mean: Any = mean) -> float:
            return relative(mean(x, made), want)

        work = partial(_on_x, batch, mean, made)
        yield Case("pool", provider, "forward", work, moved, 2 * x.numel(), error, batch.most)
        leaf = x.detach().requires_grad_()
        y = mean(leaf, made)

        def back(_: int, y: Tensor = y, leaf: Tensor = leaf) -> Tensor:
            return torch.autograd.grad(y, leaf, dy, retain_graph=True)[0]

        def back_error(back: Callable[[int], Tensor] = back) -> float:
            group = made.group[:4096].long()
            share = made.weight[:4096].double() / made.mass.double()[group]
            return relative(back(0)[:4096], dy.double()[group] * share[:, None])

        yield Case("pool", provider, "backward", back, moved, x.numel(), back_error, batch.most)


def _novelty_and_attend(batch: Batch) -> Iterator[Case]:
    x, metric = batch.xs[0], batch.metrics[0]
    before = (torch.arange(len(x), dtype=torch.int32, device=x.device) - 256).clamp_min(-1)
    for provider, of in batch.providers(novelty, novelty_reference):

        def error(of: Any = of) -> float:
            return relative(of(metric, before), novelty_reference(metric.double(), before))

        def work(i: int, of: Any = of) -> Tensor:
            new: Tensor = of(batch.metric(i), before)
            return new

        yield Case("novelty", provider, "forward", work, 4 * metric.numel(), 0, error, 1e-5)

    query = normal(QUERIES, x.shape[1], 8, x.device) * x.shape[1] ** -0.5
    at = batch.offsets.tolist()
    state = start_state(len(at) - 1, QUERIES, x.shape[1], device=x.device)
    first = State(*(part[:1] for part in state))
    want = attend_reference(query, x[: at[1]].float(), at[:2], None, first).read()
    for provider, reads in batch.providers(
        lambda x: attend(query, x, batch.offsets, state=state),
        lambda x: attend_reference(query, x, at, None, state),
    ):

        def read_error(reads: Any = reads) -> float:
            return relative(reads(x).read()[:1], want)

        flop = 4 * x.numel() * QUERIES
        yield Case(
            "attend", provider, "forward", partial(_on_x, batch, reads), batch.size, flop, read_error, 1e-4
        )


def _merging(batch: Batch, kind: str, options: dict[str, Any]) -> Iterator[Case]:
    """`plan` alone, and metric, plan and pool."""
    offsets, at = batch.offsets, batch.offsets.tolist()

    def planned(i: int) -> Plan:
        return plan(batch.metric(i), offsets, KEEP, **options)

    def merged(i: int) -> Tensor:
        return pool(batch.x(i), plan(head_mean(batch.x(i), WIDTH), offsets, KEEP, **options))

    def by_torch(i: int) -> Tensor:
        metric = head_mean_reference(batch.x(i), WIDTH)
        given: dict[str, Any] = {"schedule": 0.25, "score": "ward", "order": "seat"} | options
        return pool_reference(batch.x(i), plan_reference(metric, at, [KEEP] * (len(at) - 1), None, **given))

    def error() -> float:
        """How far the first segment's lost variance is from float64's plan; near ties may fall either way."""
        end = at[1]
        wide, losses = batch.xs[0][:end].double(), []
        for metric in (batch.metrics[0][:end], batch.metrics[0][:end].double()):
            made = plan(metric, offsets[:2], KEEP, **options)
            losses.append(float((wide - means64(wide, made)[made.group.long()]).square().sum()))
        return abs(losses[0] / losses[1] - 1)

    moved = batch.metrics[0].numel() * 4
    provider = batch.providers(None, None)[0][0]
    yield Case(f"plan, {kind}", provider, "forward", planned, moved, 0, error, 0.02)
    yield Case(f"merge, {kind}", provider, "forward", merged, 2 * batch.size, 0, error, 0.02)
    if batch.fused:
        yield Case(f"merge, {kind}", "torch", "forward", by_torch, 2 * batch.size, 0, None, 0.0)


def _published(batch: Batch, at_once: int) -> Iterator[Case]:
    """The step-by-step form, eager and compiled, `at_once` segments at a time where memory is short."""

    def by(step: Callable[..., Tensor]) -> Callable[[int], list[Tensor]]:
        def work(i: int) -> list[Tensor]:
            shaped = batch.x(i).view(len(batch.offsets) - 1, int(batch.offsets[1]), -1)
            return [step(part, MERGES["published"]["schedule"]) for part in shaped.split(at_once)]

        return work

    yield Case("merge, published", "step by step", "forward", by(step_by_step), 2 * batch.size, 0, None, 0.0)
    if batch.xs[0].is_cuda:
        compiled = by(torch.compile(step_by_step, mode="max-autotune-no-cudagraphs"))
        yield Case("merge, published", "compiled steps", "forward", compiled, 2 * batch.size, 0, None, 0.0)


def _captured(x: Tensor, kind: str, options: dict[str, Any]) -> Iterator[Case]:
    """One segment, metric, plan and pool, at once and replayed as a CUDA graph."""
    still, offsets = x.clone(), torch.tensor([0, len(x)], dtype=torch.int32)

    def once(_: int = 0) -> Tensor:
        return pool(still, plan(head_mean(still, WIDTH), offsets, KEEP, **options))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            want = once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = once()

    def error() -> float:
        graph.replay()
        return float((got.double() - want.double()).abs().max())

    moved = 2 * x.numel() * x.element_size()
    what = f"one segment, {kind}"
    yield Case(what, "triton, graph", "forward", lambda _: graph.replay(), moved, 0, error, 0.0)
    yield Case(what, "triton", "forward", once, moved, 0, None, 0.0)


def _on_x(batch: Batch, of: Callable[..., Any], *more: Any) -> Any:
    """`of` on the input of the run whose number comes last."""
    *given, i = more
    return of(batch.x(i), *given)


def means64(x: Tensor, made: Plan) -> Tensor:
    """(M, C) float64 means of x (N, C) by a plain sum."""
    total = torch.zeros(len(made.mass), x.shape[1], dtype=torch.float64, device=x.device)
    for first in range(0, len(x), 1 << 17):  # in parts, for memory
        rows = slice(first, first + (1 << 17))
        total.index_add_(0, made.group[rows].long(), x[rows].double() * made.weight[rows].double()[:, None])
    return total / made.mass.double().clamp_min(1e-300)[:, None]


def relative(got: Tensor, want: Tensor) -> float:
    """RMS of the difference over RMS of what is wanted."""
    error = (got.double() - want.double()).square().mean().sqrt()
    return float(error / want.double().square().mean().sqrt().clamp_min(1e-300))


def normal(rows: int, columns: int, seed: int, device: str | torch.device) -> Tensor:
    """(rows, columns) float32 random numbers."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, device=device)


def timed(work: Callable[[int], Any], repeat: int, on_gpu: bool) -> list[float]:
    """Milliseconds of `repeat` runs after two to warm up."""
    for i in range(2):
        work(i)
    took = []
    for i in range(repeat):
        if on_gpu:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            work(i)
            end.record()
            torch.cuda.synchronize()
            took.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            work(i)
            took.append(1e3 * (time.perf_counter() - begin))
    return took


def extra_mb(work: Callable[[int], Any]) -> float:
    """MB that a run takes at most beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work(0)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _row(
    case: Case, metric: str, unit: str, found: list[float], segments: int, settings: dict[str, Any]
) -> Row:
    value, low, high = median(found)
    return Row(
        "kernels", case.what, case.provider, case.mode, metric, unit, "segments", segments, value, low, high,
        len(found), settings,
    )  # fmt: skip


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
