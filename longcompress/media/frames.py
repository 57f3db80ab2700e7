"""A video track: packets in, the frames of the wanted instants out, scaled, with true times."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from ..config import MediaConfig
from ..types import Frames
from .probe import JUMP_S

_BACK_S = 1.0  # a step back up to this is a repeat, a larger one a restart
_CHUNK_FRAMES = 16
_AHEAD = 32  # packets looked ahead at most, to know which frame follows one
_CHUNK_BYTES = 4_000_000
_CHUNK_S = 8.0
_HELD_BYTES = 32_000_000
_FLATTEST = 8.0  # a frame this much longer than wide is cut before it is scaled


class Clock:
    """Rising times from the stamps of one track, in seconds from `origin_s`; the media begins at `begin_s`.

    Missing stamps follow the one before; jumps of more than an hour, and restarts, are ignored and counted.
    """

    def __init__(self, time_base: float, origin_s: float, step_s: float, begin_s: float = 0.0) -> None:
        self.time_base = time_base
        self.origin_s = origin_s
        self.step_s = step_s
        self.begin_s = begin_s
        self.last_s: float | None = None
        self.num_missing = self.num_repeated = self.num_lying = 0

    def seconds(self, stamp: int | None) -> float | None:
        """`stamp` as it stands."""
        return None if stamp is None else round(stamp * self.time_base - self.origin_s, 9)

    def next(self, pts: int | None, dts: int | None) -> float | None:
        """The time of the next frame; None for one to leave out."""
        time = self.seconds(pts)
        if time is None:
            self.num_missing += 1
            time = self.seconds(dts)
        if self.last_s is None:
            if time is None or abs(time - self.begin_s) > JUMP_S:
                self.num_lying += time is not None
                time = self.begin_s
        else:
            time = self.last_s + self.step_s if time is None else time
            delta = time - self.last_s
            if not -_BACK_S <= delta <= JUMP_S:
                self.num_lying += 1
                time = self.last_s + self.step_s
            elif delta <= 0:
                self.num_repeated += 1
                return None
        self.last_s = time
        return time

    def complaint(self) -> str | None:
        """What was wrong with the stamps."""
        parts = [
            f"{num} {what}"
            for num, what in (
                (self.num_missing, "missing (rebuilt)"),
                (self.num_repeated, "repeated or set back (left out)"),
                (self.num_lying, "that jump or restart (ignored)"),
            )
            if num
        ]
        return "time stamps: " + ", ".join(parts) if parts else None


@dataclass(frozen=True)
class Grid:
    """The wanted instants: start_s + k / rate_fps, k = 0, 1, ..., num - 1; the last one's frame lasts
    lasts_s."""

    rate_fps: float
    start_s: float = 0.0
    num: float = math.inf
    lasts_s: float = 0.0

    @classmethod
    def spread(cls, config: MediaConfig, span: tuple[float, float, float]) -> "Grid":
        """`config.frames` instants over frames (`config.frames_at`); where there is but one, over the time
        that it lasts. `span` are the times of the first and the last, and how long a frame lasts."""
        num, (first_s, last_s, lasts_s) = config.frames, span
        if last_s <= first_s:
            return cls(num / lasts_s, first_s, num, lasts_s / num)
        if config.frames_at == "ends":
            return cls((num - 1) / (last_s - first_s), first_s, num, lasts_s)
        half_s = (last_s - first_s) / num / 2
        return cls(num / (last_s - first_s), first_s + half_s, num, half_s + lasts_s)

    def at(self, index: int) -> float:
        """Instant number `index`; infinite behind the last."""
        return self.start_s + index / self.rate_fps if index < self.num else math.inf

    def between(self, start_s: float, end_s: float) -> bool:
        """Whether a wanted instant lies there."""
        start, end = start_s - self.start_s, end_s - self.start_s
        return math.ceil(max(0.0, start) * self.rate_fps) <= math.floor(end * self.rate_fps)


class FrameSampler:
    """Chooses the frames of the wanted instants in [0, length_s), scales them, gives them in chunks."""

    def __init__(
        self, config: MediaConfig, name: str, *, tolerance_s: float = 1e-6, pixel_aspect: float = 1.0,
        length_s: float = math.inf, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.grid = grid or Grid(config.rate_fps)
        self.name = name
        self.pixel_aspect = pixel_aspect
        self.tolerance_s = tolerance_s
        self.last_s = length_s - tolerance_s
        self.step_s = 1.0 / self.grid.rate_fps
        self.end_s = 0.0
        self.num_given = self.num_bad = 0
        self._index = 0
        self._shown: tuple[av.VideoFrame, float] | None = None
        self._scaled: np.ndarray | None = None
        self._given_s = -1.0
        self._pixels: list[np.ndarray] = []
        self._times: list[float] = []
        self._scaler = VideoReformatter()
        self._chunk = max(1, min(_CHUNK_FRAMES, _CHUNK_BYTES // (3 * config.size_px**2)))

    @property
    def next_s(self) -> float:
        """The first wanted instant whose frame is not known yet."""
        return self.grid.at(self._index)

    @property
    def done(self) -> bool:
        """Whether all that is wanted was given or chosen."""
        return self.next_s >= self.last_s

    def push(self, frame: av.VideoFrame, time_s: float, duration_s: float) -> Iterator[Frames]:
        """What the frame that begins at `time_s` completes."""
        num_pixels = frame.width * frame.height
        if num_pixels > self.config.max_pixels:
            raise too_large(
                f"{self.name} at {time_s:.3f} s", frame.width, frame.height, self.config.max_pixels
            )
        if self._shown is None:
            # The first frame also stands for an instant less than a step before it.
            while self.next_s < time_s - self.step_s + self.tolerance_s:
                self._index += 1
        else:
            yield from self._give_until(time_s - self.tolerance_s)
        self._shown, self._scaled = (frame, time_s), None
        self.end_s = time_s + duration_s
        yield from self._give_until(time_s + self.tolerance_s)

    def finish(self) -> Iterator[Frames]:
        """The instants that the last frame is still shown at, and what is left."""
        if self._shown is not None:
            yield from self._give_until(self.end_s - self.tolerance_s)
        yield from self.flush()

    def flush(self) -> Iterator[Frames]:
        """What is chosen already."""
        if self._pixels:
            pixels = torch.from_numpy(np.stack(self._pixels))
            times = torch.tensor(self._times, dtype=torch.float64)
            self._pixels, self._times = [], []
            yield Frames(pixels, times, self.step_s)

    def _give_until(self, limit_s: float) -> Iterator[Frames]:
        assert self._shown is not None
        frame, shown_s = self._shown
        while self.next_s < min(limit_s, self.last_s):
            time_s = self.next_s if self.config.decode == "exact" else max(shown_s, 0.0)
            self._index += 1
            if time_s <= self._given_s:
                continue
            if self._index == self.grid.num:  # it ends where the video does
                yield from self.flush()
                self.step_s = self.grid.lasts_s
            if self._scaled is None:
                try:
                    self._scaled = self._scale(frame)
                except av.FFmpegError:
                    self.num_bad += 1
                    continue
            self._given_s = time_s
            self.num_given += 1
            self._pixels.append(self._scaled)
            self._times.append(time_s)
            if len(self._times) >= self._chunk or time_s - self._times[0] >= _CHUNK_S:
                yield from self.flush()

    def _scale(self, frame: av.VideoFrame) -> np.ndarray:
        size = self.config.size_px
        width, height = size, size
        turns = round(frame.rotation / 90) % 4
        if self.config.fit == "crop":
            aspect = frame.width / frame.height * self.pixel_aspect
            if not 1 / _FLATTEST < aspect < _FLATTEST:
                frame, aspect = _middle(frame), 1.0
            width, height = max(size, round(size * aspect)), max(size, round(size / aspect))
        small = self._scaler.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        pixels = small.to_ndarray()  # (height, width, 3)
        top, left = (height - size) // 2, (width - size) // 2
        pixels = pixels[top : top + size, left : left + size]
        return np.ascontiguousarray(np.rot90(pixels, turns))


class VideoTrack:
    """Decodes the packets of a video track, leaving out groups of frames that hold no wanted instant."""

    def __init__(self, stream: av.VideoStream, sampler: FrameSampler, clock: Clock) -> None:
        self.stream = stream
        self.sampler = sampler
        self.clock = clock
        self.num_bad = 0
        self.first_bad_s: float | None = None
        self.end_s = self.last_packet_s = clock.begin_s
        self.num_inexact = 0
        self._held: list[av.Packet] = []
        self._ahead: deque[av.Packet] = deque()
        self._stamps: deque[int | None] = deque(maxlen=2 * _AHEAD)
        self._skips = False
        self._held_bytes = 0
        self._key_s: float | None = None
        self._gap_s: float | None = None
        self._may_skip = True
        self._restart_s: float | None = None
        self._restarted = False
        self._only_keys = sampler.config.decode == "keyframe"

    def push(self, packet: av.Packet) -> Iterator[Frames]:
        """What a packet completes."""
        time = self.clock.seconds(packet.pts)
        if time is None or packet.is_corrupt:
            self._may_skip = False
        else:
            if abs(time - self.last_packet_s) > JUMP_S:
                self._may_skip = False
            self.last_packet_s = time
            self.end_s = max(self.end_s, time + self._duration(packet.duration))
        if packet.is_keyframe:
            self._see_key(time)
        elif self._only_keys:
            return
        self._held.append(packet)
        self._held_bytes += packet.size
        wait = self._may_skip and time is not None and time <= self.sampler.next_s + self.sampler.tolerance_s
        if wait and self._pays() and self._held_bytes < _HELD_BYTES:
            return
        yield from self._release()

    def finish(self) -> Iterator[Frames]:
        """What is left when no more packets come."""
        yield from self._release()
        yield from self._drain_ahead()
        yield from self._decode(None)
        yield from self.sampler.finish()

    def _see_key(self, time: float | None) -> None:
        if time is None:
            return
        if self._key_s is not None:
            if time <= self._key_s:
                self._may_skip = False
            self._gap_s = time - self._key_s
        self._key_s = time
        if self._held and self._may_skip and time <= self.sampler.next_s + self.sampler.tolerance_s:
            self._held.clear()
            self._ahead.clear()
            self._held_bytes = 0
            self._restart_s = time

    def _pays(self) -> bool:
        """Only where the wanted step, or the way to the first frame of a part, is long against the file's
        own distance of key frames."""
        if self._only_keys or self._gap_s is None or self._key_s is None:
            return self._only_keys
        return self.sampler.step_s >= self._gap_s / 2 or self.sampler.next_s - self._key_s >= 2 * self._gap_s

    def _release(self) -> Iterator[Frames]:
        if self._restart_s is not None:
            self.stream.codec_context.flush_buffers()
            self.clock.last_s = self._restart_s - self.clock.step_s
            self._restart_s = None
            self._restarted = True
        held, self._held, self._held_bytes = self._held, [], 0
        for packet in held:
            self._ahead.append(packet)
            self._stamps.append(packet.pts)
            if self._worth_looking() and packet.pts is not None and packet.dts is not None:
                yield from self._look_ahead(packet.dts)
            else:
                yield from self._drain_ahead()

    def _worth_looking(self) -> bool:
        """Many frames between two wanted ones, stamps in order, and groups not left out anyway."""
        far = self.sampler.step_s > 2 * self.clock.step_s
        return far and self._may_skip and self.sampler.config.decode == "exact" and not self._pays()

    def _look_ahead(self, last_dts: int) -> Iterator[Frames]:
        """Decodes what is far enough behind to know which frame follows it.

        The decoder leaves out one that is on screen at no wanted instant and that no other refers to.
        """
        while self._ahead:
            packet = self._ahead[0]
            pts = packet.pts or 0
            after = min((s for s in self._stamps if s is not None and s > pts), default=None)
            # Stamps never fall behind the decoding ones, so from here on nothing can come in between.
            if (after is None or last_dts < after) and len(self._ahead) < _AHEAD:
                return
            self._ahead.popleft()
            self._set_skip(after is not None and last_dts >= after and not self._on_screen(pts, after))
            yield from self._decode(packet)

    def _drain_ahead(self) -> Iterator[Frames]:
        if self.sampler.config.decode == "exact":
            self._set_skip(False)
        while self._ahead:
            yield from self._decode(self._ahead.popleft())

    def _set_skip(self, skip: bool) -> None:
        if skip != self._skips:
            self._skips = skip
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

    def _on_screen(self, pts: int, after: int) -> bool:
        """Whether a wanted instant falls between two stamps."""
        slack_s = self.sampler.tolerance_s + 1e-6
        start_s, end_s = (stamp * self.clock.time_base - self.clock.origin_s for stamp in (pts, after))
        return self.sampler.grid.between(start_s - slack_s, end_s + slack_s)

    def _decode(self, packet: av.Packet | None) -> Iterator[Frames]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            self.num_bad += 1
            if self.first_bad_s is None:
                self.first_bad_s = self.last_packet_s
            return
        for frame in frames:
            time = self.clock.next(frame.pts, frame.dts)
            if time is None:
                continue
            if self._restarted:
                self._restarted = False
                if time > self.sampler.next_s + self.sampler.tolerance_s:
                    # The key frame was none to start from (gradual refresh): from here on decode everything.
                    self.num_inexact += 1
                    self._may_skip = False
            yield from self.sampler.push(frame, time, self._duration(frame.duration))

    def _duration(self, ticks: int | None) -> float:
        seconds = (ticks or 0) * self.clock.time_base
        return seconds if 0 < seconds <= JUMP_S else self.clock.step_s


def too_large(where: str, width: int, height: int, max_pixels: int) -> ValueError:
    """The error for a frame over the limit."""
    return ValueError(
        f"{where}: frames of {width} x {height} have more than max_pixels = {max_pixels}; "
        "raise max_pixels if you trust the file"
    )


def _middle(frame: av.VideoFrame) -> av.VideoFrame:
    """The square in the middle of a very long or very tall frame."""
    side = min(frame.width, frame.height)
    top, left = (frame.height - side) // 2, (frame.width - side) // 2
    pixels = frame.to_ndarray(format="rgb24")[top : top + side, left : left + side]
    square: np.ndarray[Any, np.dtype[np.uint8]] = np.ascontiguousarray(pixels, dtype=np.uint8)
    return av.VideoFrame.from_ndarray(square, format="rgb24")
