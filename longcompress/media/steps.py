"""Frames and audio that are pushed become steps of fixed length, the same however they were cut."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..types import Audio, Frames

SAME_S = 1e-3  # media that begin so much before the end of what came still follow it
ROUNDING = 1e-6  # of a step; times that differ by less are equal


@dataclass(frozen=True)
class Step:
    """What came in [start_s, end_s): single frames, and audio in stretches without a gap."""

    start_s: float
    end_s: float
    parts: tuple[Frames | Audio, ...]


class Steps:
    """Media wait here until all that a step can have has come, or lags too far behind.

    Args:
        step_s: length of a step; they are counted from second 0.
        frame_s: of the frames that come within so many seconds of one another the first is taken.
        media: what will come, of "video" and "audio".
        patience_s: media that lag behind others by more are taken to be silent until then.
    """

    def __init__(self, step_s: float, frame_s: float, media: Sequence[str], patience_s: float) -> None:
        self.step_s, self.frame_s, self.patience_s = step_s, frame_s, patience_s
        self.number = 0  # of the next step
        self.waiting: dict[str, list[Any]] = {name: [] for name in media}
        # modality -> start of its last frame, end of what came, the time before which nothing comes any more
        self.last_s = dict.fromkeys(media, -math.inf)
        self.end_s = dict.fromkeys(media, 0.0)
        self.reached_s = dict.fromkeys(media, 0.0)

    def thin(self, frames: Frames) -> Frames:
        """Frames without those in whose `frame_s` seconds another came before."""
        times = torch.cat([frames.time_s.new_tensor([self.last_s["video"]]), frames.time_s])
        number = (times / self.frame_s + ROUNDING).floor()
        take = (number.diff() != 0) | (times.diff() <= 0)  # what runs backwards is late, not too much
        return Frames(frames.pixels[take], frames.time_s[take], max(frames.step_s, self.frame_s))

    @property
    def parts(self) -> list[Frames | Audio]:
        """All that waits."""
        return [part for parts in self.waiting.values() for part in parts]

    def end_of(self, modality: str) -> float:
        """Until when media of this modality have come."""
        return self.end_s.get(modality, 0.0)

    def num_late(self, part: Frames | Audio) -> int:
        """Frames or samples at the beginning of `part` that come after later ones, or after their step."""
        modality = part.modality
        bound_s = max(self.reached_s[modality], self.number * self.step_s) - SAME_S
        if isinstance(part, Frames):
            return int(((part.time_s < bound_s) | (part.time_s <= self.last_s[modality])).sum())
        bound_s = max(bound_s, self.end_s[modality] - SAME_S)
        if part.start_s >= bound_s:
            return 0
        # what overlaps by more is cut where what came ends, so that tokens stay within their steps
        return min(len(part), math.ceil((bound_s + SAME_S - part.start_s) * part.rate_hz - ROUNDING))

    def push(self, part: Frames | Audio) -> None:
        """Take in frames or audio that aren't late."""
        name = part.modality
        if isinstance(part, Frames):
            self.waiting[name] += [part.cut(i, i + 1) for i in range(len(part))]
            self.last_s[name] = float(part.time_s[-1])
        else:
            self.waiting[name].append(part)
        self.end_s[name] = max(self.end_s[name], part.end_s)
        # a frame comes when it begins, and what is heard meanwhile comes later
        now_s = part.end_s if isinstance(part, Audio) else self.last_s[name]
        for other in self.waiting:
            if other != name:
                self.reach(other, now_s - self.patience_s)

    def reach(self, modality: str, time_s: float) -> None:
        """Nothing of a modality comes before time_s any more."""
        self.reached_s[modality] = max(self.reached_s[modality], time_s)

    def due(self, *, flush: bool = False) -> Iterator[Step]:
        """The steps that are complete; with `flush` all that waits. Steps in which nothing came are left
        out."""
        while any(self.waiting.values()):
            first_s = min(parts[0].start_s for parts in self.waiting.values() if parts)
            number = max(self.number, math.floor(first_s / self.step_s + ROUNDING))
            end_s = (number + 1) * self.step_s
            horizon_s = min(max(self.end_s[name], self.reached_s[name]) for name in self.waiting)
            if not flush and end_s > horizon_s + ROUNDING * self.step_s:
                return
            self.number = number + 1
            yield Step(number * self.step_s, end_s, self._take(end_s))

    def state(self) -> dict[str, Any]:
        """All but what the constructor takes, for `set_state`."""
        return {
            "number": self.number, "waiting": {name: list(parts) for name, parts in self.waiting.items()},
            "last_s": dict(self.last_s), "end_s": dict(self.end_s), "reached_s": dict(self.reached_s),
        }  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, value in state.items():
            setattr(self, name, value)

    def _take(self, end_s: float) -> tuple[Frames | Audio, ...]:
        """What waits and begins before end_s; of audio its samples, stretches that follow joined."""
        out: list[Frames | Audio] = []
        for name, parts in self.waiting.items():
            stretch: list[Audio] = []
            while parts and parts[0].start_s < end_s - ROUNDING * self.step_s:
                part = parts.pop(0)
                if isinstance(part, Frames):
                    out.append(part)
                    continue
                num = max(1, math.ceil((end_s - part.start_s) * part.rate_hz - SAME_S))
                if num < len(part):
                    parts.insert(0, part.cut(num, len(part)))
                    part = part.cut(0, num)
                is_near = stretch and abs(part.start_s - stretch[-1].end_s) < 0.5 / part.rate_hz
                if stretch and not (is_near and part.rate_hz == stretch[-1].rate_hz):
                    out.append(Audio.join(stretch))
                    stretch = []
                stretch.append(part)
            if stretch:
                out.append(Audio.join(stretch))
            self.waiting[name] = parts
        return tuple(out)
