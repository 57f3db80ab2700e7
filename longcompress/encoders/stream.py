"""An encoder that is fed bit by bit: blocks of fixed size, then means that run over the ends of blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..types import Audio, Encoded, Frames
from .encoder import Encoder

SAME_S = 1e-6  # seconds; times that differ by less are equal


class Stream:
    """Frames or audio in, tokens of one encoder out; the tokens don't depend on how the input was cut.

    Blocks are aligned to the start of the stream. A gap in the audio ends a block, and so does another frame
    step, unless the frame begins just when the one before ends: the last frame of a video lasts as long as
    the video.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._means = encoder.means and replace(encoder.means, waiting=[])
        self._parts: list[Frames | Audio] = []  # what waits for its block to be full
        # Start of the unbroken audio, and its samples that were encoded. Times of blocks are counted from
        # there, so that they are the same to the last bit for all cuts.
        self._run_s, self._run = 0.0, 0

    def copy(self) -> "Stream":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        twin = Stream(self.encoder)
        twin.set_state(self.state())
        return twin

    def state(self) -> dict[str, Any]:
        """All but the encoder, for `set_state`."""
        means = {} if self._means is None else {"means": list(self._means.waiting)}
        return {"parts": list(self._parts), "run_s": self._run_s, "run": self._run} | means

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` returned."""
        self._parts, self._run_s, self._run = list(state["parts"]), state["run_s"], state["run"]
        if self._means is not None:
            self._means.waiting = list(state["means"])

    @property
    def num_pending(self) -> int:
        """Frames or samples that wait for their block to be encoded."""
        return sum(map(len, self._parts))

    def push(self, part: Frames | Audio) -> list[Encoded]:
        """The tokens that are complete now; `part` follows what was pushed before."""
        encoded = []
        if self._parts and not follows(self._parts[-1], part):
            encoded += self._encode_rest()
            self._run = 0
        if isinstance(part, Audio) and not self._parts:
            # Nothing waits, so `follows` was not asked: audio may also go on at the very end of a block.
            next_s = self._run_s + self._run / part.rate_hz
            if self._run == 0 or abs(part.start_s - next_s) >= 0.5 / part.rate_hz:
                self._run_s, self._run = part.start_s, 0
        full = self.encoder.block + self.encoder.lookahead
        start = 0
        while start < len(part):
            stop = min(start + full - self.num_pending, len(part))
            self._parts.append(part.cut(start, stop))
            start = stop
            if self.num_pending == full:
                encoded.append(self._encode_block())
        return self._average(encoded)

    def flush(self) -> list[Encoded]:
        """The tokens of all that waits, encoded as if nothing followed."""
        return self._average(self._encode_rest()) + (self._means.flush() if self._means else [])

    def _encode_rest(self) -> list[Encoded]:
        """What waits, as blocks that nothing follows; the last one may not be full."""
        encoded = []
        while self._parts:
            encoded.append(self._encode_block())
        return encoded

    def _encode_block(self) -> Encoded:
        """The first block that waits; its lookahead goes on waiting, for it begins the next block."""
        parts, size = self._parts, self.encoder.block
        self._parts, rest = [], size
        for part in parts:
            if len(part) > rest:
                self._parts.append(part.cut(rest, len(part)) if rest else part)
            rest -= min(rest, len(part))
        block = type(parts[0]).join(parts)  # type: ignore[arg-type]
        if isinstance(block, Audio):
            block = replace(block, start_s=self._run_s + self._run / block.rate_hz)
            self._run += min(size, len(block))
        encoder: Any = self.encoder
        with memory_hint("encoding a block", "video.batch_size, media.size_px or dtype (bfloat16)"):
            encoded: Encoded = encoder.encode(block)
        # A joined block has the step of its first part. Frames that last otherwise get their own ends back.
        frames = [part for part in parts if isinstance(part, Frames)]
        if len({part.step_s for part in frames}) < 2:
            return encoded
        return set_steps(encoded, frames, encoder.frames_per_token)

    def _average(self, encoded: list[Encoded]) -> list[Encoded]:
        return [mean for part in encoded for mean in self._means.push(part)] if self._means else encoded


def follows(before: Frames | Audio, part: Frames | Audio) -> bool:
    """Whether `part` goes on where `before` ends (audio: to half a sample), or in the same step."""
    if isinstance(before, Audio) and isinstance(part, Audio):
        return before.rate_hz == part.rate_hz and abs(part.start_s - before.end_s) < 0.5 / part.rate_hz
    assert isinstance(before, Frames) and isinstance(part, Frames)
    same_shape = before.pixels.shape[1:] == part.pixels.shape[1:]
    gap_s = float(part.time_s[0]) - float(before.time_s[-1]) - before.step_s
    return same_shape and (before.step_s == part.step_s or abs(gap_s) < SAME_S)


def set_steps(encoded: Encoded, parts: list[Frames], frames_per_token: int = 1) -> Encoded:
    """The same tokens, each lasting until its last frame in `parts` ends."""
    start_s = encoded.tokens.start_s
    ends = torch.cat([part.time_s + part.step_s for part in parts]).to(start_s.device)  # of frames
    last = torch.arange(1, len(encoded) // encoded.patches + 1, device=start_s.device) * frames_per_token - 1
    end_s = ends[last.clamp_max(len(ends) - 1)].repeat_interleave(encoded.patches)
    tokens = replace(encoded.tokens, time_s=start_s + (end_s - start_s) / 2, end_s=end_s)
    return replace(encoded, tokens=tokens)


@contextmanager
def memory_hint(what: str, knobs: str) -> Iterator[None]:
    """MemoryError where the device has no memory left inside: for what, how much, and what needs less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        need = str(error).split(" GPU ")[0]  # torch says what it tried to allocate
        raise MemoryError(f"no memory left on the device for {what}: {need}; lower {knobs}") from error
