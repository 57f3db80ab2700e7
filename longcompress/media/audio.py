"""An audio track: decoded audio in, mono samples of one rate out, each at its true time."""

import math
from collections.abc import Iterator

import av
import numpy as np
import torch

from ..types import Audio

_JUMP_S = 3600.0  # a larger step in the time stamps is a lying stamp
_BACK_S = 1.0  # a step back up to this is a repeat, a larger one a restart
_GAP_S = 0.05  # audio that is off by less is contiguous
_LEAST_HZ = 1000  # a lower rate is a damaged header, and would make hours of a packet
_FILL_S = 60.0  # a longer gap in the sound starts a new stretch


class AudioTrack:
    """Mono samples of one rate in [0, length_s), a second a chunk, from decoded audio at its true times; the
    media begins at `begin_s`."""

    def __init__(self, rate_hz: int, *, begin_s: float = 0.0, length_s: float = math.inf) -> None:
        self.rate_hz = rate_hz
        self.begin_s, self.length_s = begin_s, length_s
        self.end_s = 0.0
        self.num_given = 0
        self.num_filled = self.num_cut = self.num_lying = self.num_bad = 0
        self._resampler: av.AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self._anchor_s: float | None = None
        self._fed = 0
        self._start_s = 0.0
        self._written = 0
        self._skip = 0
        self._parts: list[np.ndarray] = []
        self._num_parts = 0

    def push(self, frame: av.AudioFrame, time_s: float | None) -> Iterator[Audio]:
        """What the sound that begins at `time_s` (None: right after the last) completes."""
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if frame.sample_rate < _LEAST_HZ:
            self.num_bad += 1
            return
        if self._anchor_s is None:
            known = time_s is not None and abs(time_s - self.begin_s) <= _JUMP_S
            first_s = time_s if time_s is not None and known else self.begin_s
            self.num_lying += time_s is not None and time_s != first_s
            self._start_s = max(0.0, first_s)
            self._skip = round(max(0.0, -first_s) * self.rate_hz)
            self._anchor_s = first_s
        else:
            due_s = self._anchor_s + self._fed / self._shape[2] if self._shape else 0.0
            off_s = 0.0 if time_s is None else time_s - due_s
            if not -_BACK_S <= off_s <= _JUMP_S:
                self.num_lying += 1
                off_s = 0.0
            if abs(off_s) > _GAP_S or shape != self._shape:
                yield from self._join(due_s + off_s)
        if self._resampler is None:
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=self.rate_hz)
            self._shape = shape
        frame.pts = None
        if self._resample(frame):
            self._fed += frame.samples
        yield from self._give()

    @property
    def reached_s(self) -> float:
        """Where the sound that came ends, given or not."""
        if self._anchor_s is None or self._shape is None:
            return self.begin_s
        return self._anchor_s + self._fed / self._shape[2]

    @property
    def done(self) -> bool:
        """Whether all that is wanted was given or waits to be given."""
        return self._room() == 0

    def complaint(self) -> str | None:
        """What was wrong with the stamps."""
        parts = [
            f"{num} {what}"
            for num, what in (
                (self.num_filled, "gaps (silence)"),
                (self.num_cut, "overlaps (cut)"),
                (self.num_lying, "that jump or restart (ignored)"),
            )
            if num
        ]
        return "time stamps: " + ", ".join(parts) if parts else None

    def finish(self) -> Iterator[Audio]:
        """What is left."""
        self._drain()
        yield from self._give(everything=True)

    def _join(self, time_s: float) -> Iterator[Audio]:
        """Silence, a cut or a new stretch, so that the next sample is the one of `time_s`."""
        self._drain()
        yield from self._give()
        at_s = self._start_s + (self._written + self._num_parts) / self.rate_hz
        gap = round((time_s - at_s) * self.rate_hz)
        skips, self._skip = self._skip > 0, max(0, -gap)
        if gap > _FILL_S * self.rate_hz:
            yield from self._give(everything=True)
            self._start_s, self._written = time_s, 0
        elif gap > 0:
            self.num_filled += gap > _GAP_S * self.rate_hz
            silence = int(min(gap, self._room()))
            self._parts.append(np.zeros(silence, np.float32))
            self._num_parts += silence
            yield from self._give()
        elif gap < 0 and not skips:  # else it is before 0
            self.num_cut += -gap > _GAP_S * self.rate_hz
        self._anchor_s, self._fed = time_s, 0

    def _drain(self) -> None:
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None

    def _resample(self, frame: av.AudioFrame | None) -> bool:
        """Adds what the resampler makes of a frame (None: of what it still holds), False where it can't."""
        assert self._resampler is not None
        try:
            parts = self._resampler.resample(frame)
        except av.FFmpegError:
            self.num_bad += 1
            self._resampler = None
            return False
        for part in parts:
            if part is not None:
                self._add(part)
        return True

    def _add(self, part: av.AudioFrame) -> None:
        samples = part.to_ndarray().reshape(-1)  # (n,)
        if self._skip:
            cut = min(self._skip, len(samples))
            samples = samples[cut:]
            self._skip -= cut
        samples = samples[: int(min(self._room(), len(samples)))]
        self._parts.append(samples)
        self._num_parts += len(samples)

    def _room(self) -> float:
        """Samples that are still wanted."""
        if math.isinf(self.length_s):
            return math.inf
        wanted = round((self.length_s - self._start_s) * self.rate_hz)
        return max(0, wanted - self._written - self._num_parts)

    def _give(self, *, everything: bool = False) -> Iterator[Audio]:
        if self._num_parts < self.rate_hz and not (everything and self._num_parts):
            return
        samples = np.nan_to_num(np.concatenate(self._parts), posinf=1.0, neginf=-1.0).clip(-1.0, 1.0)
        whole = len(samples) if everything else len(samples) - len(samples) % self.rate_hz
        for at in range(0, whole, self.rate_hz):
            chunk = samples[at : min(at + self.rate_hz, whole)].copy()
            start_s = self._start_s + self._written / self.rate_hz
            self._written += len(chunk)
            self.num_given += len(chunk)
            self.end_s = start_s + len(chunk) / self.rate_hz
            yield Audio(torch.from_numpy(chunk), start_s, self.rate_hz)
        rest = samples[whole:]
        self._parts, self._num_parts = ([rest] if len(rest) else []), len(rest)
