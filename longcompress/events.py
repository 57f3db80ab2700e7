"""Events to text and back: what a model says about time, and how time is said to it."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

from .types import Event

_NUMBER = r"(?:\d{1,3}:)?\d{1,2}:\d{2}(?:\.\d+)?|\d+(?:\.\d+)?"
_UNIT = r"(?:\s*(?:seconds?|secs?|s)\b)?"
_SPAN = re.compile(
    rf"(?<![\w.:])({_NUMBER}){_UNIT}\s*(?:to|until|and|-|\u2013|\u2014)\s*({_NUMBER}){_UNIT}(?![\w:])"
)
_POINT = re.compile(rf"\bat\s+({_NUMBER}){_UNIT}(?![\w:])")
_LEAD = re.compile(r"(?:\b(?:from|between|at|is|are|was|were|and then|then)\b[\s,]*)+$", re.IGNORECASE)
START_KEYS, END_KEYS, TEXT_KEYS = (
    ("start_s", "start", "begin"),
    ("end_s", "end", "stop"),
    ("text", "caption", "event"),
)


def parse_spans(
    text: str, *, duration_s: float | None = None, inclusive: bool = True, percent: bool = False
) -> list[Event]:
    """The stretches of time that a text names, in its order, each with the words before it.

    Reads "187 to 192", "from 12.5 s to 15 s", "12:31-12:38", "1:02:03 to 1:02:10", "at 45 s",
    "red ball 118 to 125, bell 130 to 133", and JSON lists of objects with start and end.

    Args:
        text: a model's answer.
        duration_s: length of the film; events are cut to it, and those wholly behind it left out.
        inclusive: a whole second named as the end is part of the event: "187 to 192" is [187, 193).
        percent: numbers are 00 to 99 of the film, as VTimeLLM writes them (needs duration_s): a / 100 *
            duration.

    Raises:
        ValueError: for percent without duration_s.
    """
    if percent and duration_s is None:
        raise ValueError("duration_s must be given to read shares of the film (percent=True)")
    events = _from_json(text)
    if events is None:
        events = _from_words(text, inclusive and not percent)
    if percent:
        assert duration_s is not None
        scale = duration_s / 100
        events = [Event(e.start_s * scale, e.end_s * scale, e.text) for e in events]
    if duration_s is not None:
        inside = [e for e in events if e.start_s < duration_s]
        events = [Event(e.start_s, min(e.end_s, duration_s), e.text) for e in inside]
    return events


def to_text(events: Iterable[Event]) -> str:
    """ "red ball 118 to 125, bell 130 to 133": whole seconds, the last one included."""
    said = []
    for event in events:
        first = math.floor(event.start_s)
        last = max(first, math.ceil(event.end_s) - 1)
        said.append(f"{event.text} {first} to {last}".strip())
    return ", ".join(said)


def to_percent(event: Event, duration_s: float) -> tuple[int, int]:
    """(start, end) as whole shares of the film, 0 to 99, as VTimeLLM's data have them."""
    if not duration_s > 0:
        raise ValueError(f"duration_s must be > 0 to count shares of the film, got {duration_s}")
    shares = [min(99, max(0, round(s / duration_s * 100))) for s in (event.start_s, event.end_s)]
    return shares[0], shares[1]


def join_events(events: Iterable[Event], gap_s: float) -> list[Event]:
    """Events of the same text that overlap, touch or lie within gap_s made one; by start, end, text."""
    by_text: dict[str, list[Event]] = {}
    for event in sorted(events):
        same = by_text.setdefault(event.text, [])
        if same and event.start_s <= same[-1].end_s + gap_s:
            same[-1] = Event(same[-1].start_s, max(same[-1].end_s, event.end_s), event.text)
        else:
            same.append(event)
    return sorted(event for part in by_text.values() for event in part)


def _from_words(text: str, inclusive: bool) -> list[Event]:
    """Spans and points in running text."""
    spans = list(_SPAN.finditer(text))
    taken = [m.span() for m in spans]
    points = [m for m in _POINT.finditer(text) if not any(a <= m.start(1) < b for a, b in taken)]
    events, at = [], 0
    for match in sorted([*spans, *points], key=lambda m: m.start()):
        ends = match.groups()
        start, end = _number(ends[0]), _number(ends[-1])
        if start > end:
            start, end, ends = end, start, ends[::-1]
        if len(ends) == 1:
            end = start + 1
        elif inclusive and "." not in ends[-1]:
            end += 1
        words = text[at : match.start()].replace("\n", " ").strip(" \t,.;:()[]\"'")
        events.append(Event(start, end, _LEAD.sub("", words).strip(" ,.;:")))
        at = match.end()
    return events


def _from_json(text: str) -> list[Event] | None:
    """Events of a JSON list (or one object) in the text, None where there is none."""
    begin = min((i for i in (text.find("["), text.find("{")) if i >= 0), default=-1)
    if begin < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(text[begin:])
    except json.JSONDecodeError:
        return None
    rows = value if isinstance(value, list) else [value]
    events = []
    for row in rows:
        pair = _pair(row)
        if pair is None:
            return None
        events.append(pair)
    return events or None


def _pair(row: Any) -> Event | None:
    """An Event out of {"start": ..., "end": ...} or [start, end]."""
    if isinstance(row, dict):
        found = [next((row[k] for k in keys if k in row), None) for keys in (START_KEYS, END_KEYS, TEXT_KEYS)]
    elif isinstance(row, list) and len(row) in (2, 3):
        found = [*row, ""][:3]
    else:
        return None
    try:
        ends = sorted(v if isinstance(v, int | float) else _number(str(v)) for v in found[:2])
    except ValueError:
        return None
    return Event(float(ends[0]), float(ends[1]), str(found[2] or ""))


def _number(text: str) -> float:
    """Seconds of "187", "12.5", "12:31" or "1:02:03"."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds
