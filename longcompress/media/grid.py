"""The instants at which frames are wanted."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

from ..config import MediaConfig


@dataclass(frozen=True)
class Grid:
    """The wanted instants start_s + k / rate_fps, k = 0 to num - 1, or `times`; the last frame lasts
    last_step_s."""

    rate_fps: float
    start_s: float = 0.0
    num: float = math.inf
    last_step_s: float = 0.0
    times: tuple[float, ...] = ()

    @classmethod
    def spread(cls, config: MediaConfig, first_s: float, last_s: float, step_s: float) -> "Grid":
        """`config.frames` instants from the first frame to the last (`config.frames_at`), of frames that last
        `step_s`; over the time of a single frame."""
        num = config.frames
        if last_s <= first_s:
            return cls(num / step_s, first_s, num, step_s / num)
        if config.frames_at == "ends":
            return cls((num - 1) / (last_s - first_s), first_s, num, step_s)
        half_s, last_number = (last_s - first_s) / num / 2, round((last_s - first_s) / step_s)
        if last_number < num:  # fewer frames than instants
            return cls(num / (last_s - first_s), first_s + half_s, num, half_s + step_s)
        # LongVLM's arithmetic: the mean of a part's rounded ends, rounded down; halves are rounded to even
        bounds = [round(last_number / num * k) for k in range(num + 1)]
        numbers = [(a + b) // 2 for a, b in pairwise(bounds)]
        step_s = (last_s - first_s) / last_number
        times = tuple(first_s + step_s * (number + 0.5) for number in numbers)  # amid the frame's own time
        return cls(num / (last_s - first_s), first_s, num, last_s + step_s - times[-1], times)

    def at(self, index: int) -> float:
        """Instant number `index`; infinite behind the last."""
        if index >= self.num:
            return math.inf
        return self.times[index] if self.times else self.start_s + index / self.rate_fps

    def between(self, start_s: float, end_s: float) -> bool:
        """Whether a wanted instant lies in this interval."""
        if self.times:
            return bisect_left(self.times, start_s) < bisect_right(self.times, end_s)
        first = math.ceil(max(0.0, start_s - self.start_s) * self.rate_fps)
        return first <= math.floor((end_s - self.start_s) * self.rate_fps)
