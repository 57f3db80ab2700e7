"""Segments become a bounded hold, and a hold becomes exactly as many tokens as the user declared.

*Close* merges a segment as far as the configured detail allows, *hold* keeps all of them within a bound,
*compress*
deals a budget out and merges down to it. Only compressing depends on a budget asked for; it changes nothing
held.
"""

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from ..config import BudgetConfig, MemoryConfig, MergeConfig
from ..kernels import Plan, State, after_rounds, attend, extremes, frame_novelty, plan, pool, start_state
from ..types import Encoded, Segment, Tokens
from .budget import check_budget, shares
from .state import Group, Hold, Mean, Piece, join_pairs


@dataclass(frozen=True)
class LocalMerge:
    """Bipartite merging of the tokens of segments, stream by stream (LongVLM's local part, with this
    project's defaults).

    Source: LongVLM, arXiv 2404.03384, section 3.2; ToMe, arXiv 2210.09461.
    """

    config: MergeConfig

    def seats(self, encoded: Encoded, first: int, keep_assignment: bool) -> Group:
        """A segment's tokens in seat order; `first` is the number of its first frame in the stream."""
        steps, patches = len(encoded) // encoded.patches, encoded.patches
        index = torch.arange(len(encoded), device=encoded.metric.device).view(steps, patches)
        index = (index.t() if self.config.layout == "patch" else index).reshape(-1)
        member = origin = None
        if keep_assignment:
            member, origin = (
                torch.arange(len(index), dtype=torch.int32, device=index.device),
                first * patches + index,
            )
        return Group(encoded.tokens.take(index), encoded.metric[index], member, origin)

    def merge(self, groups: list[Group], keep: list[int], schedule: float | list[int]) -> list[Group]:
        """Each group (of one stream) merged to min(keep, n) tokens, all in one plan and one pass over x."""
        if all(k >= len(g) for g, k in zip(groups, keep, strict=True)):
            return list(groups)
        sizes = torch.tensor([0, *(len(g) for g in groups)]).cumsum(0).int()
        tokens, metric = Tokens.join(g.tokens for g in groups), torch.cat([g.metric for g in groups])
        made = plan(  # lengths stay on the CPU: they decide what is launched
            metric, sizes, torch.tensor(keep), weight=tokens.size, schedule=schedule,
            score=self.config.score, order=self.config.order,
        )  # fmt: skip
        tokens, metric = pool_tokens(tokens, made), pool(metric, made)
        starts = sizes.tolist()
        ends = [0, *accumulate(min(k, len(g)) for g, k in zip(groups, keep, strict=True))]
        out = []
        for i, group in enumerate(groups):
            part = slice(ends[i], ends[i + 1])
            member = group.member
            if member is not None:
                member = (made.group[starts[i] : starts[i + 1]] - ends[i])[member.long()]
            out.append(Group(tokens.take(part), metric[part], member, group.origin))
        return out


def pool_tokens(tokens: Tokens, made: Plan) -> Tokens:
    """The groups of a plan as Tokens: features and mean times by weight, first start, last end."""
    start_s, end_s = extremes(tokens.start_s, tokens.end_s, made)
    time_s = pool(tokens.time_s[:, None], made)[:, 0]
    return Tokens(pool(tokens.x, made), made.mass, time_s, start_s, end_s)


class GlobalMemory(nn.Module):
    """Tokens that stand for the whole video: a running mean of summaries, or learned queries over closed
    tokens.

    Source of the mean: LongVLM, arXiv 2404.03384 (class tokens of the last layers, averaged over frames).

    Args:
        config: which kind, how many.
        widths: stream -> C.
        summaries: stream -> E summary rows its encoder gives (kind "mean"); 0 for none.
    """

    def __init__(self, config: MemoryConfig, widths: dict[str, int], summaries: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.summaries = {k: v for k, v in summaries.items() if v} if config.kind == "mean" else {}
        self.query = nn.ParameterDict()
        if config.kind == "learned":
            for name, width in sorted(widths.items()):
                self.query[name] = nn.Parameter(torch.randn(config.slots, width) * width**-0.5)

    def num_tokens(self, streams: list[str] | None = None) -> int:
        """Global tokens of these streams (None: of all)."""
        slots = self.summaries | dict.fromkeys(self.query, self.config.slots)
        return sum(n for name, n in slots.items() if streams is None or name in streams)

    def update(
        self, memory: dict[str, "State | Mean"], stream: str, tokens: Tokens, summary: Tensor | None
    ) -> None:
        """Take a closed segment of `stream` into `memory`: its tokens (n, C) and its summary (T, E, C)."""
        if stream in self.summaries:
            if summary is None:
                raise ValueError(
                    f"stream {stream!r} needs a summary for its global tokens, its encoder gave none"
                )
            total, num = summary.double().sum(0), len(summary)
            before = memory.get(stream)
            if isinstance(before, Mean):
                total, num = before.total + total, before.count + num
            memory[stream] = Mean(total, num)
        elif stream in self.query:
            query = self.query[stream]
            state = memory.get(stream)
            if not isinstance(state, State):
                state = start_state(1, query.shape[0], query.shape[1], device=tokens.x.device)
            offsets = torch.tensor([0, len(tokens)], dtype=torch.int32, device=tokens.x.device)
            memory[stream] = attend(query, tokens.x, offsets, bias=tokens.size.log(), state=state)

    def read(self, memory: dict[str, "State | Mean"]) -> dict[str, Tensor]:
        """stream -> (E, C) float32 global tokens of what was taken in."""
        out = {}
        for name, state in sorted(memory.items()):
            out[name] = (state.total / state.count).float() if isinstance(state, Mean) else state.read()[0]
        return out


class Compressor(nn.Module):
    """Close, hold, compress.

    Args:
        merge: how tokens merge.
        budget: how a budget is shared, and the bound on what is held.
        memory: the global tokens.
    """

    def __init__(self, merge: MergeConfig, budget: BudgetConfig, memory: GlobalMemory) -> None:
        super().__init__()
        self.local = LocalMerge(merge)
        self.shares = budget
        self.memory = memory
        self.rounds = merge.schedule if isinstance(merge.schedule, float) else 0.5

    def check(self, budget: int, streams: list[str]) -> None:
        """ValueError unless `budget` has room for the global tokens and one token of each stream."""
        check_budget(budget, self.memory.num_tokens(streams) + len(streams))

    @torch.no_grad()
    def close(self, hold: Hold, segment: Segment, budget: int, *, keep_assignment: bool = False) -> int:
        """Take a segment into `hold` and bring that within its bound. Returns the raw tokens taken.

        Args:
            hold: changed in place.
            segment: the next in time.
            budget: what the hold is kept for; held tokens stay within config.hold times this.
            keep_assignment: remember which raw token went where (this grows with the video).
        """
        groups, new, raw = {}, 0.0, 0
        for name, encoded in sorted(segment.streams.items()):
            new += float(self._novelty(hold, name, encoded))
            first = hold.seen.get(name, 0)
            hold.seen[name] = first + len(encoded) // encoded.patches
            raw += len(encoded)
            group = self.local.seats(encoded, first, keep_assignment)
            group = self._detail(group, name, hold.levels.setdefault(name, 0))
            self.memory.update(hold.memory, name, group.tokens, encoded.summary)
            groups[name] = group
        piece = Piece(segment.start_s, segment.end_s, 1, groups, new)
        if hold.pieces and hold.pieces[-1].count < hold.span:
            hold.pieces[-1] = hold.pieces[-1].join(piece)
        else:
            hold.pieces.append(piece)
        self._level(hold)
        self._bound(hold, budget)
        return raw

    @torch.no_grad()
    def compress_to(
        self, hold: Hold, budget: int
    ) -> tuple[dict[str, Tokens], dict[str, Tensor], dict[str, Tensor]]:
        """Exactly min(budget, held) tokens, global ones included; `hold` stays as it is.

        Returns:
            (stream -> Tokens by time_s, stream -> (E, C) global tokens,
            stream -> (n_raw,) int32 token of each raw one by time and patch; empty unless members were kept).

        Raises:
            ValueError: if the budget is too small for the global tokens and one token of each stream.
        """
        names, globals_ = hold.streams(), self.memory.read(hold.memory)
        num_globals = sum(len(g) for g in globals_.values())
        check_budget(budget, num_globals + len(names))
        room = budget - num_globals
        pieces = list(hold.pieces)
        while sum(len(p.groups) for p in pieces) > room:
            pieces = join_pairs(pieces)
        weights, most, places = self._claims(pieces)
        given = (
            dict(zip(places, shares(weights, max(room, len(most)), most=most), strict=True)) if most else {}
        )
        streams, members = {}, {}
        for name in names:
            at = [i for i, p in enumerate(pieces) if name in p.groups]
            merged = self.local.merge(
                [pieces[i].groups[name] for i in at], [given[i, name] for i in at], self.local.config.schedule
            )
            tokens = Tokens.join(g.tokens for g in merged)
            by_time = tokens.time_s.argsort(stable=True)
            streams[name] = tokens.take(by_time)
            if all(g.member is not None for g in merged):
                members[name] = _members(merged, by_time)
        return streams, globals_, members

    def _claims(self, pieces: list[Piece]) -> tuple[list[float], list[int], list[tuple[int, str]]]:
        """Weight and number held of every (piece, stream) group, and which group that is."""
        weights, most, places = [], [], []
        for i, piece in enumerate(pieces):
            claim = piece.novelty if self.shares.share == "novelty" else float(piece.count)
            split = {name: self.shares.split_of(name) for name in sorted(piece.groups)}
            for name, part in split.items():
                weights.append(claim * part / sum(split.values()))
                most.append(len(piece.groups[name]))
                places.append((i, name))
        return weights, most, places

    def _detail(self, group: Group, stream: str, level: int) -> Group:
        """A new group after the full rounds that the detail allows, and as many more as all others had."""
        schedule, detail = self.local.config.schedule, self.local.config.detail_of(stream)
        if isinstance(schedule, float):
            left, _ = after_rounds(len(group), schedule, min_tokens=detail)
        else:
            left = min(detail, len(group))
        group = self.local.merge([group], [left], schedule)[0]
        left, _ = after_rounds(left, self.rounds, rounds=level)
        return self.local.merge([group], [left], self.rounds)[0]

    def _level(self, hold: Hold) -> None:
        """Bring the newest piece down, by full rounds, to what the fullest older one holds of each stream."""
        *older, last = hold.pieces
        groups = dict(last.groups)
        for name, group in last.groups.items():
            most = max((len(p.groups[name]) for p in older if name in p.groups), default=len(group))
            left = len(group)
            while left > most:
                left, _ = after_rounds(left, self.rounds, rounds=1)
            groups[name] = self.local.merge([group], [left], self.rounds)[0]
        hold.pieces[-1] = replace(last, groups=groups)

    def _bound(self, hold: Hold, budget: int) -> None:
        """Bring what is held within config.hold * budget tokens and budget / 2 groups.

        One more round goes to the streams that hold more than their split of the bound, so that a thin stream
        (audio) isn't worn down by a thick one (frames); all groups of a stream always have the same rounds.
        """
        while hold.num_groups() > max(budget / 2, len(hold.streams())) and len(hold.pieces) > 1:
            hold.pieces, hold.span = join_pairs(hold.pieces), 2 * hold.span
        bound = self.shares.hold * budget
        while hold.num_tokens() > bound:
            names = [
                n for n in hold.streams() if hold.num_tokens(n) > sum(n in p.groups for p in hold.pieces)
            ]
            if not names:  # nothing is left but one token a group
                return
            split = {n: self.shares.split_of(n) for n in hold.streams()}
            over = [n for n in names if hold.num_tokens(n) > bound * split[n] / sum(split.values())]
            for name in over or names:
                self._one_round(hold, name)

    def _one_round(self, hold: Hold, stream: str) -> None:
        """One more full round for every held group of a stream."""
        at = [i for i, p in enumerate(hold.pieces) if stream in p.groups]
        groups = [hold.pieces[i].groups[stream] for i in at]
        keep = [after_rounds(len(g), self.rounds, rounds=1)[0] for g in groups]
        for i, group in zip(at, self.local.merge(groups, keep, self.rounds), strict=True):
            hold.pieces[i] = replace(hold.pieces[i], groups=hold.pieces[i].groups | {stream: group})
        hold.levels[stream] += 1

    def _novelty(self, hold: Hold, stream: str, encoded: Encoded) -> Tensor:
        """() mean novelty of a segment's tokens against the frame (or window) before each."""
        new = frame_novelty(encoded.metric, encoded.patches, hold.last.get(stream))
        hold.last[stream] = encoded.metric[-encoded.patches :]
        return new.mean()


def _members(merged: list[Group], by_time: Tensor) -> Tensor:
    """(n_raw,) int32: the place in time order of each raw token's group, raw tokens by frame and patch."""
    place = torch.empty_like(by_time)
    place[by_time] = torch.arange(len(by_time), device=by_time.device)
    first, index, origin = 0, [], []
    for group in merged:
        assert group.member is not None and group.origin is not None
        index.append(place[first + group.member.long()])
        origin.append(group.origin)
        first += len(group)
    return torch.cat(index)[torch.cat(origin).argsort(stable=True)].int()
