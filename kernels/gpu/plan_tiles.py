"""The steps of a round of `plan` in Triton; `plan_rounds` runs them.

Everything a segment has lies from its first raw token on: `weight`, `square`, `lower`, `scale` and `row` of
each seat, in two sets that rounds read and write in turn, and the halves (`high`, `low`) of its metric. The
metric itself is not moved. `row` says where it is: below `split` a row of the caller's metric, from there on
one of `work`. A round over n tokens, even and odd seats:
- *match*: each even seat's best odd seat, the odd ones going by in tiles.
- *select*: the best pairs, by bisection of their scores; where each seat's token goes; weight and row of all
  seats in the order of that, by one sort; where the means go.
- *merge*: means in that order; the map from raw tokens is composed along.
"""

import triton
import triton.language as tl

from .pool import share_of


@triton.jit
def power_of_two(square, UP: tl.constexpr):
    """The power of two at or below a length, from its square; or one over it. 1 for a zero vector."""
    k = ((square.to(tl.int32, bitcast=True) >> 23) - 127) >> 1
    k = tl.where(square > 0, tl.maximum(k, -63), 0)
    bits = (127 + k) << 23 if UP else (127 - k) << 23
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def scale_of(square, weight, WARD: tl.constexpr):
    """What a score needs of a token beside its metric and the square of that: 1 / weight, or 1 / length."""
    if WARD:
        scale = tl.where(weight > 0, tl.div_rn(1.0, tl.where(weight > 0, weight, 1.0)), float("inf"))
    else:
        scale = tl.where(square > 0, tl.div_rn(1.0, tl.sqrt_rn(tl.where(square > 0, square, 1.0))), 0.0)
    return scale


@triton.jit
def sum_of_squares(x):
    """(R,) of x (R, 2^k), added in pairs: the same bits in whatever layout and kernel it is compiled."""
    x = x * x
    for _ in tl.static_range(0, 8):
        if x.shape[1] > 1:
            x = tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]), axis=2)
    return tl.reshape(x, [x.shape[0]])


@triton.jit
def store_token(
    value, square, weight, row, live, seat, state, high, low, D: tl.constexpr, SLICE: tl.constexpr,
    WARD: tl.constexpr,
):  # fmt: skip
    """What rounds read of tokens at `seat`: numbers, and halves of `value` unless it is deep."""
    new_weight, new_square, new_lower, new_scale, new_row = state
    scale = scale_of(square, weight, WARD)
    tl.store(new_weight + seat, weight, mask=live)
    tl.store(new_square + seat, square, mask=live)
    tl.store(new_lower + seat, power_of_two(square, True), mask=live)
    tl.store(new_scale + seat, scale, mask=live)
    tl.store(new_row + seat, row, mask=live)
    if D <= SLICE:
        store_halves(value, square, scale, live, seat, 0, high, low, D, D, SLICE, WARD)


@triton.jit
def store_halves(
    value, square, scale, live, seat, slice, high, low, D: tl.constexpr, STRIDE: tl.constexpr,
    SLICE: tl.constexpr, WARD: tl.constexpr,
):  # fmt: skip
    """`value`, lifted to lengths of about 1 (ward) or of 1 (cosine), as the sum of two float16."""
    column = slice + tl.arange(0, SLICE)
    lifted = value * (power_of_two(square, False) if WARD else scale)[:, None]
    upper = lifted.to(tl.float16)
    rest = (lifted - upper.to(tl.float32)).to(tl.float16)
    where = seat.to(tl.int64)[:, None] * STRIDE + column[None, :]
    both = live[:, None] & (column < D)[None, :]
    tl.store(high + where, upper, mask=both)
    tl.store(low + where, rest, mask=both)


@triton.jit
def product(a_high, a_low, b_high, b_low, dots, FAST: tl.constexpr):
    """dots + a @ b. Three products of float16 halves are as near to float32 as three in tf32, at half the
    work; FAST: one product."""
    if not FAST:
        dots = tl.dot(a_low, b_high, dots)
        dots = tl.dot(a_high, b_low, dots)
    return tl.dot(a_high, b_high, dots)


@triton.jit
def match_tile(
    state, high, low, best, partner, n, tile, D: tl.constexpr, WIDE: tl.constexpr, SLICE: tl.constexpr,
    WARD: tl.constexpr, EQUAL: tl.constexpr, FAST: tl.constexpr, EVENS: tl.constexpr, ODDS: tl.constexpr,
):  # fmt: skip
    """best and partner of EVENS even seats of a segment.

    EQUAL: all weights are. Then -|a - b|^2 ranks as ward's score does, and needs no division.
    """
    _, square, lower, scale, _ = state
    num_even = (n + 1) // 2
    num_odd = n // 2
    even = tile * EVENS + tl.arange(0, EVENS)
    live = even < num_even
    column = tl.arange(0, SLICE)
    square_a = tl.load(square + 2 * even, mask=live, other=0.0)
    scale_a = tl.load(scale + 2 * even, mask=live, other=1.0)
    twice = 2 * tl.load(lower + 2 * even, mask=live, other=1.0)
    from_a = (2 * even).to(tl.int64)[:, None] * D + column[None, :]
    lane = tl.arange(0, ODDS)
    from_b = (2 * lane + 1).to(tl.int64)[None, :] * D + column[:, None]
    inside = column < D
    if WIDE == SLICE:
        a_high = tl.load(high + from_a, mask=live[:, None] & inside[None, :], other=0.0)
        a_low = a_high if FAST else tl.load(low + from_a, mask=live[:, None] & inside[None, :], other=0.0)
    # the best of each column of tiles is kept, and the best of those is found at the end
    top = tl.full([EVENS, ODDS], float("-inf"), tl.float32)
    at = tl.zeros([EVENS, ODDS], tl.int32)
    for first in range(0, num_odd, ODDS):
        odd = first + lane
        real = odd < num_odd
        square_b = tl.load(square + 2 * odd + 1, mask=real, other=float("inf"))  # never the best
        dots = tl.zeros([EVENS, ODDS], tl.float32)
        if WIDE == SLICE:
            mask = real[None, :] & inside[:, None]
            b_high = tl.load(high + from_b, mask=mask, other=0.0)
            b_low = b_high if FAST else tl.load(low + from_b, mask=mask, other=0.0)
            dots = product(a_high, a_low, b_high, b_low, dots, FAST)
        else:
            for slice in range(0, D, SLICE):
                mask_a = live[:, None] & (slice + column < D)[None, :]
                mask_b = real[None, :] & (slice + column < D)[:, None]
                a_high = tl.load(high + from_a + slice, mask=mask_a, other=0.0)
                b_high = tl.load(high + from_b + slice, mask=mask_b, other=0.0)
                a_low = a_high if FAST else tl.load(low + from_a + slice, mask=mask_a, other=0.0)
                b_low = b_high if FAST else tl.load(low + from_b + slice, mask=mask_b, other=0.0)
                dots = product(a_high, a_low, b_high, b_low, dots, FAST)
        from_b += 2 * ODDS * D
        if WARD:
            lower_b = tl.load(lower + 2 * odd + 1, mask=real, other=1.0)
            score = dots * lower_b[None, :] * twice[:, None] - square_b[None, :]
            if not EQUAL:
                scale_b = tl.load(scale + 2 * odd + 1, mask=real, other=1.0)
                root = tl.rsqrt(scale_a[:, None] + scale_b[None, :])
                score = (score - square_a[:, None]) * root * root
        else:
            scale_b = tl.load(scale + 2 * odd + 1, mask=real, other=1.0)
            level = tl.where(real, tl.where(scale_b == 0, -1.0, 0.0), float("-inf"))
            score = dots + level[None, :]
        better = score > top  # not >=: ties go to the lowest seat; and what is no number is never better
        at = tl.where(better, first, at)
        top = tl.where(better, score, top)
    value = tl.max(top, axis=1)
    index = tl.min(tl.where(top == value[:, None], at + lane[None, :], 2147483647), axis=1)
    if not WARD:  # a zero vector is as far from all
        value = tl.where(scale_a == 0, -1.0, value)
        index = tl.where(scale_a == 0, 0, index)
    if EQUAL:
        value -= square_a
    tl.store(best + even, value, mask=live)
    tl.store(partner + even, index, mask=live)


@triton.jit
def in_order(best, seat, even):
    """Integers that are in the order of the scores at `seat`, the lowest where not `even`."""
    score = tl.load(best + seat, mask=even, other=0.0)
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)  # -0 is 0
    return tl.where(even, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits), -2147483648)


@triton.jit
def select_pairs(
    state, new_state, best, partner, slots, n, pairs, raw_tokens, split, room, REFERENCE: tl.constexpr,
    SEATS: tl.constexpr,
):  # fmt: skip
    """The slots of a segment of n <= SEATS tokens, whose best `pairs` even seats merge, the lower of equals.

    slots: target, where each seat's token goes; first, where each goal's tokens begin in part and source,
    weights and rows of all tokens by (target, seat); home, the row of each goal's mean.
    """
    weight, _, _, _, row = state
    target, first, part, source, home = slots
    num_even = (n + 1) // 2
    seat = tl.arange(0, SEATS // 2)
    even = seat < num_even
    odd = seat < n // 2
    rising = in_order(best, seat, even)
    # the pairs-th greatest, bit by bit from the sign on
    cut = tl.where(tl.sum((rising >= 0).to(tl.int32), axis=0) >= pairs, 0, -2147483648)
    bit = 1 << 30
    for _ in range(0, 31):
        enough = tl.sum((rising >= cut + bit).to(tl.int32), axis=0) >= pairs
        cut = tl.where(enough, cut + bit, cut)
        bit = bit >> 1
    above = even & (rising > cut)
    equal = (even & (rising == cut)).to(tl.int32)
    rest = pairs - tl.sum(above.to(tl.int32), axis=0)
    merges = above | ((equal > 0) & (tl.cumsum(equal, axis=0) <= rest))
    stays = even & ~merges
    count = tl.cumsum(merges.to(tl.int32), axis=0)  # of the even seats up to each one
    join = tl.load(partner + seat, mask=merges, other=0)
    # Even seats that join each odd one, and those from a lower seat, counted in arrays that are filled later.
    # Integers, so that the order of the additions doesn't matter.
    tl.store(first + seat, 0, mask=even)
    tl.store(target + seat, 0, mask=even)
    tl.debug_barrier()
    tl.atomic_add(first + join, 1, mask=merges, sem="relaxed", scope="cta")
    tl.atomic_add(target + join, 1, mask=merges & (seat <= join), sem="relaxed", scope="cta")
    tl.debug_barrier()
    joined = tl.load(first + seat, mask=even, other=0)
    joined_lower = tl.load(target + seat, mask=even, other=0)
    tl.debug_barrier()
    before = tl.cumsum(joined, axis=0) - joined  # that join lower odd seats
    left = num_even - pairs
    if REFERENCE:  # the even seats that stay by falling score, then the odd ones
        goal_odd = left + seat
    else:  # seats close up
        goal_odd = 2 * seat + 1 - count
        goal = 2 * seat - count
        tl.store(target + 2 * seat, goal, mask=stays)
        tl.store(first + goal, goal + before, mask=stays)
        tl.store(part + goal + before, tl.load(weight + 2 * seat, mask=stays, other=0.0), mask=stays)
        lone_row = tl.load(row + 2 * seat, mask=stays, other=-1)
        tl.store(source + goal + before, lone_row, mask=stays)
        tl.store(home + goal, lone_row, mask=stays)
    # before a token stand those that goals below keep or get, and the lower ones of its own goal
    slot = goal_odd + before + joined_lower
    tl.store(target + 2 * seat + 1, goal_odd, mask=odd)
    tl.store(first + goal_odd, goal_odd + before, mask=odd)
    tl.store(part + slot, tl.load(weight + 2 * seat + 1, mask=odd, other=0.0), mask=odd)
    odd_row = tl.load(row + 2 * seat + 1, mask=odd, other=-1)
    tl.store(source + slot, odd_row, mask=odd)
    tl.store(home + goal_odd, odd_row, mask=odd)
    tl.debug_barrier()
    goal = tl.load(target + 2 * join + 1, mask=merges, other=0)
    tl.store(target + 2 * seat, goal, mask=merges)
    even_row = tl.load(row + 2 * seat, mask=merges, other=-1)
    tl.atomic_max(home + goal, even_row, mask=merges, sem="relaxed", scope="cta")
    tl.debug_barrier()
    # A mean goes to the row of `work` that a member has, or to the next of the segment's room.
    used = tl.load(row + n, mask=n < raw_tokens, other=0)  # rows of the room; behind the last seat
    lies = tl.load(home + goal_odd, mask=odd, other=0)
    starts = odd & (joined > 0) & (lies < split)
    number = tl.cumsum(starts.to(tl.int32), axis=0)
    tl.store(home + goal_odd, split + room + used + number - 1, mask=starts)
    tl.store(new_state[4] + n - pairs, used + tl.sum(starts.to(tl.int32), axis=0))
    # Sorts come last, when little else is in registers.
    key = tl.sort(tl.where(merges, join * (SEATS // 2) + seat, 2147483647))
    join = key // (SEATS // 2)
    lone = key % (SEATS // 2)
    live = seat < pairs
    slot = seat + (join < lone).to(tl.int32) + tl.load(target + 2 * join + 1, mask=live, other=0)
    tl.store(part + slot, tl.load(weight + 2 * lone, mask=live, other=0.0), mask=live)
    tl.store(source + slot, tl.load(row + 2 * lone, mask=live, other=0), mask=live)
    if REFERENCE and left > 0:
        falling = -1 - in_order(best, seat, even).to(tl.int64)  # -x would have no room for the lowest
        key64 = tl.where(stays, falling * 4294967296 + seat, 9223372036854775807)
        lone = 2 * (tl.sort(key64) & 4294967295).to(tl.int32)
        live = seat < left
        tl.store(target + lone, seat, mask=live)
        tl.store(first + seat, seat, mask=live)
        tl.store(part + seat, tl.load(weight + lone, mask=live, other=0.0), mask=live)
        lone_row = tl.load(row + lone, mask=live, other=-1)
        tl.store(source + seat, lone_row, mask=live)
        tl.store(home + seat, lone_row, mask=live)


@triton.jit
def sort_tokens(target, order, first, start, n, SEATS: tl.constexpr):
    """order[j] = start + the j-th of n tokens by (target, token), first[t] = start + the first j of t."""
    lane = tl.arange(0, SEATS)
    live = lane < n
    key = tl.sort(tl.load(target + lane, mask=live, other=SEATS - 1) * SEATS + lane)
    goal = key // SEATS
    tl.store(order + lane, start + key % SEATS, mask=live)
    tl.debug_barrier()
    before = tl.load(order + lane - 1, mask=live & (lane > 0), other=start) - start
    changes = (lane == 0) | (tl.load(target + before, mask=live, other=0) != goal)
    tl.store(first + goal, start + lane, mask=live & changes)


@triton.jit
def merge_tile(
    metric, work, new_state, high, low, slots, mass, n, left, split, final, tile, D: tl.constexpr,
    SLICE: tl.constexpr, WARD: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """State of GROUPS groups, or in a segment's last round their masses, from mass[final] on."""
    _, first, part, source, home = slots
    column = tl.arange(0, SLICE)
    group = tile * GROUPS + tl.arange(0, GROUPS)
    live = group < left
    start = tl.load(first + group, mask=live, other=0)
    end = tl.load(first + group + 1, mask=group + 1 < left, other=n)
    num = tl.where(live, end - start, 0)
    largest = tl.max(num, axis=0)
    total = tl.zeros([GROUPS], tl.float32)
    for j in range(0, largest):
        total += tl.load(part + start + j, mask=j < num, other=0.0)
    if final >= 0:
        tl.store(mass + final + group, total, mask=live)
    else:
        lies = tl.load(home + group, mask=live, other=0)
        square = tl.zeros([GROUPS], tl.float32)
        acc = tl.zeros([GROUPS, SLICE], tl.float32)
        for slice in range(0, D, SLICE):
            acc = tl.zeros([GROUPS, SLICE], tl.float32)
            for j in range(0, largest):
                weight = tl.load(part + start + j, mask=j < num, other=0.0)
                row = tl.load(source + start + j, mask=j < num, other=0)
                rows = load_rows(metric, work, row, split, slice, (j < num) & (weight > 0), D, D, SLICE)
                acc += share_of(weight, total)[:, None] * rows
            square += sum_of_squares(acc)
            tl.debug_barrier()  # all have read the rows before one is written
            tl.store(
                work + (lies - split).to(tl.int64)[:, None] * D + (slice + column)[None, :], acc,
                mask=(num > 1)[:, None] & (slice + column < D)[None, :],
            )  # fmt: skip
        store_token(acc, square, total, lies, live, group, new_state, high, low, D, SLICE, WARD)
        if D > SLICE:
            tl.debug_barrier()
            for slice in range(0, D, SLICE):
                rows = load_rows(metric, work, lies, split, slice, live & (total > 0), D, D, SLICE)
                scale = scale_of(square, total, WARD)
                store_halves(rows, square, scale, live, group, slice, high, low, D, D, SLICE, WARD)


@triton.jit
def load_rows(
    metric, work, row, split, slice, live, WIDTH: tl.constexpr, D: tl.constexpr, SLICE: tl.constexpr
):  # fmt: skip
    """(R, SLICE) channels from `slice` on of rows (R,), zeros where not `live`: below `split` of the metric,
    WIDTH wide, from there on of `work`, D wide."""
    column = slice + tl.arange(0, SLICE)
    inside = row.to(tl.int64)
    pointer = tl.where(row < split, metric + inside * WIDTH, work + (inside - split) * D)
    used = live[:, None] & (column[None, :] < tl.where(row < split, WIDTH, D)[:, None])
    return tl.load(pointer[:, None] + column[None, :], mask=used, other=0.0)


@triton.jit
def compose_map(group, target, raw_tokens, final, first, step, TOKENS: tl.constexpr):
    """Raw tokens of a segment, TOKENS from `first` on and from every further `step`, follow their group to
    its goal; in the last round to its number."""
    for at in range(first, raw_tokens, step):
        token = at + tl.arange(0, TOKENS)
        live = token < raw_tokens
        before = tl.load(group + token, mask=live, other=0)
        goal = tl.load(target + before, mask=live, other=0) + tl.maximum(final, 0)
        tl.store(group + token, goal, mask=live)
