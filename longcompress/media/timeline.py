"""One timeline for all tracks of a file: stamps that restart are moved together, and packets come in step."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

BACK_S = 1.0  # a smaller step back repeats a stamp; a larger one is a restart
JUMP_S = 3600.0  # a stamp that is further ahead of everything is wrong
_RESYNC_S = 60.0  # likewise in formats whose clock may restart at any time, such as MPEG-TS
_LATE_S = 10.0  # so close behind its track's last packet one goes on with it, whatever other tracks did
_PRIMING_S = 0.1  # decoders may need samples from before the start
_MPEG_TICK = Fraction(1, 90000)
_TURN_S = float(2**33 * _MPEG_TICK)  # after which the clock of MPEG streams begins anew


@dataclass(slots=True)
class _Track:
    """Where a track is: all in seconds of the timeline, but `first_s` by the stamps of the file."""

    shift_s: float  # what is added to its stamps
    first_s: float  # its first stamp since the last restart
    last_s: float  # its last packet
    end_s: float


@dataclass(slots=True)
class Placed:
    """A packet, and its time in seconds from the start of the media."""

    packet: av.Packet
    time_s: float


class Timeline:
    """Moves the stamps of packets, so that a file that was put together of several plays on.

    A restart moves all tracks by the same amount: the piece that follows begins where the longest track of
    the piece before ended. Its tracks are taken to begin as far apart as those of the piece before.

    Args:
        origin_s: where the media starts by the file's stamps; None: with its first packet.
        may_restart: the format's clock may jump ahead at a restart.
    """

    def __init__(self, origin_s: float | None, may_restart: bool) -> None:
        self.origin_s = origin_s or 0.0
        # a first stamp before this is where the media starts
        self._first_until_s = math.inf if origin_s is None else -_PRIMING_S
        self.limit_s = _RESYNC_S if may_restart else JUMP_S
        self.may_restart = may_restart
        self.end_s = 0.0
        self.num_restarts = self.num_wrong = 0
        self.first_restart_s = 0.0
        self._shift_s = 0.0  # of the newest piece
        self._tracks: dict[int, _Track] = {}
        self._ticks_s: dict[int, float] = {}  # a packet's own is a Fraction, which is slow to make
        # After a restart: the track that began it, as it was, and the shift until then. The next packet may
        # take the restart back.
        self._before: tuple[int, _Track, float] | None = None
        self._newest: list[Placed] = []  # the newest piece's packets, until all tracks have come to it
        self._restart_s = 0.0  # where it began
        self._began_s = 0.0  # the newest piece's first stamp, less the same track's of the piece before

    def place(self, packet: av.Packet) -> Placed:
        """The packet with its time; its stamps are moved, again where one of the piece before comes late. A
        packet without a credible stamp loses its stamps, and follows the one before."""
        self._unwrap(packet)
        index, pts, dts = packet.stream_index, packet.pts, packet.dts
        if (tick_s := self._ticks_s.get(index)) is None:
            tick_s = self._ticks_s[index] = float(packet.time_base or 0)
        if pts is not None and dts is not None and abs(pts - dts) * tick_s > JUMP_S:
            packet.pts, self.num_wrong = None, self.num_wrong + 1
        if not self._tracks and pts is not None and not packet.is_discard:
            begin_s = pts * tick_s - self.origin_s
            # the header's start is later than the first packet's, or it has none
            if -JUMP_S < begin_s < self._first_until_s:
                self._shift_s = -begin_s
        track = self._tracks.get(index)
        stamp = pts if dts is None else dts
        raw_s = 0.0 if stamp is None else stamp * tick_s - self.origin_s
        shift_s = None if stamp is None else self._shift_of(index, track, raw_s)
        if shift_s is None:
            self.num_wrong += stamp is not None
            packet.pts = packet.dts = None
            time_s, shift_s = (track.end_s, track.shift_s) if track else (0.0, self._shift_s)
        else:
            time_s = raw_s + shift_s
            _move(packet, shift_s)
        length_s = (packet.duration or 0) * tick_s
        if not 0 < length_s <= JUMP_S:  # not known: as long as the packet before
            length_s = min(max(time_s - track.last_s, 0.0), _RESYNC_S) if track else 0.0
        first_s = track.first_s if track and track.shift_s == shift_s else raw_s
        track = self._tracks[index] = _Track(shift_s, first_s, time_s, time_s + length_s)
        self.end_s = max(self.end_s, track.end_s)
        placed = Placed(packet, time_s)
        if self.num_restarts and shift_s != self._shift_s:
            self._begin_after(track)
        elif self.num_restarts:
            is_joined = all(other.shift_s == shift_s for other in self._tracks.values())
            if is_joined or time_s - self._restart_s > _RESYNC_S:
                self._newest.clear()
            else:
                self._newest.append(placed)
        return placed

    @property
    def may_move(self) -> bool:
        """Whether packets that were placed may still be moved."""
        return bool(self._newest)

    def _unwrap(self, packet: av.Packet) -> None:
        """Undo turns of a 33-bit clock, and FFmpeg's own undoing, which takes a restart at 0 for a turn."""
        stamp = packet.pts if packet.dts is None else packet.dts
        if not self.may_restart or packet.time_base != _MPEG_TICK or stamp is None or not self._tracks:
            return
        near = self._tracks.get(packet.stream_index) or next(iter(self._tracks.values()))
        near_s, stamp_s = near.last_s - near.shift_s + self.origin_s, float(stamp * packet.time_base)
        _move(packet, round((near_s - stamp_s) / _TURN_S) * _TURN_S)

    def _begin_after(self, track: _Track) -> None:
        """A packet of the piece before came late (MPEG-TS holds back the last): the new piece begins after
        it."""
        later_s = track.end_s - track.first_s - self._began_s - self._shift_s
        if later_s > 0:
            for other in self._tracks.values():
                if other.shift_s == self._shift_s:
                    other.shift_s, other.last_s = other.shift_s + later_s, other.last_s + later_s
                    other.end_s += later_s
                    self.end_s = max(self.end_s, other.end_s)
            self._shift_s += later_s
            for placed in self._newest:
                placed.time_s += later_s
                _move(placed.packet, later_s)

    def warning(self) -> str | None:
        """What was wrong with the stamps, and where first."""
        where = f"restarts, the first at {self.first_restart_s:.1f} s (tracks go on together)"
        return stamp_warning({where: self.num_restarts, "that jump (rebuilt)": self.num_wrong})

    def _shift_of(self, index: int, track: _Track | None, raw_s: float) -> float | None:
        """What to add to a stamp; None if the stamp is wrong."""
        if track is None:
            # a track without a credible start begins with the media
            is_credible = -JUMP_S <= raw_s + self._shift_s <= self.end_s + JUMP_S
            if not is_credible and not self._tracks:
                self._shift_s = -raw_s
            return self._shift_s if is_credible else -raw_s
        if self._before and self._before[0] == index:
            (_, old, shift_s), self._before = self._before, None
            if -BACK_S <= raw_s + old.shift_s - old.end_s <= BACK_S:  # goes on as if nothing had been
                self.num_restarts, self.num_wrong = self.num_restarts - 1, self.num_wrong + 1
                self._shift_s = shift_s
                return old.shift_s
        # its own shift, or after a restart that another track began, the newest one
        for shift_s in dict.fromkeys((track.shift_s, self._shift_s)):
            ahead_s = raw_s + shift_s - track.last_s
            is_in_step = shift_s == self._shift_s or self.end_s - (raw_s + shift_s) <= _RESYNC_S
            if -BACK_S <= ahead_s <= (self._ahead_s(track) if is_in_step else _LATE_S):
                return shift_s
        if raw_s + track.shift_s > track.last_s and not self.may_restart:
            return None
        self._before = (index, track, self._shift_s)
        self._newest.clear()
        self._restart_s = self.end_s
        self.num_restarts += 1
        if self.num_restarts == 1:
            self.first_restart_s = self.end_s
        self._began_s = raw_s - track.first_s
        self._shift_s = max(t.end_s - t.first_s for t in self._tracks.values()) - self._began_s
        return self._shift_s

    def _ahead_s(self, track: _Track) -> float:
        """How far ahead of its track's last packet a packet may be: not far ahead of everything."""
        return max(self.end_s - track.last_s, 0.0) + self.limit_s


def _move(packet: av.Packet, later_s: float) -> None:
    """Add seconds to a packet's stamps."""
    if later_s and (ticks := round(later_s / float(packet.time_base))):
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


def in_step(packets: Iterable[Placed], tracks: Sequence[int], max_bytes: int) -> Iterator[Placed]:
    """The packets of all tracks in the order of their times, as far as `max_bytes` of packets can wait for a
    track of which none comes: it may have paused, or ended."""
    queues: dict[int, deque[Placed]] = {index: deque() for index in tracks}
    num_bytes = 0

    def first() -> deque[Placed]:
        return min(filter(None, queues.values()), key=lambda queue: queue[0].time_s)

    for placed in packets:
        queues[placed.packet.stream_index].append(placed)
        num_bytes += placed.packet.size
        while num_bytes > max_bytes or all(queues.values()):
            earliest = first().popleft()
            num_bytes -= earliest.packet.size
            yield earliest
    while any(queues.values()):
        yield first().popleft()


def stamp_warning(counts: Mapping[str, int]) -> str | None:
    """The warning for a count of each fault of the stamps; None without faults."""
    faults = [f"{num} {fault}" for fault, num in counts.items() if num]
    return "time stamps: " + ", ".join(faults) if faults else None
