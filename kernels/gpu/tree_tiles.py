"""The steps of a round of `tree` in Triton; its `grow_kernel` runs them.

A node is a token or a merge, in one numbering. `state` is what is known of nodes: means of merges, halves of
all means, weights, squared lengths, one over each weight, and the children of merges. What has no weight
counts as zeros. Nodes that are alive have seats without a gap. What a search reads of a column lies by seat,
so that tiles are read as they lie.
"""

import triton
import triton.language as tl

from .plan_tiles import load_rows, power_of_two, product, store_halves

ROWS, COLUMNS = tl.constexpr(64), tl.constexpr(64)  # nodes that look for the nearest at once, and that go by
NOISE = tl.constexpr(2.0**-18)  # of two nodes' squares: what rounding may put between two that are one point


@triton.jit
def measure(
    metric, state, node, live, num, WIDTH: tl.constexpr, D: tl.constexpr, SLICE: tl.constexpr
):  # fmt: skip
    """What costs need of nodes whose weights and means are known."""
    x, halves, weight, square, inverse, _ = state
    mass = tl.load(weight + node, mask=live, other=0.0)
    length = mass * 0
    for slice in range(0, D, SLICE):
        mean = load_rows(metric, x, node, num, slice, mass > 0, WIDTH, D, SLICE)
        length += tl.sum(mean * mean, axis=1)
    for slice in range(0, D, SLICE):
        mean = load_rows(metric, x, node, num, slice, mass > 0, WIDTH, D, SLICE)
        store_halves(mean, length, length, live, node, slice, halves, halves + D, D, 2 * D, SLICE, True)
    tl.store(square + node, length, mask=live)
    tl.store(inverse + node, tl.where(mass > 0, 1.0 / tl.where(mass > 0, mass, 1.0), float("inf")), mask=live)


@triton.jit
def merge(
    metric, state, node, live, num, WIDTH: tl.constexpr, D: tl.constexpr, SLICE: tl.constexpr
):  # fmt: skip
    """Weights and means of merges, and what costs need of them. Returns their own costs."""
    x, _, weight, _, _, children = state
    a = tl.load(children + 2 * node.to(tl.int64), mask=live, other=0)
    b = tl.load(children + 2 * node.to(tl.int64) + 1, mask=live, other=0)
    first = tl.load(weight + a, mask=live, other=0.0)
    second = tl.load(weight + b, mask=live, other=0.0)
    share = second / tl.where(first + second > 0, first + second, 1.0)
    apart = share * 0
    for slice in range(0, D, SLICE):
        start = load_rows(metric, x, a, num, slice, first > 0, WIDTH, D, SLICE)
        change = load_rows(metric, x, b, num, slice, second > 0, WIDTH, D, SLICE) - start
        apart += tl.sum(change * change, axis=1)
        to = x + (node - num).to(tl.int64)[:, None] * D + (slice + tl.arange(0, SLICE))[None]
        tl.store(to, start + change * share[:, None], mask=live[:, None])
    tl.store(weight + node, first + second, mask=live)
    tl.debug_barrier()
    measure(metric, state, node, live, num, WIDTH, D, SLICE)
    return apart * first * share


@triton.jit
def take_seats(alive, seats, seat, node, length, inverse, live):
    """Seat nodes: what a search reads of them lies by tiles of seats."""
    at = seats + seat // COLUMNS * (3 * COLUMNS) + seat % COLUMNS
    tl.store(alive + seat, node, mask=live)
    tl.store(at, length, mask=live)
    tl.store(at + COLUMNS, -power_of_two(length, True), mask=live)
    tl.store(at + 2 * COLUMNS, inverse, mask=live)


@triton.jit
def search(
    state, alive, seats, searching, near, cost, n, num_searching, tile, D: tl.constexpr, SLICE: tl.constexpr,
    EQUAL: tl.constexpr,
):  # fmt: skip
    """near and cost of ROWS of those searching: the other one of the n alive that is cheapest to merge with.

    The best of each column of tiles is kept, and the best of those is found at the end. Distances are in
    units of their row, powers of two. EQUAL: all have the same weight, so the nearest is the cheapest.
    """
    _, halves, _, square, inverse, _ = state
    tl.assume(n > 0)
    lane = tile * ROWS + tl.arange(0, ROWS)
    live = lane < num_searching
    row = tl.load(searching + lane, mask=live, other=0)
    node = tl.load(alive + row)
    length = tl.load(square + node)
    unit = 0.5 * power_of_two(length, False)
    row_square = length * unit
    row_inverse = tl.load(inverse + node)
    noise = 2 * NOISE * row_square  # nearer ones are one point: the lowest of them
    seat = tl.arange(0, COLUMNS)
    channel = tl.arange(0, SLICE)
    from_a = halves + node.to(tl.int64)[:, None] * 2 * D + channel[None]
    if D == SLICE:
        a_high, a_low = tl.load(from_a), tl.load(from_a + D)
    top = tl.full([ROWS, COLUMNS], float("inf"), tl.float32)
    at = tl.zeros([ROWS, COLUMNS], tl.int32)
    for start in range(0, n, COLUMNS):
        other = tl.load(alive + start + seat)
        of_columns = seats + 3 * start + seat
        from_b = halves + other.to(tl.int64)[None] * 2 * D + channel[:, None]
        dots = tl.zeros([ROWS, COLUMNS], tl.float32)
        if D == SLICE:
            dots = product(a_high, a_low, tl.load(from_b), tl.load(from_b + D), dots, False)
        else:
            for k in range(0, D, SLICE):
                a_high, a_low = tl.load(from_a + k), tl.load(from_a + D + k)
                dots = product(a_high, a_low, tl.load(from_b + k), tl.load(from_b + D + k), dots, False)
        scale = row_square[:, None] + tl.load(of_columns)[None] * unit[:, None]
        apart = scale + dots * tl.load(of_columns + COLUMNS)[None]
        if EQUAL:
            apart = tl.maximum(apart, noise[:, None])
        else:
            apart = tl.where(apart > noise[:, None], apart, 0.0)
            root = tl.rsqrt(row_inverse[:, None] + tl.load(of_columns + 2 * COLUMNS)[None])
            apart *= root * root  # cheaper than to divide
        better = (apart < top) & (start + seat[None] != row[:, None])
        top = tl.where(better, apart, top)
        at = tl.where(better, start + seat[None], at)
    best = tl.min(top, axis=1)
    who = tl.min(tl.where(top == best[:, None], at, 1 << 30), axis=1)
    who = tl.where((best == float("inf")) | (who >= n), tl.where(row == 0, 1, 0), who)  # never itself
    tl.store(near + node, tl.load(alive + who, mask=live, other=0), mask=live)
    tl.store(cost + node, best / (unit * 2 * row_inverse if EQUAL else unit), mask=live)
