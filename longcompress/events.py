"""Events to text and back."""

import math
import re
from collections.abc import Iterable

from .types import Event

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(?:s\b|seconds\b)?\s*(?:to|-|and)\s*(\d+(?:\.\d+)?)")


def parse_spans(text: str, *, duration_s: float | None = None, inclusive: bool = True) -> list[Event]:
    found, at = [], 0
    for match in _SPAN.finditer(text):
        a, b = match.groups()
        start, end = float(a), float(b)
        if inclusive and "." not in b:
            end += 1
        words = text[at : match.start()].strip(" ,.;:").removesuffix("from").strip()
        at = match.end()
        found.append(Event(min(start, end), max(start, end), words))
    return found


def join_events(events: Iterable[Event], gap_s: float) -> list[Event]:
    out: dict[str, list[Event]] = {}
    for event in sorted(events):
        same = out.setdefault(event.text, [])
        if same and event.start_s <= same[-1].end_s + gap_s:
            same[-1] = Event(same[-1].start_s, max(same[-1].end_s, event.end_s), event.text)
        else:
            same.append(event)
    return sorted(e for part in out.values() for e in part)


def to_text(events: Iterable[Event]) -> str:
    return ", ".join(
        f"{e.text} {math.floor(e.start_s)} to {max(math.floor(e.start_s), math.ceil(e.end_s) - 1)}".strip()
        for e in events
    )
