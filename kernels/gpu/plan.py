"""`plan` on the GPU: the layout of the lengths decides every launch, only kernels read values."""

import torch
import triton
from torch import Tensor

from .._dispatch import on_its_device
from . import plan_rounds as rounds
from .plan_layout import Layout

EVENS, FEW_EVENS = 128, 64  # rows of a tile of scores; the few for a deep metric and in a tail
ODDS = 32  # columns of it
SEATS, KEYS = 64, 16  # rows and columns of a tile of comparisons
GROUPS, TAIL_GROUPS = 8, 16  # groups merged at once
TOKENS = 1024  # raw tokens whose map is composed at once
ROWS = 64  # rows whose squares are summed at once
TAIL = 256  # tokens; a segment of no more goes through its remaining rounds in one program
DEEP, SLICE = 64, 32  # channels of a metric that stay in registers; a deeper one is read in slices
NARROW = 90_000  # tokens of a segment whose keys fit 32 bits
WARPS, MERGE_WARPS, TAIL_WARPS = 4, 2, 8


@on_its_device
def plan_triton(
    metric: Tensor, weight: Tensor, measured: tuple[Tensor, Tensor], layout: Layout, *, ward: bool,
    reference: bool, fast: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(group (N,) int32, mass (M,) float32, offsets (S + 1,) int32) of `plan`; nothing waits for the GPU.

    `metric` (N, d) and `weight` (N,) are float32, `measured` is `measure` of them, `layout` the segments' of
    `TAIL`. Not `ward` is the cosine, not `reference` the order of seats, `fast` takes scores from bfloat16.
    """
    num, width = metric.shape
    whole = dict(_depth(width), D=width, WARD=ward, FAST=0 if not fast else 2 if metric.is_cuda else 1)
    tile = tile_of(width)
    wide_keys = layout.longest > NARROW
    no_key = (1 << 63) - 1 if wide_keys else (1 << 31) - 1
    group, mass = layout.local.clone(), metric.new_empty((layout.num_groups,))
    mass[layout.unmerged_groups] = weight[layout.unmerged]
    if not layout.rounds and not len(layout.tails):
        return group, mass, layout.starts.clone()
    scratch = max(num, *layout.half_rows, layout.tail_rows)
    best = metric.new_empty((scratch,))
    key = metric.new_empty((scratch,), dtype=torch.int64 if wide_keys else torch.int32)
    partner, rank, count, order, target, first = (
        metric.new_empty((scratch,), dtype=torch.int32) for _ in range(6)
    )
    halves = [_state(metric, rows) for rows in layout.half_rows]
    tails = _state(metric, layout.tail_rows)
    tiles = {"SEATS": SEATS, "KEYS": KEYS}
    now: tuple[Tensor, ...] = (metric, *measured, weight)
    for k, a_round in enumerate(layout.rounds):
        rows = layout.rows[a_round.first :]
        blocks = triton.cdiv((a_round.longest + 1) // 2, tile["EVENS"])
        rounds.match_kernel[(blocks * a_round.num,)](
            *now[:3], best, partner, key, rows, blocks, **tile, **whole
        )
        blocks = triton.cdiv((a_round.longest + 1) // 2, SEATS)
        if a_round.ranked:
            rounds.rank_kernel[(blocks * a_round.num,)](
                best, key, rank, rows, blocks, NO_KEY=no_key, num_warps=WARPS, **tiles
            )
            rounds.count_kernel[(blocks * a_round.num,)](
                key, count, rows, blocks, NO_KEY=no_key, SEATS=SEATS, num_warps=1
            )
        rounds.place_kernel[(blocks * a_round.num,)](
            partner, key, rank, count, order, target, first, rows, blocks, NO_KEY=no_key,
            RANKED=a_round.ranked, REFERENCE=reference, num_warps=WARPS, **tiles,
        )  # fmt: skip
        blocks = triton.cdiv(a_round.longest, GROUPS)
        rounds.merge_kernel[(blocks * a_round.num,)](
            now[0], now[3], order, target, first, *halves[k % 2], *tails, mass, group, rows, blocks, D=width,
            SLICE=whole["SLICE"], WARD=ward, GROUPS=GROUPS, TOKENS=TOKENS, num_warps=MERGE_WARPS,
        )  # fmt: skip
        now = halves[k % 2]
    scratches = (best, partner, key, rank, count, order, target, first)
    of_metric, of_rounds = layout.tails.split(
        (layout.num_raw_tails, len(layout.tails) - layout.num_raw_tails)
    )
    for tails_of, state in ((of_metric, (metric, *measured, weight)), (of_rounds, tails)):
        if len(tails_of):
            rounds.tail_kernel[(len(tails_of),)](
                *state, *tails, *scratches, mass, group, tails_of, layout.steps, NO_KEY=no_key,
                REFERENCE=reference, EVENS=FEW_EVENS, ODDS=ODDS, GROUPS=TAIL_GROUPS, TOKENS=TOKENS,
                num_warps=TAIL_WARPS, **(whole | {"FAST": 0}), **tiles,
            )  # fmt: skip
    return group, mass, layout.starts.clone()


@on_its_device
def measure(metric: Tensor, weight: Tensor, ward: bool) -> tuple[Tensor, Tensor]:
    """((N,) |metric|^2, (N,) scale): what a score needs of each token beside its metric, float32.

    A token of weight 0 is a zero vector; where the metric isn't finite, neither is its square.
    metric (N, d) and weight (N,) are float32; the scale is 1 / weight for `ward`, else 1 / length.
    """
    num, width = metric.shape
    square, scale = metric.new_empty((num,)), metric.new_empty((num,))
    if num:
        rounds.squares_kernel[(triton.cdiv(num, ROWS),)](
            metric, weight, square, scale, num, D=width, SLICE=_depth(width)["SLICE"], WARD=ward, ROWS=ROWS,
            num_warps=WARPS,
        )  # fmt: skip
    return square, scale


def tile_of(width: int) -> dict[str, int]:
    """Rows and columns of a tile of scores and the warps that share it, for metrics (N, width)."""
    deep = width > DEEP
    return {"EVENS": FEW_EVENS if deep else EVENS, "ODDS": ODDS, "num_warps": 4 if deep else 8}


def _depth(width: int) -> dict[str, int]:
    wide = max(16, triton.next_power_of_2(width))
    return {"WIDE": wide, "SLICE": wide if wide <= DEEP else SLICE}


def _state(metric: Tensor, rows: int) -> tuple[Tensor, ...]:
    """Metric, squares, scales and weights of `rows` tokens."""
    return metric.new_empty((rows, metric.shape[1])), *(metric.new_empty((rows,)) for _ in range(3))
