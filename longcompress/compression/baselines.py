"""Baselines at an equal token budget: other methods that reduce the raw tokens of a video.

Each method gives a stream as many tokens as our merging would, allocated evenly over its segments. Times and
sizes are those of merging, so that the same language model reads the tokens of all methods.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..config import BudgetConfig
from ..kernels import Plan, frame_novelty, plan
from ..types import Encoded, Segment, Tokens, stream_order
from .merging import pool_tokens
from .state import allocate, check_budget

Method = Literal["full", "frames", "pool", "random", "evs", "tome", "longvlm", "kmeans"]
METHODS: tuple[Method, ...] = get_args(Method)
ROUNDS = 25  # of Lloyd's algorithm


def only(segments: Sequence[Segment], names: Sequence[str]) -> list[Segment]:
    """The segments with these streams only; a segment without any of them is left out."""
    streams = [{name: part for name, part in s.streams.items() if name in names} for s in segments]
    return [replace(s, streams=parts) for s, parts in zip(segments, streams, strict=True) if parts]


def spend(
    method: Method, segments: Sequence[Segment], room: int, split: BudgetConfig, *, global_tokens: int = 0,
    seed: int = 0,
) -> dict[str, Tokens]:  # fmt: skip
    """A video's tokens after one of METHODS, by stream, each in time order.

    - full: all tokens, whatever `room` is.
    - frames: whole frames (or windows), evenly spread over the video.
    - pool: averages over boxes of patches and frames (as many across as down, where frames are square), of
      the number that comes nearest to the room from below; of two equal numbers, the finer in time.
    - random: tokens sampled without replacement.
    - evs: those that differ most from the same patch of the frame before (Efficient Video Sampling, arXiv
      2510.14624); the first frame goes last.
    - tome: each frame merged on its own (ToMe, arXiv 2210.09461); with fewer tokens than frames, that
      number of frames, evenly spread, each merged into one token. A stream of one token a window is merged
      along time.
    - longvlm: each segment's tokens frame by frame, halved by cosine until they fit (LongVLM, arXiv
      2404.03384).
    - kmeans: k-means on the metric of each segment's tokens: k-means++, then 25 rounds of Lloyd's.

    Args:
        method: of METHODS.
        segments: raw segments of the video.
        room: the budget less the global tokens; "frames" and "pool" may use fewer.
        split: the allocation of a segment's tokens to its streams.
        global_tokens: of the budget: our merging buffers no more groups than half of the budget.
        seed: of "random" and "kmeans".
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    names = stream_order({name for segment in segments for name in segment.streams})
    if method == "full":
        return {n: Tokens.join(s.streams[n].tokens for s in segments if n in s.streams) for n in names}
    check_budget(room, len(names))
    joined = [dict(segment.streams) for segment in segments]
    spans = [1] * len(joined)
    most_groups = min(room, max((room + global_tokens) / 2, len(names)))  # as `MergeState` bounds them
    while sum(map(len, joined)) > most_groups:
        spans = [sum(spans[i : i + 2]) for i in range(0, len(spans), 2)]
        joined = [_both(*joined[i : i + 2]) for i in range(0, len(joined), 2)]
    places = [(i, name) for i, part in enumerate(joined) for name in stream_order(part)]
    claims = [spans[i] * split.stream_weight(n) / sum(map(split.stream_weight, joined[i])) for i, n in places]
    max_tokens = [len(joined[i][name]) for i, name in places]
    by_stream = [[k for k, (_, n) in enumerate(places) if n == name] for name in names]
    shares = by_stream if split.allocation == "height" else [list(range(len(places)))]  # as ours
    weights = [sum(claims[k] for k in at) for at in shares]
    sizes = [sum(max_tokens[k] for k in at) for at in shares]
    totals = allocate(weights, room, max_tokens=sizes, min_tokens=list(map(len, shares)))
    keep: dict[tuple[int, str], int] = {}
    for at, total in zip(shares, totals, strict=True):
        dealt = allocate([claims[k] for k in at], total, max_tokens=[max_tokens[k] for k in at])
        keep |= zip([places[k] for k in at], dealt, strict=True)
    out = {}
    for name in names:
        at = [i for i, part in enumerate(joined) if name in part]
        parts = [joined[i][name] for i in at]
        tokens = _DOES[method](parts, [keep[i, name] for i in at], seed)
        out[name] = tokens.take(tokens.time_s.argsort(stable=True))
    return out


def _both(first: dict[str, Encoded], *second: dict[str, Encoded]) -> dict[str, Encoded]:
    """Neighbouring segments as one; an odd last one stays alone."""
    streams = [first, *second]
    names = dict.fromkeys(name for parts in streams for name in parts)
    return {name: Encoded.join(parts[name] for parts in streams if name in parts) for name in names}


def _frames(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    video = Encoded.join(parts)
    patches, num = video.patches, sum(keep)
    steps = len(video) // patches
    at = _spread(steps, max(1, min(steps, num // patches)))
    index = (at[:, None] * patches + torch.arange(patches)).reshape(-1)
    if num < patches:  # not even one frame fits: patches of it, evenly spread
        index = index[_spread(patches, num)]
    return video.tokens.take(index.to(video.metric.device))


def _pool(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    groups, counts = [], []
    for part, room in zip(parts, keep, strict=True):
        group, count = _boxes(len(part) // part.patches, part.patches, room)
        groups.append(group)
        counts.append(count)
    return _means(parts, groups, counts)


def _boxes(steps: int, patches: int, room: int) -> tuple[Tensor, int]:
    """((steps * patches,) box of each token, boxes): at most `room` of them."""
    edge = round(patches**0.5)
    high, wide = (edge, edge) if edge * edge == patches else (1, patches)
    sides = [(s, s) for s in range(1, edge + 1)] if high == wide else [(1, s) for s in range(1, patches + 1)]
    fits = [(min(steps, room // (a * b)), a, b) for a, b in sides if a * b <= room]
    times, rows, columns = max(fits, key=lambda box: (box[0] * box[1] * box[2], box[0]))
    time = torch.arange(steps) * times // steps
    row, column = torch.arange(high) * rows // high, torch.arange(wide) * columns // wide
    patch = (row[:, None] * columns + column).reshape(-1)
    return (time[:, None] * rows * columns + patch).reshape(-1), times * rows * columns


def _random(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    video = Encoded.join(parts)
    sampled = torch.randperm(len(video), generator=torch.Generator().manual_seed(seed))[: sum(keep)]
    return video.tokens.take(sampled.sort().values.to(video.metric.device))


def _evs(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    video = Encoded.join(parts)
    new = frame_novelty(video.metric, video.patches)
    new[: video.patches] = 3.0  # above all that novelty can be
    order = new.argsort(descending=True, stable=True)[: sum(keep)]
    return video.tokens.take(order.sort().values)


def _tome(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    frames: list[Encoded] = []
    room: list[int] = []
    for part, num in zip(parts, keep, strict=True):
        steps = len(part) // part.patches
        if part.patches == 1:
            frames, room = [*frames, part], [*room, num]
            continue
        seen = _spread(steps, min(steps, num)).tolist()
        frames += [part.rows(t, t + 1) for t in seen]
        room += allocate([1.0] * len(seen), num, max_tokens=[part.patches] * len(seen))
    return _merged(frames, room)


def _merged(parts: Sequence[Encoded], keep: Sequence[int]) -> Tokens:
    """Each part brought to `keep` by bipartite matching, as ToMe and LongVLM do it."""
    offsets = torch.tensor([0, *accumulate(len(p) for p in parts)], dtype=torch.int32)
    tokens, metric = Tokens.join(p.tokens for p in parts), torch.cat([p.metric for p in parts])
    merge_plan = plan(
        metric, offsets, torch.tensor(keep), weight=tokens.size, schedule=0.5, score="cosine",
        order="reference",
    )  # fmt: skip
    return pool_tokens(tokens, merge_plan)


def _kmeans(parts: Sequence[Encoded], keep: Sequence[int], seed: int) -> Tokens:
    groups: list[Tensor] = [torch.empty(0)] * len(parts)
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (part, num) in enumerate(zip(parts, keep, strict=True)):
        alike.setdefault((len(part), num), []).append(i)
    for (_, num), at in alike.items():
        members = _lloyd(torch.stack([parts[i].metric for i in at]), num, seed)
        for i, group in zip(at, members, strict=True):
            groups[i] = group
    counts = []
    for i, group in enumerate(groups):  # a mean without members is no token
        used, groups[i] = group.unique(return_inverse=True)
        counts.append(len(used))
    return _means(parts, groups, counts)


def _lloyd(x: Tensor, num: int, seed: int) -> Tensor:
    """(S, n) int64 groups of x (S, n, d), `num` a segment."""
    centre = _far_apart(x, num, torch.Generator().manual_seed(seed))
    for _ in range(ROUNDS):
        member = torch.nn.functional.one_hot(torch.cdist(x, centre).argmin(2), num).to(x.dtype)
        count = member.sum(1)[..., None]
        centre = torch.where(count > 0, member.mT @ x / count.clamp_min(1), centre)
    return torch.cdist(x, centre).argmin(2)


def _far_apart(x: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """(S, num, d) rows of x (S, n, d), each sampled by its squared distance to those before (k-means++)."""
    chance = torch.ones(x.shape[:2])
    away, rows = x.new_full(x.shape[:2], float("inf")), []
    for _ in range(num):
        at = chance.multinomial(1, generator=generator).to(x.device)  # (S, 1)
        rows.append(x.gather(1, at[..., None].expand(-1, -1, x.shape[2])))
        away = away.minimum((x - rows[-1]).square().sum(2))
        chance = away.cpu() + 1e-20  # any row, where all equal a sampled one
    return torch.cat(rows, 1)


def _means(parts: Sequence[Encoded], groups: Sequence[Tensor], counts: Sequence[int]) -> Tokens:
    """The means of groups: those of each part are all numbers below its count."""
    tokens = Tokens.join(p.tokens for p in parts)
    firsts = [0, *accumulate(counts)]
    group = torch.cat([g + first for g, (first, _) in zip(groups, pairwise(firsts), strict=True)])
    group = group.to(tokens.x.device)
    mass = torch.zeros(firsts[-1], device=group.device).index_add_(0, group, tokens.size)
    offsets = torch.tensor(firsts, dtype=torch.int32, device=group.device)
    return pool_tokens(tokens, Plan(group.int(), tokens.size, mass, offsets))


def _spread(of: int, num: int) -> Tensor:
    """(num,) int64: the middles of `num` equal parts of `of` steps."""
    return ((torch.arange(num, dtype=torch.float64) + 0.5) * of / num).long()


_DOES: dict[str, Callable[[Sequence[Encoded], Sequence[int], int], Tokens]] = {
    "frames": _frames, "pool": _pool, "random": _random, "evs": _evs, "tome": _tome,
    "longvlm": lambda parts, keep, _: _merged(parts, keep), "kmeans": _kmeans,
}  # fmt: skip
