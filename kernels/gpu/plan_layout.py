"""What lengths alone decide of a plan: how much each round of each segment merges, and who works on it.

The CPU works it out in NumPy and sends it in one piece; it is kept, so that planning the same lengths again
sends nothing.
"""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ..seats import num_pairs

MAX_LAYOUTS = 64  # in memory at once, without those that graphs read
LONGEST = 4_096  # tokens of a segment whose seats one program sorts
ALIGNED = 8  # numbers; each table begins at a multiple


class Round(NamedTuple):
    """One round of the segments that are too long for the tail, the longest first."""

    rows: Tensor  # see Layout
    programs: Tensor  # (P,) int32 the row of each program of the match
    merging: Tensor  # (P,) int32 the row of each program of the merge
    long: list["Long"]  # the rows of more than LONGEST tokens, which come first
    longest: int  # tokens of the longest other


class Long(NamedTuple):
    """A segment that is too long for one program to select its pairs."""

    at: int  # its first raw token
    n: int
    pairs: int
    room: int
    is_raw: bool  # whether this is its first round


class Layout(NamedTuple):
    """S segments of N tokens on their way to M groups; all tables are int32.

    segments: (S, 8) its first token, its tokens, its first group, whether nothing merges, the first of its
        programs of `programs`, its number; 2 unused.
    rounds: their rows (R, 8) are a segment each: its first raw token, its tokens now, the pairs that merge,
        its room in the buffer of means, the first of its programs, its raw tokens, its first group if this
        round is its last, else -1, the first of its programs that merge.
    tails: (T, 8) a segment that one program finishes: its first raw token, its first step, the step after its
        last, its room, the rounds it ran before, then as in a round.
    """

    segments: Tensor
    programs: Tensor  # (P,) the row of `segments` of each program
    rounds: list[Round]
    tails: Tensor
    steps: Tensor  # (steps, 2) tokens and pairs of each round of each tail
    starts: Tensor  # (S + 1,) where each segment's groups begin
    num_groups: int
    longest: int  # tokens
    work_rows: int  # of the buffer of means: two tokens and more, so at most half of them


class Tiles(NamedTuple):
    """How much of a segment one program has."""

    tail: int  # tokens; so many or fewer go through all remaining rounds in one program
    rows: int  # tokens of a program at the start
    evens: int  # even seats of one of the match
    groups: int  # groups of one of the merge


Schedule = float | tuple[int, ...]
T = TypeVar("T")

_recent: dict[Hashable, Any] = {}  # the one used longest ago comes first
_captured: dict[Hashable, Any] = {}  # CUDA graphs read these at every replay, so they stay for good
_lock = Lock()


def layout_of(
    lengths: tuple[int, ...], keep: tuple[int, ...], schedule: Schedule, tiles: Tiles,
    device: torch.device, *, capturing: bool = False,
) -> Layout:  # fmt: skip
    """The layout of segments of `lengths` tokens that keep at most `keep` each, by `plan`'s `schedule`.

    Args:
        device: where the tables go.
        capturing: whether a CUDA graph is captured there now.

    Raises:
        ValueError: while capturing, for a layout that isn't in memory: its tables can't be copied then.
    """
    return cached(
        (lengths, keep, schedule, tiles, device),
        lambda: _layout(lengths, keep, schedule, tiles, device),
        capturing=capturing,
    )


def cached(key: Hashable, make: Callable[[], T], *, capturing: bool) -> T:
    """What `make` gives, which sends tables to a GPU; the same again for the same key.

    Raises:
        ValueError: while capturing, for what isn't in memory: it can't be sent then.
    """
    with _lock:
        if key in _captured:
            return cast(T, _captured[key])
        layout = _recent.pop(key, None)
        if layout is None:
            if capturing:
                raise ValueError(
                    "plan: these lengths were not planned before; "
                    "plan them once before capturing a CUDA graph"
                )
            layout = make()
        (_captured if capturing else _recent)[key] = layout
        if len(_recent) > MAX_LAYOUTS:
            del _recent[next(iter(_recent))]
    return cast(T, layout)


def _layout(
    lengths: tuple[int, ...], keep: tuple[int, ...], schedule: Schedule, tiles: Tiles,
    device: torch.device,
) -> Layout:  # fmt: skip
    n = np.array(lengths, dtype=np.int64)
    limit = np.minimum(np.array(keep, dtype=np.int64), n)
    starts = sums(limit)
    by_length = np.argsort(-n, kind="stable")  # the longest first: their programs take longest
    at, start = (sums[:-1][by_length] for sums in (sums(n), starts))
    n, limit = n[by_length], limit[by_length]
    first, programs = _programs(-(-n // tiles.rows))
    tables = [_table(at, n, start, n <= limit, first, by_length), programs, starts]
    room = sums(np.where(n > limit, n // 2, 0))

    # Rounds of all segments that are longer than a tail; those still on have all run as many.
    now, done = n.copy(), np.zeros_like(n)
    rounds: list[tuple[list[Long], int]] = []
    while (on := (now > limit) & (now > tiles.tail)).any():
        size = now[on]
        full = np.array([num_pairs(k, schedule, len(rounds)) for k in size.tolist()])
        pairs = np.minimum(full, size - limit[on])
        final = np.where(size - pairs == limit[on], start[on], -1)
        first, programs = _programs(-(-((size + 1) // 2) // tiles.evens))
        first_merge, merging = _programs(-(-(size - pairs) // tiles.groups))
        rows = _table(at[on], size, pairs, room[:-1][on], first, n[on], final, first_merge)
        tables += [rows, programs, merging]
        long = [Long(a, b, c, d, not rounds) for a, b, c, d, *_ in rows[size > LONGEST].tolist()]
        rounds.append((long, int(size[len(long)]) if len(long) < len(size) else 0))
        now[on], done[on] = size - pairs, done[on] + 1

    short = now > limit
    kinds = zip(now[short].tolist(), limit[short].tolist(), done[short].tolist(), strict=True)
    known: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    steps = [known.get(kind) or known.setdefault(kind, _steps(*kind, schedule)) for kind in kinds]
    last = sums(np.array([len(each) for each in steps], dtype=np.int64))
    tails = _table(at[short], last[:-1], last[1:], room[:-1][short], done[short], n[short], start[short])
    tables += [tails, np.array([step for each in steps for step in each], dtype=np.int64).reshape(-1, 2)]

    segments, programs_, starts_, *middle, tails_, steps_ = sent(tables, device)
    of_rounds = zip(middle[0::3], middle[1::3], middle[2::3], rounds, strict=True)
    return Layout(
        segments, programs_, [Round(a, b, c, *rest) for a, b, c, rest in of_rounds], tails_, steps_, starts_,
        int(starts[-1]), int(n[0]) if len(n) else 0, int(room[-1]),
    )  # fmt: skip


def _table(*columns: np.ndarray) -> np.ndarray:
    """(rows, 8) of some columns, then zeros: a row lies on 32 bytes."""
    return np.stack([*columns, *(np.zeros_like(columns[0]) for _ in range(8 - len(columns)))], 1)


def _programs(num: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((rows,) the first program of each, (programs,) the row of each), where rows have `num` programs."""
    return sums(num)[:-1], np.repeat(np.arange(len(num)), num)


def sent(tables: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """The tables as int32 on the device, sent in one piece."""
    ends = np.cumsum([-(-table.size // ALIGNED) * ALIGNED for table in tables])
    whole = np.zeros(ends[-1], dtype=np.int32)
    starts = [0, *ends[:-1]]
    for a, table in zip(starts, tables, strict=True):
        whole[a : a + table.size] = table.ravel()
    copied = torch.from_numpy(whole).to(device)
    return [copied[a : a + table.size].view(table.shape) for a, table in zip(starts, tables, strict=True)]


def _steps(now: int, limit: int, done: int, schedule: Schedule) -> list[tuple[int, int]]:
    """Tokens and pairs of the rounds from `now` tokens to `limit`."""
    steps = []
    while now > limit:
        pairs = min(num_pairs(now, schedule, done), now - limit)
        steps.append((now, pairs))
        now, done = now - pairs, done + 1
    return steps


def sums(n: np.ndarray) -> np.ndarray:
    """(S + 1,) running sums, from 0."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(n)])
