"""The steps of a running video and their tokens: media in, what a live session reads out."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .encode import SegmentEncoder
from .encoders import tokens_a_second
from .media.steps import Step, Steps
from .model import LongCompress
from .types import Audio, Encoded, Frames, Segment, Tokens

ROUNDING_S = 1e-6


class ReadStep(NamedTuple):
    """A step, the segments that are closed with it, and stream -> its tokens."""

    step: Step
    segments: list[Segment]
    tokens: dict[str, Tokens]


class StepEncoder:
    """Hands media on to the encoders a step at a time: nothing depends on how they were pushed, nor on what
    comes after a step.

    Args:
        model: what encodes.
        media: as of Session.
        patience_s: as of Session.

    Raises:
        ValueError: the model takes frames at no fixed rate, or its segments have no longest length.
    """

    def __init__(self, model: LongCompress, media: Sequence[str] | None, patience_s: float) -> None:
        if model.config.media.frames:
            raise ValueError(
                "live needs media.rate_fps, got media.frames, which spreads frames over a whole video; "
                'model.change({"media": {"frames": 0}})'
            )
        if model.config.segments.cut == "frames":
            raise ValueError('live needs segments.cut "fixed" or "change", got "frames"')
        self.encoder = SegmentEncoder(model, media, tap=self._take)
        frame_s = 1 / model.config.media.rate_fps
        has_video = "video" in self.encoder.media and model.video is not None
        self.step_s = frame_s * (model.video.frames_per_token if has_video else 1)  # type: ignore[union-attr]
        self.steps = Steps(self.step_s, frame_s, self.encoder.media, patience_s)
        # of a token of each audio stream
        self._window_s = {
            name: 1 / tokens_a_second(encoder, self.step_s, model.config.media)
            for name, encoder in model.encoders.items()
            if name in self.encoder.streams and encoder.modality == "audio"
        }
        self._taken: dict[str, list[Tokens]] = {}  # of this step
        self._read_s: dict[str, float] = {}  # stream -> end of the last token that was read

    def push(self, part: Frames | Audio) -> None:
        """Take in media that aren't late."""
        if len(part):
            if isinstance(part, Audio):
                self.encoder.check_rate(part)
            self.steps.push(part)

    def due(self, *, flush: bool = False) -> Iterator[ReadStep]:
        """The steps that are complete; with `flush` all that waits."""
        for step in self.steps.due(flush=flush):
            segments = [segment for part in step.parts for segment in self.encoder.push(part)]
            segments += self.encoder.pass_by(step.end_s)
            yield ReadStep(step, segments, self._tokens())

    def flush(self) -> tuple[list[Segment], dict[str, Tokens]]:
        """(the segments that the end of the video closes, the tokens that weren't read until then)."""
        return self.encoder.flush(), self._tokens(is_last=True)

    def state(self) -> dict[str, Any]:
        """All but the encoder and what the constructor takes, for `set_state`."""
        return {"steps": self.steps.state(), "read_s": self._read_s, "patience_s": self.steps.patience_s}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.steps.set_state(state["steps"])
        self._read_s, self.steps.patience_s = state["read_s"], state["patience_s"]

    def _take(self, name: str, encoded: Encoded) -> None:
        """The encoder's tap."""
        if len(encoded):
            self._taken.setdefault(name, []).append(encoded.tokens)

    def _tokens(self, *, is_last: bool = False) -> dict[str, Tokens]:
        """Stream -> the tokens of this step that weren't read: those that are final, and of audio those whose
        own time has come, encoded with what there is."""
        taken, self._taken = self._taken, {}
        out: dict[str, Tokens] = {}
        early = {} if is_last else self.encoder.early()
        for name in self.encoder.streams:
            parts = taken.get(name, [])
            if name in early:
                tokens = early[name].tokens
                is_whole = tokens.end_s - tokens.start_s > (1 - ROUNDING_S) * self._window_s[name]
                rises = torch.cat([is_whole.new_ones(1), tokens.start_s.diff() > 0])
                parts = [*parts, tokens.take(is_whole & rises)]
            if not parts:
                continue
            tokens = Tokens.join(parts)
            tokens = tokens.take(tokens.start_s > self._read_s.get(name, -math.inf) - ROUNDING_S)
            if len(tokens):
                self._read_s[name] = float(tokens.end_s[-1])
                out[name] = tokens
        return out
