"""Answers in words to spans, events and letters."""

import contextlib
import difflib
import json
import re
from collections.abc import Sequence
from string import ascii_uppercase

from ...events.parse import parse_spans
from ..metrics.intervals import Captioned, Interval
from .task import Example, How

_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_TWO_DIGITS = re.compile(r"([0-9]{2}) (?:to|and) ([0-9]{2})")  # as VTimeLLM's and LongVALE's scripts look
_LINE_EVENT = re.compile(r"From ([0-9]+) to ([0-9]+), (.+)")  # as LongVALE's and MMDuet's
_SAME = 0.98  # texts as like as this are one event in those scripts

# A letter that stands as an answer: "A", "(A)", "A.", "A)", "[A]", "**A**", "A: red".
_EDGE = r"(?<![\w'\u2019-])"
_ENDS = r"(?!\w|['\u2019-]\w)"
_SAYS = (
    r"(?i:(?:answers?|options?|choices?|letters?)\b[\"'*_]*\s*(?:would be|must be|should be|is|are|was|[:=])?"
    r"[\"'*_]*\s*(?:definitely|clearly|most likely|probably|likely|option|choice|letter|[:=])?\s*\$?)"
)
_BOXED = re.compile(r"\\(?:boxed|text|textbf)\{\s*\(?([A-Za-z])\)?\s*\.?\s*\}")


def without_thoughts(text: str) -> str:
    """The text without what a model thought before it answered."""
    return _THOUGHT.sub(" ", text)


def words_of(text: str, example: Example, how: How) -> str | None:
    """The words of an answer, None if there are none."""
    return without_thoughts(text).strip() or None


def duration_of(example: Example) -> float:
    """The video's seconds, of which answers are hundredths; ValueError if they are unknown."""
    if not (example.duration_s and example.duration_s > 0):
        raise ValueError(
            f"answers in hundredths need the length of {example.video!r}, got {example.duration_s}; "
            "give --durations FILE, a JSON object of seconds by video, or a CSV with columns id and length"
        )
    return example.duration_s


def span_of(text: str, example: Example, how: How) -> Interval | None:
    """The first span that an answer names.

    Of whole seconds the last is included: 187 to 192 is [187, 193), as our own language models are taught.
    Hundredths are of the video's length, both ends as they stand: x is x / 100 of it. For the papers only two
    digits, "to" or "and", two digits are read, anywhere in the answer.
    """
    if how.in_papers_hundredths:
        duration_s, matches = duration_of(example), _TWO_DIGITS.search(text)
        return (int(matches[1]) / 100 * duration_s, int(matches[2]) / 100 * duration_s) if matches else None
    events = events_of(text, example, how, last_included=False)
    return events[0][:2] if events else None


def events_of(
    text: str, example: Example, how: How, *, last_included: bool = True
) -> tuple[Captioned, ...] | None:
    """The events that an answer tells of, None if it names none.

    Of whole seconds the last is included. Hundredths are of the video's length, the last included: x to y is
    x / 100 to (y + 1) / 100 of it, as both papers score dense captions; without `last_included` as in
    `span_of`. For the papers only their own forms are read, and events of one text that follow each other
    within a hundredth are one.
    """
    if how.in_papers_hundredths:
        duration_s, merged = duration_of(example), _merged(_paper_events(text))
        return tuple((a / 100 * duration_s, (b + 1) / 100 * duration_s, text) for a, b, text in merged)
    in_hundredths = how.times == "hundredths"
    events = parse_spans(
        without_thoughts(text),
        duration_s=duration_of(example) if in_hundredths else None,
        inclusive=how.times == "whole_seconds" or (last_included and in_hundredths),
        percent=in_hundredths,
    )
    return tuple((event.start_s, event.end_s, event.text) for event in events) or None


def _paper_events(text: str) -> list[tuple[int, int, str]]:
    """Hundredths and texts: JSON with "from 03 to 10" as VTimeLLM's script reads it, or LongVALE's lines."""
    matches = []
    if listed := re.search(r"\[.*\]", text):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            for item in json.loads(listed[0]):  # up to the first that can't be read
                stamps = item["timestamps"]
                matches.append((int(stamps[5:7]), int(stamps[-2:]), str(item["event"])))
    return matches or line_events(text)  # brackets may stand in a sentence too


def line_events(text: str) -> list[tuple[int, int, str]]:
    """Hundredths and texts of "From 3 to 10, a dog jumps", one a line, as the papers' scripts find them."""
    return [(int(start), int(end), text.strip()) for start, end, text in _LINE_EVENT.findall(text)]


def _merged(events: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The events, those of one text that follow each other within a hundredth as one."""
    out: list[tuple[int, int, str]] = []
    for start, end, text in events:
        first, last, before = out[-1] if out else (0, -10, "")
        if -1 <= start - last <= 1 and difflib.SequenceMatcher(None, before, text).ratio() > _SAME:
            out[-1] = (first, end, before)
        else:
            out.append((start, end, text))
    return out


def first_letter(text: str, options: Sequence[str]) -> str | None:
    """The first capital letter of an option, wherever it stands, as Video-MME's script reads.

    The openings that it takes off first hold none; "Best answer:", which does, it means to take off, but two
    of its strings run into one for want of a comma: "Best answer: C" is B.
    """
    capital = re.search(f"[{_letters(options)}]", text)
    return capital[0] if capital else None


def letter_of(text: str, options: Sequence[str]) -> str | None:
    """The option that an answer chooses, "A", "B", ...; None if it chooses none, or several.

    In this order: a box; the last letter text to be the answer, in JSON too; a letter that the answer begins
    with; the only letter that stands alone; the words of just one option.
    """
    letters = _letters(options)
    text = without_thoughts(text).strip()
    if boxed := [item.upper() for item in _BOXED.findall(text) if item.upper() in letters]:
        return boxed[-1]
    if same := _by_words(re.sub(rf"^\W*{_SAYS}", "", text), options, letters, whole=True):
        return same
    # "A" is a word too: small, or in a sentence, it has to stand in brackets or before a stop.
    small = letters.lower()
    stated = re.findall(
        rf"{_SAYS}[(\[{{*_`\"']*(?:([{letters}]){_ENDS}|([{small}])(?=[)\]}}*_`\"'.,:;]|\s*$))", text
    )
    if stated:
        return "".join(stated[-1]).upper()
    alone = re.fullmatch(rf"\W*([{letters}{small}])\W*", text)
    begins = alone or re.match(rf"[(\[*_`\"']*([{letters}])(?:[)\].:,;*`\"'\n]|\s+[-\u2013\u2014])", text)
    if begins:
        return begins[1].upper()
    stands = re.findall(rf"[(\[*]([{letters}])[)\]*]|{_EDGE}([{letters[1:] or letters}]){_ENDS}", text)
    if matches := {item or other for item, other in stands}:
        return matches.pop() if len(matches) == 1 else None
    return _by_words(text, options, letters)


def _letters(options: Sequence[str]) -> str:
    """The letters of the options, of four if they are not known."""
    return ascii_uppercase[: len(options) or 4]


def _by_words(text: str, options: Sequence[str], letters: str, *, whole: bool = False) -> str | None:
    """The one option whose words the answer is, or holds; of options within each other the longest."""
    plain = [_plain(option) for option in options]
    words = _plain(text)
    matches = [i for i, option in enumerate(plain) if option and option == words]
    if not matches and not whole:
        held = [i for i, option in enumerate(plain) if option and f" {option} " in f" {words} "]
        matches = [i for i in held if not any(i != j and f" {plain[i]} " in f" {plain[j]} " for j in held)]
    return letters[matches[0]] if len(matches) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]|_", " ", text.casefold()).split())
