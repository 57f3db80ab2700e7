"""A stream of encoded frames and windows becomes segments, the same however it was cut into pushes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..config import SegmentConfig
from ..kernels import frame_novelty
from ..types import Encoded, Segment

NEVER = float("inf")
_STATE = ("open", "seen_s", "cuts", "start_s", "index", "last", "frames")


@dataclass
class Segmenter:
    """Cuts streams into segments: push what the encoders made, take the segments that are closed.

    A segment is closed once every stream in `streams` has gone past its end. A token belongs to the segment
    in which it starts. State is bounded by the longest segment and by how far one stream runs ahead.

    Args:
        config: where to cut.
        streams: names of the streams that will come, those that never come must be finished with `finish`.
    """

    config: SegmentConfig
    streams: tuple[str, ...] = ("video", "audio")
    _open: dict[str, list[Encoded]] = field(default_factory=dict)
    _seen_s: dict[str, float] = field(default_factory=dict)
    _cuts: list[float] = field(default_factory=list)
    _start_s: float = 0.0
    _index: int = 0
    _last: Tensor | None = None  # (patches, d) metric of the last frame, for cuts at changes
    _frames: int = 0  # that came, for cuts after frames

    def copy(self) -> "Segmenter":
        """An independent copy; tensors are shared, for nothing here writes into them."""
        waiting = {name: list(parts) for name, parts in self._open.items()}
        return replace(self, _open=waiting, _seen_s=dict(self._seen_s), _cuts=list(self._cuts))

    def state(self) -> dict[str, Any]:
        """All but the configuration, for `set_state`."""
        return {name: getattr(self, f"_{name}") for name in _STATE}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; what an older version didn't know stays as it is."""
        for name in set(_STATE) & set(state):
            setattr(self, f"_{name}", state[name])

    def push(self, stream: str, encoded: Encoded) -> list[Segment]:
        """The segments that are closed now. `encoded` must follow what was pushed for that stream before."""
        self._known(stream)
        if not len(encoded):
            return []
        start_s = encoded.tokens.start_s
        seen = self._seen_s.get(stream, -NEVER)
        if float(start_s[0]) < seen:
            raise ValueError(
                f"encoded of stream {stream!r} must follow {seen:.3f} s, "
                f"got a start of {float(start_s[0]):.3f} s"
            )
        if stream == "video" and self.config.cut == "change":
            self._find_cuts(encoded)
        if stream == "video" and self.config.cut == "frames":
            self._count(encoded)
        # what comes may reach over several segments: it waits here until they are closed
        self._open.setdefault(stream, []).append(encoded)
        self._seen_s[stream] = float(start_s[-1])
        return self._closed()

    def advance(self, stream: str, time_s: float) -> list[Segment]:
        """The segments closed by the news that nothing of `stream` will start before `time_s`."""
        self._known(stream)
        self._seen_s[stream] = max(self._seen_s.get(stream, -NEVER), time_s)
        return self._closed()

    def finish(self, stream: str) -> list[Segment]:
        """The segments closed by the news that nothing more of `stream` will come."""
        return self.advance(stream, NEVER)

    def flush(self) -> list[Segment]:
        """All that is left, the last segment ending where its last token ends."""
        return [segment for stream in self.streams for segment in self.finish(stream)]

    def _known(self, stream: str) -> None:
        if stream not in self.streams:
            raise ValueError(f"stream must be one of {self.streams}, got {stream!r}")

    def _closed(self) -> list[Segment]:
        segments = []
        while (end_s := self._end()) is not None:
            taken = {name: self._take(name, end_s) for name in self.streams}
            held: Mapping[str, Encoded] = {name: part for name, part in taken.items() if part is not None}
            if end_s == NEVER:  # the last segment ends where its last token ends
                end_s = max((float(p.tokens.end_s.max()) for p in held.values()), default=self._start_s)
                end_s = max(end_s, self._start_s + 1e-3)
            if held:  # an interval without any token is no segment, and takes no index
                segments.append(Segment(self._index, self._start_s, end_s, held))
                self._index += 1
            self._start_s = end_s
            self._cuts = [c for c in self._cuts if c > end_s]
            self._skip_silence()
        return segments

    def _skip_silence(self) -> None:
        """Go over whole segments without a token at once: a gap may last for days."""
        next_s = min((self._next_s(name) for name in self.streams), default=NEVER)
        num = (next_s - self._start_s) // self.config.length_s - 1 if next_s < NEVER else 0
        if self.config.cut != "frames" and num > 0:
            self._start_s += num * self.config.length_s
            self._cuts = [c for c in self._cuts if c > self._start_s]

    def _next_s(self, stream: str) -> float:
        """The earliest start that a token of `stream` outside closed segments has, or may have."""
        parts = self._open.get(stream)
        return float(parts[0].tokens.start_s[0]) if parts else self._seen_s.get(stream, -NEVER)

    def _end(self) -> float | None:
        """Where the open segment ends, once that is certain and all streams are past it."""
        # the slowest stream decides: nothing before the watermark can come any more
        watermark = min(self._seen_s.get(name, -NEVER) for name in self.streams)
        longest = self._start_s + self.config.length_s
        end_s = longest
        if self.config.cut == "frames":
            end_s = next((c for c in self._cuts if c > self._start_s), NEVER)
        if self.config.cut == "change":
            earliest = self._start_s + self.config.min_length_s - 1e-9
            end_s = min(next((c for c in self._cuts if c >= earliest), longest), longest)
        # all streams are finished and no token starts after the end: this segment is the last
        if watermark == NEVER and not any(self._starts_from(n, end_s) for n in self.streams):
            return NEVER if any(self._open.get(n) for n in self.streams) else None
        return end_s if watermark >= end_s else None

    def _starts_from(self, stream: str, time_s: float) -> bool:
        return any(float(part.tokens.start_s[-1]) >= time_s for part in self._open.get(stream, ()))

    def _take(self, stream: str, end_s: float) -> Encoded | None:
        """What of `stream` starts before end_s, taken out of the open parts."""
        taken, left = [], []
        for part in self._open.get(stream, ()):
            num = int((part.tokens.start_s[:: part.patches] < end_s).sum())  # whole frames
            steps = len(part) // part.patches
            if num:
                taken.append(part.rows(0, num))
            if num < steps:
                left.append(part.rows(num, steps))
        self._open[stream] = left
        return Encoded.join(taken) if taken else None

    def _count(self, encoded: Encoded) -> None:
        """Note the start of every frame that begins a segment of so many."""
        for time_s in encoded.tokens.start_s[:: encoded.patches].tolist():
            if self._frames and self._frames % self.config.frames == 0:
                self._cuts.append(time_s)
            self._frames += 1

    def _find_cuts(self, encoded: Encoded) -> None:
        """Note the start of every frame that differs enough from the one before."""
        patches = encoded.patches
        change = frame_novelty(encoded.metric, patches, self._last).view(-1, patches).mean(1)
        starts = encoded.tokens.start_s[::patches]
        for time_s, value in zip(starts.tolist(), change.tolist(), strict=True):
            if value > self.config.min_novelty:
                self._cuts.append(time_s)
        self._last = encoded.metric[-patches:]
