"""Read events from the text of a model, and round their times as text has them.

Whole numbers stand for whole seconds, and the last second is included: "187 to 192" is [187, 193). Our own
language models learn to write times this way. VTimeLLM's two digits are hundredths of the video instead.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ..types import Event

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_HOURS, _MINUTES, _SECONDS = (
    rf"{_NUMBER}[ -]?(?:{unit})(?![a-z])"
    for unit in ("hours?|hrs?|h", "minutes?|mins?|m", "seconds?|secs?|s")
)
_THEN = r"(?:,? ?(?:and )?)"
_UNITS = rf"(?:(?:{_HOURS}{_THEN})?(?:{_MINUTES}{_THEN})?{_SECONDS}|(?:{_HOURS}{_THEN})?{_MINUTES}|{_HOURS})"
# Not the middle of a longer number or word, no percentage, no time of day.
_STOP = r"(?!\w|[.:/][0-9]|%| ?[ap]\.?m\b)"
_CLOCK = (
    r"(?:[0-9]+:[0-5]?[0-9]|[0-9]+):[0-5][0-9](?:\.[0-9]+|,[0-9]{1,3})?"
    rf"(?: ?(?:h|min(?:ute)?s?|s|sec(?:ond)?s?)\b)?{_STOP}"
)
_PLAIN = rf"(?:sec(?:ond)?s? ?)?(?:{_UNITS}|{_NUMBER}){_STOP}"
_HUNDREDTH = r"[0-9]{1,3}(?: ?%|(?!\w|[.:/][0-9]))"
_TO = r"to|until|till|through|thru|-->|->|→|[-~\u2013\u2014\u2212]"
_EDGE = r"(?<![\w.:/])(?<!\w-)"
_NEAR = r"(?: ?(?:about|around|approximately|roughly|the|~)(?= |[0-9]))* ?"
_MARK = r"""["']?(?: time)?(?: at| from)?["']? ?[:=]? ?["']?"""
_END_OF_WORDS = r"(?= ?(?:[,;:!?)\]]|\.(?:$| )|$))"


def _grammar(kinds: Sequence[str], to: str, alone: Sequence[str]) -> re.Pattern[str]:
    """A pattern of spans, with ends of one kind, and of single times. Its groups are the times."""
    some = "|".join(kinds)
    spans = [
        rf"{_EDGE}(?:(?:from|during|at|between) {_NEAR})?({k}) ?(?:{to}){_NEAR}({k})(?!-[0-9])" for k in kinds
    ]
    spans += [
        rf"\bbetween {_NEAR}({some}) and {_NEAR}({some})",
        rf"\[ ?({some}), ?({some}) ?\]",
        rf"\b(?:start|begin|began)\w*{_MARK}({some})[^0-9]{{0,30}}?\bend\w*{_MARK}({some})",
    ]
    return re.compile("|".join([*spans, *alone]), re.IGNORECASE)


_IN_SECONDS = _grammar(
    (_CLOCK, _PLAIN),
    _TO,
    (
        rf"(?:\bat |@) ?{_NEAR}({_CLOCK}|{_UNITS}{_STOP}|second {_NUMBER}{_STOP}"
        rf"|{_NUMBER}{_STOP}{_END_OF_WORDS})(?: mark\b)?",
        rf"{_EDGE}({_CLOCK})",
        rf"^[\[(]?({_UNITS}{_STOP})(?= ?(?:[-:)\]\u2013\u2014]|\.?$))",
    ),
)
_IN_HUNDREDTHS = _grammar((_HUNDREDTH,), _TO + "|and", (rf"\bat {_NEAR}({_HUNDREDTH}){_END_OF_WORDS}",))
_ONE_TIME = re.compile(f"{_CLOCK}|{_PLAIN}|{_HUNDREDTH}", re.IGNORECASE)
_QUANTITY = re.compile(rf"({_NUMBER})[ -]?([hms]?)", re.IGNORECASE)
_DIGITS = re.compile("[0-9:.,]+")
_UNIT_S = {"h": 3600, "m": 60, "s": 1, "": 1}

_ANGLED = re.compile(f"<({_CLOCK}|{_PLAIN})>", re.IGNORECASE)  # as Qwen3-VL's prompt has its timestamps
_BULLET = re.compile(r"^(?:[-*•>] ?|[0-9]+[.)] )+(?=\S)")
_SENTENCE = re.compile(r"(?<=[.!?]) (?=\S)")
_JOINED = re.compile(r"^(?:(?:and|then|or|but)\b[ ,]*)+|(?:(?:^|[ ,]+)(?:and|then|or))+$", re.IGNORECASE)

_JSON = re.compile(r"""\{|\[(?=\s*[\[{"])""")
_PYTHON_QUOTE = re.compile(r"(?<=[{\[,: ])'|'(?=[}\],:])")
_START = ("start_s", "start", "start_time", "begin", "from")
_END = ("end_s", "end", "end_time", "stop", "to")
_SPAN = ("timestamps", "timestamp", "time", "times", "span", "spans", "segment", "interval", "window")
_TEXT = ("text", "event", "label", "description", "caption", "sentence", "name", "title", "query")
_WRAP = ("events", "answer", "answers", "result", "results", "segments", "moments", "intervals", "windows")


class _Time(NamedTuple):
    value: float  # seconds, or hundredths of the video
    unit: str = ""  # "h", "m", "s", ":" or none
    whole: bool = True  # a whole second or hundredth, not a point between two


class _Rule(NamedTuple):
    """How to understand times; see `parse_spans`."""

    percent: bool
    inclusive: bool
    duration_s: float | None


def parse_spans(
    text: str, *, duration_s: float | None = None, inclusive: bool | None = None, percent: bool = False
) -> list[Event]:
    """The time spans that a text names, in its order, each with the words that belong to it.

    Reads "187 to 192", "from 12.5 s to 15 s", "12:31-12:38", "between 3 and 7 seconds", "starts at 3 s and
    ends at 7 s", "1 min 5 s to 2 min", "at 45 s" (one second), lists of such with the words before or after
    the times, and JSON with start and end. A time without words gets the words of its neighbour.

    Args:
        text: answer of a model.
        duration_s: length of the video. Spans are cut at it, and later spans are left out. `percent` needs
            it.
        inclusive: whether the last whole second (or hundredth) belongs to the span: "187 to 192" is
            [187, 193) or [187, 192). A span with a decimal at either end, or in minutes, is taken literally.
            The default is True for seconds and False for hundredths. VTimeLLM scores grounding with False,
            and dense captions with True.
        percent: whether numbers are hundredths 00..99 of the video, as VTimeLLM writes them.

    Returns:
        Events with start_s <= end_s, even where the text swaps the two; none if the text names no time.
    """
    if percent and not (duration_s is not None and 0 < duration_s < math.inf):
        raise ValueError(
            f"duration_s must be the video's seconds, > 0, to read shares (percent=True), got {duration_s}"
        )
    if duration_s is not None and not duration_s >= 0:
        raise ValueError(f"duration_s must be >= 0 seconds, got {duration_s}")
    rule = _Rule(percent, not percent if inclusive is None else inclusive, duration_s)
    events = list(_read_json(text, rule))
    if not events and ("{'" in text or "['" in text):
        events = list(_read_json(_PYTHON_QUOTE.sub('"', text), rule))
    return events or list(_read_prose(text, rule))


def to_seconds(start_s: float, end_s: float) -> tuple[int, int]:
    """First and last whole second of a span, both included, as `parse_spans` reads them."""
    first = math.floor(start_s)
    return first, max(first, math.ceil(end_s) - 1)


def to_percent(event: Event, duration_s: float) -> tuple[int, int]:
    """First and last hundredth of the video, each in 0..99, rounded half to even as VTimeLLM does."""
    if not 0 < duration_s < math.inf:
        raise ValueError(f"duration_s must be the video's seconds, > 0, got {duration_s}")
    first, last = (max(0, min(round(t / duration_s * 100), 99)) for t in (event.start_s, event.end_s))
    return first, last


def join_events(events: Iterable[Event], gap_s: float) -> list[Event]:
    """Join events of one text that overlap or are at most `gap_s` seconds apart; in time order."""
    if not gap_s >= 0:
        raise ValueError(f"gap_s must be >= 0 seconds, got {gap_s}")
    joined: dict[str, list[Event]] = {}
    for event in sorted(events):
        same = joined.setdefault(event.text, [])
        if same and event.start_s <= same[-1].end_s + gap_s:
            same[-1] = Event(same[-1].start_s, max(same[-1].end_s, event.end_s), event.text)
        else:
            same.append(event)
    return sorted(event for same in joined.values() for event in same)


def _read_prose(text: str, rule: _Rule) -> Iterator[Event]:
    for line in _ANGLED.sub(r"\1", text.replace("**", "")).splitlines():
        for sentence in _SENTENCE.split(_BULLET.sub("", " ".join(line.split()))):
            yield from _read_sentence(sentence, rule)


def _read_sentence(sentence: str, rule: _Rule) -> Iterator[Event]:
    """Events of a sentence. Words precede their times, unless the sentence begins with a time."""
    spans, words, at = [], [], 0
    for match in (_IN_HUNDREDTHS if rule.percent else _IN_SECONDS).finditer(sentence):
        times = [_time(group) for group in match.groups() if group]
        # A time outside the video is no span: its words go to the next span.
        if (span := _span(times[0], times[-1] if len(times) > 1 else None, rule)) is not None:
            spans.append(span)
            words.append(_tidy(sentence[at : match.start()]))
            at = match.end()
    words.append(_tidy(sentence[at:]))  # one more than spans: words[i] and words[i + 1] surround span i
    # Where words follow their times, walk backwards: then they precede their times again.
    if is_reversed := not words[0] and any(words):
        spans, words = spans[::-1], words[::-1]
    events, text = [], ""
    for (start_s, end_s), own in zip(spans, words, strict=False):
        text = own or text
        events.append(Event(start_s, end_s, text))
    yield from reversed(events) if is_reversed else events


def _read_json(text: str, rule: _Rule) -> Iterator[Event]:
    """Events of all JSON values in a text. A truncated value gives the events of its complete parts."""
    decode, at = json.JSONDecoder().raw_decode, 0
    while opening := _JSON.search(text, at):
        at = opening.end()
        try:
            value, at = decode(text, opening.start())
            yield from list(_walk(value, "", rule))
        except RecursionError:  # "[[[[[..." from a model that loops
            return
        except ValueError:
            continue


def _walk(value: Any, name: str, rule: _Rule) -> Iterator[Event]:
    """Events of a JSON value; `name` is their text where they have none."""
    if isinstance(value, str):
        for event in _read_prose(value, rule):
            yield Event(event.start_s, event.end_s, event.text or name)
    elif isinstance(value, list):
        # [start, end] or [start, end, text] is a span; any other list is walked.
        first, last = (_json_time(value[0]), _json_time(value[1])) if 2 <= len(value) <= 3 else (None, None)
        if first is None or last is None:
            for part in value:
                yield from _walk(part, name, rule)
        elif (span := _span(first, last, rule)) is not None:
            yield Event(*span, value[2] if isinstance(value[-1], str) and len(value) == 3 else name)
    elif isinstance(value, dict):
        value = {key.lower(): part for key, part in value.items()}
        name = next((value[key] for key in _TEXT if isinstance(value.get(key), str)), name)
        first, last = (next((value[k] for k in keys if k in value), None) for keys in (_START, _END))
        if _json_time(first) is not None and _json_time(last) is not None:
            yield from _walk([first, last], name, rule)
            return
        # A key that means a time span is enough; without one, every key may be the name of an event.
        keys = [key for key in value if key in _SPAN] or [key for key in value if key not in _TEXT]
        for key in keys:
            time = _json_time(value[key]) if key in _SPAN else None
            if time is not None and (span := _span(time, None, rule)) is not None:
                yield Event(*span, name)
                continue
            yield from _walk(value[key], name if key in _SPAN + _WRAP else key, rule)


def _json_time(value: Any) -> _Time | None:
    if isinstance(value, str):
        return _time(value.strip()) if _ONE_TIME.fullmatch(value.strip()) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Time(float(value), whole=isinstance(value, int)) if abs(value) < 1e300 else None
    return None


def _time(text: str) -> _Time:
    if ":" in text:
        value, clock = 0.0, _DIGITS.findall(text)[0].replace(",", ".")
        for field in clock.split(":"):
            value = 60 * value + float(field)
        return _Time(value, ":", "." not in clock)
    parts = _QUANTITY.findall(text)
    unit = parts[-1][1].lower()
    value = sum(float(number) * _UNIT_S[letter.lower()] for number, letter in parts)
    return _Time(value, unit, "." not in text and unit in ("s", ""))


def _span(first: _Time, last: _Time | None, rule: _Rule) -> tuple[float, float] | None:
    """Start and end in seconds, or None outside the video. Without `last`, one second (or hundredth) long."""
    if last is not None:  # a unit counts for both ends: "2 to 3 minutes", "2 min to 3"
        if not first.unit and last.unit in ("m", "h"):
            first = _Time(first.value * _UNIT_S[last.unit], last.unit, False)
        elif not last.unit and first.unit in ("m", "h") and last.value < first.value:
            last = _Time(last.value * _UNIT_S[first.unit], first.unit, False)
    low, high = sorted((first, last or first))
    whole = first.whole and (last or first).whole
    start_s, end_s = low.value, high.value + (last is None or (rule.inclusive and whole))
    if not 0 <= start_s <= end_s < 1e300:
        return None
    if rule.percent:
        if first.unit or high.unit or high.value > 100:
            return None
        assert rule.duration_s is not None
        start_s, end_s = start_s / 100 * rule.duration_s, end_s / 100 * rule.duration_s
    if rule.duration_s is not None:
        if start_s >= rule.duration_s:
            return None
        end_s = min(end_s, rule.duration_s)
    return start_s, end_s


def _tidy(words: str) -> str:
    """Words without the punctuation and conjunctions that tie them to times and to each other."""
    words = words.lstrip(" ,.;:|-)]}>=\u2013\u2014").rstrip(" ,.;:|-([{<=\u2013\u2014")
    words = _JOINED.sub("", words).strip(" ,;:")
    return words[1:-1] if len(words) > 1 and words[0] == words[-1] and words[0] in "\"'`" else words
