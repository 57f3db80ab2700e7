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

    def join(self, other: "Group") -> "Group":
        """Both as a single group, the seats of `other` after those of this one."""
        member = origin = None
        if self.member is not None and other.member is not None:
            member = torch.cat([self.member, other.member + len(self)])
            origin = torch.cat([self.origin, other.origin])  # type: ignore[list-item]
        near = None if self.near is None or other.near is None else torch.cat([self.near, other.near])
        tokens = Tokens.join([self.tokens, other.tokens])
        return Group(tokens, torch.cat([self.metric, other.metric]), near, member, origin)


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
    groups: Sequence[Group],
    keep: Sequence[int],
    config: MergeConfig,
    schedule: Schedule | None = None,
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
    return apply(groups, plan(*packed(groups), torch.tensor(keep), weight=sizes(groups), **options), config)


def merge_by_height(groups: Sequence[Group], room: int, config: MergeConfig) -> tuple[list[Group], float]:
    """The groups of a stream with `room` tokens in all, cut where merging costs least; and the highest
    cost."""
    if room >= sum(map(len, groups)):
        return list(groups), 0.0
    forest = tree(*packed(groups), weight=sizes(groups))
    merged = apply(groups, cut(forest, total=room, across=True), config)
    heights = cut_heights(forest).split([len(group) - 1 for group in groups])
    taken = [len(before) - len(after) for before, after in zip(groups, merged, strict=True)]
    return merged, max(float(h[num - 1]) for h, num in zip(heights, taken, strict=True) if num)


def packed(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Metric (N, d) and offsets of groups; these stay on the CPU, for they decide what is launched."""
    offsets = torch.tensor([0, *accumulate(map(len, groups))], dtype=torch.int32)
    return torch.cat([group.metric for group in groups]), offsets


def sizes(groups: Sequence[Group]) -> Tensor:
    """(N,) raw tokens that each token of the groups stands for."""
    return torch.cat([group.tokens.size for group in groups])


def apply(groups: Sequence[Group], planned: Plan, config: MergeConfig) -> list[Group]:
    """The groups as a plan of all their tokens merges them, in a single pass over x."""
    tokens, (metric, offsets) = Tokens.join(group.tokens for group in groups), packed(groups)
    # rows of each group before and after merging, read before more is launched on a GPU
    starts, ends, out = offsets.tolist(), planned.offsets.tolist(), []
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


def merge_segment(
    group: Group, stream: str, config: MergeConfig, num_rounds: int, height: float | None
) -> Group:
    """A new group as config.tokens_per_segment allows, and then as all older groups: after `num_rounds` more
    full rounds, or without merges that cost no more than `height` (schedule "tree")."""
    num, min_tokens = len(group), config.min_tokens(stream)
    if config.schedule == "tree" and height is not None:
        forest = tree(*packed([group]), weight=group.tokens.size)
        num -= int((cut_heights(forest) <= height).sum())
        return apply([group], cut(forest, min(num, min_tokens)), config)[0]
    if isinstance(config.schedule, float):
        num, _ = after_rounds(num, config.schedule, min_tokens=min_tokens)
    else:
        num = min(min_tokens, num)
    group = merge([group], [num], config)[0]
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


def assignment_of(merged: Sequence[Group], by_time: Tensor) -> Tensor:
    """(n_raw,) int32 the token, in time order, of each raw token; raw tokens by frame and patch."""
    place = torch.empty_like(by_time)
    place[by_time] = torch.arange(len(by_time), device=by_time.device)
    first, index, origin = 0, [], []
    for group in merged:
        assert group.member is not None and group.origin is not None
        index.append(place[first + group.member.long()])
        origin.append(group.origin)
        first += len(group)
    return torch.cat(index)[torch.cat(origin).argsort(stable=True)].int()
