"""A bounded merge state: segments go in as they close, and any budget comes out, as often as asked.

`add` merges a segment as far as the configured tokens per segment allow and keeps it. While the state holds
too much, every group of a stream runs one more round. `compress` allocates a budget and merges down to it;
only `compress` depends on the budget asked for, and it changes nothing held.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..config import BudgetConfig, MergeConfig
from ..kernels import after_rounds, frame_novelty
from ..threads import single_thread
from ..types import CompressedVideo, Encoded, Segment, Tokens, stream_order
from .global_memory import GlobalMemory, Mean
from .merging import Group, assignment_of, merge, merge_by_height, merge_segment, round_schedule, seat_order

DATA = ("chunks", "segments_per_chunk", "num_rounds", "heights", "last", "num_frames", "memory", "duration_s")


@dataclass(frozen=True)
class Chunk:
    """A segment, or `num_segments` neighbouring segments that were joined.

    Attributes:
        start_s, end_s: the interval of the video.
        num_segments: segments in it.
        groups: stream -> Group.
        novelty: mean novelty of each segment's tokens, summed over streams and segments.
    """

    start_s: float
    end_s: float
    num_segments: int
    groups: dict[str, Group]
    novelty: float

    @classmethod
    def join(cls, parts: "Sequence[Chunk]") -> "Chunk":
        """Neighbours in time order as a single chunk; at least one is needed."""
        if len(parts) == 1:
            return parts[0]
        groups = {n: Group.join([p.groups[n] for p in parts if n in p.groups]) for n in names_of(parts)}
        num, novelty = sum(part.num_segments for part in parts), sum(part.novelty for part in parts)
        return cls(parts[0].start_s, parts[-1].end_s, num, groups, novelty)


@dataclass
class MergeState:
    """All that is kept of a video so far; bounded. Tensors in it are never written to, so `copy` is cheap.

    Attributes:
        merge: how tokens merge.
        allocation: how a budget is allocated, and the bound on what is held.
        global_memory: makes the global tokens.
        budget: tokens that the state is kept for; it holds at most allocation.buffer_ratio times as many.
        keep_assignment: remember where each raw token went (this grows with the video).
        chunks: in time order.
        segments_per_chunk: segments of a full chunk.
        num_rounds: stream -> rounds that all its groups had beyond the configured tokens per segment.
        heights: stream -> cost at which all its groups were cut (schedule "tree").
        last: stream -> (patches, d) metric of its last frame or window.
        num_frames: stream -> frames or windows so far.
        memory: stream -> mean of its summaries, for global tokens of kind "mean".
        duration_s: end of the last segment.
    """

    merge: MergeConfig
    allocation: BudgetConfig
    global_memory: GlobalMemory
    budget: int
    keep_assignment: bool = False
    chunks: list[Chunk] = field(default_factory=list)
    segments_per_chunk: int = 1
    num_rounds: dict[str, int] = field(default_factory=dict)
    heights: dict[str, float] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    num_frames: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Mean] = field(default_factory=dict)
    duration_s: float = 0.0

    def copy(self) -> "MergeState":
        """An independent copy that shares tensors."""
        twin = replace(self)
        for name, value in self.state().items():
            setattr(twin, name, value.copy() if isinstance(value, list | dict) else value)
        return twin

    def state(self) -> dict[str, Any]:
        """All but the configuration, for `set_state`."""
        return {name: getattr(self, name) for name in DATA}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name in DATA:
            setattr(self, name, state[name])

    @property
    def streams(self) -> list[str]:
        """Streams that tokens are held of, in the order of STREAMS."""
        return names_of(self.chunks)

    @property
    def num_groups(self) -> int:
        """Groups held: one a chunk and stream."""
        return sum(len(chunk.groups) for chunk in self.chunks)

    def num_tokens(self, stream: str | None = None) -> int:
        """Tokens held, of a stream or of all."""
        return sum(len(g) for c in self.chunks for n, g in c.groups.items() if stream in (None, n))

    def groups(self, stream: str) -> list[tuple[int, Group]]:
        """(chunk number, group) of every chunk that has the stream."""
        return [(i, c.groups[stream]) for i, c in enumerate(self.chunks) if stream in c.groups]

    @torch.no_grad()
    @single_thread()
    def add(self, segment: Segment) -> int:
        """Take the next segment in time, and keep within the bound. Returns the raw tokens taken."""
        groups, novelty, num_raw = {}, 0.0, 0
        for name in stream_order(segment.streams):
            encoded = segment.streams[name]
            novelty += self._novelty(name, encoded)
            first = self.num_frames.get(name, 0)
            self.num_frames[name] = first + len(encoded) // encoded.patches
            num_raw += len(encoded)
            # as far as the configuration allows, then as far as all older groups
            group = seat_order(encoded, self.merge, first, self.keep_assignment)
            further = self.num_rounds.setdefault(name, 0), self.heights.get(name)
            group = merge_segment(group, name, self.merge, *further)
            self.global_memory.update(self.memory, name, encoded.summary)
            groups[name] = group
        # a chunk may take several segments, once the video is long
        chunk = Chunk(segment.start_s, segment.end_s, 1, groups, novelty)
        if self.chunks and self.chunks[-1].num_segments < self.segments_per_chunk:
            self.chunks[-1] = Chunk.join([self.chunks[-1], chunk])
        else:
            self.chunks.append(chunk)
        self.duration_s = segment.end_s
        self._level()
        self._bound()
        return num_raw

    @torch.no_grad()
    def globals(self) -> dict[str, Tensor]:
        """stream -> (E, C) float32 global tokens of what is held."""
        groups = {name: [group for _, group in self.groups(name)] for name in self.streams}
        return self.global_memory.read(self.memory, groups, self.merge)

    @torch.no_grad()
    @single_thread()
    def compress(self, budget: int | None = None) -> CompressedVideo:
        """Exactly min(budget, held) tokens, global tokens included; the state stays as it is.

        Args:
            budget: tokens; None: the state's own.

        Raises:
            ValueError: if the budget is too small for the global tokens and a token of each stream.
        """
        budget = self.budget if budget is None else budget
        names, globals_ = self.streams, self.globals()
        num_globals = sum(map(len, globals_.values()))
        check_budget(budget, num_globals + len(names))
        room = budget - num_globals
        num = 1  # neighbours that are joined
        while sum(len(names_of(run)) for run in runs_of(self.chunks, num)) > room:
            num *= 2  # a group needs a token at least
        chunks = [Chunk.join(run) for run in runs_of(self.chunks, num)]
        # merge every group of a stream down to its part of the room, all groups in one plan
        keep = self._allocate(chunks, room)
        by_height = self.allocation.allocation == "height"
        streams, assignment = {}, {}
        for name in names:
            held = {i: chunk.groups[name] for i, chunk in enumerate(chunks) if name in chunk.groups}
            if by_height:
                merged, _ = merge_by_height([*held.values()], keep[0, name], self.merge)
            else:
                merged = merge([*held.values()], [keep[i, name] for i in held], self.merge)
            tokens = Tokens.join(group.tokens for group in merged)
            by_time = tokens.time_s.argsort(stable=True)
            streams[name] = tokens.take(by_time)
            if all(group.member is not None for group in merged):
                assignment[name] = assignment_of(Group.join(merged), by_time)
        return CompressedVideo(streams, globals_, budget, self.duration_s, assignment)

    def _allocate(self, chunks: Sequence[Chunk], room: int) -> dict[tuple[int, str], int]:
        """(chunk, stream) -> tokens to keep, `room` in all; by height, (0, stream) -> those of all chunks."""
        weights: dict[tuple[int, str], float] = {}
        sizes: dict[tuple[int, str], int] = {}
        groups: dict[tuple[int, str], int] = {}
        for i, chunk in enumerate(chunks):
            weight = chunk.novelty if self.allocation.allocation == "novelty" else float(chunk.num_segments)
            parts = {name: self.allocation.stream_weight(name) for name in stream_order(chunk.groups)}
            for name, part in parts.items():
                place = (0 if self.allocation.allocation == "height" else i, name)
                weights[place] = weights.get(place, 0) + weight * part / sum(parts.values())
                sizes[place] = sizes.get(place, 0) + len(chunk.groups[name])
                groups[place] = groups.get(place, 0) + 1
        room, num = max(room, sum(groups.values())), list(groups.values())
        numbers = allocate(list(weights.values()), room, max_tokens=list(sizes.values()), min_tokens=num)
        return dict(zip(weights, numbers, strict=True))

    def _level(self) -> None:
        """Bring the newest chunk down, by full rounds, to what the fullest older chunk holds of each stream
        that had further rounds."""
        *older, last = self.chunks
        further = round_schedule(self.merge)
        groups = dict(last.groups)
        for name, group in last.groups.items():
            if not self.num_rounds[name]:  # all there is: an older chunk that holds less was shorter
                continue
            fullest = max((len(c.groups[name]) for c in older if name in c.groups), default=len(group))
            num = len(group)  # chunks hold about the same, old or new: no part of the video is favoured
            while num > fullest:
                num, _ = after_rounds(num, further, rounds=1)
            groups[name] = merge([group], [num], self.merge, further)[0]
        self.chunks[-1] = replace(last, groups=groups)

    def _bound(self) -> None:
        """Keep within buffer_ratio * budget tokens and budget / 2 groups.

        The next round goes to the streams that hold more than their part of the bound, so that a thin stream
        (audio) isn't worn down by a thick stream (video). All groups of a stream always have the same rounds.
        """
        # too many groups: neighbouring chunks become one, and so will those to come
        while self.num_groups > max(self.budget / 2, len(self.streams)) and len(self.chunks) > 1:
            self.chunks = [Chunk.join(run) for run in runs_of(self.chunks, 2)]
            self.segments_per_chunk *= 2
        bound = self.allocation.buffer_ratio * self.budget
        # too many tokens: one more round at a time
        while self.num_tokens() > bound:
            reducible = [n for n in self.streams if self.num_tokens(n) > len(self.groups(n))]
            if not reducible:  # every group is down to a token
                return
            parts = {n: self.allocation.stream_weight(n) for n in self.streams}
            over = [n for n in reducible if self.num_tokens(n) > bound * parts[n] / sum(parts.values())]
            for name in over or reducible:
                self._run_round(name)

    def _run_round(self, stream: str) -> None:
        """One more full round for every group of a stream; by the tree, the cheapest quarter."""
        at, groups = zip(*self.groups(stream), strict=True)
        if self.merge.schedule == "tree":
            room = max(len(groups), 3 * self.num_tokens(stream) // 4)
            merged, height = merge_by_height(groups, room, self.merge)
            self.heights[stream] = max(height, self.heights.get(stream, 0.0))
        else:
            further = round_schedule(self.merge)
            keep = [after_rounds(len(g), further, rounds=1)[0] for g in groups]
            merged = merge(groups, keep, self.merge, further)
            self.num_rounds[stream] += 1
        for i, group in zip(at, merged, strict=True):
            self.chunks[i] = replace(self.chunks[i], groups=self.chunks[i].groups | {stream: group})

    def _novelty(self, stream: str, encoded: Encoded) -> float:
        """Mean novelty of a segment's tokens against the frame (or window) before each."""
        novelty = frame_novelty(encoded.metric, encoded.patches, self.last.get(stream))
        self.last[stream] = encoded.metric[-encoded.patches :]
        return float(novelty.mean())


def runs_of(chunks: Sequence[Chunk], num: int) -> list[Sequence[Chunk]]:
    """`num` neighbours each, the last run maybe fewer."""
    return [chunks[i : i + num] for i in range(0, len(chunks), num)]


def names_of(chunks: Sequence[Chunk]) -> list[str]:
    """Streams that any of the chunks has, in the order of STREAMS."""
    return stream_order({name for chunk in chunks for name in chunk.groups})


def check_budget(budget: int, min_tokens: int) -> None:
    """ValueError unless `budget` is at least `min_tokens`: the global tokens and a token of each stream."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget must be a whole number of tokens >= 1, got {budget!r}")
    if budget < min_tokens:
        raise ValueError(
            f"budget must be at least {min_tokens} here (global tokens, and one for each stream), "
            f"got {budget}; raise it, or turn global tokens off (memory.kind = none)"
        )


def allocate(
    weights: Sequence[float], total: int, *, max_tokens: Sequence[int], min_tokens: int | Sequence[int] = 1
) -> list[int]:
    """`total` dealt out in proportion to `weights` by largest remainder.

    Args:
        weights: >= 0; all zero counts as all equal.
        total: what is dealt out.
        max_tokens: no part gets more than this.
        min_tokens: nor less than this (or its max_tokens), one number or one for each.

    Returns:
        Whole numbers that sum to exactly min(total, sum(max_tokens)); equal remainders go to the lower index.

    Raises:
        ValueError: if total is less than what `min_tokens` asks for.
    """
    num = len(weights)
    if len(max_tokens) != num:
        raise ValueError(f"max_tokens must have {num} entries like weights, got {len(max_tokens)}")
    lowest = [min_tokens] * num if isinstance(min_tokens, int) else min_tokens
    floor = [min(low, high) for low, high in zip(lowest, max_tokens, strict=True)]
    if total < sum(floor):
        raise ValueError(
            f"total must be at least {sum(floor)} to give each of {num} parts {min_tokens}, got {total}"
        )
    total = min(total, sum(max_tokens))
    w = list(weights) if sum(weights) > 0 else [1.0] * num
    fixed: dict[int, int] = {}
    while True:  # parts whose share lies outside their bounds get the bound; the rest is dealt anew
        free = [i for i in range(num) if i not in fixed]
        room = total - sum(fixed.values())
        sum_w = sum(w[i] for i in free)
        ideal = {i: (room * w[i] / sum_w if sum_w > 0 else room / len(free)) for i in free}
        low = {i: floor[i] for i in free if ideal[i] < floor[i]}
        high = {i: max_tokens[i] for i in free if ideal[i] > max_tokens[i]}
        lack = sum(floor[i] - ideal[i] for i in low)
        spare = sum(ideal[i] - max_tokens[i] for i in high)
        if not low and not high:
            break
        fixed.update(low if lack >= spare else high)
    out = [fixed.get(i, 0) for i in range(num)]
    for i in free:
        out[i] = int(ideal[i])
    left = total - sum(out)
    by_rest = sorted((i for i in free), key=lambda i: (int(ideal[i]) - ideal[i], i))
    for i in [i for i in by_rest if out[i] < max_tokens[i]][:left]:
        out[i] += 1
    assert sum(out) == total, (out, total)
    return out


STATE_CLASSES = (Chunk, Group, Tokens, Mean)
"""The classes that a merge state is made of, for `serialize.pack`."""
