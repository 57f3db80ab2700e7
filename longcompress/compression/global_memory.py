"""Global tokens: a few rows of each stream that stand for the whole video, beside the tokens that have times.

Forms, by name: "mean" of the encoder's summaries (LongVLM, arXiv 2404.03384: class tokens of the last layers,
averaged over frames); "learned" queries that attend over the tokens of closed segments; "coarse", a cut of
the tree over all segments at once; "scales", such cuts into 1, 2, 4, ... tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..config import MemoryConfig, MergeConfig
from ..kernels import attend
from ..types import Tokens, stream_order
from .merging import Group, merge, merge_by_height

MAX_LEAVES = 1024  # tokens of a stream, at most, that a tree over all its segments is built of


@dataclass(frozen=True)
class Mean:
    """A running mean: total (E, C) float64 of `count` summaries."""

    total: Tensor
    count: int


class GlobalMemory(nn.Module):
    """Makes global tokens of what a merge state holds.

    Args:
        config: which form, and how many tokens of a stream.
        widths: stream -> C.
        summaries: stream -> E summary rows that its encoder gives (kind "mean"); 0 for none.
    """

    def __init__(self, config: MemoryConfig, widths: dict[str, int], summaries: dict[str, int]) -> None:
        super().__init__()
        self.config, self.streams = config, stream_order(widths)
        self.summaries = {k: v for k, v in summaries.items() if v} if config.kind == "mean" else {}
        self.query = nn.ParameterDict()
        if config.kind == "learned":
            for name in self.streams:
                width = widths[name]
                self.query[name] = nn.Parameter(torch.randn(config.num_queries, width) * width**-0.5)

    def num_tokens(self, streams: list[str] | None = None) -> int:
        """Global tokens of these streams (None: of all), at most."""
        of_all = self.config.kind in ("learned", "coarse", "scales")
        numbers = dict.fromkeys(self.streams, self.config.num_queries) if of_all else self.summaries
        return sum(n for name, n in numbers.items() if streams is None or name in streams)

    def update(self, memory: dict[str, Mean], stream: str, summary: Tensor | None) -> None:
        """Take the summary (T, E, C) of a closed segment of `stream` into `memory`."""
        if stream in self.summaries:
            if summary is None:
                raise ValueError(
                    f"stream {stream!r} needs a summary for its global tokens, its encoder gave none"
                )
            total, num = summary.double().sum(0), len(summary)
            if before := memory.get(stream):
                total, num = before.total + total, before.count + num
            memory[stream] = Mean(total, num)

    def read(
        self, memory: dict[str, Mean], groups: dict[str, list[Group]], merging: MergeConfig
    ) -> dict[str, Tensor]:
        """stream -> (E, C) float32 global tokens, of the means and of the groups that are held."""
        kind, num = self.config.kind, self.config.num_queries
        if kind == "learned":
            held = {name: Tokens.join(part.tokens for part in parts) for name, parts in groups.items()}
            return {name: self.attended(name, tokens.x, tokens.size) for name, tokens in held.items()}
        if kind == "coarse":
            return {name: coarse(held, [num], merging) for name, held in groups.items()}
        if kind == "scales":
            sizes = [2**i for i in range(num.bit_length()) if 2 ** (i + 1) - 1 <= num]
            sizes += [num - sum(sizes)] if sum(sizes) < num else []
            return {name: coarse(held, sizes, merging) for name, held in groups.items()}
        return {name: (memory[name].total / memory[name].count).float() for name in stream_order(memory)}

    def attended(self, stream: str, x: Tensor, size: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """(B E, C) float32: what the stream's queries read of tokens x (N, C) of B videos, which stand for
        `size` (N,) raw ones; gradients go to the queries. counts: tokens of each video; None: all of one."""
        query = self.query[stream].to(x.device)
        offsets = torch.tensor([0, *(counts or [len(x)])], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return attend(query, x, offsets, bias=size.log()).read().flatten(0, 1)


def coarse(groups: Sequence[Group], sizes: Sequence[int], config: MergeConfig) -> Tensor:
    """(E, C) float32 rows: all groups of a stream as a single one, merged to each of `sizes` tokens by Ward's
    tree, in order of time; E = sum(sizes). Where fewer tokens are held, some come again."""
    mean = replace(config, representative="mean")
    # within segments first: a tree over all tokens of a long video would take long
    groups, _ = merge_by_height(groups, max(MAX_LEAVES, len(groups)), mean)
    whole, rows = Group.join(groups), []
    for size in sizes:
        tokens = merge([whole], [size], mean, "tree")[0].tokens
        order = tokens.time_s.argsort(stable=True)
        rows.append(tokens.x[order[torch.arange(size) * len(order) // size]].float())
    return torch.cat(rows)
