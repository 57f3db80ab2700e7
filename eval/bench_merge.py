"""`plan` + `pool` against the published step-by-step merge, in one run: `longcompress bench merge`.

10 segments of 2,560 x 1,024 float32 to 30 each, metric included on both sides. Before anything is timed
the composed form must equal the step-by-step one in float64.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels import plan, pool

PUBLISHED = [1280, 640, 320, 160, 80, 40, 10]  # LongVLM: 2560 -> 30
HEADS = 16


def measure(
    segments: int = 10, threads: int = 2, repeat: int = 7, json_lines: bool = False
) -> list[dict[str, Any]]:
    """Time it.

    Args:
        segments: of 2,560 tokens each.
        threads: of torch.
        repeat: runs; the fastest, the middle one and the slowest are printed.
        json_lines: print JSON lines instead of a table.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(segments, 2560, 1024)
    check(x[:1].double())
    rows: list[dict[str, Any]] = []
    published = {"schedule": PUBLISHED, "score": "cosine", "order": "reference"}
    for name, work in (
        ("step by step, cosine, halves (published)", lambda: step_by_step(x, PUBLISHED)),
        ("composed, the same schedule", lambda: composed(x, **published)),
        ("composed, ward, quarters (default)", lambda: composed(x)),
    ):
        low, middle, high = timed(work, repeat)
        rows.append({"what": name, "fastest_ms": low, "median_ms": middle, "slowest_ms": high})
    for row in rows:
        row["times_faster"] = rows[0]["median_ms"] / row["median_ms"]
        row |= {"segments": segments, "threads": threads, "torch": torch.__version__}
        text = f"{row['what']:45s} {row['median_ms']:8.1f} ms  {row['times_faster']:5.2f}x"
        print(json.dumps(row) if json_lines else text, flush=True)
    return rows


def composed(x: Tensor, **options: Any) -> Tensor:
    """This project's form: decide on the small metric, read the wide features once."""
    num_segments, num, _ = x.shape
    flat = x.view(num_segments * num, -1)
    metric = flat.view(len(flat), HEADS, -1).mean(1)
    offsets = torch.arange(num_segments + 1, dtype=torch.int32) * num
    return pool(flat, plan(metric, offsets, 30, **options))


def step_by_step(x: Tensor, schedule: list[int]) -> Tensor:
    """The published form: in each round a metric of the features as they are, a merge of the features
    themselves."""
    size = x.new_ones(*x.shape[:2], 1)
    for wanted in schedule:
        metric = x.unflatten(2, (HEADS, -1)).mean(2)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        best = (metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)).max(-1)
        pairs = min(wanted, x.shape[1] // 2)
        order = best.values.argsort(dim=-1, descending=True)
        alone, joins = order[:, pairs:, None], order[:, :pairs, None]
        into = best.indices[..., None].gather(1, joins)

        def merged(t: Tensor, alone: Tensor = alone, joins: Tensor = joins, into: Tensor = into) -> Tensor:
            even, odd, width = t[:, ::2], t[:, 1::2], t.shape[2]
            moved = even.gather(1, joins.expand(-1, -1, width))
            odd = odd.scatter_add(1, into.expand(-1, -1, width), moved)
            return torch.cat([even.gather(1, alone.expand(-1, -1, width)), odd], 1)

        x, size = merged(x * size), merged(size)
        x = x / size
    return x


def check(x: Tensor) -> None:
    """Nothing is timed unless both forms agree to 1e-12 in float64."""
    want = step_by_step(x, PUBLISHED).flatten(0, 1)
    got = composed(x, schedule=PUBLISHED, score="cosine", order="reference")
    worst = float((got - want).abs().max())
    if worst > 1e-12:
        raise ValueError(
            f"the composed merge differs from the step-by-step one by {worst:.2e}; nothing is timed"
        )


def timed(work: Callable[[], Any], repeat: int) -> tuple[float, float, float]:
    """(fastest, middle, slowest) milliseconds of `repeat` runs after one to warm up."""
    work()
    took = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - begin))
    took.sort()
    return took[0], took[len(took) // 2], took[-1]


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
