"""Ward's tree on the GPU: all merges of a part of the tokens in one program, as `pairs` says them.

Nodes are the part's tokens, then its merges. A round over those alive:
- *search*: the nearest of each one that has none or whose nearest has merged, the others going by in tiles;
- *pair*: those that are each other's nearest become children of new nodes;
- *merge*: means and costs of these;
- *heights*: their heights, then seats without a gap for those alive.
"""

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import on_its_device
from ..pairs import Array, Merges, check_squares, first_merges
from .tree_tiles import COLUMNS, ROWS, measure, merge, search, take_seats

DEEP, SLICE = 64, 16  # channels of a metric that stay in registers; a deeper one is read in slices
ALIGNED = 4  # numbers, so that each of several arrays is aligned
MERGES = tl.constexpr(32)  # pairs that merge at once
WARPS, STAGES = 4, 2  # STAGES: of tiles of columns on the chip
LANES = tl.constexpr(32 * WARPS)  # nodes that are paired at once, a thread each: it reads before it writes


@triton.jit(do_not_specialize=["num", "tiles"])
def grow_kernel(
    metric, x, halves, weight, square, inverse, height, low, key, children, near, cost, place,
    alive, seats, searching, num_merges, offsets, goals, num, tiles, D: tl.constexpr, WIDTH: tl.constexpr,
    SLICE: tl.constexpr,
):  # fmt: skip
    """Merges of a part of the metric until the goals[part] lowest are among them; num_merges[part]: how many.

    Those from halves to place are of nodes: num tokens, then for each token of a part the place of a merge of
    it. `x` has means of merges. A node's nearest is `near`; `place` is its seat among those alive, -1: it is
    none of them any more.
    """
    state = x, halves, weight, square, inverse, children
    part = tl.program_id(0)
    base = tl.load(offsets + part)
    n = tl.load(offsets + part + 1) - base
    goal = tl.load(goals + part)
    room = part.to(tl.int64) * tiles * COLUMNS
    alive += room
    seats += 3 * room
    searching += base
    lane = tl.arange(0, LANES)
    mass = tl.load(weight + base, mask=n > 0, other=0.0)
    num_others = n * 0  # of another weight
    for first in range(0, n, LANES):
        live = first + lane < n
        tl.store(alive + first + lane, base + first + lane, mask=live)
        tl.store(near + base + first + lane, lane * 0 - 1, mask=live)
        its = tl.load(weight + base + first + lane, mask=live, other=mass)
        num_others += tl.sum((its != mass).to(tl.int32))
    for tile in range(0, tl.cdiv(n, ROWS)):
        some = tile * ROWS + tl.arange(0, ROWS)
        measure(metric, state, base + some, some < n, num, WIDTH, D, SLICE)
    origin = num + base
    count = n * 0
    floor = 0.0
    going = (goal > 0) & (n > 1)
    while going:
        tl.debug_barrier()
        taken = n * 0
        num_searching = n * 0
        for first in range(0, n, LANES):
            node = tl.load(alive + first + lane, mask=first + lane < n, other=-1)
            stays = node >= 0
            other = tl.load(near + node, mask=stays, other=0)
            searches = stays & (tl.load(place + other, mask=stays & (other >= 0), other=-1) < 0)
            length = tl.load(square + node, mask=stays, other=0.0)
            per_weight = tl.load(inverse + node, mask=stays, other=1.0)
            both = stays.to(tl.int32) + (searches.to(tl.int32) << 16)  # counted at once
            number = tl.cumsum(both, 0)
            seat = taken + (number & 0xFFFF) - 1
            tl.debug_barrier()  # nobody is seated before all of these have left
            take_seats(alive, seats, seat, node, length, per_weight, stays)
            tl.store(place + node, seat, mask=stays)
            tl.store(searching + num_searching + (number >> 16) - 1, seat, mask=searches)
            total = tl.sum(both)
            taken += total & 0xFFFF
            num_searching += total >> 16
        n = taken
        tl.debug_barrier()
        free = n + tl.arange(0, COLUMNS)  # the rest of the last tile is infinitely far
        none = (free * 0).to(tl.float32)
        first_one = tl.load(alive) + free * 0
        used = free < tl.cdiv(n, COLUMNS) * COLUMNS
        take_seats(alive, seats, free, first_one, none + float("inf"), none + 1.0, used)
        tl.debug_barrier()
        if (count == 0) & (num_others == 0) & (mass > 0):
            for tile in range(0, tl.cdiv(num_searching, ROWS)):
                search(state, alive, seats, searching, near, cost, n, num_searching, tile, D, SLICE, True)
        else:
            for tile in range(0, tl.cdiv(num_searching, ROWS)):
                search(state, alive, seats, searching, near, cost, n, num_searching, tile, D, SLICE, False)
        tl.debug_barrier()
        num_pairs = n * 0
        for first in range(0, n, LANES):
            live = first + lane < n
            node = tl.load(alive + first + lane, mask=live, other=0)
            other = tl.load(near + node, mask=live, other=0)
            mutual = live & (tl.load(near + other, mask=live, other=-1) == node)
            lower = mutual & (first + lane < tl.load(place + other, mask=mutual, other=-1))
            at = 2 * (origin + count + num_pairs + tl.cumsum(lower.to(tl.int32), 0) - 1).to(tl.int64)
            tl.store(children + at, node, mask=lower)
            tl.store(children + at + 1, other, mask=lower)
            num_pairs += tl.sum(lower.to(tl.int32))
        if num_pairs == 0:  # rounding left none: the cheapest of all
            best = tl.full([], 1 << 62, tl.int64)
            for first in range(0, n, LANES):
                node = tl.load(alive + first + lane, mask=first + lane < n, other=0)
                price = tl.load(cost + node, mask=first + lane < n, other=float("inf"))
                ranked = (price.to(tl.int32, bitcast=True).to(tl.int64) << 32) + first + lane
                best = tl.minimum(best, tl.min(ranked, 0))
            a = (best & 0x7FFFFFFF).to(tl.int32)
            b = tl.load(place + tl.load(near + tl.load(alive + a)))
            at = 2 * (origin + count).to(tl.int64)
            tl.store(children + at, tl.load(alive + tl.minimum(a, b)))
            tl.store(children + at + 1, tl.load(alive + tl.maximum(a, b)))
            num_pairs += 1
        tl.debug_barrier()
        cheapest = float("inf")
        for tile in range(0, tl.cdiv(num_pairs, MERGES)):
            some = tile * MERGES + tl.arange(0, MERGES)
            live = some < num_pairs
            price = merge(metric, state, origin + count + some, live, num, WIDTH, D, SLICE)
            cheapest = tl.minimum(cheapest, tl.min(tl.where(live, price, float("inf")), 0))
            tl.store(cost + origin + count + some, price, mask=live)
        tl.debug_barrier()
        floor = tl.maximum(floor, cheapest)
        below = n * 0
        for first in range(0, count, LANES):
            known = tl.load(height + origin + first + lane, mask=first + lane < count, other=float("inf"))
            below += tl.sum((known < floor).to(tl.int32))
        going = below < goal
        if going:
            for first in range(0, num_pairs, LANES):
                live = first + lane < num_pairs
                at = origin + count + first + lane
                a = tl.load(children + 2 * at.to(tl.int64), mask=live, other=0)
                b = tl.load(children + 2 * at.to(tl.int64) + 1, mask=live, other=0)
                a_height = tl.load(height + a, mask=live, other=0.0)
                b_height = tl.load(height + b, mask=live, other=0.0)
                price = tl.load(cost + at, mask=live, other=0.0)
                top = tl.maximum(tl.maximum(price, floor), tl.maximum(a_height, b_height))
                lowest = tl.load(low + a, mask=live, other=0)
                own = tl.where((a >= num) & (a_height == top), tl.load(key + a, mask=live, other=0), lowest)
                its = tl.where((b >= num) & (b_height == top), tl.load(key + b, mask=live, other=0), lowest)
                tl.store(height + at, top, mask=live)
                tl.store(low + at, lowest, mask=live)
                tl.store(key + at, tl.maximum(tl.maximum(lowest, own), its), mask=live)
                tl.store(near + at, lane * 0 - 1, mask=live)
                # a merge sits where its first child sat
                tl.store(alive + tl.load(place + a, mask=live, other=0), at, mask=live)
                tl.store(alive + tl.load(place + b, mask=live, other=0), lane * 0 - 1, mask=live)
                tl.store(place + a, lane * 0 - 1, mask=live)
                tl.store(place + b, lane * 0 - 1, mask=live)
            count += num_pairs
            going = n - num_pairs > 1
    tl.store(num_merges + part, count)


def channels_of(width: int) -> int:
    """Of the means of a metric's nodes: filled up to whole slices."""
    return max(DEEP, triton.cdiv(width, SLICE) * SLICE)


def slice_of(channels: int) -> int:
    """Channels that are read at once."""
    return DEEP if channels == DEEP else SLICE


@on_its_device
def merge_parts(x: Tensor, weight: Tensor, height: Array, sizes: Array, goals: Array) -> Merges:
    """`pairs.merge_pairs` of x (R, D) and weight (R,), float32 on the GPU, and so are those of the result. It
    waits for the merges."""
    num, device, at = len(x), x.device, np.concatenate([[0], np.cumsum(sizes)])
    shape = [torch.from_numpy(values.astype(np.int32)).to(device) for values in (at, goals)]
    start, longest = torch.from_numpy(height).to(device), int(sizes.max(initial=0))
    nodes = grow(x, weight, start, shape[0], shape[1], longest)
    check_squares(bool(nodes.is_finite), x)
    counts = nodes.num_merges.cpu().numpy()
    part = np.repeat(np.arange(len(sizes)), counts)
    merges = num + at[part] + np.arange(len(part)) - np.searchsorted(part, part)
    lows, keys, pairs = (values.cpu().numpy() for values in (nodes.low, nodes.key, nodes.children))
    heights_of, keys_of = nodes.height.cpu().numpy()[merges].astype(np.float64), keys[merges].astype(np.int64)
    chosen, named, roots, names = first_merges(num, goals, part, merges, heights_of, keys_of, pairs, lows)
    rows = torch.from_numpy(roots).to(device)
    masses, merged = nodes.weight[rows], nodes.x[(rows - num).clamp_min(0), : x.shape[1]]
    means = torch.where((rows < num)[:, None], x[rows.clamp_max(num - 1)], merged)
    means = torch.where(masses[:, None] > 0, means, 0)
    return Merges(named, heights_of[chosen], keys_of[chosen], names, means, masses)


class Nodes(NamedTuple):
    """All that a kernel knows of R tokens and then, for each token of a part, a merge of it."""

    x: Tensor  # (R, D) means of merges; D: see `channels_of`
    weight: Tensor  # (2 R or more,), as those from here on
    height: Tensor
    low: Tensor  # lowest token
    key: Tensor  # what orders merges of equal height
    children: Tensor  # (2 R or more, 2), of merges
    near: Tensor  # what is written to freely from here on, as place and searching
    place: Tensor
    searching: Tensor
    num_merges: Tensor  # (P,) of each part
    is_finite: Tensor  # () whether every cost is a number


def grow(x: Tensor, weight: Tensor, height: Tensor, offsets: Tensor, goals: Tensor, longest: int) -> Nodes:
    """The nodes of P parts of at most `longest` tokens, offsets (P + 1,) int32, until the goals (P,) int32
    lowest merges of each are among them. Nothing waits."""
    num, width = x.shape
    room, deep = 2 * triton.cdiv(num, ALIGNED) * ALIGNED, channels_of(width)
    table = x.new_empty((num, deep))
    halves = x.new_empty((room, 2, deep), dtype=torch.float16)
    masses, square, inverse, heights, cost = x.new_empty((5, room)).unbind()
    masses[:num], heights[:num] = weight, height
    low, key, near, place, searching = x.new_empty((5, room), dtype=torch.int32).unbind()
    low[:num] = torch.arange(num, dtype=torch.int32, device=x.device)
    children, num_merges = low.new_empty((room, 2)), torch.zeros_like(goals)
    num_tiles = triton.cdiv(longest, COLUMNS.value)
    num_seats = len(goals) * num_tiles * COLUMNS.value
    alive, seats = low.new_empty(num_seats), x.new_empty(3 * num_seats)
    if num:
        grow_kernel[(len(goals),)](
            x.contiguous(), table, halves, masses, square, inverse, heights, low, key, children, near, cost,
            place, alive, seats, searching, num_merges, offsets, goals, num, num_tiles, D=deep, WIDTH=width,
            SLICE=slice_of(deep), num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
    is_finite = torch.isfinite(4 * square[:num]).all()
    return Nodes(table, masses, heights, low, key, children, near, place, searching, num_merges, is_finite)
