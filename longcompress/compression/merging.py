"""How the tokens of a segment merge: pure functions of groups; nothing here remembers anything.

Source: LongVLM, arXiv 2404.03384, section 3.2; ToMe, arXiv 2210.09461.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from ..config import MergeConfig
from ..kernels import Plan, after_rounds, cut, cut_heights, extremes, medoid, plan, pool, tree
from ..types import Encoded, Tokens

Schedule = float | list[int] | Literal["tree", "blocks"]


@dataclass(frozen=True)
class Group:
    """The tokens of a stream in a chunk of the video, in seat order.

    Attributes:
        tokens: n tokens.
        metric: (n, d) float32 their mean metric.
        near: (n, d) float32 metric of the raw token that is each one's medoid, or None: nobody asks for it.
        member: (n_raw,) int32 the token that each raw token is in, or None.
        origin: (n_raw,) int64 frame number * patches + patch of each raw token, or None.
    """

    tokens: Tokens
    metric: Tensor
    near: Tensor | None = None
    member: Tensor | None = None
    origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def join(cls, parts: "Sequence[Group]") -> "Group":
        """One after the other; at least one part is needed. What one of them lacks, all lack."""
        starts = accumulate(map(len, parts), initial=0)
        members = [None if p.member is None else p.member + i for p, i in zip(parts, starts, strict=False)]
        nears, origins = [part.near for part in parts], [part.origin for part in parts]
        tokens = Tokens.join(part.tokens for part in parts)
        metric = torch.cat([part.metric for part in parts])
        return cls(tokens, metric, *(_joined(rows) for rows in (nears, members, origins)))


def _joined(rows: Sequence[Tensor | None]) -> Tensor | None:
    known = [row for row in rows if row is not None]
    return torch.cat(known) if len(known) == len(rows) else None


def seat_order(encoded: Encoded, config: MergeConfig, first_frame: int, keep_assignment: bool) -> Group:
    """The raw tokens of a segment in seat order; `first_frame` is the number of its first frame in the
    stream."""
    index = torch.arange(len(encoded), device=encoded.metric.device)
    if config.layout == "patch":  # all times of a patch, then the next patch: neighbours in time meet first
        index = rearrange(index, "(t p) -> (p t)", p=encoded.patches)
    member = origin = None
    if keep_assignment:
        member = torch.arange(len(index), dtype=torch.int32, device=index.device)
        origin = first_frame * encoded.patches + index
    metric = encoded.metric[index]
    return Group(encoded.tokens.take(index), metric, metric if config.needs_medoids else None, member, origin)


def merge(
    groups: Sequence[Group], keep: Sequence[int], config: MergeConfig, schedule: Schedule | None = None
) -> list[Group]:
    """Each group of a stream merged to min(keep, n) tokens, in a single plan and a single pass over x.

    Args:
        groups: in any number, each merged on its own.
        keep: tokens to keep of each.
        config: how tokens merge.
        schedule: of the rounds, instead of config.schedule.
    """
    if all(k >= len(g) for g, k in zip(groups, keep, strict=True)):
        return list(groups)
    schedule = config.schedule if schedule is None else schedule
    options: Any = {"schedule": schedule, "score": config.score, "order": config.order}
    metric, offsets, weight = packed(groups)
    planned = plan(metric, offsets, torch.tensor(keep), weight=weight, **options)
    return apply(groups, planned, config)


def merge_by_height(groups: Sequence[Group], room: int, config: MergeConfig) -> tuple[list[Group], float]:
    """The groups of a stream with `room` tokens in all, cut where merging costs least; and the highest
    cost."""
    if room >= sum(map(len, groups)):
        return list(groups), 0.0
    metric, offsets, weight = packed(groups)
    forest = tree(metric, offsets, weight=weight)
    merged = apply(groups, cut(forest, total=room, across=True), config)
    heights = cut_heights(forest).split([len(group) - 1 for group in groups])
    taken = [len(before) - len(after) for before, after in zip(groups, merged, strict=True)]
    return merged, max(float(h[num - 1]) for h, num in zip(heights, taken, strict=True) if num)


def packed(groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """Metric (N, d), offsets and weight (N,); offsets stay on the CPU, for they decide what is launched."""
    offsets = torch.tensor([0, *accumulate(map(len, groups))], dtype=torch.int32)
    return torch.cat([g.metric for g in groups]), offsets, torch.cat([g.tokens.size for g in groups])


def apply(groups: Sequence[Group], planned: Plan, config: MergeConfig) -> list[Group]:
    """The groups as a plan of all their tokens merges them, in a single pass over x."""
    tokens, metric = Tokens.join(g.tokens for g in groups), torch.cat([g.metric for g in groups])
    # rows of each group before and after merging, read before more is launched on a GPU
    starts, ends, out = [0, *accumulate(map(len, groups))], planned.offsets.tolist(), []
    metric, near = pool(metric, planned), None
    if config.needs_medoids:
        near = torch.cat([group.metric if group.near is None else group.near for group in groups])
        chosen = medoid(near, planned, center=metric)
        place = heaviest(near, planned, metric) if config.place == "heaviest" else chosen
        tokens = represent(tokens, planned, config, chosen, place)
        near = near[chosen]
    else:
        tokens = pool_tokens(tokens, planned)
    for i, group in enumerate(groups):
        rows = slice(ends[i], ends[i + 1])
        member = group.member
        if member is not None:  # raw token -> token before -> token now
            member = (planned.group[starts[i] : starts[i + 1]] - ends[i])[member.long()]
        near_rows = None if near is None else near[rows]
        out.append(Group(tokens.take(rows), metric[rows], near_rows, member, group.origin))
    return out


def represent(tokens: Tokens, planned: Plan, config: MergeConfig, chosen: Tensor, place: Tensor) -> Tokens:
    """The groups of a plan as Tokens, with rows of their medoids, chosen (M,), and places of the tokens of
    each group that give it, place (M,), where the config says so."""
    merged = pool_tokens(tokens, planned, tokens.x[chosen] if config.representative == "medoid" else None)
    return merged if config.place == "mean" else replace(merged, place=tokens.place[place])


def heaviest(near: Tensor, planned: Plan, metric: Tensor) -> Tensor:
    """(M,) int64 the heaviest token of each group; of equals that whose near (N, d) is nearest to the group's
    metric (M, d)."""
    group, weight = planned.group.long(), planned.weight
    largest = weight.new_zeros(len(planned.mass)).scatter_reduce(0, group, weight, "amax")
    alone = torch.where(weight == largest[group], weight, 0)
    mass = torch.zeros_like(planned.mass).index_add(0, group, alone)
    return medoid(near, planned._replace(weight=alone, mass=mass), center=metric)


def round_schedule(config: MergeConfig) -> float:
    """Share of tokens that merge in a further round of a held group."""
    return config.schedule if isinstance(config.schedule, float) else 0.5


def num_kept(num: int, stream: str, config: MergeConfig) -> int:
    """Tokens that a closed segment keeps of `num` raw ones, as config.tokens_per_segment allows."""
    min_tokens = config.min_tokens(stream)
    if isinstance(config.schedule, float):
        return after_rounds(num, config.schedule, min_tokens=min_tokens)[0]
    return min(num, min_tokens)


def merge_segment(
    group: Group, stream: str, config: MergeConfig, num_rounds: int, height: float | None
) -> Group:
    """A new group as config.tokens_per_segment allows, and then as all older groups: after `num_rounds` more
    full rounds, or without merges that cost no more than `height` (schedule "tree")."""
    if config.schedule == "tree" and height is not None:
        metric, offsets, weight = packed([group])
        forest = tree(metric, offsets, weight=weight)
        num = len(group) - int((cut_heights(forest) <= height).sum())
        return apply([group], cut(forest, num_kept(num, stream, config)), config)[0]
    group = merge([group], [num_kept(len(group), stream, config)], config)[0]
    if not num_rounds:
        return group
    further = round_schedule(config)
    num, _ = after_rounds(len(group), further, rounds=num_rounds)
    return merge([group], [num], config, further)[0]


def pool_tokens(tokens: Tokens, planned: Plan, x: Tensor | None = None) -> Tokens:
    """The groups of a plan as Tokens: features (unless x is given), times and places by weight, first start,
    last end."""
    start_s, end_s = extremes(tokens.start_s, tokens.end_s, planned)
    means = pool(torch.cat([tokens.time_s[:, None], tokens.place], 1), planned)  # (M, 4)
    x = pool(tokens.x, planned) if x is None else x
    return Tokens(x, planned.mass, means[:, 0], start_s, end_s, means[:, 1:])


def assignment_of(whole: Group, by_time: Tensor) -> Tensor:
    """(n_raw,) int32 the token, in time order, of each raw token; raw tokens by frame and patch."""
    assert whole.member is not None and whole.origin is not None
    place = torch.empty_like(by_time)
    place[by_time] = torch.arange(len(by_time), device=by_time.device)
    return place[whole.member.long()][whole.origin.argsort(stable=True)].int()
