"""Standing requests about a synthetic video: when a reply to each is due, and what it says.

A second k has the frame at k and the audio of [k, k + 1). What is asked for is relevant in all its seconds,
and informative in the first two of them, or in the first two after its end.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

from .questions import NOTHING, printed_seconds
from .scenes import SceneEvent

# By kind of request; the first form is what evaluation uses.
TEMPLATES = {
    "seen": (
        "Tell me when the {object} appears.",
        "Tell me when the {object} is seen.",
        "When does the {object} appear?",
    ),
    "heard": ("Tell me when the {sound} is heard.", "When is the {sound} heard?"),
    "both": (
        "Tell me when the {object} is seen while the {sound} is heard.",
        "Tell me when the {object} appears while the {sound} is heard.",
    ),
    "count": ("Tell me how often the {object} appears.", "How often does the {object} appear?"),
    "appears": ("Tell me what appears.", "What appears?"),
    "sounds": ("Tell me what is heard.", "What is heard?"),
    "happens": ("Tell me what happens.", "What happens?"),
    "happened": ("Tell me what happened.", "What happened?"),
}
KINDS = tuple(TEMPLATES)
WORDS = ("tell", "me", "happened")  # of these forms, which the vocabulary of questions lacks
NUM_SECONDS = 2  # in which a reply is called for
MIN_COMMON_S = 2.0  # what is seen and heard together for less is no moment


class Moment(NamedTuple):
    """What is asked for: exact seconds, the first and last whole ones, and its name."""

    start_s: float
    end_s: float
    first: int
    last: int
    name: str


@dataclass(frozen=True)
class Request:
    """A request that stands from the video's beginning.

    Attributes:
        kind: of KINDS.
        text: as it is said.
        moments: what is asked for, by start.
        unsure: seconds in which a bit of it is heard.
    """

    kind: str
    text: str
    moments: tuple[Moment, ...]
    unsure: tuple[int, ...]

    @property
    def due(self) -> list[tuple[float, float]]:
        """Intervals, in seconds, from whose start on a reply is due."""
        if self.kind == "happened":
            return [(m.end_s, m.end_s + NUM_SECONDS) for m in self.moments]
        return [(m.start_s, m.end_s) for m in self.moments]

    def covered(self, second: int) -> list[Moment]:
        """Moments that a reply in this second is about."""
        if self.kind == "happened":
            return [m for m in self.moments if 1 <= second - m.last <= NUM_SECONDS]
        return [m for m in self.moments if m.first <= second <= min(m.last, m.first + NUM_SECONDS - 1)]

    def labels(self, second: int) -> dict[str, int | None]:
        """Head -> whether the second is informative, and relevant; None: nobody can say."""
        is_due = bool(self.covered(second))
        is_inside = any(m.first <= second <= m.last for m in self.moments)
        is_relevant = is_due if self.kind == "happened" else is_inside
        unsure = None if second in self.unsure else 0
        return {"informative": 1 if is_due else unsure, "relevance": 1 if is_relevant else unsure}

    def reply(self, second: int, offset_s: int = 0) -> str:
        """What is to be said in this second; `offset_s` is added to all printed times."""
        if self.kind in ("seen", "heard", "both", "count"):
            now = [m for m in self.moments if m.first <= second <= m.last]
            if self.kind == "count" and now:
                return str(sum(m.first <= second for m in self.moments))
        else:
            now = self.covered(second)
        items = [f"{m.name} {m.first + offset_s}" for m in now]
        if self.kind == "happened":
            items = [f"{item} to {m.last + offset_s}" for item, m in zip(items, now, strict=True)]
        return ", ".join(items) or NOTHING

    def is_right(self, second: int, text: str) -> bool:
        """Whether a reply in this second says the number, or names just what is to be named; its times don't
        count."""
        says = self.reply(second)
        return text.strip() == says if self.kind == "count" else _names(text) == _names(says)


def joint_labels(asked: Sequence[Request], second: int) -> dict[str, int | None]:
    """`Request.labels` of all that stand: 1 if it is 1 for one of them; None: for one nobody can say."""
    each = [item.labels(second) for item in asked]
    out: dict[str, int | None] = {}
    for head in ("informative", "relevance"):
        of = [labels[head] for labels in each]
        out[head] = 1 if 1 in of else None if None in of else 0
    return out


def pairs_of(events: Iterable[SceneEvent]) -> list[tuple[str, str]]:
    """What is seen, and what is heard with it for at least MIN_COMMON_S."""
    events = list(events)
    shown, played = ([event for event in events if event.kind == kind] for kind in ("video", "audio"))
    return [
        (a.name, b.name) for a in shown for b in played
        if min(a.end_s, b.end_s) - max(a.start_s, b.start_s) >= MIN_COMMON_S
    ]  # fmt: skip


def request(
    kind: str, events: Sequence[SceneEvent], *, seen: str = "", heard: str = "", form: int = 0
) -> Request:
    """A request about a video of these events.

    Args:
        kind: of KINDS.
        events: of the video.
        seen, heard: names of the object and the sound of kinds that name them.
        form: number of its wording.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in TEMPLATES:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    forms = TEMPLATES[kind]
    text = forms[form % len(forms)].format(object=seen, sound=heard)
    shown, played = ([event for event in events if event.name == name] for name in (seen, heard))
    if kind == "both":
        return Request(kind, text, *_common(shown, played))
    chosen = {
        "seen": shown, "count": shown, "heard": played,
        "appears": [e for e in events if e.kind == "video"],
        "sounds": [e for e in events if e.kind == "audio"],
    }.get(kind, events)  # fmt: skip
    moments = [Moment(e.start_s, e.end_s, *printed_seconds(e), e.name) for e in chosen]
    return Request(kind, text, tuple(sorted(moments)), _unsure(chosen))


def _common(
    shown: Sequence[SceneEvent], played: Sequence[SceneEvent]
) -> tuple[tuple[Moment, ...], tuple[int, ...]]:
    """Moments of an object and a sound together, and the seconds in which that is unsure."""
    moments, unsure = [], set(_unsure([*shown, *played]))
    for a in shown:
        for b in played:
            start_s, end_s = max(a.start_s, b.start_s), min(a.end_s, b.end_s)
            firsts, lasts = zip(printed_seconds(a), printed_seconds(b), strict=True)
            if end_s - start_s >= MIN_COMMON_S and max(firsts) <= min(lasts):
                moments.append(Moment(start_s, end_s, max(firsts), min(lasts), f"{a.name}, {b.name}"))
            elif end_s > start_s:
                unsure |= set(range(floor(start_s), ceil(end_s) + 1))
    return tuple(sorted(moments)), tuple(sorted(unsure))


def _names(text: str) -> list[str]:
    """The names of a reply, without their times."""
    return sorted(re.sub(r"[\d ]+(to [\d ]+)?$", "", item.strip()) for item in text.split(","))


def _unsure(events: Iterable[SceneEvent]) -> tuple[int, ...]:
    """Seconds that a sound fills by less than a half."""
    out = set[int]()
    for event in events:
        if event.kind == "audio":
            first, last = printed_seconds(event)
            out |= set(range(floor(event.start_s), ceil(event.end_s))) - set(range(first, last + 1))
    return tuple(sorted(out))
