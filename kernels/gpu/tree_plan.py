"""`plan` by the tree, all of it on the GPU: parts grow, and each is cut at a number that lengths decide.

So nothing waits. That holds where a segment keeps no more groups than its blocks leave, and they leave no
more than one program can cut.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import on_its_device
from .plan import warps_of
from .plan_layout import cached, sent, sums
from .plan_tiles import load_rows
from .tree import ALIGNED, Nodes, channels_of, grow
from .tree_tiles import ROWS

SEATS = (512, 1024, 2048)  # nodes of a part, in the forms that are compiled
SLICE = 32  # channels of a mean that are copied at once
CHUNK = 1 << 17  # tokens, about, whose blocks grow at once
HIGHEST = tl.constexpr(0x7FFFFFFF)


@triton.jit
def lowest_bits(bits, among, num):
    """The lowest number that at least `num` (>= 1) of the bits >= 0 that are `among` don't exceed."""
    low = num * 0
    high = num * 0 + HIGHEST
    while low < high:
        middle = low + (high - low) // 2
        enough = tl.sum((among & (bits <= middle)).to(tl.int32)) >= num
        low = tl.where(enough, low, middle + 1)
        high = tl.where(enough, middle, high)
    return low


@triton.jit(do_not_specialize=["num"])
def cut_kernel(
    metric, x, weight, height, low, key, children, near, place, searching, num_merges, offsets, goals, starts,
    out_row, out_x, out_weight, out_height, num, D: tl.constexpr, WIDTH: tl.constexpr, SLICE: tl.constexpr,
    SEATS: tl.constexpr, MEANS: tl.constexpr,
):  # fmt: skip
    """Takes the goals[part] lowest merges of a part: by height, then by key, children before parents.

    Tokens then know the row of their group, by lowest token from starts[part] on. A row gets the weight and
    the height of the group and, with MEANS, its mean.
    """
    part = tl.program_id(0)
    base = tl.load(offsets + part)
    n = tl.load(offsets + part + 1) - base
    goal = tl.load(goals + part)
    start = tl.load(starts + part)
    lane = tl.arange(0, SEATS)
    live = lane < n
    token = base + lane
    merge = num + base + lane
    known = lane < tl.load(num_merges + part)
    bits = tl.load(height + merge, mask=known, other=0.0).to(tl.int32, bitcast=True)
    chosen = known & (goal > 0)
    if goal > 0:
        top = lowest_bits(bits, known, goal)
        ties = known & (bits == top)
        below = known & (bits < top)
        rest = goal - tl.sum(below.to(tl.int32))
        chosen = below | ties
        if tl.sum(ties.to(tl.int32)) > rest:
            keys = tl.load(key + merge, mask=known, other=0)
            last = lowest_bits(keys, ties, rest)
            early = ties & (keys < last)
            even = ties & (keys == last)
            rest -= tl.sum(early.to(tl.int32))
            chosen = below | early | (even & (tl.cumsum(even.to(tl.int32), 0) <= rest))
    # parents of what merged, then the topmost node of each token
    tl.store(place + token, lane * 0 - 1, mask=live)
    tl.store(place + merge, lane * 0 - 1, mask=live)
    tl.debug_barrier()
    for side in range(0, 2):
        child = tl.load(children + 2 * merge.to(tl.int64) + side, mask=chosen, other=0)
        tl.store(place + child, merge, mask=chosen)
    tl.debug_barrier()
    node = token
    above = tl.load(place + node, mask=live, other=-1)
    while tl.max(above) >= 0:
        node = tl.where(above >= 0, above, node)
        above = tl.load(place + node, mask=live, other=-1)
    lowest = tl.load(low + node, mask=live, other=0)
    first = live & (lowest == token)
    number = tl.minimum(tl.cumsum(first.to(tl.int32), 0), n - goal) - 1  # in range with NaN too
    tl.store(near + token, number, mask=first)
    tl.store(searching + base + number, node, mask=first)
    tl.debug_barrier()
    tl.store(out_row + token, start + tl.load(near + lowest, mask=live, other=0), mask=live)
    tl.store(out_weight + start + number, tl.load(weight + node, mask=first, other=0.0), mask=first)
    if MEANS:
        tl.store(out_height + start + number, tl.load(height + node, mask=first, other=0.0), mask=first)
        left = n - goal
        for tile in range(0, tl.cdiv(left, ROWS)):
            row = tile * ROWS + tl.arange(0, ROWS)
            root = tl.load(searching + base + row, mask=row < left, other=0)
            has_weight = tl.load(weight + root, mask=row < left, other=0.0) > 0
            to = (start + row).to(tl.int64)
            for slice in range(0, D, SLICE):
                channel = slice + tl.arange(0, SLICE)
                used = (row < left)[:, None] & (channel < D)[None]
                mean = load_rows(metric, x, root, num, slice, has_weight, WIDTH, D, SLICE)
                tl.store(out_x + to[:, None] * D + channel[None], mean, mask=used)


def fits(blocks: list[list[tuple[int, int]]], keep: list[int]) -> bool:
    """Whether segments of these blocks, (tokens, groups left) each, are planned without waiting."""
    left = [sum(goal for _, goal in segment) for segment in blocks]
    longest = max((size for segment in blocks for size, _ in segment), default=0)
    is_low = all(k <= num or len(b) < 2 for b, num, k in zip(blocks, left, keep, strict=True))
    return is_low and max(longest, *left, 0) <= SEATS[-1]


@on_its_device
def plan_parts(
    metric: Tensor, weight: Tensor | None, blocks: list[list[tuple[int, int]]], keep: list[int],
    *, capturing: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """(what a Plan has, () whether every cost is a number) of metric (N, d) float32, where it `fits`.

    ValueError while capturing, before anything is launched, unless the lengths were planned before.
    """
    sizes, goals = np.array([pair for segment in blocks for pair in segment], np.int64).reshape(-1, 2).T
    rows = np.array([sum(goal for _, goal in segment) for segment in blocks], np.int64)
    limits = np.minimum(np.array(keep, np.int64), rows)
    chunk = sums(sizes)[:-1] // CHUNK  # of blocks: what a node needs is never there for all tokens at once
    split = np.flatnonzero(np.diff(chunk)) + 1
    of_chunks = list(zip(*(np.split(each, split) for each in (sizes, goals, sums(goals)[:-1])), strict=True))
    tables = [sums(rows), rows - limits, sums(limits)]
    tables += [table for size, goal, first in of_chunks for table in (sums(size), size - goal, first)]
    key = ("tree", metric.device, *(table.tobytes() for table in tables))
    row_at, row_merged, out, *sent_chunks = cached(
        key, lambda: sent(tables, metric.device), capturing=capturing
    )
    of = metric.new_ones(len(metric)) if weight is None else weight.detach().float().clone()
    x, masses, height, group = metric, of, metric.new_zeros(len(metric)), None
    is_finite = torch.ones((), dtype=torch.bool, device=metric.device)
    if (sizes > goals).any():
        left, first = _Left(metric, int(goals.sum()), means=True), 0
        for k, (size, _, _) in enumerate(of_chunks):
            part = slice(first, first := first + int(size.sum()))
            at, merged, starts = sent_chunks[3 * k : 3 * k + 3]
            nodes = grow(x[part], masses[part], height[part], at, merged, int(size.max()))
            left.cut(x[part], nodes, part.stop - part.start, at, merged, starts, int(size.max()))
            is_finite = is_finite & nodes.is_finite
        group, x, masses, height = torch.cat(left.row).long(), left.x, left.weight, left.height
    last, longest = _Left(metric, int(limits.sum()), means=False), int(rows.max(initial=0))
    nodes = grow(x, masses, height, row_at, row_merged, longest)
    last.cut(x, nodes, int(rows.sum()), row_at, row_merged, out, longest)
    row = last.row[0] if group is None else last.row[0][group]
    return row, of, last.weight.clone(), out.clone(), is_finite & nodes.is_finite


class _Left:
    """What is left of parts: each token's row, and means (M, D), weights and heights (M,) of the rows."""

    def __init__(self, metric: Tensor, num: int, *, means: bool) -> None:
        self.row: list[Tensor] = []
        self.x = metric.new_empty((num if means else 0, channels_of(metric.shape[1])))
        numbers = metric.new_empty((2, -(-num // ALIGNED) * ALIGNED))
        self.weight, self.height = numbers[0, :num], numbers[1, :num]
        self.means = means

    def cut(
        self, metric: Tensor, nodes: Nodes, num: int, offsets: Tensor, goals: Tensor, starts: Tensor,
        longest: int,
    ) -> None:  # fmt: skip
        """Cut parts of `num` tokens in all, at most `longest` each, after their goals."""
        row = nodes.low.new_empty(num)
        self.row.append(row)
        if num:
            seats = next(n for n in SEATS if n >= longest)
            cut_kernel[(len(goals),)](
                metric.contiguous(), *nodes[:10], offsets, goals, starts, row, self.x, self.weight,
                self.height, num, D=nodes.x.shape[1], WIDTH=metric.shape[1], SLICE=SLICE,
                SEATS=seats, MEANS=self.means, num_warps=warps_of(seats),
            )  # fmt: skip
