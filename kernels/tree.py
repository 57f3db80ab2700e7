"""Every number of groups of a segment as a cut of one tree: Ward's, in blocks and then whole."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import pairs as cpu
from ._checks import check_tokens, check_values, limits_of
from ._dispatch import can_wait, use_triton
from .pairs import Array, Merges, check_squares
from .pool import Plan

BLOCK = 320  # tokens, about; a segment of fewer than one and a half is merged whole
KEEP = 4  # tokens of a block become one before the segment is merged whole


class Tree(NamedTuple):
    """Which tokens become one, for any number of groups. N tokens, I merges of two nodes, S segments.

    Nodes 0 ... N - 1 are the tokens. The merges follow, segment by segment, in the order in which cuts take
    them: those inside of blocks by (height, lowest token), then the others likewise, children before parents.
    """

    parent: Tensor  # (N + I,) int64 the node that each is a part of; -1: none
    height: Tensor  # (N + I,) float64 Ward's cost of the merge, and no less than its children's; 0: a token
    offsets: Tensor  # (S + 1,) int32 where each segment's tokens begin
    weight: Tensor  # (N,) float32 raw tokens each one stands for


def tree(metric: Tensor, offsets: Tensor, floor: int | Tensor = 1, *, weight: Tensor | None = None) -> Tree:
    """The tree of each segment: nodes that are each other's nearest merge, until `floor` groups are left.

    The cost of a merge is Ward's, wa wb / (wa + wb) |a - b|^2: what it adds to the squares around the groups'
    means. A segment of 480 tokens or more first merges inside of blocks of about 320 neighbours, each to a
    quarter; that leaves `blocked(n)` groups. Ties go to the lowest token. Same input, same tree, alone or
    packed. On a GPU a kernel grows it, but for float64 and what is left of the blocks of a segment of over
    8,192 tokens: that, as all else of a tree, is done on the CPU. Its heights have the precision of float32.

    Args:
        metric: (N, d) float, finite; float64 is worked in float64, all else in float32.
        offsets: (S + 1,) int32, where each segment's tokens begin.
        floor: groups to stop at, >= 1: one number or (S,).
        weight: (N,) as in `plan`.
    """
    if torch.compiler.is_compiling() or not can_wait(metric):
        raise ValueError("tree reads values: call it outside of torch.compile and of a captured CUDA graph")
    at = check_tokens(metric, offsets, weight)
    check_values(metric, weight, at)
    x, of, masses = _arrays(metric, weight)
    parent, height = _grow(x, of, at, limits_of(floor, len(at) - 1))
    parts = parent, height, np.array(at, np.int32), masses.astype(np.float32)
    return Tree(*(torch.from_numpy(part).to(metric.device) for part in parts))


def cut_heights(tree: Tree) -> Tensor:
    """(I,) float64 heights of the merges, each no lower than those before it in its segment."""
    heights, at = tree.height.cpu().numpy()[len(tree.weight) :].copy(), tree.offsets.tolist()
    first = 0
    for num in _merges(tree.parent.cpu().numpy(), at).tolist():
        np.maximum.accumulate(heights[first : first + num], out=heights[first : first + num])
        first += num
    return torch.from_numpy(heights).to(tree.height.device)


def cut(
    tree: Tree, keep: int | Tensor | None = None, *, total: int | None = None, across: bool = False
) -> Plan:
    """The plan of a tree with exactly min(keep, n) groups in each segment, or min(total, N) over all of them.

    A segment's merges are taken in their order, so that a plan with fewer groups joins groups of one with
    more. `plan(..., schedule="tree", keep=keep)` is the same plan. Groups of a segment come by lowest token.

    Args:
        tree: of N tokens.
        keep: groups a segment may have at most: one number or (S,).
        total: groups of all segments together, with `across`: the merges of all segments by height, each
            counted no lower than those before it in its segment.
        across: see `total`.
    """
    if torch.compiler.is_compiling() or not can_wait(tree.parent):
        raise ValueError("cut reads values: call it outside of torch.compile and of a captured CUDA graph")
    if (keep is None) == (total is None) or across != (total is not None):
        raise ValueError(f"cut needs keep, or total with across=True, got {keep=}, {total=}, {across=}")
    parent, at = tree.parent.cpu().numpy(), tree.offsets.tolist()
    num, merges = at[-1], _merges(parent, at)
    roots = np.diff(at) - merges
    segment = np.repeat(np.arange(len(merges)), merges)
    first = np.cumsum(merges) - merges
    if keep is not None:
        groups = np.minimum(limits_of(keep, len(merges)), np.diff(at))
        if (groups < roots).any():
            s = int((groups < roots).argmax())
            raise ValueError(
                f"keep must be at least the groups that the tree stops at, {roots[s]} in segment {s}, got "
                f"{groups[s]}; make the tree with a lower floor"
            )
        taken = np.diff(at) - groups
    else:
        if not isinstance(total, int) or total < roots.sum():
            raise ValueError(
                f"total must be a whole number >= {roots.sum()}, the groups the tree stops at, got {total!r}"
            )
        lowest = cut_heights(tree).cpu().numpy().argsort(kind="stable")[: max(0, num - total)]
        taken = np.bincount(segment[lowest], minlength=len(merges))
    late = np.arange(len(segment)) - first[segment] >= taken[segment]
    cleared = np.concatenate([np.zeros(num, bool), late])
    planned = np.where(cleared[parent], -1, parent)  # parent -1 reads the last: it stays -1
    return _plan(planned, tree.weight.cpu().numpy(), at, tree.parent.device)


def blocked(num: int) -> int:
    """Groups that are left of `num` tokens of a segment after merging inside of its blocks."""
    return sum(_goal(size, num) for size in _blocks(num))


def block_limits(num: int, keep: int) -> list[tuple[int, int]]:
    """(tokens, groups to keep) of each block of a segment of `num` tokens, of which `keep` groups are asked:
    no fewer than the tree's blocks have; where more are asked, each block its share of them."""
    sizes, keep = _blocks(num), min(keep, num)
    if not num:
        return []
    if keep <= blocked(num):
        return [(size, _goal(size, num)) for size in sizes]
    ends = [0, *accumulate(sizes)]
    return [(b - a, keep * b // num - keep * a // num) for a, b in pairwise(ends)]


def plan_tree(metric: Tensor, at: list[int], keep: list[int], weight: Tensor | None) -> Plan:
    """`plan` by the tree, that stops at `keep`."""
    if use_triton("tree", metric):
        from .gpu import tree_plan as gpu

        blocks = [block_limits(b - a, 1) for a, b in pairwise(at)]
        if gpu.fits(blocks, keep):
            x = metric.detach().float().contiguous()
            *planned, is_finite = gpu.plan_parts(x, weight, blocks, keep, capturing=not can_wait(metric))
            if can_wait(metric):
                check_squares(bool(is_finite), x)
            return Plan(*planned)
    if not can_wait(metric):
        raise ValueError(
            "schedule 'tree' is captured only on a GPU, where no keep is above the groups that the blocks of "
            "its segment leave (`blocked`), 2,048 at most: plan before the capture, or take a number as "
            "schedule"
        )
    x, of, masses = _arrays(metric, weight)
    return _plan(_grow(x, of, at, keep)[0], masses.astype(np.float32), at, metric.device)


def _arrays(metric: Tensor, weight: Tensor | None) -> tuple[Any, Any, Array]:
    """Metric and masses for `_grow`, on the GPU where its kernel can take them, and the masses here."""
    metric = metric.detach().to(torch.promote_types(metric.dtype, torch.float32))
    masses = np.ones(len(metric)) if weight is None else weight.detach().double().cpu().numpy()
    if use_triton("tree", metric):
        of = metric.new_ones(len(metric)) if weight is None else weight.detach().float()
        return metric.contiguous(), of, masses
    return metric.cpu().numpy(), masses, masses


def _blocks(num: int) -> list[int]:
    """Tokens of each block of a segment; a function of its length alone."""
    blocks = max(1, round(num / BLOCK))
    return [b - a for a, b in pairwise(num * k // blocks for k in range(blocks + 1))]


def _goal(size: int, num: int) -> int:
    """Groups that a block of a segment of `num` tokens keeps."""
    return size if size == num else -(-size // KEEP)


def _grow(x: Any, weight: Any, at: list[int], keep: list[int]) -> tuple[Array, Array]:
    """(parent (N + I,), height (N + I,)) of trees of min(keep, n) groups in each segment."""
    merge_pairs: Callable[..., Merges] = cpu.merge_pairs
    if isinstance(x, Tensor):
        from .gpu.tree import merge_parts as merge_pairs
    num, lengths = len(x), np.diff(at)
    merges = lengths - np.minimum(np.array(keep, np.int64), lengths)  # of each segment
    blocks = [(s, size, _goal(size, n)) for s, n in enumerate(lengths.tolist()) for size in _blocks(n)]
    owner, sizes, goals = np.array(blocks, np.int64).reshape(-1, 3).T
    inside = merge_pairs(x, weight, np.zeros(num), sizes, np.where(merges[owner] > 0, sizes - goals, 0))
    # of the merges inside of a segment's blocks, the lowest that it needs
    segment = np.repeat(owner, np.where(merges[owner] > 0, sizes - goals, 0))
    order = np.lexsort((inside.key, inside.height, segment))
    segment = segment[order]
    early = np.arange(len(order)) - np.searchsorted(segment, segment) < merges[segment]
    done = np.bincount(segment, minlength=len(lengths))
    # then the segments whole, whose rows are what is left of the blocks
    height = np.concatenate([np.zeros(num), inside.height])
    left = np.maximum(merges - done, 0)
    whole = merge_pairs(inside.x, inside.weight, height[inside.roots], lengths - done, left)
    children = np.where(
        whole.children < len(inside.roots), 0, whole.children - len(inside.roots) + num + len(order)
    )
    inner = whole.children < len(inside.roots)
    children[inner] = inside.roots[whole.children[inner]]
    children = np.concatenate([inside.children, children])
    height = np.concatenate([height, whole.height])
    # one numbering: a segment's merges inside of blocks, then the others
    nodes = np.concatenate([num + order[early], num + len(order) + np.arange(len(children) - len(order))])
    segment = np.concatenate([segment[early], np.repeat(np.arange(len(lengths)), left)])
    nodes = nodes[segment.argsort(kind="stable")]
    number = np.full(len(height), -1)
    number[:num] = np.arange(num)
    number[nodes] = num + np.arange(len(nodes))
    parent = np.full(num + len(nodes), -1)
    parent[number[children[nodes - num]]] = number[nodes][:, None]
    return parent, np.concatenate([height[:num], height[nodes]])


def _merges(parent: Array, at: list[int]) -> Array:
    """Merges of each segment."""
    lowest = np.unique(_tops(parent)[: at[-1]], return_index=True)[1]  # token of each root
    roots: Array = np.diff(np.searchsorted(np.sort(lowest), at))
    return np.diff(at) - roots


def _tops(parent: Array) -> Array:
    """The topmost node above each."""
    top = np.where(parent < 0, np.arange(len(parent)), parent)
    while True:
        above = top[top]
        if (above == top).all():
            return top
        top = above


def _plan(parent: Array, weight: Array, at: list[int], device: torch.device) -> Plan:
    """The plan whose groups are the topmost nodes of tokens."""
    token = np.arange(at[-1])
    top = _tops(parent)[: at[-1]]
    lowest = np.zeros(len(parent), np.int64)
    lowest[top[::-1]] = token[::-1]  # of equal nodes the last is written last
    first = lowest[top] == token
    number = np.concatenate([[0], np.cumsum(first)])
    group = number[lowest[top]]
    mass = np.bincount(group, weight, minlength=number[-1])
    parts = group.astype(np.int32), weight, mass.astype(np.float32), number[at].astype(np.int32)
    return Plan(*(torch.from_numpy(part).to(device) for part in parts))
