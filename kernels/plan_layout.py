"""What lengths alone decide of a plan: how much each round of each segment merges and where its results lie.

Worked out on the language model and kept, so that planning the same lengths again sends nothing to the GPU.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

KEPT_LAYOUTS = 64
NOWHERE = -1  # where the results go of a segment's last round: its means are nobody's business


class Round(NamedTuple):
    """One round of the segments that are too long for the tail."""

    first: int  # row of `Layout.rows`
    num: int  # rows
    most: int  # tokens of the longest of them
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
    num_raw_tails: int  # the first so many tails read the metric, the others the tails' buffer
    steps: Tensor  # (steps, 2) int32 tokens and pairs of each round of each tail
    half_rows: tuple[int, int]  # rows of the two buffers that rounds write in turn
    tail_rows: int
    longest: int  # tokens
    num_groups: int
    starts: Tensor  # (S + 1,) int32 where each segment's groups begin
    local: Tensor  # (N,) int32 each token's number in its segment; where nothing merges, its group
    still: Tensor  # (n,) int64 tokens of segments where nothing merges
    still_groups: Tensor  # (n,) int64 their groups


@lru_cache(maxsize=KEPT_LAYOUTS)
def layout_of(
    lengths: tuple[int, ...],
    keep: tuple[int, ...],
    schedule: float | tuple[int, ...],
    tail: int,
    device: torch.device,
) -> Layout:
    """The layout of segments of `lengths` tokens that keep at most `keep` each.

    Args:
        lengths: n of each segment.
        keep: its groups at most, >= 1.
        schedule: of `plan`.
        tail: tokens from which on one program finishes a segment.
        device: where the tables go.
    """
    n = torch.tensor(lengths, dtype=torch.int64)
    kept = torch.minimum(torch.tensor(keep, dtype=torch.int64), n)
    at, starts = _sums(n), _sums(kept)
    place = torch.stack([at[:-1], n, starts[:-1], torch.zeros_like(n)], 1)

    now, base, done = n.clone(), at[:-1].clone(), torch.zeros_like(n)
    room, tail_rows = torch.full_like(n, NOWHERE), 0
    rounds: list[Round] = []
    rows, halves = [], [0, 0]
    while bool((on := (now > kept) & (now > tail)).any()):
        size, k = now[on], len(rounds)
        pairs = torch.minimum(_pairs(size, schedule, done[on]), size - kept[on])
        left = size - pairs
        ends = left == kept[on]
        leaves = ~ends & (left <= tail)
        stays = _sums(torch.where(ends | leaves, 0, left))
        halves[k % 2] = max(halves[k % 2], int(stays[-1]))
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

    short = now > kept
    order = torch.cat([(short & (room < 0)).nonzero()[:, 0], (short & (room >= 0)).nonzero()[:, 0]])
    raw = room[order] < 0
    twice = _sums(torch.where(raw, 2 * now[order], 0))
    room[order] = torch.where(raw, tail_rows + twice[:-1], room[order])
    steps, ends_at = _steps(now[order], kept[order], done[order], schedule)
    begins_at = torch.cat([ends_at.new_zeros(1), ends_at])[:-1]
    tails = torch.stack([base[order], begins_at, ends_at, room[order], *place[order].unbind(1)], 1)

    still = (n <= kept).repeat_interleave(n)
    local = torch.arange(int(at[-1])) - at[:-1].repeat_interleave(n)
    local += torch.where(still, starts[:-1].repeat_interleave(n), 0)
    table = torch.cat([torch.zeros(0, 8, dtype=torch.int64), *rows])
    return Layout(
        rounds, table.int().to(device), tails.int().to(device), int(raw.sum()), steps.int().to(device),
        (halves[0], halves[1]), tail_rows + int(twice[-1]), max(lengths, default=0), int(starts[-1]),
        starts.int().to(device), local.int().to(device), still.nonzero()[:, 0].to(device),
        local[still].to(device),
    )  # fmt: skip


def _steps(
    now: Tensor, kept: Tensor, done: Tensor, schedule: float | tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """((steps, 2) tokens and pairs, segment by segment; (T,) where each segment's steps end)."""
    whose, found = [], []
    on = torch.arange(len(now))
    while len(on):
        pairs = torch.minimum(_pairs(now[on], schedule, done[on]), now[on] - kept[on])
        whose.append(on)
        found.append(torch.stack([now[on], pairs], 1))
        now, done = now.index_add(0, on, -pairs), done.index_add(0, on, torch.ones_like(on))
        on = on[now[on] > kept[on]]
    if not whose:
        return torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    of = torch.cat(whose)
    return torch.cat(found)[of.argsort(stable=True)], torch.bincount(of, minlength=len(now)).cumsum(0)


def _pairs(n: Tensor, schedule: float | tuple[int, ...], done: Tensor) -> Tensor:
    """Pairs that a full round over n tokens merges, after `done` rounds."""
    if isinstance(schedule, float | int):
        wanted = (n.double() * schedule).floor().long()
    else:
        wanted = torch.tensor(schedule)[done.clamp_max(len(schedule) - 1)]
    return torch.minimum(wanted.clamp_min(1), n // 2)


def _sums(n: Tensor) -> Tensor:
    """(S + 1,) running sums, from 0."""
    return torch.cat([n.new_zeros(1), n.cumsum(0)])
