"""A few queries read a stream of tokens chunk by chunk, with a running softmax."""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ._dispatch import can_wait, check_offsets, one_device, use_triton

Backend = Literal["auto", "xformers"]


class State(NamedTuple):
    """What E queries have read so far in each of S streams; `acc / sum` is the answer."""

    max: Tensor  # (S, E) float32 greatest score so far; -inf where nothing was read
    sum: Tensor  # (S, E) float32 sum of exp(score - max)
    acc: Tensor  # (S, E, C) float32 sum of exp(score - max) * x

    def read(self) -> Tensor:
        """(S, E, C) float32: what each query sees; zero where nothing was read."""
        seen = self.sum > 0
        share = torch.where(seen, 1 / self.sum.masked_fill(~seen, 1), torch.zeros_like(self.sum))
        return share[..., None] * self.acc


def start_state(num_streams: int, num_queries: int, width: int, device: torch.device | str = "cpu") -> State:
    """A State that has read nothing: S streams, E queries, C channels."""
    none = torch.zeros(num_streams, num_queries, device=device)
    return State(none - torch.inf, none, torch.zeros(num_streams, num_queries, width, device=device))


def attend(
    query: Tensor,
    x: Tensor,
    offsets: Tensor,
    *,
    bias: Tensor | None = None,
    state: State | None = None,
    backend: Backend = "auto",
) -> State:
    """The state after E queries read each segment's tokens; keys and values are x itself.

    Reading a stream in several chunks gives what reading it whole gives, up to rounding.

    Args:
        query: (E, C) float, scale and key projection folded in.
        x: (N, C) float tokens of S segments, end to end.
        offsets: (S + 1,) int32, where each segment begins.
        bias: (N,) added to the scores (log size for merged tokens); None: zero.
        state: what was read before, for each of the S segments; None: nothing.
        backend: "auto" is Triton on a GPU and torch elsewhere; "xformers" its block-diagonal attention, which
            has no gradient.

    Gradients go to query, x, bias and state. All tensors are on one device, but for `offsets`. Where a graph
    is compiled, or captured on a GPU, their values are taken on trust, and for capture they must be on the
    device.
    """
    if query.dim() != 2 or x.dim() != 2 or query.shape[1] != x.shape[1]:
        got = f"{tuple(query.shape)} and {tuple(x.shape)}"
        raise ValueError(f"query (E, C) and x (N, C) must share C, got {got}")
    if bias is not None and bias.shape != x.shape[:1]:
        raise ValueError(f"bias must be (N,) = ({len(x)},) like x, got {tuple(bias.shape)}")
    if backend not in ("auto", "xformers"):
        raise ValueError(f"backend must be 'auto' or 'xformers', got {backend!r}")
    one_device(query=query, x=x, bias=bias, **({} if state is None else state._asdict()))
    fused = backend == "auto" and use_triton("attend", x)
    at = [] if fused and not can_wait(x) else check_offsets(offsets, len(x))  # the kernels don't need it
    want = (offsets.shape[0] - 1, len(query), x.shape[1])
    if state is None:
        state = start_state(*want, device=x.device)
    elif tuple(state.acc.shape) != want or {tuple(state.max.shape), tuple(state.sum.shape)} != {want[:2]}:
        shapes = [tuple(part.shape) for part in state]
        raise ValueError(f"state must be for (S, E, C) = {want}, got max, sum, acc of {shapes}")
    if backend == "xformers":
        from .gpu.attend_xformers import attend_xformers

        return State(*attend_xformers(query, x, at, bias, state))
    if fused:
        from .gpu.attend import Attend

        return State(*Attend.apply(query, x, offsets.to(x.device), bias, *state))
    return attend_reference(query, x, at, bias, state)


def attend_reference(query: Tensor, x: Tensor, at: list[int], bias: Tensor | None, state: State) -> State:
    """What `attend` means, in plain torch, a segment at a time. Also the path on CPU."""
    parts = []
    for s, (a, b) in enumerate(pairwise(at)):
        old = State(*(part[s] for part in state))
        if a == b:
            parts.append(old)
            continue
        rows = x[a:b].float()
        score = query.float() @ rows.t()  # (E, n)
        if bias is not None:
            score = score + bias[a:b].float()
        top = torch.maximum(old.max, score.amax(1))
        # nothing to carry where no finite score was seen, before or now
        shift = torch.where(top.isinf(), torch.zeros_like(top), top)
        old_share = torch.where(old.sum > 0, (old.max - shift).exp(), torch.zeros_like(top))
        share = (score - shift[:, None]).exp()
        acc = old.acc * old_share[:, None] + share @ rows
        parts.append(State(top, old.sum * old_share + share.sum(1), acc))
    return State(*(torch.stack(field) for field in zip(*parts, strict=True))) if parts else state
