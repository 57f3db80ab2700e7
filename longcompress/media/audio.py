"""An audio track: decoded audio in; mono samples of one rate out, each at its true time."""

import math
from collections.abc import Iterator

import av
import numpy as np
import torch
from av.audio.fifo import AudioFifo

from ..types import Audio
from .timeline import BACK_S, stamp_warning

_GAP_S = 0.05  # audio that is off by less is contiguous
_MIN_HZ = 1000  # a lower rate is a damaged header, and would make hours of a packet
_CANCELLED = 0.02  # of the channels' power; a mix with less is mostly lost
_AUDIBLE = 1e-6  # power of a sample below which there is nothing to lose
# What a channel has in a mix to mono, before the sum is made 1: ITU-R BS.775 to stereo, then their mean.
_IN_MIX = {"FL": 1.0, "FR": 1.0, "FC": 2**0.5, "LFE": 0.0}
_SURROUND = 0.5**0.5
_MAX_SILENCE_S = 60.0  # a longer gap isn't filled: new contiguous audio begins behind it
_PIECES_DIFFER = 2  # channels above which the last bit of a mix depends on where the mixed piece ends


class AudioTrack:
    """Mono samples of one rate in [0, length_s), in chunks of a second; the media starts at
    `media_start_s`."""

    def __init__(
        self, rate_hz: int, media_start_s: float = 0.0, length_s: float = math.inf, channels: str = "mix"
    ) -> None:
        self.rate_hz, self.media_start_s, self.length_s = rate_hz, media_start_s, length_s
        self.channels = channels
        self._mix = np.ones(1, np.float32)  # (channels,) weights
        self._power = np.zeros(2)  # of the channels and of their mix
        self.num_no_numbers = 0
        self.end_s = 0.0
        self.num_samples = 0
        self.num_filled = self.num_cut = self.num_jumps = self.num_bad = 0
        # Decoded audio waits to be resampled until a chunk may be complete: a call costs more than its work.
        self._resampler: av.AudioResampler | None = None
        self._unsampled = AudioFifo()
        self._num_frames = 0  # in it
        self._num_resampled = [0, 0]  # samples into and out of the resampler
        # Input: its format, the time of its last jump, and samples that came since then.
        self._format: tuple[str, str, int] | None = None
        self._anchor_s: float | None = None
        self._num_in = 0
        # Output: where the contiguous audio starts, its samples that left, and samples that wait for a chunk.
        self._start_s = 0.0
        self._num_out = 0
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0
        self._num_to_cut = 0  # samples to leave out: before time 0, or already there

    def push(self, frame: av.AudioFrame, time_s: float | None) -> Iterator[Audio]:
        """The chunks that are complete with the audio that begins at `time_s` (None: it just follows)."""
        if frame.sample_rate < _MIN_HZ:
            self.num_bad += 1
            return
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._anchor_s is None:
            # The first audio: without a stamp it starts with the media.
            first_s = self.media_start_s if time_s is None else time_s
            self._start_s = max(0.0, first_s)
            self._num_to_cut = round(max(0.0, -first_s) * self.rate_hz)
            self._anchor_s = first_s
        else:
            # Later audio: small errors of stamps are none, restarts are ignored (`timeline` moves a file's).
            due_s = self.reached_s
            gap_s = 0.0 if time_s is None else time_s - due_s
            if gap_s < -BACK_S:
                self.num_jumps += 1
                gap_s = 0.0
            if abs(gap_s) > _GAP_S or frame_format != self._format:
                yield from self._restart(due_s + gap_s)
        is_first = self._resampler is None
        if is_first:
            self._mix = mix_of(frame.layout, self.channels)
            self._resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=self.rate_hz)
            self._unsampled, self._num_resampled = AudioFifo(), [0, 0]
            self._format = frame_format
        frame.pts = None
        self._unsampled.write(frame)
        self._num_frames += 1
        self._num_in += frame.samples
        if is_first or len(self._mix) > _PIECES_DIFFER:
            self._resample()
        yield from self._chunks()

    @property
    def reached_s(self) -> float:
        """Where the audio that came ends, whether it was wanted or not."""
        if self._anchor_s is None or self._format is None:
            return self.media_start_s
        return self._anchor_s + self._num_in / self._format[2]

    def given_until_s(self, time_s: float) -> float:
        """The time before which no audio will be returned any more, if all that begins before time_s came."""
        if self._anchor_s is None:
            return time_s
        next_s = self._start_s + self._num_out / self.rate_hz
        is_waiting = self._num_waiting or self._num_frames
        return next_s if is_waiting or time_s - self.reached_s <= _MAX_SILENCE_S else time_s

    def pause(self, time_s: float) -> Iterator[Audio]:
        """What waits for its chunk, if there was no audio until time_s and the gap won't be filled."""
        if time_s - self.reached_s > _MAX_SILENCE_S:
            self._resample()
            if self._num_waiting:
                yield from self.finish()

    @property
    def done(self) -> bool:
        """Whether all wanted audio has come."""
        if self._num_missing() <= self._num_coming():
            self._resample()
        return self._num_missing() == 0

    def warning(self) -> str | None:
        """What was wrong with the samples and their stamps."""
        faults = []
        if (
            self._power[0] > _AUDIBLE * max(1, self.num_samples)
            and self._power[1] < _CANCELLED * self._power[0]
        ):
            faults.append("channels that cancel each other in the mix; set media.channels to first")
        if self.num_no_numbers:
            faults.append(f"{self.num_no_numbers} samples that are no numbers (silence)")
        stamps = stamp_warning({
            "gaps (silence)": self.num_filled, "overlaps (cut)": self.num_cut,
            "that restart (ignored)": self.num_jumps,
        })  # fmt: skip
        return "; ".join([*faults, *([stamps] if stamps else [])]) or None

    def rest(self) -> Iterator[Audio]:
        """What waits for its chunk, at once."""
        self._resample()
        yield from self._chunks(flush=True)

    def finish(self) -> Iterator[Audio]:
        """All that waits."""
        self._drain()
        yield from self._chunks(flush=True)

    def _restart(self, time_s: float) -> Iterator[Audio]:
        """Fill, cut or begin anew, so that the next sample is the sample of `time_s`."""
        self._drain()
        yield from self._chunks()
        end_s = self._start_s + (self._num_out + self._num_waiting) / self.rate_hz
        gap = round((time_s - end_s) * self.rate_hz)
        before_start, self._num_to_cut = self._num_to_cut > 0, max(0, -gap)
        if gap > _MAX_SILENCE_S * self.rate_hz:
            yield from self._chunks(flush=True)
            self._start_s, self._num_out = time_s, 0
        elif gap > 0:
            self.num_filled += gap > _GAP_S * self.rate_hz
            self._wait(np.zeros(int(min(gap, self._num_missing())), np.float32))
            yield from self._chunks()
        elif gap < 0 and not before_start:  # before time 0 nothing overlaps
            self.num_cut += -gap > _GAP_S * self.rate_hz
        self._anchor_s, self._num_in = time_s, 0

    def _drain(self) -> None:
        self._resample(end=True)
        self._resampler = None

    def _num_coming(self) -> float:
        """At most so many samples does the resampler give of what waits for it."""
        if not self._num_frames or self._format is None:
            return 0
        num_in = self._num_resampled[0] + self._unsampled.samples
        return num_in * self.rate_hz / self._format[2] + 1 - self._num_resampled[1]

    def _resample(self, *, end: bool = False) -> None:
        """Resample what waits for it; with `end` also give the rest in the resampler."""
        if self._resampler is None or not (self._num_frames or end):
            return
        frame, num_frames, self._num_frames = self._unsampled.read(), self._num_frames, 0
        num_in = frame.samples if frame else 0
        try:
            parts = self._resampler.resample(frame) if frame else []
            parts += self._resampler.resample(None) if end else []
        except av.FFmpegError:
            self.num_bad += max(1, num_frames)
            self._num_in -= num_in
            self._resampler = None
            return
        self._num_resampled[0] += num_in
        for part in parts:
            if part is None:
                continue
            self._num_resampled[1] += part.samples
            values = part.to_ndarray().reshape(-1)  # channels side by side
            with np.errstate(over="ignore"):
                power = values @ values
            if not np.isfinite(power):  # a look at each value would cost as much as the mix
                self.num_no_numbers += int((~np.isfinite(values)).sum())
                values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
                power = np.square(values, dtype=np.float64).sum()
            samples = self._mix @ values.reshape(-1, len(self._mix)).T
            self._power += power / len(self._mix), samples @ samples
            cut = min(self._num_to_cut, len(samples))
            self._num_to_cut -= cut
            self._wait(samples[cut:][: int(min(self._num_missing(), len(samples)))])

    def _wait(self, samples: np.ndarray) -> None:
        self._waiting.append(samples)
        self._num_waiting += len(samples)

    def _num_missing(self) -> float:
        """Wanted samples that haven't come."""
        if math.isinf(self.length_s):
            return math.inf
        num = round((self.length_s - self._start_s) * self.rate_hz)
        return max(0, num - self._num_out - self._num_waiting)

    def _chunks(self, *, flush: bool = False) -> Iterator[Audio]:
        """Whole chunks of what waits; with `flush` also a shorter last one."""
        if self._num_waiting + self._num_coming() >= self.rate_hz:
            self._resample()
        if self._num_waiting < self.rate_hz and not (flush and self._num_waiting):
            return
        samples = np.concatenate(self._waiting).clip(-1.0, 1.0)
        whole = len(samples) if flush else len(samples) - len(samples) % self.rate_hz
        for at in range(0, whole, self.rate_hz):
            chunk = samples[at : min(at + self.rate_hz, whole)].copy()
            start_s = self._start_s + self._num_out / self.rate_hz
            self._num_out += len(chunk)
            self.num_samples += len(chunk)
            self.end_s = start_s + len(chunk) / self.rate_hz
            yield Audio(torch.from_numpy(chunk), start_s, self.rate_hz)
        rest = samples[whole:]
        self._waiting, self._num_waiting = ([rest] if len(rest) else []), len(rest)


def mix_of(layout: av.AudioLayout, channels: str) -> np.ndarray:
    """(channels,) float32 weights of a mix to mono, which sum to 1: of equal channels it is one of them.

    Of stereo it is the mean. With more channels the front's are as loud as in a mix to stereo, those behind
    and beside -3 dB, and the subwoofer is left out. Channels without names count alike.
    """
    if channels == "first":
        return np.eye(1, layout.nb_channels, dtype=np.float32)[0]
    names = [channel.name for channel in layout.channels]
    weights = [_IN_MIX.get(name, _SURROUND) for name in names] if "FL" in names else [1.0] * len(names)
    return np.array(weights, np.float32) / np.float32(sum(weights) or 1)
