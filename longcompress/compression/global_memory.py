"""Global memory tokens: a few tokens that stand for the whole video."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import MemoryConfig
from ..kernels import State, attend, start_state
from ..types import Tokens, stream_order


@dataclass(frozen=True)
class Mean:
    """A running mean: total (E, C) float64 of `count` summaries."""

    total: Tensor
    count: int


class GlobalMemory(nn.Module):
    """A running mean of the encoder's summaries, or learned queries over the tokens of closed segments.

    Source of the mean: LongVLM, arXiv 2404.03384 (class tokens of the last layers, averaged over frames).

    Args:
        config: which kind, and how many learned queries.
        widths: stream -> C.
        summaries: stream -> E summary rows that its encoder gives (kind "mean"); 0 for none.
    """

    def __init__(self, config: MemoryConfig, widths: dict[str, int], summaries: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.summaries = {k: v for k, v in summaries.items() if v} if config.kind == "mean" else {}
        self.query = nn.ParameterDict()
        if config.kind == "learned":
            for name in stream_order(widths):
                width = widths[name]
                self.query[name] = nn.Parameter(torch.randn(config.num_queries, width) * width**-0.5)

    def num_tokens(self, streams: list[str] | None = None) -> int:
        """Global tokens of these streams (None: of all)."""
        numbers = self.summaries | dict.fromkeys(self.query, self.config.num_queries)
        return sum(n for name, n in numbers.items() if streams is None or name in streams)

    def update(
        self, memory: dict[str, State | Mean], stream: str, tokens: Tokens, summary: Tensor | None
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

    def read(self, memory: dict[str, State | Mean]) -> dict[str, Tensor]:
        """stream -> (E, C) float32 global tokens of what was taken in."""
        out = {}
        for name in stream_order(memory):
            state = memory[name]
            out[name] = (state.total / state.count).float() if isinstance(state, Mean) else state.read()[0]
        return out
