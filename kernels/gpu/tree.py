"""Ward's tree on the GPU: all merges of a part of the tokens in one program, as `pairs` says them.

Nodes are rows of one table: the part's tokens, then its merges. A round over those alive:
- *search*: the nearest of each one that has none or whose nearest has merged, the others going by in tiles;
- *pair*: those that are each other's nearest become children of new nodes;
- *merge*: means and costs of these;
- *heights*: their heights, and who is alive.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dispatch import on_its_device
from ..pairs import Array, Merges, check_squares, first_merges, in_one_numbering, merge_pairs
from .plan_tiles import power_of_two, product, store_halves

ROWS, COLUMNS, FEW_COLUMNS = 64, 64, 32  # nodes whose nearest is searched for at once, and that go by
DEEP, SLICE = 64, 16  # channels of a metric that stay in registers; a deeper one is read in slices
ALIGNED = 4  # numbers, so that each of several arrays is aligned
SEATS = (512, 1024, 2048)  # nodes of a part, in the forms that are compiled
WARPS = 8
NOISE = 2.0**-18  # of the squares of two nodes: what rounding may put between nodes that are one point


@triton.jit
def measure_tile(
    source, state, node, live, has_weight, share, D: tl.constexpr, WIDTH: tl.constexpr, SLICE: tl.constexpr
):
    """Means of the children of ROWS nodes, by the `share` that is the second one's, and what costs need of
    them. Returns their squared distance. A token's children are itself.

    Children are rows of `source`, of WIDTH channels; those of nodes without weight count as zeros."""
    x, high, low_half, weight, square, inverse, lift, children = state
    a = tl.load(children + 2 * node.to(tl.int64), mask=live, other=0)
    b = tl.load(children + 2 * node.to(tl.int64) + 1, mask=live, other=0)
    apart = share * 0
    length = share * 0
    for slice in range(0, D, SLICE):
        change, mean = mean_slice(source, a, b, has_weight, share, slice, WIDTH, SLICE)
        apart += tl.sum(change * change, axis=1)
        length += tl.sum(mean * mean, axis=1)
    both = tl.load(weight + node, mask=live, other=1.0)
    tl.store(square + node, length, mask=live)
    tl.store(inverse + node, tl.where(both > 0, 1.0 / tl.where(both > 0, both, 1.0), float("inf")), mask=live)
    tl.store(lift + node, power_of_two(length, True), mask=live)
    for slice in range(0, D, SLICE):
        _, mean = mean_slice(source, a, b, has_weight, share, slice, WIDTH, SLICE)
        used = live[:, None] & (slice + tl.arange(0, SLICE) < D)[None]
        tl.store(x + node.to(tl.int64)[:, None] * D + (slice + tl.arange(0, SLICE))[None], mean, mask=used)
        store_halves(mean, length, share, live, node, slice, high, low_half, D, SLICE, True)
    return apart


@triton.jit
def mean_slice(source, a, b, live, share, slice, WIDTH: tl.constexpr, SLICE: tl.constexpr):
    """Channels of what the rows b have more than the rows a, and of their means."""
    channel = slice + tl.arange(0, SLICE)
    used = live[:, None] & (channel < WIDTH)[None]
    start = tl.load(source + a.to(tl.int64)[:, None] * WIDTH + channel[None], mask=used, other=0.0)
    change = tl.load(source + b.to(tl.int64)[:, None] * WIDTH + channel[None], mask=used, other=0.0) - start
    return change, start + change * share[:, None]


@triton.jit
def search_tile(
    state, alive, searching, near, cost, n, num_searching, tile, D: tl.constexpr, SLICE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """near and cost of ROWS of those searching: the other one of the n alive that is cheapest to merge with.

    The best of each column of tiles is kept, and the best of those is found at the end."""
    _, high, low_half, _, square, inverse, lift, _ = state
    lane = tile * ROWS + tl.arange(0, ROWS)
    live = lane < num_searching
    row = tl.load(searching + lane, mask=live, other=0)
    node = tl.load(alive + row)
    row_square = tl.load(square + node)
    row_inverse = tl.load(inverse + node)
    twice = 2 * tl.load(lift + node)
    channel = tl.arange(0, SLICE)
    from_a = node.to(tl.int64)[:, None] * D + channel[None]
    if D == SLICE:
        a_high = tl.load(high + from_a)
        a_low = tl.load(low_half + from_a)
    top = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
    at = tl.where(row == 0, 1, 0)[:, None] + tl.zeros([ROWS, COLUMNS], tl.int32)  # never itself
    for start in range(0, n, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        real = column < n
        other = tl.load(alive + column, mask=real, other=0)
        from_b = other.to(tl.int64)[None] * D + channel[:, None]
        dots = tl.zeros([ROWS, COLUMNS], tl.float32)
        if D == SLICE:
            b_high = tl.load(high + from_b)
            b_low = tl.load(low_half + from_b)
            dots = product(a_high, a_low, b_high, b_low, dots, False)
        else:
            for slice in range(0, D, SLICE):
                inside = slice + channel < D
                a_high = tl.load(high + from_a + slice, mask=inside[None], other=0.0)
                a_low = tl.load(low_half + from_a + slice, mask=inside[None], other=0.0)
                b_high = tl.load(high + from_b + slice, mask=inside[:, None], other=0.0)
                b_low = tl.load(low_half + from_b + slice, mask=inside[:, None], other=0.0)
                dots = product(a_high, a_low, b_high, b_low, dots, False)
        scale = row_square[:, None] + tl.load(square + other)[None]
        apart = scale - dots * (twice[:, None] * tl.load(lift + other)[None])
        apart = tl.where(apart > NOISE * scale, apart, 0.0)  # the lowest of those that are one point
        root = tl.rsqrt(row_inverse[:, None] + tl.load(inverse + other)[None])  # cheaper than to divide
        apart *= root * root
        better = (apart < top) & real[None] & (column[None] != row[:, None])
        top = tl.where(better, apart, top)
        at = tl.where(better, column[None], at)
    best = tl.min(top, axis=1)
    who = tl.min(tl.where(top == best[:, None], at, n), axis=1)
    tl.store(near + node, tl.load(alive + who, mask=live, other=0), mask=live)
    tl.store(cost + node, best, mask=live)


@triton.jit(do_not_specialize=["num"])
def grow_kernel(
    metric, x, high, low_half, weight, square, inverse, lift, height, low, key, children, near, cost, place,
    alive, searching, num_merges, offsets, goals, num, D: tl.constexpr, WIDTH: tl.constexpr,
    SLICE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SEATS: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """Merges of a part of the metric until the goals[part] lowest are among them; num_merges[part]: how many.

    Those from x to place are of nodes: num tokens, then for each token of a part the place of a merge of it.
    A node's nearest is `near`; `place` is its lane among those alive, -1: it is none of them any more.
    """
    state = x, high, low_half, weight, square, inverse, lift, children
    part = tl.program_id(0)
    base = tl.load(offsets + part)
    n = tl.load(offsets + part + 1) - base
    goal = tl.load(goals + part)
    alive += base
    searching += base
    lane = tl.arange(0, SEATS)
    token = base + lane
    tl.store(alive + lane, token, mask=lane < n)
    tl.store(place + token, lane, mask=lane < n)
    tl.store(near + token, lane * 0 - 1, mask=lane < n)
    tl.store(children + 2 * token.to(tl.int64), token, mask=lane < n)
    tl.store(children + 2 * token.to(tl.int64) + 1, token, mask=lane < n)
    tl.debug_barrier()
    for tile in range(0, tl.cdiv(n, ROWS)):
        some = tile * ROWS + tl.arange(0, ROWS)
        has_weight = tl.load(weight + base + some, mask=some < n, other=0.0) > 0
        none = tl.zeros([ROWS], tl.float32)
        measure_tile(metric, state, base + some, some < n, has_weight, none, D, WIDTH, SLICE)
    tl.debug_barrier()
    origin = num + base
    count = n * 0
    floor = 0.0
    going = (goal > 0) & (n > 1)
    while going:
        live = lane < n
        node = tl.load(alive + lane, mask=live, other=0)
        other = tl.load(near + node, mask=live, other=-1)
        to = tl.load(place + other, mask=live & (other >= 0), other=-1)
        searches = live & (to < 0)
        tl.store(searching + tl.cumsum(searches.to(tl.int32), 0) - 1, lane, mask=searches)
        num_searching = tl.sum(searches.to(tl.int32))
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_searching, ROWS)):
            search_tile(
                state, alive, searching, near, cost, n, num_searching, tile, D, SLICE, ROWS, COLUMNS, NOISE
            )
        tl.debug_barrier()
        other = tl.load(near + node, mask=live, other=0)
        mutual = live & (tl.load(near + other, mask=live, other=-1) == node)
        if tl.sum(mutual.to(tl.int32)) == 0:  # rounding left none: the cheapest of all
            price = tl.load(cost + node, mask=live, other=float("inf"))
            best = tl.load(alive + tl.argmin(tl.where(live, price, float("inf")), 0))
            its = tl.load(near + best)
            mutual = live & ((node == best) | (node == its))
            other = tl.where(node == best, its, tl.where(node == its, best, other))
        to = tl.load(place + other, mask=mutual, other=0)
        lower = mutual & (lane < to)
        upper = mutual & (lane > to)
        num_pairs = tl.sum(lower.to(tl.int32))
        merged = origin + count + tl.cumsum(lower.to(tl.int32), 0) - 1
        tl.store(children + 2 * merged.to(tl.int64), node, mask=lower)
        tl.store(children + 2 * merged.to(tl.int64) + 1, other, mask=lower)
        tl.debug_barrier()
        for tile in range(0, tl.cdiv(num_pairs, ROWS)):
            some = tile * ROWS + tl.arange(0, ROWS)
            new = origin + count + some
            is_one = some < num_pairs
            a = tl.load(children + 2 * new.to(tl.int64), mask=is_one, other=0)
            b = tl.load(children + 2 * new.to(tl.int64) + 1, mask=is_one, other=0)
            first = tl.load(weight + a, mask=is_one, other=1.0)
            second = tl.load(weight + b, mask=is_one, other=1.0)
            share = second / tl.where(first + second > 0, first + second, 1.0)
            tl.store(weight + new, first + second, mask=is_one)
            tl.debug_barrier()
            apart = measure_tile(x, state, new, is_one, is_one, share, D, D, SLICE)
            tl.store(cost + new, apart * first * share, mask=is_one)
            tl.store(near + new, some * 0 - 1, mask=is_one)
        tl.debug_barrier()
        is_new = lane < num_pairs
        at = origin + count + lane
        price = tl.load(cost + at, mask=is_new, other=float("inf"))
        floor = tl.maximum(floor, tl.min(price, 0))
        known = tl.load(height + origin + lane, mask=lane < count, other=float("inf"))
        going = tl.sum((known < floor).to(tl.int32)) < goal
        if going:
            a = tl.load(children + 2 * at.to(tl.int64), mask=is_new, other=0)
            b = tl.load(children + 2 * at.to(tl.int64) + 1, mask=is_new, other=0)
            a_height = tl.load(height + a, mask=is_new, other=0.0)
            b_height = tl.load(height + b, mask=is_new, other=0.0)
            top = tl.maximum(tl.maximum(price, floor), tl.maximum(a_height, b_height))
            first = tl.load(low + a, mask=is_new, other=0)
            own = tl.where((a >= num) & (a_height == top), tl.load(key + a, mask=is_new, other=0), first)
            second = tl.where((b >= num) & (b_height == top), tl.load(key + b, mask=is_new, other=0), first)
            tl.store(height + at, top, mask=is_new)
            tl.store(low + at, first, mask=is_new)
            tl.store(key + at, tl.maximum(tl.maximum(first, own), second), mask=is_new)
            stays = live & ~upper
            seat = tl.cumsum(stays.to(tl.int32), 0) - 1
            who = tl.where(lower, merged, node)
            tl.store(place + node, lane * 0 - 1, mask=mutual)
            tl.store(alive + seat, who, mask=stays)
            tl.store(place + who, seat, mask=stays)
            count += num_pairs
            n -= num_pairs
            tl.debug_barrier()
            going = n > 1
    tl.store(num_merges + part, count)


def tiles_of(channels: int, seats: int) -> dict[str, Any]:
    """What of a table of so many channels is in registers at once, in a part of at most so many nodes."""
    is_small = channels == DEEP and seats < SEATS[-1]
    tiles = {"D": channels, "SLICE": DEEP if channels == DEEP else SLICE, "SEATS": seats, "NOISE": NOISE}
    return tiles | {"ROWS": ROWS, "COLUMNS": COLUMNS if is_small else FEW_COLUMNS}


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
    means = nodes.x[rows, : x.shape[1]]
    return Merges(named, heights_of[chosen], keys_of[chosen], names, means, nodes.weight[rows])


class Nodes(NamedTuple):
    """All that a kernel knows of R tokens and then, for each token of a part, a merge of it."""

    x: Tensor  # (2 R or more, D) means; D: see `tiles_of`
    weight: Tensor
    height: Tensor
    low: Tensor  # lowest token
    key: Tensor  # what orders merges of equal height
    children: Tensor  # (2 R or more, 2)
    near: Tensor  # what is written to freely from here on, as place and searching
    place: Tensor
    searching: Tensor
    num_merges: Tensor  # (P,) of each part
    is_finite: Tensor  # () whether every cost is a number


def grow(x: Tensor, weight: Tensor, height: Tensor, offsets: Tensor, goals: Tensor, longest: int) -> Nodes:
    """The nodes of P parts of at most `longest` tokens, offsets (P + 1,) int32, until the goals (P,) int32
    lowest merges of each are among them. Nothing waits."""
    num, width = x.shape
    room, deep = 2 * -(-num // ALIGNED) * ALIGNED, max(DEEP, width)  # a metric of few channels is filled up
    table = x.new_empty((room, deep))
    halves = table.new_empty((2, room, deep), dtype=torch.float16).unbind()
    masses, square, inverse, lift, heights, cost = x.new_empty((6, room)).unbind()
    masses[:num], heights[:num] = weight, height
    low, key, near, place, alive, searching = x.new_empty((6, room), dtype=torch.int32).unbind()
    low[:num] = torch.arange(num, dtype=torch.int32, device=x.device)
    children, num_merges = low.new_empty((room, 2)), torch.zeros_like(goals)
    if num:
        seats = next(n for n in SEATS if n >= longest)
        grow_kernel[(len(goals),)](
            x.contiguous(), table, *halves, masses, square, inverse, lift, heights, low, key, children, near,
            cost, place, alive, searching, num_merges, offsets, goals, num, WIDTH=width, num_warps=WARPS,
            **tiles_of(deep, seats),
        )  # fmt: skip
    is_finite = torch.isfinite(4 * square[:num]).all()
    return Nodes(table, masses, heights, low, key, children, near, place, searching, num_merges, is_finite)
