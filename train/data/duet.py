"""Samples of MMDuet: annotations with times as turns between frames, and the labels of its two heads.

A frame is labelled informative from the middle of an event until it is told of, and relevant inside the spans
that are asked for. A sample of theirs teaches one head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from longcompress.llm.duet import Turn
from longcompress.llm.prompt import IGNORED

from ..records import TimedTurn

MAX_WAITING = 20  # frames before the first question


@dataclass(frozen=True)
class Duet:
    """A conversation about a video.

    Attributes:
        turns: of users, the assistant and frames.
        first_frame: number of the first frame in the video.
        relevant: label of each frame of a sample that teaches relevance, else None.
        both: it teaches what is informative too.
    """

    turns: tuple[Turn, ...]
    first_frame: int = 0
    relevant: tuple[int, ...] | None = None
    both: bool = False

    @property
    def num_frames(self) -> int:
        """Frames in all turns."""
        return sum(turn.num_frames for turn in self.turns)

    def limited(self, max_frames: int) -> "Duet":
        """Without what comes after so many frames, the last turn of frames cut there."""
        count = 0
        for i, turn in enumerate(self.turns):
            if turn.role == "stream" and count + turn.num_frames >= max_frames:
                rest = max_frames - count
                last = (replace(turn, num_frames=rest),) if rest else ()
                return replace(self, turns=self.turns[:i] + last)
            count += turn.num_frames
        return self

    def labels(self, *, clip: bool = True) -> dict[str, list[int]]:
        """Head -> label of each frame: 0, 1 or IGNORED; of the heads that the sample teaches.

        Args:
            clip: labels stay within their turn. False does as MMDuet's loader: where events overlap, surplus
                labels push all later ones back.
        """
        num = self.num_frames
        out = {} if self.relevant is None else {"relevance": list(self.relevant[:num])}
        if out and not self.both:
            return out
        labels: list[int] = []
        for i, turn in enumerate(self.turns):
            if turn.role != "stream":
                continue
            after = self.turns[i + 1] if i + 1 < len(self.turns) else None
            positive = after.num_positive if after is not None else 1
            positive = min(max(positive, 0), turn.num_frames) if clip else positive
            is_told = after is not None and after.role == "assistant"
            own = [0] * (turn.num_frames - positive) + [int(is_told)] * positive
            labels += own if turn.learned else [IGNORED] * turn.num_frames
        return out | {"informative": labels[:num]}

    def with_spans(self, spans: Sequence[Sequence[float]], rate_fps: float) -> "Duet":
        """It teaches both heads: frames inside the spans (start_s, end_s) are relevant too."""
        inside = _inside(spans, self.first_frame, self.num_frames, rate_fps)
        return replace(self, relevant=inside, both=True)


def dense(narrations: Sequence[TimedTurn], request: str, duration_s: float, rate_fps: float) -> Duet:
    """A sample of dense captions.

    Args:
        narrations: of a video, in order of the times at which the model is to tell.
        request: the user's turn before the first frame.
        duration_s: of the video.
        rate_fps: of frames.
    """
    turns, last_s, last_text = [Turn("user", request)], 0.0, None
    for narration in narrations:
        if last_s >= duration_s:
            break
        text = narration.text
        if text == last_text:
            continue
        time_s = _ceil(narration.time_s, rate_fps, duration_s)
        if time_s != last_s:
            middle_s = _middle(narration, rate_fps, duration_s)
            turns += [
                Turn("stream", num_frames=int((time_s - last_s) * rate_fps)),
                Turn(
                    "assistant", text, learned=narration.learn,
                    num_positive=int((time_s - middle_s) * rate_fps) + 1,
                ),
            ]  # fmt: skip
        elif turns[-1].role == "assistant":  # two at the same frame: the later
            turns[-1] = replace(turns[-1], text=text)
        last_s, last_text = time_s, text
    return Duet(tuple(turns))


def questions(
    conversation: Sequence[TimedTurn], duration_s: float, rate_fps: float, *, waiting: int = 0
) -> Duet | None:
    """A sample of MAGQA, the user's turn first.

    Args:
        conversation: in order of time.
        duration_s, rate_fps: as for `dense`.
        waiting: frames before the question, MAX_WAITING at most.

    Returns:
        None where the first turn is no user's question within the video.
    """
    first = conversation[0] if conversation else None
    if first is None or first.role != "user" or not 0 < first.time_s <= duration_s or not first.text:
        return None
    last_s = _ceil(first.time_s, rate_fps, duration_s)
    waiting = max(0, min(MAX_WAITING, waiting, int(last_s * rate_fps)))
    turns = [Turn("stream", num_frames=waiting, learned=waiting != 1)] if waiting else []
    turns.append(Turn("user", first.text))
    start_s = last_s - waiting / rate_fps
    for turn in conversation[1:]:
        if turn.time_s > duration_s:
            break
        time_s = _ceil(turn.time_s, rate_fps, duration_s, last_s)
        num = int((time_s - last_s) * rate_fps)
        is_later = time_s > last_s
        if is_later:
            turns.append(Turn("stream", num_frames=num))
        if turn.role == "user":
            turns.append(Turn("user", turn.text))
        elif is_later:  # an answer at the frame of the turn before is left out
            middle_s = _middle(turn, rate_fps, duration_s)
            positive = min(int((turn.time_s - middle_s) * rate_fps) + 1, num)
            turns.append(Turn("assistant", turn.text, learned=turn.learn, num_positive=positive))
        last_s = time_s if is_later or turn.role == "user" else last_s
    return Duet(tuple(turns), int(start_s * rate_fps))


def grounding(spans: Sequence[Sequence[float]], request: str, duration_s: float, rate_fps: float) -> Duet:
    """A sample of grounding: frames inside the spans (start_s, end_s) are relevant to the request.

    Args:
        spans, request, duration_s, rate_fps: as for `dense`.
    """
    num = math.floor(duration_s * rate_fps)
    relevant = _inside(spans, 0, num, rate_fps)
    return Duet((Turn("user", request), Turn("stream", num_frames=num)), relevant=relevant)


def _ceil(time_s: float, rate_fps: float, max_s: float, min_s: float = 0.0) -> float:
    """The first frame at or after a time."""
    return min(max(math.ceil(time_s * rate_fps) / rate_fps, min_s), max_s)


def _middle(turn: TimedTurn, rate_fps: float, max_s: float) -> float:
    return _ceil((turn.start_s + turn.end_s) / 2, rate_fps, max_s)


def _inside(spans: Sequence[Sequence[float]], first: int, num: int, rate_fps: float) -> tuple[int, ...]:
    """Whether each of `num` frames from the first on is inside a span."""
    bounds = [[math.floor(t * rate_fps) for t in span] for span in spans]
    return tuple(int(any(a <= i < b for a, b in bounds)) for i in range(first, first + num))
