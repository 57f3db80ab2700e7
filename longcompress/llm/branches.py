"""Who sees whom in rows of samples with branches, as runs of tokens: no mask of all pairs is ever made."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

PADDING_RUN = 128  # tokens; longer padding is cut, so that it costs little


class Tables(NamedTuple):
    """What decides who sees whom, of each token, int32 of one shape; all count the tokens of all rows."""

    place: Tensor
    run: Tensor
    first: Tensor  # of the prefix
    stop: Tensor  # its end
    order: Tensor  # place in the token's own sequence, the prefix with it


def visible(query: Tables, key: Tables, window: int | None = None) -> Tensor:
    """Whether a query sees a key, of the shape that their tables have together.

    Args:
        window: number of tokens that a query sees, itself with them, None for all.
    """
    own = (key.run == query.run) & (key.place <= query.place)
    sees = own | ((key.place >= query.first) & (key.place < query.stop))
    return sees if window is None else sees & (query.order - key.order < window)


@dataclass(frozen=True, eq=False)
class BranchLayout:
    """B rows of L tokens, cut into R runs. A token sees what is before it in its run, itself, and the whole
    prefix of its run.

    Attributes:
        rows, length: B, L.
        edges: (R + 1,) int64 on the CPU, where runs begin in all rows together, and their end.
        prefix: (R, 2) int64 on the CPU, where the prefix of each run begins and ends; both 0: none.
    """

    rows: int
    length: int
    edges: Tensor
    prefix: Tensor
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def tables(self, device: torch.device) -> Tables:
        """(B, L) tables."""
        if ("tables", device) not in self._cache:
            num = self.rows * self.length
            run = torch.arange(len(self.prefix)).repeat_interleave(self.edges.diff(), output_size=num)
            place, (first, stop) = torch.arange(num), self.prefix[run].T
            order = place - self.edges[run] + stop - first
            values = torch.stack([place, run, first, stop, order]).int().to(device)
            self._cache["tables", device] = Tables(*values.reshape(5, self.rows, self.length))
        return self._cache["tables", device]

    def pairs(self, size: int) -> tuple[Tensor, Tensor]:
        """(B, n, n) float64 numbers of visible pairs, and of all, of blocks of `size` queries and keys of a
        row."""
        if ("pairs", size) not in self._cache:
            start = torch.arange(0, self.length, size)
            block = torch.stack([start, (start + size).clamp_max(self.length)])
            block = rearrange(
                block[:, None] + self.length * torch.arange(self.rows)[:, None], "e b n -> e (b n)"
            )
            own = _overlap(torch.stack([self.edges[:-1], self.edges[1:]], 1), block)  # (R, B n)
            seen = own.T @ _overlap(self.prefix, block) + (own.T @ own).tril(-1)
            seen += (own * (own + 1) / 2).sum(0).diag()
            seen = rearrange(seen, "(b n) (c m) -> b c n m", b=self.rows, c=self.rows)
            width = (block[1] - block[0]).reshape(self.rows, -1).double()
            pairs = seen.diagonal(dim1=0, dim2=1).permute(2, 0, 1), width[:, :, None] * width[:, None]
            self._cache["pairs", size] = pairs
        return self._cache["pairs", size]

    def fans(self) -> list[tuple[int, int, list[int]]]:
        """(where a prefix begins, where it ends, edges of the runs that see it), which lie side by side."""
        if "fans" not in self._cache:
            fans: list[tuple[int, int, list[int]]] = []
            edges = self.edges.tolist()
            for (first, stop), start, end in zip(self.prefix.tolist(), edges[:-1], edges[1:], strict=True):
                if stop > first and fans and fans[-1][:2] == (first, stop) and fans[-1][2][-1] == start:
                    fans[-1][2].append(end)
                elif stop > first:
                    fans.append((first, stop, [start, end]))
            self._cache["fans"] = fans
        return self._cache["fans"]


def _overlap(interval: Tensor, block: Tensor) -> Tensor:
    """(R, n) float64 numbers of tokens that intervals (R, 2) and blocks (2, n) share."""
    stop = torch.minimum(interval[:, 1:], block[1])
    return (stop - torch.maximum(interval[:, :1], block[0])).clamp_min(0).double()


def branch_layout(branch: Tensor, attention_mask: Tensor, sample: Tensor | None = None) -> BranchLayout:
    """The layout of rows in which a token sees the video (branch 0) and its own branch of its own sample,
    nothing later.

    Args:
        branch: (B, L) int64, 0 for the video.
        attention_mask: (B, L) int64, 0 for padding.
        sample: (B, L) int64, None for one sample a row.

    Raises:
        ValueError: a video that doesn't stand before its branches.
    """
    rows, length = branch.shape
    padding = attention_mask == 0
    sample = torch.zeros_like(branch) if sample is None else sample
    keys = torch.stack([padding.long(), sample.masked_fill(padding, 0), branch.masked_fill(padding, 0)]).cpu()
    changes = torch.ones(rows, length, dtype=torch.bool)
    changes[:, 1:] = (keys.diff(dim=-1) != 0).any(0)
    starts = changes.flatten().nonzero()[:, 0].tolist()
    labels = keys.flatten(1)[:, starts].T.tolist()
    runs: list[tuple[int, int, int]] = []  # (first token, begin and end of the prefix)
    samples: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for start, stop, (pad, number, of) in zip(starts, [*starts[1:], rows * length], labels, strict=True):
        if pad:
            runs += [(place, 0, 0) for place in range(start, stop, PADDING_RUN)]
        else:
            samples.setdefault((start // length, number), []).append((of, start, stop))
    runs = sorted(runs + [run for parts in samples.values() for run in _runs(parts)])
    edges = torch.tensor([start for start, _, _ in runs] + [rows * length])
    return BranchLayout(rows, length, edges, torch.tensor([run[1:] for run in runs]))


def _runs(parts: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs (first token, begin and end of the prefix) of a sample's parts (branch, first token, end)."""
    numbers = [number for number, _, _ in parts]
    if len({*numbers}) < len(numbers) or 0 in numbers[1:]:
        raise ValueError(
            "branch must number the stretches of a sample, each by its own number, the video first by 0; "
            f"got stretches {numbers}"
        )
    (number, first, stop), *branches = parts
    if number:  # without a video
        return [(start, 0, 0) for _, start, _ in parts]
    if len(branches) == 1:  # it sees what it would see in one sequence with the video
        return [(first, 0, 0)]
    return [(first, 0, 0), *((start, first, stop) for _, start, _ in branches)]
