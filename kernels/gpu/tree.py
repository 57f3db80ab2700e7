"""Ward's tree on the GPU: all merges of a part of the tokens in one program, as `pairs` says them.

Nodes are rows of one table: the part's tokens, then its merges. A round over those alive:
- *search*: each one's nearest, the others going by in tiles;
- *pair*: those that are each other's nearest become children of new nodes;
- *merge*: means and costs of these;
- *heights*: their heights, and who is alive.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import on_its_device
from ..pairs import Array, Merges, check_squares, first_merges, in_one_numbering, merge_pairs

ROWS, COLUMNS = 64, 32  # nodes that look for their nearest at once, and that go by
SLICE = 32  # channels in registers
ALIGNED = 4  # numbers, so that each of several arrays is aligned
SEATS = (512, 1024, 2048)  # nodes of a part, in the forms that are compiled
WARPS = 8
MIN_CHANNELS = 64  # channels of the table; metrics of fewer are filled up


@triton.jit
def search_tile(
    x, square, inverse, alive, near, cost, n, tile, D: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """near and cost of ROWS of the n nodes alive: the other one that is cheapest to merge with."""
    row = tile * ROWS + tl.arange(0, ROWS)
    node = tl.load(alive + row, mask=row < n, other=0)
    row_square = tl.load(square + node)
    row_inverse = tl.load(inverse + node)
    best = tl.full([ROWS], float("inf"), tl.float32)
    who = tl.where(row == 0, 1, 0)
    for start in range(0, n, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        other = tl.load(alive + column, mask=column < n, other=0)
        dots = tl.zeros([ROWS, COLUMNS], tl.float32)
        for slice in range(0, D, SLICE):
            channel = slice + tl.arange(0, SLICE)
            inside = channel < D
            a = tl.load(x + node.to(tl.int64)[:, None] * D + channel[None], mask=inside[None], other=0.0)
            b = tl.load(x + other.to(tl.int64)[None] * D + channel[:, None], mask=inside[:, None], other=0.0)
            dots = tl.dot(a, b, dots, input_precision="tf32x3")
        apart = row_square[:, None] + tl.load(square + other)[None] - 2 * dots
        apart /= row_inverse[:, None] + tl.load(inverse + other)[None]
        apart = tl.where((column < n)[None] & (column[None] != row[:, None]), apart, float("inf"))
        lowest = tl.min(apart, axis=1)
        at = tl.argmin(apart, axis=1)
        who = tl.where(lowest < best, start + at, who)
        best = tl.minimum(lowest, best)
    tl.store(near + row, who, mask=row < n)
    tl.store(cost + row, best, mask=row < n)


@triton.jit
def merge_tile(
    x, weight, square, inverse, cost, children, first_node, num_pairs, tile, D: tl.constexpr,
    SLICE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Mean, weight and cost of ROWS of the round's merges, whose first node is `first_node`."""
    merge = tile * ROWS + tl.arange(0, ROWS)
    live = merge < num_pairs
    node = first_node + merge
    a = tl.load(children + 2 * node.to(tl.int64), mask=live, other=0)
    b = tl.load(children + 2 * node.to(tl.int64) + 1, mask=live, other=0)
    first = tl.load(weight + a, mask=live, other=1.0)
    second = tl.load(weight + b, mask=live, other=1.0)
    both = first + second
    share = second / tl.where(both > 0, both, 1.0)
    apart = tl.zeros([ROWS], tl.float32)
    length = tl.zeros([ROWS], tl.float32)
    for slice in range(0, D, SLICE):
        channel = slice + tl.arange(0, SLICE)
        used = live[:, None] & (channel < D)[None]
        start = tl.load(x + a.to(tl.int64)[:, None] * D + channel[None], mask=used, other=0.0)
        change = tl.load(x + b.to(tl.int64)[:, None] * D + channel[None], mask=used, other=0.0) - start
        mean = start + change * share[:, None]
        apart += tl.sum(change * change, axis=1)
        length += tl.sum(mean * mean, axis=1)
        tl.store(x + node.to(tl.int64)[:, None] * D + channel[None], mean, mask=used)
    tl.store(cost + merge, apart * first * share, mask=live)
    tl.store(weight + node, both, mask=live)
    tl.store(square + node, length, mask=live)
    upside = tl.where(both > 0, 1.0 / tl.where(both > 0, both, 1.0), float("inf"))
    tl.store(inverse + node, upside, mask=live)


@triton.jit(do_not_specialize=["num"])
def grow_kernel(
    x, weight, square, inverse, height, low, key, children, alive, near, cost, num_merges, offsets, goals,
    num, D: tl.constexpr, SLICE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEATS: tl.constexpr,
):  # fmt: skip
    """Merges of a part until the goals[part] lowest are among them; num_merges[part]: how many there are.

    x, weight, square, inverse, height, low, key and children are of nodes: num tokens, then for each token
    of a part the place of a merge of it.
    """
    part = tl.program_id(0)
    base = tl.load(offsets + part)
    n = tl.load(offsets + part + 1) - base
    goal = tl.load(goals + part)
    alive += base
    near += base
    cost += base
    lane = tl.arange(0, SEATS)
    tl.store(alive + lane, base + lane, mask=lane < n)
    tl.debug_barrier()
    origin = num + base
    count = n * 0
    floor = 0.0
    going = (goal > 0) & (n > 1)
    while going:
        for tile in range(0, tl.cdiv(n, ROWS)):
            search_tile(x, square, inverse, alive, near, cost, n, tile, D, SLICE, ROWS, COLUMNS)
        tl.debug_barrier()
        live = lane < n
        node = tl.load(alive + lane, mask=live, other=0)
        other = tl.load(near + lane, mask=live, other=0)
        back = tl.load(near + other, mask=live, other=-1)
        mutual = live & (back == lane)
        if tl.sum(mutual.to(tl.int32)) == 0:  # rounding left none: the cheapest of all
            best = tl.argmin(
                tl.where(live, tl.load(cost + lane, mask=live, other=float("inf")), float("inf")), 0
            )
            to = tl.load(near + best)
            mutual = (lane == best) | (lane == to)
            other = tl.where(lane == best, to, tl.where(lane == to, best, other))
        lower = mutual & (lane < other)
        upper = mutual & (lane > other)
        num_pairs = tl.sum(lower.to(tl.int32))
        rank = tl.cumsum(lower.to(tl.int32), 0) - 1
        merged = origin + count + rank
        tl.store(children + 2 * merged.to(tl.int64), node, mask=lower)
        tl.store(
            children + 2 * merged.to(tl.int64) + 1, tl.load(alive + other, mask=lower, other=0), mask=lower
        )
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_pairs, ROWS)):
            merge_tile(
                x, weight, square, inverse, cost, children, origin + count, num_pairs, tile, D, SLICE, ROWS
            )
        tl.debug_barrier()
        new = lane < num_pairs
        price = tl.load(cost + lane, mask=new, other=float("inf"))
        floor = tl.maximum(floor, tl.min(price, 0))
        known = tl.load(height + origin + lane, mask=lane < count, other=float("inf"))
        going = tl.sum((known < floor).to(tl.int32)) < goal
        if going:
            at = origin + count + lane
            a = tl.load(children + 2 * at.to(tl.int64), mask=new, other=0)
            b = tl.load(children + 2 * at.to(tl.int64) + 1, mask=new, other=0)
            a_height = tl.load(height + a, mask=new, other=0.0)
            b_height = tl.load(height + b, mask=new, other=0.0)
            top = tl.maximum(tl.maximum(price, floor), tl.maximum(a_height, b_height))
            first = tl.load(low + a, mask=new, other=0)
            own = tl.where((a >= num) & (a_height == top), tl.load(key + a, mask=new, other=0), first)
            second = tl.where((b >= num) & (b_height == top), tl.load(key + b, mask=new, other=0), first)
            tl.store(height + at, top, mask=new)
            tl.store(low + at, first, mask=new)
            tl.store(key + at, tl.maximum(tl.maximum(first, own), second), mask=new)
            stays = live & ~upper
            place = tl.cumsum(stays.to(tl.int32), 0) - 1
            tl.store(alive + place, tl.where(lower, merged, node), mask=stays)
            count += num_pairs
            n -= num_pairs
            tl.debug_barrier()
            going = n > 1
    tl.store(num_merges + part, count)


@on_its_device
def merge_parts(x: Tensor, weight: Tensor, height: Array, sizes: Array, goals: Array) -> Merges:
    """`pairs.merge_pairs` of x (R, D) and weight (R,), float32 on the GPU, and so are those of the result.

    Parts of at most `SEATS[-1]` rows merge by `grow_kernel`, longer ones on the CPU. It waits for the merges.
    """
    at, is_long, parts = np.concatenate([[0], np.cumsum(sizes)]), sizes > SEATS[-1], []
    for run in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(is_long)) + 1):  # of one kind
        rows = slice(at[run].min(initial=len(x)), at[run + 1].max(initial=0))
        options = height[rows], sizes[run], goals[run]
        if is_long[run].any():
            part = merge_pairs(x[rows].cpu().numpy(), weight[rows].double().cpu().numpy(), *options)
            means, masses = torch.from_numpy(part.x), torch.from_numpy(part.weight).float()
            parts.append(part._replace(x=means.to(x.device), weight=masses.to(x.device)))
        else:
            parts.append(_grown(x[rows], weight[rows], *options))
    return in_one_numbering(parts)


def _grown(x: Tensor, weight: Tensor, height: Array, sizes: Array, goals: Array) -> Merges:
    """`merge_parts` by the kernel."""
    num, width = x.shape
    device, at = x.device, np.concatenate([[0], np.cumsum(sizes)])
    room = 2 * -(-num // ALIGNED) * ALIGNED
    table = x.new_zeros((room, max(MIN_CHANNELS, width)))
    table[:num, :width] = x.masked_fill((weight == 0)[:, None], 0)
    masses, square, inverse, heights = x.new_empty((4, room)).unbind()
    masses[:num], inverse[:num] = weight, 1 / weight
    square[:num] = table[:num].square().sum(1)
    heights[:num] = torch.from_numpy(height).to(device)
    low, key, alive, near = torch.empty((4, room), dtype=torch.int32, device=device).unbind()
    low[:num] = torch.arange(num, dtype=torch.int32, device=device)
    children = low.new_empty((room, 2))
    shape = [torch.from_numpy(values.astype(np.int32)).to(device) for values in (at, goals)]
    num_merges = torch.zeros_like(shape[1])
    check_squares(bool(torch.isfinite(4 * square[:num]).all()), x)  # so that every cost is a number
    if num:
        seats = next(n for n in SEATS if n >= sizes.max())
        grow_kernel[(len(sizes),)](
            table, masses, square, inverse, heights, low, key, children, alive, near, x.new_empty(room),
            num_merges, *shape, num, D=table.shape[1], SLICE=SLICE, ROWS=ROWS, COLUMNS=COLUMNS, SEATS=seats,
            num_warps=WARPS,
        )  # fmt: skip
    counts = num_merges.cpu().numpy()
    part = np.repeat(np.arange(len(sizes)), counts)
    merges = num + at[part] + np.arange(len(part)) - np.searchsorted(part, part)
    lows, keys, pairs = (values.cpu().numpy() for values in (low, key, children))
    heights_of, keys_of = heights.cpu().numpy()[merges].astype(np.float64), keys[merges].astype(np.int64)
    chosen, named, roots, names = first_merges(num, goals, part, merges, heights_of, keys_of, pairs, lows)
    rows = torch.from_numpy(roots).to(device)
    return Merges(named, heights_of[chosen], keys_of[chosen], names, table[rows, :width], masses[rows])
