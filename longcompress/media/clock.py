"""Times of a track from the stamps in its file, and the instants at which frames are wanted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..config import MediaConfig


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


def stamp_warning(counts: Mapping[str, int]) -> str | None:
    """The warning for a count of each fault of the stamps; None without faults."""
    faults = [f"{num} {fault}" for fault, num in counts.items() if num]
    return "time stamps: " + ", ".join(faults) if faults else None


@dataclass(frozen=True)
class Grid:
    """The wanted instants: start_s + k / rate_fps, k = 0, 1, ..., num - 1; the last frame lasts
    last_step_s."""

    rate_fps: float
    start_s: float = 0.0
    num: float = math.inf
    last_step_s: float = 0.0

    @classmethod
    def spread(cls, config: MediaConfig, first_s: float, last_s: float, step_s: float) -> "Grid":
        """`config.frames` instants from the first frame to the last (`config.frames_at`), of frames that last
        `step_s`; over the time of a single frame."""
        num = config.frames
        if last_s <= first_s:
            return cls(num / step_s, first_s, num, step_s / num)
        if config.frames_at == "ends":
            return cls((num - 1) / (last_s - first_s), first_s, num, step_s)
        half_s = (last_s - first_s) / num / 2
        return cls(num / (last_s - first_s), first_s + half_s, num, half_s + step_s)

    def at(self, index: int) -> float:
        """Instant number `index`; infinite behind the last."""
        return self.start_s + index / self.rate_fps if index < self.num else math.inf

    def between(self, start_s: float, end_s: float) -> bool:
        """Whether a wanted instant lies in this interval."""
        start, end = start_s - self.start_s, end_s - self.start_s
        return math.ceil(max(0.0, start) * self.rate_fps) <= math.floor(end * self.rate_fps)
