"""All events of a video, asked window by window, and what became of the answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from ..types import Event
from .parse import join_events, parse_spans

Window = tuple[float, float]  # start_s, end_s
Ask = Callable[[Sequence[Window]], Sequence[str]]  # windows to the texts of their answers

BORDER_S = 1.0  # so far from a border an event still ends, or begins, at it
NOTHING = "nothing"  # an answer that begins so says that a window has no event


@dataclass(frozen=True)
class EventList:
    """What happens in a video, and how many answers it took.

    Attributes:
        events: in time order.
        num_asked: windows.
        num_asked_again: pairs of neighbouring windows, asked together because only one of them knows of an
            event across their border.
        num_dropped: spans left out: without words, outside the window asked, or mostly outside it where no
            other answer agrees.
        num_joined: times that both answers beside a border agreed on an event across it.
        unparsed: windows whose answers name no time, each with its answer.
    """

    events: list[Event]
    num_asked: int
    num_asked_again: int = 0
    num_dropped: int = 0
    num_joined: int = 0
    unparsed: tuple[Event, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.num_asked} windows asked, {self.num_asked_again} pairs of them again; spans: "
            f"{self.num_joined} joined, {self.num_dropped} dropped; "
            f"{len(self.unparsed)} answers without a time"
        )


class _Part(NamedTuple):
    """An event as an answer has it, and its part in the window that was asked about."""

    named: Event
    inside: Event


def list_events(ask: Ask, duration_s: float, window_s: float) -> EventList:
    """The events of a video, each second of them named by an answer about a window around that second.

    An answer may name the whole of an event that its window cuts. Its part in the window counts. Parts on
    both sides of a border are one event if one ends at the border and the other begins there. If only one
    answer knows of an event across a border, both windows are asked together, once.

    Args:
        ask: windows to the texts of their answers; called once, or twice.
        duration_s: where the last token ends; the last window, and its events, are cut there.
        window_s: length of a window.
    """
    num = max(1, math.ceil(round(duration_s) / window_s))  # questions are about whole seconds
    windows = [(window_s * i, window_s * (i + 1)) for i in range(num)]
    reader = _Reader(duration_s)
    parts = [reader.read(window, text) for window, text in zip(windows, ask(windows), strict=True)]
    joined: list[Event] = []
    agreed: set[_Part] = set()
    disputed: dict[Window, list[_Part]] = {}  # by the pair of windows to ask
    for (first, second), (before, after) in zip(pairwise(windows), pairwise(parts), strict=True):
        border_s = first[1]
        ends = {p.inside.text: p for p in before if p.inside.end_s >= border_s - BORDER_S}
        starts = {p.inside.text: p for p in reversed(after) if p.inside.start_s <= border_s + BORDER_S}
        for text in ends.keys() & starts.keys():
            agreed |= {ends[text], starts[text]}
            joined.append(Event(ends[text].inside.end_s, starts[text].inside.start_s, text))
        across = [p for text, p in ends.items() if text not in starts and p.named.end_s > border_s]
        across += [p for text, p in starts.items() if text not in ends and p.named.start_s < border_s]
        if across:
            disputed[first[0], second[1]] = across
    pairs = list(disputed)
    for pair, text in zip(pairs, ask(pairs) if pairs else (), strict=True):
        border_s = pair[0] + window_s
        for part in reader.read(pair, text):
            same = {p for p in disputed[pair] if p.inside.text == part.inside.text}
            if same and part.inside.start_s < border_s < part.inside.end_s:
                agreed |= same
                joined.append(part.inside)
    known = [p for some in parts for p in some]
    events = [p.inside for p in known if p in agreed or _length_s(p.inside) >= _length_s(p.named) / 2]
    num_dropped = reader.num_dropped + len(known) - len(events)
    unparsed = tuple(reader.unparsed)
    return EventList(join_events(events + joined, 0.0), num, len(pairs), num_dropped, len(joined), unparsed)


class _Reader:
    """Reads answers about windows, and keeps what it can't use."""

    def __init__(self, duration_s: float) -> None:
        self.duration_s = duration_s
        self.num_dropped = 0
        self.unparsed: list[Event] = []

    def read(self, window: Window, text: str) -> list[_Part]:
        """What the answer names in its window, in time order; of one text no two that touch."""
        spans = parse_spans(text)
        if not spans and not text.strip().lower().startswith(NOTHING):
            self.unparsed.append(Event(*window, text))
        parts = []
        for event in join_events(spans, 0.0):
            # what lasts until the last second may be said to end after it
            last_s = min(event.end_s, self.duration_s)
            start_s, end_s = max(event.start_s, window[0]), min(last_s, window[1])
            if event.text and start_s < end_s:
                parts.append(_Part(replace(event, end_s=last_s), Event(start_s, end_s, event.text)))
            else:
                self.num_dropped += 1
        return parts


def _length_s(event: Event) -> float:
    return event.end_s - event.start_s
