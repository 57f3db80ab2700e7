"""Cuts what arrives into the fixed blocks that encoders run on, aligned to the stream's start."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..types import Audio, Encoded, Frames

SAME_S = 1e-6  # seconds; nearer times are one


@dataclass
class Blocks:
    """Gathers frames or audio until a block is full, then encodes it; features don't depend on how input
    came.

    A gap in the sound ends the block before it; so does another frame step, unless the frame comes just
    when the one before ends (a video's last frame lasts as long as there is video).

    Args:
        encode: a block of at most `size` + `look` frames or samples -> Encoded.
        size: frames (or samples) in a block.
        look: so many that follow a block are shown with it, where there are any.
    """

    encode: Callable[[Frames], Encoded] | Callable[[Audio], Encoded]
    size: int
    look: int = 0
    _parts: list[Frames | Audio] = field(default_factory=list)
    _run_s: float = (
        0.0  # where the unbroken audio began, and the samples of it that were encoded: times of blocks
    )
    _run: int = 0  # are counted from there, so that they don't depend on the cuts to the last bit

    def copy(self) -> "Blocks":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        return Blocks(self.encode, self.size, self.look, list(self._parts), self._run_s, self._run)

    def state(self) -> dict[str, Any]:
        """All but the encoder, for `set_state`."""
        return {"parts": list(self._parts), "run_s": self._run_s, "run": self._run}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._parts, self._run_s, self._run = list(state["parts"]), state["run_s"], state["run"]

    @property
    def num_pending(self) -> int:
        """Frames or samples that wait for their block to be encoded."""
        return sum(len(p) for p in self._parts)

    def push(self, part: Frames | Audio) -> list[Encoded]:
        """What is encoded now; `part` follows what was pushed before."""
        out = []
        if self._parts and not follows(self._parts[-1], part):
            out += self.flush()
            self._run = 0
        if isinstance(part, Audio) and not self._parts and (self._run == 0 or not self._goes_on(part)):
            self._run_s, self._run = part.start_s, 0
        at = 0
        while at < len(part):
            take = min(self.size + self.look - self.num_pending, len(part) - at)
            self._parts.append(part.cut(at, at + take))
            at += take
            if self.num_pending == self.size + self.look:
                out.append(self._encoded())
        return out

    def flush(self) -> list[Encoded]:
        """What waits, encoded as blocks that nothing follows, the last one not full."""
        out = []
        while self._parts:
            out.append(self._encoded())
        return out

    def _encoded(self) -> Encoded:
        """The first block of what waits, which then no longer waits."""
        block, parts, left = join(self._parts), self._parts, self.size
        self._parts = []
        for part in parts:
            if len(part) > left:
                self._parts.append(part.cut(left, len(part)) if left else part)
            left -= min(left, len(part))
        if isinstance(block, Audio):
            block = Audio(block.samples, self._run_s + self._run / block.rate_hz, block.rate_hz)
            self._run += min(self.size, len(block))
        encoded = self.encode(block)  # type: ignore[arg-type]
        seen = [part for part in parts if isinstance(part, Frames)]
        return lasting(encoded, seen) if len({part.step_s for part in seen}) > 1 else encoded

    def _goes_on(self, part: Audio) -> bool:
        return abs(part.start_s - self._run_s - self._run / part.rate_hz) < 0.5 / part.rate_hz


def follows(before: Frames | Audio, part: Frames | Audio) -> bool:
    """Whether `part` goes on where `before` ends (audio: to half a sample), or in the same step."""
    if isinstance(before, Audio) and isinstance(part, Audio):
        return before.rate_hz == part.rate_hz and abs(part.start_s - before.end_s) < 0.5 / part.rate_hz
    if isinstance(before, Frames) and isinstance(part, Frames):
        alike = before.pixels.shape[1:] == part.pixels.shape[1:]
        on_s = float(part.time_s[0]) - float(before.time_s[-1]) - before.step_s
        return alike and (before.step_s == part.step_s or abs(on_s) < SAME_S)
    raise TypeError(
        f"one stream holds frames or audio, not both: {type(before).__name__}, {type(part).__name__}"
    )


def lasting(encoded: Encoded, parts: list[Frames]) -> Encoded:
    """The same, each frame of `parts` lasting its own time."""
    steps = torch.cat([torch.full((len(part),), part.step_s, dtype=torch.float64) for part in parts])
    step_s = steps[: len(encoded) // encoded.patches].repeat_interleave(encoded.patches)
    tokens, step_s = encoded.tokens, step_s.to(encoded.tokens.start_s.device)
    tokens = replace(tokens, time_s=tokens.start_s + step_s / 2, end_s=tokens.start_s + step_s)
    return replace(encoded, tokens=tokens)


def join(parts: list[Frames | Audio]) -> Frames | Audio:
    """Parts of a stream, one after the other."""
    return type(parts[0]).join(parts)  # type: ignore[arg-type]
