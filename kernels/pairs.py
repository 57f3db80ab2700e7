"""Ward's tree by reciprocal nearest pairs, in NumPy on one thread: the engine of `tree`.

Two nodes that are each other's nearest merge in Ward's tree whatever else merges before, because the cost is
reducible: a merge brings no node nearer to any other (Murtagh, The Computer Journal 26(4), 1983). So a round
merges all such pairs at once, and only nodes whose neighbour has merged look for a new one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = 32  # rows and columns of a tile are multiples of it, so that many tiles have one shape
TILE = 1 << 18  # costs in the cache at once
BATCH = 1 << 15  # rows of the parts that are merged at once
NOBODY = -1  # the nearest of a node that has to look, and a column beyond a part's last node
SAME = 8  # roundings; two nodes that differ by no more are one point


class Merges(NamedTuple):
    """Merges of P parts of R rows: node R + i is merge i.

    The merges of a part come one after the other: by height, then by lowest row, children before parents.
    """

    children: Array  # (I, 2) int64
    height: Array  # (I,) float64
    key: Array  # (I,) int64 what orders merges of equal height
    roots: Array  # (R - I,) int64 nodes that are nobody's child, by lowest row
    x: Any  # (R - I, d) their means
    weight: Any  # (R - I,) float64


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: several wait for each other in busy loops, many times a round."""
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num)


def merge_pairs(x: Array, weight: Array, height: Array, sizes: Array, goals: Array) -> Merges:
    """The lowest `goals[p]` merges of the Ward tree of each part.

    A merge's height is the larger of its cost, wa wb / (wa + wb) |a - b|^2, and its children's heights. Of
    equal costs the lowest row is the nearest when a node looks for it.

    Args:
        x: (R, d) float32 or float64, part by part.
        weight: (R,) float64 >= 0; a row of weight 0 is a zero vector.
        height: (R,) of the rows themselves.
        sizes: (P,) rows of each part.
        goals: (P,) merges of each part, fewer than its rows.
    """
    at, parts, first = np.concatenate([[0], np.cumsum(sizes)]).tolist(), [], 0
    for p in range(len(sizes)):  # parts are independent; a batch of them shares its operations
        if p + 1 == len(sizes) or at[p + 2] - at[first] > BATCH:
            rows = slice(at[first], at[p + 1])
            run = _Run(x[rows], weight[rows], height[rows], sizes[first : p + 1], goals[first : p + 1])
            parts.append(run.run())
            first = p + 1
    return _in_one_numbering(parts) if parts else _Run(x, weight, height, sizes, goals).run()


def _in_one_numbering(parts: list[Merges]) -> Merges:
    """Merges of parts that follow each other, whose nodes are numbered by themselves, as those of all."""
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part.roots) + len(part.height) for part in parts]
    row, node, moved = 0, sum(sizes), []
    for num, part in zip(sizes, parts, strict=True):
        names = np.concatenate([row + np.arange(num), node + np.arange(len(part.height))])
        moved.append(
            part._replace(children=names[part.children], key=row + part.key, roots=names[part.roots])
        )
        row, node = row + num, node + len(part.height)
    return Merges(*map(np.concatenate, zip(*moved, strict=True)))


def check_squares(finite: bool, x: Any) -> None:
    """ValueError unless the squares of x (R, d) are finite."""
    if not finite:
        raise ValueError(
            f"squares of metric must be finite in {x.dtype}, got numbers to {float(abs(x).max()):.3g}; scale "
            "it"
        )


def first_merges(
    rows: int, goals: Array, part: Array, merges: Array, height: Array, key: Array, children: Array,
    low: Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """The first goals[p] of the merges of each part p; what was merged beyond them is dropped.

    Args:
        rows: nodes that are no merges.
        part, merges, height, key: (I,) of each merge, part by part: its part, its node, its height and what
            orders merges of equal height.
        children, low: (nodes, 2), (nodes,) of every node: its children, and its lowest row.

    Returns:
        which of the I are chosen; their children by new numbers, rows and then merges as chosen; the nodes
        that are nobody's child by lowest row, by old and by new numbers.
    """
    order = np.lexsort((key, height, part))
    part = part[order]
    rank = np.arange(len(order)) - np.searchsorted(part, part)
    chosen = order[rank < goals[part]] if len(order) else order
    nodes = merges[chosen]
    number = np.full(len(low), NOBODY)
    number[:rows] = np.arange(rows)
    number[nodes] = rows + np.arange(len(nodes))
    root = number >= 0
    root[children[nodes]] = False
    roots = np.flatnonzero(root)
    roots = roots[low[roots].argsort()]
    return chosen, number[children[nodes]], roots, number[roots]


def _side(num: Array) -> Array:
    return -(-num // SIDE) * SIDE


class _Run:
    """All nodes so far, those still alive, and each one's nearest."""

    def __init__(self, x: Array, weight: Array, height: Array, sizes: Array, goals: Array) -> None:
        rows, self.width = x.shape
        self.rows = self.num = rows
        size = 2 * rows + 1  # the last is NOBODY
        self.x = np.empty((size, self.width), x.dtype)
        self.x[:rows] = x
        self.x[:rows][weight == 0] = 0
        self.x[NOBODY] = 0
        self.weight, self.height = np.zeros(size), np.zeros(size)
        self.weight[:rows], self.height[:rows] = weight, height
        self.square, self.inverse = np.zeros(size, x.dtype), np.zeros(size, x.dtype)
        self._measure(slice(0, rows))
        check_squares(bool(np.isfinite(self.square[:rows]).all()), x)
        self.square[NOBODY] = np.inf
        self.key, self.part = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.low = np.arange(size)  # lowest row of each node
        self.key[:rows] = np.arange(rows)
        self.part[:rows] = np.repeat(np.arange(len(sizes)), sizes)
        self.children = np.zeros((rows, 2), np.int64)
        self.nearest, self.near_cost = np.full(size, NOBODY), np.zeros(size, x.dtype)
        self.place = np.full(size, NOBODY)  # among those alive
        self.goals, self.count = goals, np.zeros(len(sizes), np.int64)
        self.floor = np.zeros(len(sizes))  # nothing of a part can merge below it any more
        self.sizes = np.where(self.goals > 0, sizes, 0)
        self.alive = np.flatnonzero(self.goals[self.part[:rows]] > 0)
        self.light = bool((weight == 0).any())
        self.raw = bool((weight == 1).all())  # then halving every cost changes no order and no rounding
        size = max(TILE, SIDE * int(_side(self.sizes.max(initial=1))))
        self.costs, self.spare = (torch.from_numpy(np.empty(size, x.dtype)) for _ in range(2))

    def _measure(self, nodes: slice) -> None:
        x = self.x[nodes]
        self.square[nodes] = np.einsum("nd,nd->n", x, x)
        with np.errstate(divide="ignore"):
            self.inverse[nodes] = 1 / self.weight[nodes]

    def search(self) -> None:
        """A nearest node for everyone alive who has none.

        Products are of whole tiles, whose shape depends on the part alone and so do their roundings; those of
        one shape go together.
        """
        alive = self.alive
        self.place[alive] = np.arange(len(alive))
        looking = np.flatnonzero(self.place[self.nearest[alive]] < 0)
        bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        borders = np.searchsorted(looking, bounds)
        part = np.flatnonzero(np.diff(borders))
        tile = np.maximum(TILE // _side(self.sizes[part]) // SIDE, 1) * SIDE  # rows
        num = -(-(borders[part + 1] - borders[part]) // tile)
        part, tile = np.repeat(part, num), np.repeat(tile, num)
        at = borders[part] + tile * (np.arange(len(part)) - np.searchsorted(part, part))
        tasks = np.stack([bounds[part], bounds[part + 1], at, np.minimum(at + tile, borders[part + 1])], 1)
        shapes = np.stack([_side(tasks[:, 3] - at), _side(self.sizes[part])], 1)
        order = np.lexsort(shapes.T)
        tasks, shapes = tasks[order], shapes[order]
        starts = np.flatnonzero(np.diff(shapes, axis=0, prepend=0).any(axis=1))
        for first, stop in pairwise([*starts.tolist(), len(tasks)]):
            rows, columns = shapes[first].tolist()
            step = max(1, TILE // (rows * columns))
            for k in range(first, stop, step):
                self._search_tiles(rows, columns, looking, tasks[k : min(k + step, stop)])
        self.raw = False

    def _search_tiles(self, rows: int, columns: int, looking: Array, tasks: Array) -> None:
        """Nearest nodes of the tasks (T, 4): nodes [first, stop) alive, of which looking[at:end] look."""
        first, stop, at, end = tasks.T[..., None]  # (T, 1) each
        column, row = first + np.arange(columns), at + np.arange(rows)
        column = np.where(column < stop, self.alive.take(column, mode="clip"), NOBODY)
        used = (row < end).ravel()
        row = looking.take(np.minimum(row, end - 1))
        own, row = row - first, self.alive.take(row)
        b = torch.from_numpy(self.x.take(column, 0))
        a = b if np.array_equal(row, column) else torch.from_numpy(self.x.take(row, 0))
        square = self.square.take(row)[..., None], self.square.take(column)[:, None]
        costs = self.costs[: len(tasks) * rows * columns].view(-1, rows, columns)
        torch.add(*map(torch.from_numpy, square), out=costs)
        if self.x.dtype == np.float64:  # some CPUs round these by the size of the batch
            for k in range(len(tasks)):
                costs[k].addmm_(a[k].clone(), b[k].clone().t(), alpha=-2)
        else:
            costs.baddbmm_(a, b.transpose(1, 2), alpha=-2)  # |a - b|^2
        if not self.raw:
            inverse = self.inverse.take(row)[..., None], self.inverse.take(column)[:, None]
            costs.div_(
                torch.add(*map(torch.from_numpy, inverse), out=self.spare[: costs.numel()].view_as(costs))
            )
        values = costs.numpy().reshape(-1, columns)
        start = np.arange(0, values.size, columns)
        flat = values.reshape(-1)
        flat[start + own.ravel()] = np.inf
        best = values.argmin(axis=1)
        if self.light:  # without weight all are equally near, and columns beyond the part are NaN
            at_zero = np.flatnonzero(self.weight.take(row) == 0)
            best[at_zero] = own.take(at_zero) == 0
        row = row.ravel()[used]
        self.near_cost[row] = flat[start + best][used] * (0.5 if self.raw else 1)
        best = best.reshape(-1, rows) + np.arange(0, column.size, columns)[:, None]
        self.nearest[row] = column.take(best.ravel()[used])

    def merge(self) -> None:
        """All pairs that are each other's nearest become nodes, in parts that are not done."""
        alive, part = self.alive, self.part[self.alive]
        here, nearest = np.arange(len(alive)), self.place[self.nearest[alive]]
        joins = (nearest[nearest] == here) & (nearest < here)
        self._join_equals(joins, nearest, here)
        joins &= ~joins[nearest]
        self._force(joins, nearest, part)
        upper = np.flatnonzero(joins)
        upper = upper[nearest[upper].argsort(kind="stable")]
        lower = nearest[upper]
        rank = here[: len(upper)] - np.searchsorted(lower, lower)  # of those that join the same node
        difference, cost = self._costs(alive[lower], alive[upper])
        lowest = np.full(len(self.sizes), np.inf)
        np.minimum.at(lowest, part[lower], cost)
        np.maximum(self.floor, lowest, out=self.floor, where=self.sizes > 0)
        self._finish()
        go = self.sizes[part[lower]] > 0
        for k in range(int(rank.max(initial=-1)) + 1):
            at = go & (rank == k)
            if k:
                difference, cost = self._costs(self.alive[lower[at]], alive[upper[at]])
            elif not at.all():
                difference, cost = difference[at], cost[at]
            self._add(lower[at], alive[upper[at]], difference, cost)
        merged = upper[go]
        num = np.bincount(part[merged], minlength=len(self.sizes))
        self.count += num
        self.sizes -= num
        self.sizes[self.sizes == 1] = 0
        stays = self.sizes[part] > 0
        stays[merged] = False
        self.alive = self.alive[stays]

    def _finish(self) -> None:
        """No more rows for parts where nothing can come below the merges that are needed."""
        owner, heights = self.part[self.rows : self.num], self.height[self.rows : self.num]
        below = np.bincount(owner[heights < self.floor[owner]], minlength=len(self.sizes))
        self.sizes[below >= self.goals] = 0

    def _costs(self, a: Array, b: Array) -> tuple[Array, Array]:
        """((m, d), (m,) float64): differences of nodes, and what it costs to merge them."""
        difference = self.x.take(b, 0)
        difference -= self.x.take(a, 0)
        share = self.weight[a] * self._share(a, b)
        return difference, np.einsum("nd,nd->n", difference, difference) * share

    def _share(self, a: Array, b: Array) -> Array:
        """(m,) of the weight of a and b together, that is b's."""
        total = self.weight[a] + self.weight[b]
        return self.weight[b] / np.where(total > 0, total, 1)

    def _add(self, where: Array, b: Array, difference: Array, cost: Array) -> None:
        """New nodes in the places of alive[where], which take in b."""
        a, nodes = self.alive[where], slice(self.num, self.num + len(where))
        self.num = nodes.stop
        difference *= self._share(a, b)[:, None].astype(self.x.dtype)
        np.add(difference, self.x.take(a, 0), out=self.x[nodes])
        self.weight[nodes] = self.weight[a] + self.weight[b]
        self._measure(nodes)
        part = self.part[nodes] = self.part[a]
        height = np.maximum(np.maximum(cost, self.floor[part]), np.maximum(self.height[a], self.height[b]))
        key = self.low[nodes] = self.low[a]
        for child in (a, b):  # of equal heights the child comes first
            inner = (child >= self.rows) & (self.height[child] == height)
            key = np.where(inner, np.maximum(key, self.key[child]), key)
        self.height[nodes], self.key[nodes] = height, key
        self.children[nodes.start - self.rows : nodes.stop - self.rows] = np.stack([a, b], 1)
        self.place[a] = self.place[b] = NOBODY
        self.alive[where] = np.arange(nodes.start, nodes.stop)

    def _join_equals(self, joins: Array, nearest: Array, here: Array) -> None:
        """Nodes that are one point with their nearest, a lower one, join it too: many equal tokens take one
        round."""
        other = self.alive[nearest]
        scale = self.square[self.alive] + self.square[other]
        eps = SAME * np.finfo(self.x.dtype).eps
        noise = self.width**0.5 * eps * scale / (self.inverse[self.alive] + self.inverse[other])
        same = (self.near_cost[self.alive] <= noise) & (nearest < here) & ~joins
        same &= (self.weight[other] > 0) | (self.weight[self.alive] == 0)
        at = np.flatnonzero(same)
        if len(at):
            difference, _ = self._costs(other[at], self.alive[at])
            apart = np.einsum("nd,nd->n", difference, difference)
            joins[at] = (apart <= eps**2 * scale[at]) | (self.weight[self.alive[at]] == 0)

    def _force(self, joins: Array, nearest: Array, part: Array) -> None:
        """Where rounding left a part without a pair, its best candidate joins."""
        have = np.bincount(part[joins], minlength=len(self.sizes))
        for p in np.flatnonzero((have == 0) & (self.sizes > 1)).tolist():
            mine = np.flatnonzero(part == p)
            _, cost = self._costs(self.alive[mine], self.alive[nearest[mine]])
            k = mine[int(cost.argmin())]
            upper, lower = max(k, nearest[k]), min(k, nearest[k])
            nearest[upper] = lower
            joins[upper] = True

    def run(self) -> Merges:
        """The first merges of each part; what was merged beyond them is dropped."""
        with one_thread():
            while len(self.alive):
                self.search()
                self.merge()
        nodes = np.arange(self.rows, self.num)
        height, key = self.height[nodes], self.key[nodes]
        children = np.concatenate([np.zeros((self.rows, 2), np.int64), self.children])
        chosen, named, roots, names = first_merges(
            self.rows, self.goals, self.part[nodes], nodes, height, key, children, self.low
        )
        return Merges(named, height[chosen], key[chosen], names, self.x[roots], self.weight[roots])
