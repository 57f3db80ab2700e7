"""Events to text and back.

Whole numbers stand for whole seconds, the last one included: "187 to 192" is [187, 193), which is how our own
language models are taught to write. VTimeLLM's two digits are shares of the video instead.
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
# Not the middle of a longer number or a word, no share, no time of day.
_STOP = r"(?!\w|[.:/][0-9]|%| ?[ap]\.?m\b)"
_CLOCK = (
    r"(?:[0-9]+:[0-5]?[0-9]|[0-9]+):[0-5][0-9](?:\.[0-9]+|,[0-9]{1,3})?"
    rf"(?: ?(?:h|min(?:ute)?s?|s|sec(?:ond)?s?)\b)?{_STOP}"
)
_PLAIN = rf"(?:sec(?:ond)?s? ?)?(?:{_UNITS}|{_NUMBER}){_STOP}"
_SHARE = r"[0-9]{1,3}(?: ?%|(?!\w|[.:/][0-9]))"
_TO = r"to|until|till|through|thru|-->|->|→|[-~\u2013\u2014\u2212]"
_EDGE = r"(?<![\w.:/])(?<!\w-)"
_NEAR = r"(?: ?(?:about|around|approximately|roughly|the|~)(?= |[0-9]))* ?"
_MARK = r"""["']?(?: time)?(?: at| from)?["']? ?[:=]? ?["']?"""
_END_OF_WORDS = r"(?= ?(?:[,;:!?)\]]|\.(?:$| )|$))"


def _grammar(kinds: Sequence[str], to: str, alone: Sequence[str]) -> re.Pattern[str]:
    """Finds spans, whose ends are of one kind, and single times; its groups are the one or two times."""
    some = "|".join(kinds)
    return re.compile(
        "|".join(
            [
                *(
                    rf"{_EDGE}(?:(?:from|during|at|between) {_NEAR})?({k}) ?(?:{to}){_NEAR}({k})(?!-[0-9])"
                    for k in kinds
                ),
                rf"\bbetween {_NEAR}({some}) and {_NEAR}({some})",
                rf"\[ ?({some}), ?({some}) ?\]",
                rf"\b(?:start|begin|began)\w*{_MARK}({some})[^0-9]{{0,30}}?\bend\w*{_MARK}({some})",
                *alone,
            ]
        ),
        re.IGNORECASE,
    )


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
_IN_SHARES = _grammar((_SHARE,), _TO + "|and", (rf"\bat {_NEAR}({_SHARE}){_END_OF_WORDS}",))
_ONE_TIME = re.compile(f"{_CLOCK}|{_PLAIN}|{_SHARE}", re.IGNORECASE)
_QUANTITY = re.compile(rf"({_NUMBER})[ -]?([hms]?)", re.IGNORECASE)
_DIGITS = re.compile("[0-9:.,]+")
_UNIT_S = {"h": 3600, "m": 60, "s": 1, "": 1}

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
    value: float  # seconds, or a share in hundredths
    unit: str = ""  # "h", "m", "s", ":" or none
    whole: bool = True  # a whole second or share, not a point between two


class _Rule(NamedTuple):
    """How times are to be understood."""

    percent: bool
    inclusive: bool
    duration_s: float | None


def parse_spans(
    text: str, *, duration_s: float | None = None, inclusive: bool | None = None, percent: bool = False
) -> list[Event]:
    """The stretches of time that a text names, in its order, each with the words that belong to it.

    Reads "187 to 192", "from 12.5 s to 15 s", "12:31-12:38", "between 3 and 7 seconds", "starts at 3 s and
    ends at 7 s", "1 min 5 s to 2 min", "at 45 s" (one second), lists of such with the words before or after
    the times, and JSON with start and end. A time without words of its own has its neighbour's.

    Args:
        text: what a model answered.
        duration_s: length of the video; ends are cut there, what begins later is left out. `percent` needs it.
        inclusive: whether the last whole second (or share) is part of the span: "187 to 192" is [187, 193) or
            [187, 192). A span with a decimal at either end, or in minutes, is taken as it is. The default is
            True for seconds. For shares it is False, how VTimeLLM scores grounding; True is how it scores
            dense captions.
        percent: whether numbers are shares 00..99 of the video, as VTimeLLM writes them.

    Returns:
        Events, ends in order even where the text swaps them; none if no time is named.
    """
    if percent and not (duration_s is not None and 0 < duration_s < math.inf):
        raise ValueError(
            f"duration_s must be the video's seconds, > 0, to read shares (percent=True), got {duration_s}"
        )
    if duration_s is not None and not duration_s >= 0:
        raise ValueError(f"duration_s must be >= 0 seconds, got {duration_s}")
    rule = _Rule(percent, not percent if inclusive is None else inclusive, duration_s)
    found = list(_read_json(text, rule))
    if not found and ("{'" in text or "['" in text):
        found = list(_read_json(_PYTHON_QUOTE.sub('"', text), rule))
    return found or list(_read_prose(text, rule))


def to_text(events: Iterable[Event]) -> str:
    """Events as language models are taught to write them: "red ball 118 to 125, bell 130 to 133".

    The last second is included: first = floor(start_s), last = ceil(end_s) - 1, at least first. `parse_spans`
    gives these whole seconds back, and the names unless they hold times, ends of sentences, or an "and" at
    their edge; a nameless event gets the name before it.
    """
    return ", ".join(_written(event) for event in events)


def to_percent(event: Event, duration_s: float) -> tuple[int, int]:
    """First and last share of the video, each in 0..99, as VTimeLLM rounds them (hundredths, half to even)."""
    if not 0 < duration_s < math.inf:
        raise ValueError(f"duration_s must be the video's seconds, > 0, got {duration_s}")
    first, last = (max(0, min(round(t / duration_s * 100), 99)) for t in (event.start_s, event.end_s))
    return first, last


def join_events(events: Iterable[Event], gap_s: float) -> list[Event]:
    """Events of the same text that overlap, or are at most `gap_s` seconds apart, as one; in time order."""
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


def _written(event: Event) -> str:
    first = math.floor(event.start_s)
    return f"{' '.join(event.text.split())} {first} to {max(first, math.ceil(event.end_s) - 1)}".lstrip()


def _read_prose(text: str, rule: _Rule) -> Iterator[Event]:
    for line in text.replace("**", "").splitlines():
        for sentence in _SENTENCE.split(_BULLET.sub("", " ".join(line.split()))):
            yield from _read_sentence(sentence, rule)


def _read_sentence(sentence: str, rule: _Rule) -> Iterator[Event]:
    """Words stand before their times, unless the sentence begins with a time and has words after it."""
    spans, words, at = [], [], 0
    for match in (_IN_SHARES if rule.percent else _IN_SECONDS).finditer(sentence):
        times = [_time(said) for said in match.groups() if said]
        if (span := _span(times[0], times[-1] if len(times) > 1 else None, rule)) is not None:
            spans.append(span)
            words.append(_tidy(sentence[at : match.start()]))
            at = match.end()
    words.append(_tidy(sentence[at:]))
    if after := not words[0] and any(words):
        spans, words = spans[::-1], words[::-1]
    found, text = [], ""
    for (start_s, end_s), said in zip(spans, words, strict=False):
        text = said or text
        found.append(Event(start_s, end_s, text))
    yield from reversed(found) if after else found


def _read_json(text: str, rule: _Rule) -> Iterator[Event]:
    """Events of all JSON values in a text; of a value that was cut, those of its whole parts."""
    decode, at = json.JSONDecoder().raw_decode, 0
    while begin := _JSON.search(text, at):
        at = begin.end()
        try:
            value, at = decode(text, begin.start())
            yield from list(_walk(value, "", rule))
        except RecursionError:  # "[[[[[..." from a model that loops
            return
        except ValueError:
            continue


def _walk(value: Any, name: str, rule: _Rule) -> Iterator[Event]:
    if isinstance(value, str):
        for event in _read_prose(value, rule):
            yield Event(event.start_s, event.end_s, event.text or name)
    elif isinstance(value, list):
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
        named = [key for key in value if key in _SPAN] or [key for key in value if key not in _TEXT]
        for key in named:
            one = _json_time(value[key]) if key in _SPAN else None
            if one is not None and (span := _span(one, None, rule)) is not None:
                yield Event(*span, name)
                continue
            yield from _walk(value[key], name if key in _SPAN + _WRAP else key, rule)


def _json_time(value: Any) -> _Time | None:
    if isinstance(value, str):
        return _time(value.strip()) if _ONE_TIME.fullmatch(value.strip()) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _Time(float(value), whole=isinstance(value, int)) if abs(value) < 1e300 else None
    return None


def _time(said: str) -> _Time:
    if ":" in said:
        value, clock = 0.0, _DIGITS.findall(said)[0].replace(",", ".")
        for field in clock.split(":"):
            value = 60 * value + float(field)
        return _Time(value, ":", "." not in clock)
    parts = _QUANTITY.findall(said)
    unit = parts[-1][1].lower()
    value = sum(float(number) * _UNIT_S[letter.lower()] for number, letter in parts)
    return _Time(value, unit, "." not in said and unit in ("s", ""))


def _span(first: _Time, last: _Time | None, rule: _Rule) -> tuple[float, float] | None:
    """Start and end in seconds; None where there is no such time. Without `last`, one second (or share)."""
    if last is not None:  # "2 to 3 minutes", "2 min to 3"
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
    """Words without what ties them to times and to each other."""
    words = words.lstrip(" ,.;:|-)]}>=\u2013\u2014").rstrip(" ,.;:|-([{<=\u2013\u2014")
    words = _JOINED.sub("", words).strip(" ,;:")
    return words[1:-1] if len(words) > 1 and words[0] == words[-1] and words[0] in "\"'`" else words
