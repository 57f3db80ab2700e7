"""What lengths alone decide of a plan: how much each round of each segment merges and where its results lie.

The CPU works it out and keeps it, so that planning the same lengths again sends nothing to the GPU.
"""

from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LAYOUTS = 64  # in memory at once, without those that graphs read
NOWHERE = -1  # where the results go of a segment's last round: its means are never read


class Round(NamedTuple):
    """One round of the segments that are too long for the tail."""

    first: int  # row of `Layout.rows`
    num: int  # rows
    longest: int  # tokens of the longest of them
    ranked: bool  # whether somewhere not every even seat merges


class Layout(NamedTuple):
    """S segments of N tokens on their way to M groups.

    rows: (R, 8) int32, a segment in a round: where its tokens begin in what the round reads, how many they
        are, how many pairs merge, where its results go (>= 0: there; NOWHERE; else row -2 - it of the tails'
        buffer), its first raw token, its raw tokens, its first group if this round is its last, else -1, and
        nothing, so that rows lie on 32 bytes.
    tails: (T, 8) int32, a segment that one program finishes: where its tokens begin, its first step, the step
        after its last, its room in the tails' buffer (twice its tokens), then as in `rows`.
    """

    rounds: list[Round]
    rows: Tensor
    tails: Tensor
    num_raw_tails: int  # this many first tails read the metric, the others the tails' buffer
    steps: Tensor  # (steps, 2) int32 tokens and pairs of each round of each tail
    half_rows: tuple[int, int]  # rows of the two buffers that rounds write in turn
    tail_rows: int
    longest: int  # tokens
    num_groups: int
    starts: Tensor  # (S + 1,) int32 where each segment's groups begin
    local: Tensor  # (N,) int32 each token's number in its segment; where nothing merges, its group
    unmerged: Tensor  # (n,) int64 tokens of segments where nothing merges
    unmerged_groups: Tensor  # (n,) int64 their groups


Key = tuple[tuple[int, ...], tuple[int, ...], float | tuple[int, ...], int, torch.device]

_recent: dict[Key, Layout] = {}  # the one used longest ago comes first
_captured: dict[Key, Layout] = {}  # CUDA graphs read these at every replay, so they stay for good
_lock = Lock()


def layout_of(
    lengths: tuple[int, ...], keep: tuple[int, ...], schedule: float | tuple[int, ...], tail: int,
    device: torch.device, *, capturing: bool = False,
) -> Layout:  # fmt: skip
    """The layout of segments of `lengths` tokens that keep at most `keep` each, by `plan`'s `schedule`.

    Args:
        tail: tokens from which on one program finishes a segment.
        device: where the tables go.
        capturing: whether a CUDA graph is captured there now.

    Raises:
        ValueError: while capturing, for a layout that isn't in memory: its tables can't be copied then.
    """
    key = (lengths, keep, schedule, tail, device)
    with _lock:
        if key in _captured:
            return _captured[key]
        layout = _recent.pop(key, None)
        if layout is None:
            if capturing:
                raise ValueError(
                    "plan: these lengths were not planned before; "
                    "plan them once before capturing a CUDA graph"
                )
            with torch.device("cpu"):  # the tables are worked out there, whatever torch's default device
                layout = _layout(lengths, keep, schedule, tail, device)
        (_captured if capturing else _recent)[key] = layout
        if len(_recent) > MAX_LAYOUTS:
            del _recent[next(iter(_recent))]
    return layout


def _layout(
    lengths: tuple[int, ...], keep: tuple[int, ...], schedule: float | tuple[int, ...], tail: int,
    device: torch.device,
) -> Layout:  # fmt: skip
    n = torch.tensor(lengths, dtype=torch.int64)
    limit = torch.minimum(torch.tensor(keep, dtype=torch.int64), n)
    at, starts = _sums(n), _sums(limit)
    place = torch.stack([at[:-1], n, starts[:-1], torch.zeros_like(n)], 1)

    # Rounds of all segments that are longer than a tail. Of each: its tokens now, where they begin in what
    # the round reads, the rounds it ran, and its room in the tails' buffer once it has one.
    now, base, done = n.clone(), at[:-1].clone(), torch.zeros_like(n)
    room, tail_rows = torch.full_like(n, NOWHERE), 0
    rounds: list[Round] = []
    rows, halves = [], [0, 0]
    while bool((on := (now > limit) & (now > tail)).any()):
        size, k = now[on], len(rounds)
        pairs = torch.minimum(_pairs(size, schedule, done[on]), size - limit[on])
        left = size - pairs
        # A segment ends here, or leaves for the tail, or stays: then its results go to this round's half.
        ends = left == limit[on]
        leaves = ~ends & (left <= tail)
        stays = _sums(torch.where(ends | leaves, 0, left))
        halves[k % 2] = max(halves[k % 2], int(stays[-1]))
        # One that leaves gets a room of twice its tokens, behind the rooms before it.
        twice = _sums(torch.where(leaves, 2 * left, 0))
        room[on] = torch.where(leaves, tail_rows + twice[:-1], NOWHERE)
        tail_rows += int(twice[-1])
        second = room[on] + left  # the tail's first round writes the first half of its room
        out = torch.where(ends, NOWHERE, torch.where(leaves, -2 - second, stays[:-1]))
        final = torch.where(ends, place[on, 2], NOWHERE)
        rows.append(
            torch.stack([base[on], size, pairs, out, place[on, 0], place[on, 1], final, place[on, 3]], 1)
        )
        first = rounds[-1].first + rounds[-1].num if rounds else 0
        rounds.append(Round(first, len(size), int(size.max()), bool((2 * pairs < size).any())))
        base[on] = torch.where(leaves, second, stays[:-1])
        now[on], done[on] = left, done[on] + 1

    # Tails: first those that read the raw metric, who get their rooms only now, then those out of rounds.
    short = now > limit
    order = torch.cat([(short & (room < 0)).nonzero()[:, 0], (short & (room >= 0)).nonzero()[:, 0]])
    raw = room[order] < 0
    twice = _sums(torch.where(raw, 2 * now[order], 0))
    room[order] = torch.where(raw, tail_rows + twice[:-1], room[order])
    steps, last = _steps(now[order], limit[order], done[order], schedule)
    first_step = torch.cat([last.new_zeros(1), last])[:-1]
    tails = torch.stack([base[order], first_step, last, room[order], *place[order].unbind(1)], 1)

    # Segments that merge nothing: their tokens are their groups.
    unmerged = (n <= limit).repeat_interleave(n)
    local = torch.arange(int(at[-1])) - at[:-1].repeat_interleave(n)
    local += torch.where(unmerged, starts[:-1].repeat_interleave(n), 0)
    table = torch.cat([torch.zeros(0, 8, dtype=torch.int64), *rows])
    return Layout(
        rounds, table.int().to(device), tails.int().to(device), int(raw.sum()), steps.int().to(device),
        (halves[0], halves[1]), tail_rows + int(twice[-1]), max(lengths, default=0), int(starts[-1]),
        starts.int().to(device), local.int().to(device), unmerged.nonzero()[:, 0].to(device),
        local[unmerged].to(device),
    )  # fmt: skip


def _steps(
    now: Tensor, limit: Tensor, done: Tensor, schedule: float | tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """((steps, 2) tokens and pairs, segment by segment; (T,) the step after each segment's last)."""
    segments, steps = [], []
    on = torch.arange(len(now))
    while len(on):
        pairs = torch.minimum(_pairs(now[on], schedule, done[on]), now[on] - limit[on])
        segments.append(on)
        steps.append(torch.stack([now[on], pairs], 1))
        now, done = now.index_add(0, on, -pairs), done.index_add(0, on, torch.ones_like(on))
        on = on[now[on] > limit[on]]
    if not segments:
        return torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    # they came round by round; a program reads its own side by side
    segment = torch.cat(segments)
    last = torch.bincount(segment, minlength=len(now)).cumsum(0)
    return torch.cat(steps)[segment.argsort(stable=True)], last


def _pairs(n: Tensor, schedule: float | tuple[int, ...], done: Tensor) -> Tensor:
    """Pairs that a full round over n tokens merges, after `done` rounds."""
    if isinstance(schedule, float | int):
        pairs = (n.double() * schedule).floor().long()
    else:
        pairs = torch.tensor(schedule)[done.clamp_max(len(schedule) - 1)]
    return torch.minimum(pairs.clamp_min(1), n // 2)


def _sums(n: Tensor) -> Tensor:
    """(S + 1,) running sums, from 0."""
    return torch.cat([n.new_zeros(1), n.cumsum(0)])
