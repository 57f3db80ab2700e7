"""A video track: packets in; the frames of the wanted instants out, scaled, with true times."""

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from einops import rearrange
from torch import Tensor

from ..config import MediaConfig
from ..types import Frames
from .grid import Grid
from .hdr import scaled
from .timeline import JUMP_S, stamp_warning

_CHUNK_FRAMES = 16
_CHUNK_BYTES = 4_000_000
_CHUNK_S = 8.0
_MAX_LOOKAHEAD = 32  # packets that wait to know which frame follows
_MAX_GROUP_BYTES = 32_000_000
_MAX_ASPECT = 8.0  # a frame this much longer than wide is cut before it is scaled


class Clock:
    """Rising times from the stamps of a track, in seconds from `origin_s`; the media starts at
    `media_start_s`. A missing stamp follows the stamp before."""

    def __init__(self, time_base: float, origin_s: float, step_s: float, media_start_s: float = 0.0) -> None:
        self.time_base = time_base
        self.origin_s = origin_s
        self.step_s = step_s
        self.media_start_s = media_start_s
        self.last_s: float | None = None
        self.num_missing = self.num_repeated = 0

    def seconds(self, stamp: int | None) -> float | None:
        """The time of a stamp."""
        return None if stamp is None else round(stamp * self.time_base - self.origin_s, 9)

    def next(self, pts: int | None, dts: int | None) -> float | None:
        """The time of the next frame; None for a frame to leave out."""
        time = self.seconds(pts)
        if time is None:
            self.num_missing += 1
            time = self.seconds(dts)
        if time is None:
            time = self.media_start_s if self.last_s is None else self.last_s + self.step_s
        elif self.last_s is not None and time <= self.last_s:
            self.num_repeated += 1
            return None
        self.last_s = time
        return time

    def warning(self) -> str | None:
        """What was wrong with the stamps."""
        return stamp_warning({
            "missing (rebuilt)": self.num_missing, "repeated or set back (left out)": self.num_repeated,
        })  # fmt: skip


class FrameSampler:
    """Chooses the frames of the wanted instants in [0, length_s), scales them, and returns them in chunks.
    Times that differ by less than `tolerance_s` are equal."""

    def __init__(
        self, config: MediaConfig, name: str, *, tolerance_s: float = 1e-6, pixel_aspect: float = 1.0,
        length_s: float = math.inf, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        self.config, self.name, self.pixel_aspect = config, name, pixel_aspect
        self.grid = grid or Grid(config.rate_fps)
        self.tolerance_s, self.limit_s = tolerance_s, length_s - tolerance_s
        self.step_s = 1.0 / self.grid.rate_fps
        self.end_s = 0.0  # of the frame pushed last
        self.num_frames = self.num_bad = self._index = 0  # _index: of the next wanted instant
        self._shown: tuple[av.VideoFrame, float] | None = None  # the frame pushed last, and its time
        self._scaled: np.ndarray | None = None  # that frame, once it was chosen
        self._chosen_s = -1.0
        self._pixels: list[np.ndarray] = []  # chosen frames that wait for their chunk
        self._times: list[float] = []
        self._scaler = VideoReformatter()
        self._chunk = max(1, min(_CHUNK_FRAMES, _CHUNK_BYTES // (3 * config.size_px**2)))

    @property
    def next_s(self) -> float:
        """The first wanted instant whose frame is not known yet."""
        return self.grid.at(self._index)

    @property
    def reached_s(self) -> float:
        """The time before which no frame will be returned any more."""
        if not self._times and self.config.decode != "exact" and self._shown is not None:
            return self._shown[1]  # it may still be chosen, at its own time
        return self._times[0] if self._times else self.next_s

    @property
    def done(self) -> bool:
        """Whether the frames of all wanted instants are chosen."""
        return self.next_s >= self.limit_s

    def push(self, frame: av.VideoFrame, time_s: float, duration_s: float) -> Iterator[Frames]:
        """The chunks that are complete with the frame that begins at `time_s`."""
        if frame.width * frame.height > self.config.max_pixels:
            where = f"{self.name} at {time_s:.3f} s"
            raise too_large(where, frame.width, frame.height, self.config.max_pixels)
        if self._shown is None:
            # The first frame also stands for an instant less than a step before it.
            while self.next_s < time_s - self.step_s + self.tolerance_s:
                self._index += 1
        else:
            # The frame before is on screen until now.
            yield from self._choose(time_s - self.tolerance_s)
        self._shown, self._scaled = (frame, time_s), None
        self.end_s = time_s + duration_s
        # No later frame can be on screen at an instant that equals this frame's stamp.
        yield from self._choose(time_s + self.tolerance_s)

    def finish(self) -> Iterator[Frames]:
        """The instants at which the last frame is still shown, and all that waits."""
        if self._shown is not None:
            yield from self._choose(self.end_s - self.tolerance_s)
        yield from self.flush()

    def flush(self) -> Iterator[Frames]:
        """The chosen frames that wait."""
        if self._times:
            pixels, times = torch.from_numpy(np.stack(self._pixels)), self._times
            self._pixels, self._times = [], []
            yield Frames(pixels, torch.tensor(times, dtype=torch.float64), self.step_s)

    def _choose(self, end_s: float) -> Iterator[Frames]:
        """Choose the shown frame for every wanted instant before `end_s`."""
        assert self._shown is not None
        frame, shown_s = self._shown
        while self.next_s < min(end_s, self.limit_s):
            # "exact" repeats a frame for each instant it is shown at; else it comes once, at its own time.
            time_s = self.next_s if self.config.decode == "exact" else max(shown_s, 0.0)
            is_chosen = time_s <= self._chosen_s
            if self._index + 1 == self.grid.num and not is_chosen:
                yield from self.flush()  # the last frame has a step, so a chunk, of its own
                self.step_s = self.grid.last_step_s
            self._index += 1
            if is_chosen:
                continue
            if self._scaled is None:
                try:
                    self._scaled = self.fit(frame)
                except av.FFmpegError:
                    self.num_bad += 1
                    continue
            self._chosen_s = time_s
            self.num_frames += 1
            self._pixels.append(self._scaled)
            self._times.append(time_s)
            if len(self._times) >= self._chunk or time_s - self._times[0] >= _CHUNK_S:
                yield from self.flush()

    def fit(self, frame: av.VideoFrame) -> np.ndarray:
        """(size_px, size_px, 3) uint8 from a decoded frame, turned by its rotation flag.

        FFmpeg's scaler converts from YUV in the same pass; it doesn't give the same bits as `fit_pixels`.
        """
        size = width = height = self.config.size_px
        turns = round(frame.rotation / 90) % 4
        if self.config.fit == "crop":
            aspect = frame.width / frame.height * self.pixel_aspect
            if not 1 / _MAX_ASPECT < aspect < _MAX_ASPECT:
                square: Any = frame.to_ndarray(format="rgb24")[_middle(frame.height, frame.width)]
                frame, aspect = av.VideoFrame.from_ndarray(np.ascontiguousarray(square), "rgb24"), 1.0
            width, height = max(size, round(size * aspect)), max(size, round(size / aspect))
        elif self.config.fit == "pad":
            width, height = _inside(size, frame.width * self.pixel_aspect, frame.height)
        pixels = scaled(frame, self._scaler, width, height, self.config.scaling)  # (height, width, 3)
        if self.config.fit == "pad":
            pixels = np.pad(pixels, [*_margins(size, height, width), (0, 0)])
        return np.ascontiguousarray(np.rot90(pixels[_middle(*pixels.shape[:2])], turns))


class VideoTrack:
    """Decodes the packets of a video track, but no more than the wanted frames need.

    Where instants are far apart, packets wait in a group until the next key frame: if that one still comes
    before the next wanted instant, the group is dropped unread. Where groups are too long for that, packets
    wait until it is known which frame follows each of them: the decoder then leaves out a frame that is on
    screen at no wanted instant and that no other frame refers to. A sign of wrong stamps ends all skipping.
    """

    def __init__(self, stream: av.VideoStream, sampler: FrameSampler, clock: Clock) -> None:
        self.stream, self.sampler, self.clock = stream, sampler, clock
        self.num_bad = self.num_inexact = 0
        self.first_bad_s = 0.0
        self.end_s = self.last_packet_s = clock.media_start_s
        self._may_skip = True  # until stamps look wrong
        # The packets since the last key frame, if they may be dropped as a group.
        self._group: list[av.Packet] = []
        self._group_bytes = 0
        self._key_s: float | None = None
        self._key_gap_s: float | None = None
        self._restart_s: float | None = None  # where decoding goes on after dropped groups
        self._restarted = False  # the next frame is the first after that
        # The packets whose following frame isn't known yet.
        self._lookahead: deque[av.Packet] = deque()
        self._stamps: deque[int | None] = deque(maxlen=2 * _MAX_LOOKAHEAD)
        self._skips = False  # whether the decoder leaves out frames that no other refers to
        self._only_keys = sampler.config.decode == "keyframe"

    def push(self, packet: av.Packet) -> Iterator[Frames]:
        """The chunks that are complete with this packet."""
        time = self.clock.seconds(packet.pts)
        if time is None or packet.is_corrupt:
            self._may_skip = False
        else:
            self._may_skip &= abs(time - self.last_packet_s) <= JUMP_S
            self.last_packet_s = time
            self.end_s = max(self.end_s, time + self._duration(packet.duration))
        if packet.is_keyframe:
            self._start_group(time)
        elif self._only_keys:
            return
        self._group.append(packet)
        self._group_bytes += packet.size
        # Wait while no instant is wanted yet: the next key frame may make this group superfluous.
        wait = self._may_skip and time is not None and time <= self.sampler.next_s + self.sampler.tolerance_s
        if wait and self._dropping_pays() and self._group_bytes < _MAX_GROUP_BYTES:
            return
        yield from self._decode_group()

    def finish(self) -> Iterator[Frames]:
        """All that is left when no more packets come."""
        yield from self._decode_group()
        yield from self._decode_lookahead()
        yield from self._decode(None)
        yield from self.sampler.finish()

    def _start_group(self, time: float | None) -> None:
        """A key frame came: drop the group before it if the key frame, too, is before the next instant."""
        if time is None:
            return
        if self._key_s is not None:
            self._may_skip &= time > self._key_s
            self._key_gap_s = time - self._key_s
        self._key_s = time
        if self._group and self._may_skip and time <= self.sampler.next_s + self.sampler.tolerance_s:
            self._group.clear()
            self._lookahead.clear()
            self._group_bytes = 0
            self._restart_s = time

    def _dropping_pays(self) -> bool:
        """Whether the step, or the time to the first instant of a part, is long against the key frames'."""
        if self._only_keys or self._key_gap_s is None or self._key_s is None:
            return self._only_keys
        to_next_s = self.sampler.next_s - self._key_s
        return self.sampler.step_s >= self._key_gap_s / 2 or to_next_s >= 2 * self._key_gap_s

    def _decode_group(self) -> Iterator[Frames]:
        if self._restart_s is not None:
            # The decoder never saw the dropped groups: it starts anew, the clock just before the key frame.
            self.stream.codec_context.flush_buffers()
            self.clock.last_s = self._restart_s - self.clock.step_s
            self._restart_s = None
            self._restarted = True
        group, self._group, self._group_bytes = self._group, [], 0
        for packet in group:
            self._lookahead.append(packet)
            self._stamps.append(packet.pts)
            if self._lookahead_pays() and packet.pts is not None and packet.dts is not None:
                yield from self._decode_known(packet.dts)
            else:
                yield from self._decode_lookahead()

    def _lookahead_pays(self) -> bool:
        """Whether many frames lie between two wanted ones, stamps are in order, and groups aren't dropped."""
        can_skip = self._may_skip and self.sampler.config.decode == "exact"
        return can_skip and self.sampler.step_s > 2 * self.clock.step_s and not self._dropping_pays()

    def _decode_known(self, last_dts: int) -> Iterator[Frames]:
        """Decode the packets of the lookahead whose following frame is known."""
        while self._lookahead:
            packet = self._lookahead[0]
            pts = packet.pts or 0
            after = min((s for s in self._stamps if s is not None and s > pts), default=None)
            # A frame is never shown before it is decoded: once decoding stamps have reached `after`, no frame
            # can come in between. A full lookahead decodes without knowing.
            if (after is None or last_dts < after) and len(self._lookahead) < _MAX_LOOKAHEAD:
                return
            self._lookahead.popleft()
            self._set_skip(after is not None and last_dts >= after and not self._is_wanted(pts, after))
            yield from self._decode(packet)

    def _decode_lookahead(self) -> Iterator[Frames]:
        """Decode the whole lookahead, leaving nothing out."""
        if self.sampler.config.decode == "exact":
            self._set_skip(False)
        while self._lookahead:
            yield from self._decode(self._lookahead.popleft())

    def _set_skip(self, skip: bool) -> None:
        if skip != self._skips:
            self._skips = skip
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

    def _is_wanted(self, pts: int, after: int) -> bool:
        """Whether an instant is wanted between two stamps."""
        slack_s = self.sampler.tolerance_s + 1e-6
        start_s, end_s = (stamp * self.clock.time_base - self.clock.origin_s for stamp in (pts, after))
        return self.sampler.grid.between(start_s - slack_s, end_s + slack_s)

    def _decode(self, packet: av.Packet | None) -> Iterator[Frames]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            if not self.num_bad:
                self.first_bad_s = self.last_packet_s
            self.num_bad += 1
            return
        for frame in frames:
            time = self.clock.next(frame.pts, frame.dts)
            if time is None:
                continue
            if self._restarted:
                self._restarted = False
                if time > self.sampler.next_s + self.sampler.tolerance_s:
                    # The key frame doesn't stand by itself (gradual refresh): from here on decode everything.
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


def fit_pixels(pixels: Tensor, config: MediaConfig) -> Tensor:
    """(T, size_px, size_px, 3) uint8 from pushed frames (T, H, W, 3) uint8, on their own device."""
    size = config.size_px
    if pixels.shape[1:3] == (size, size):
        return pixels
    if config.fit == "crop":
        rows, columns = _middle(*pixels.shape[1:3])
        pixels = pixels[:, rows, columns]
    width, height = size, size
    if config.fit == "pad":
        width, height = _inside(size, pixels.shape[2], pixels.shape[1])
    x = rearrange(pixels, "t h w c -> t c h w").float()
    x = torch.nn.functional.interpolate(x, (height, width), mode=config.scaling, antialias=True)
    above, beside = _margins(size, height, width)
    x = torch.nn.functional.pad(x, (*beside, *above))
    return rearrange(x.round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c")


def _inside(size: int, width: float, height: float) -> tuple[int, int]:
    """(width, height) of a frame whose longer side is scaled to `size`; the shorter is rounded down."""
    longer = max(width, height)
    return max(1, int(width / longer * size)), max(1, int(height / longer * size))


def _margins(size: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Black rows above and below, and columns left and right, of a frame in the middle of a square."""
    top, left = (size - height) // 2, (size - width) // 2
    return (top, size - height - top), (left, size - width - left)


def _middle(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the largest square in the middle."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)
