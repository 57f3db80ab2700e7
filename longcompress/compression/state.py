"""What is kept of a video while it is compressed: groups of tokens by stream, in pieces by time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels import State
from ..types import Tokens


@dataclass(frozen=True)
class Group:
    """What is held of one stream of one piece of video, in seat order.

    Attributes:
        tokens: n tokens.
        metric: (n, d) float32 their mean metric.
        member: (n_raw,) int32 the token that each raw one is in, or None.
        origin: (n_raw,) int64 frame number * patches + patch of each raw token, or None.
    """

    tokens: Tokens
    metric: Tensor
    member: Tensor | None = None
    origin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def join(self, other: "Group") -> "Group":
        """Both as one group, the seats of `other` after those of this one."""
        member = origin = None
        if self.member is not None and other.member is not None:
            member = torch.cat([self.member, other.member + len(self)])
            origin = torch.cat([self.origin, other.origin])  # type: ignore[list-item]
        tokens = Tokens.join([self.tokens, other.tokens])
        return Group(tokens, torch.cat([self.metric, other.metric]), member, origin)


@dataclass(frozen=True)
class Piece:
    """One segment, or `count` neighbouring ones that were joined.

    Attributes:
        start_s, end_s: the stretch of video.
        count: segments in it.
        groups: stream name -> Group.
        novelty: mean novelty of each segment's tokens, summed over streams and segments.
    """

    start_s: float
    end_s: float
    count: int
    groups: dict[str, Group]
    novelty: float

    def join(self, other: "Piece") -> "Piece":
        """Both as one, `other` later."""
        groups = dict(self.groups)
        for name, group in other.groups.items():
            groups[name] = groups[name].join(group) if name in groups else group
        return Piece(
            self.start_s, other.end_s, self.count + other.count, groups, self.novelty + other.novelty
        )


@dataclass
class Hold:
    """All that is kept of a stream so far; bounded. Tensors in it are never written to, so `copy` is cheap.

    Attributes:
        pieces: in time order.
        span: segments a piece has when it is full.
        levels: rounds that every group of a stream has gone through beyond the configured detail.
        last: stream -> (patches, d) metric of its last frame or window.
        seen: stream -> frames or windows closed so far.
        memory: stream -> state of its global tokens.
    """

    pieces: list[Piece] = field(default_factory=list)
    span: int = 1
    levels: dict[str, int] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    memory: "dict[str, State | Mean]" = field(default_factory=dict)

    def copy(self) -> "Hold":
        """An independent copy that shares tensors."""
        return Hold(
            list(self.pieces),
            self.span,
            dict(self.levels),
            dict(self.last),
            dict(self.seen),
            dict(self.memory),
        )

    def num_tokens(self, stream: str | None = None) -> int:
        """Tokens held, of one stream or of all."""
        return sum(len(g) for p in self.pieces for n, g in p.groups.items() if stream in (None, n))

    def num_groups(self) -> int:
        """(piece, stream) groups held."""
        return sum(len(p.groups) for p in self.pieces)

    def streams(self) -> list[str]:
        """Names of the streams that something is held of, sorted."""
        return sorted({name for p in self.pieces for name in p.groups})


@dataclass(frozen=True)
class Mean:
    """A running mean: total (E, C) float64 of `count` summaries."""

    total: Tensor
    count: int


def join_pairs(pieces: list[Piece]) -> list[Piece]:
    """Neighbours joined in pairs; an odd last one stays alone."""
    return [a.join(b) for a, b in zip(pieces[::2], pieces[1::2], strict=False)] + pieces[len(pieces) & ~1 :]


KINDS = (Hold, Piece, Group, Tokens, Mean, State)
"""The classes that a hold is made of, for `pack`."""
