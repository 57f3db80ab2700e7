"""Subtitles and transcripts as texts with times: SRT, VTT, and what else pysubs2 reads.

Nothing is lost in silence. What is wrong with a file is counted by kind, and its places are named.
"""

import html
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

import pysubs2

from ..types import Event

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa", ".ttml", ".sub")
SHORT_S = 1.0  # of a cue whose end is not after its start
GAP_S = 3600.0  # between cues; a longer one may be a wrong time
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-+>\s*{_TIME}")
_TAG = re.compile(r"<[^<>\n]*>|\{\\[^{}\n]*\}")


@dataclass
class Cues:
    """Texts in order of their start, and what was wrong.

    Attributes:
        events: each with its text in one line.
        faults: kind -> number.
        places: a line for each of the first faults.
    """

    events: list[Event] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)

    def fault(self, kind: str, place: str) -> None:
        """Count a fault."""
        self.faults[kind] += 1
        if len(self.places) < 20:
            self.places.append(f"{kind}: {' / '.join(place.splitlines()):.200}")

    def add(self, start_s: float, end_s: float, text: str, place: str) -> None:
        """Take in a cue; tags are left out. One that ends too early lasts SHORT_S."""
        text = " ".join(html.unescape(_TAG.sub("", text)).split())
        if not text:
            return self.fault("empty", place)
        if end_s <= start_s:
            self.fault("ends before it starts", f"{place}: {text}")
            end_s = start_s + SHORT_S
        self.events.append(Event(start_s, end_s, text))

    def within(self, first_s: float, last_s: float) -> "Cues":
        """The cues that begin in a part of a video, from its start on; others are faults. Overlaps, wrong
        order and gaps of an hour are counted."""
        cues = Cues(faults=self.faults.copy(), places=list(self.places))
        until_s = before_s = -1.0
        for event in self.events:
            where = f"{event.start_s:g} to {event.end_s:g} s: {event.text}"
            if event.start_s < before_s:
                cues.fault("not in order", where)
            elif event.start_s < until_s - 1e-3:
                cues.fault("overlaps", where)
            elif event.start_s >= max(until_s, 0.0) + GAP_S:
                cues.fault("an hour or more after the text before", where)
            before_s, until_s = event.start_s, max(until_s, event.end_s)
            if first_s <= event.start_s < last_s:
                end_s = min(event.end_s, last_s) - first_s
                cues.events.append(Event(event.start_s - first_s, end_s, event.text))
            else:
                cues.fault("outside", where)
        cues.events.sort(key=lambda event: (event.start_s, event.end_s))
        return cues


def read_subtitles(path: Path) -> Cues:
    """The cues of a file in its own order; ValueError for a file without any."""
    cues = Cues()
    text = _text_of(path.read_bytes(), cues)
    if path.suffix.lower() in (".srt", ".vtt"):
        _read_cues(text, cues)
    else:
        try:
            lines = pysubs2.SSAFile.from_string(text).events
        except (pysubs2.Pysubs2Error, ValueError) as error:
            raise ValueError(f"{path} must hold subtitles that pysubs2 reads: {error}") from error
        for line in lines:
            if not line.is_comment:
                cues.add(line.start / 1000, line.end / 1000, line.plaintext, f"{line.start / 1000:g} s")
    if not cues.events:
        raise ValueError(f"{path} holds no cue with times and text; faults: {dict(cues.faults)}")
    return cues


def _text_of(data: bytes, cues: Cues) -> str:
    """The text of a file in UTF-8 or UTF-16; in another encoding it is read as Windows-1252, and counted."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            cues.fault("not UTF-8", f"{error.reason} at byte {error.start}; read as Windows-1252")
            text = data.decode("cp1252", "replace")
    return re.sub(r"\r\n?", "\n", text).replace("\0", "")


def _read_cues(text: str, cues: Cues) -> None:
    """SRT and VTT: a line of times, then text up to a blank line or the next cue."""
    lines = text.split("\n")
    marks = [i for i, line in enumerate(lines) if _TIMES.match(line)]
    _blocks(lines, 0, marks[0] if marks else len(lines), cues)
    for at, stop in pairwise([*marks, len(lines)]):
        last = lines[stop - 1].strip()
        if stop < len(lines) and (last.isdigit() or not lines[stop - 2].strip()):
            stop -= 1  # the next cue's number or name
        first, *rest = _blocks(lines, at + 1, stop, cues) or [""]
        for block in rest:
            cues.fault("blank line in a text", f"line {at + 1}: {block}")
        times = _TIMES.match(lines[at])
        assert times is not None
        start_s, end_s = (_seconds(times.groups()[i : i + 4]) for i in (0, 4))
        cues.add(start_s, end_s, "\n".join([first, *rest]), f"line {at + 1}")


def _blocks(lines: list[str], start: int, stop: int, cues: Cues) -> list[str]:
    """The texts between blank lines, without VTT's comments; times that can't be read are faults."""
    blocks = []
    for is_text, group in groupby(range(start, stop), lambda i: bool(lines[i].strip())):
        numbers = list(group)
        block = "\n".join(lines[i] for i in numbers)
        if is_text and "->" in block:
            cues.fault("times can't be read", f"line {numbers[0] + 1}: {block}")
        elif is_text and not block.startswith(("NOTE", "STYLE", "REGION")):
            blocks.append(block)
    return blocks


def _seconds(parts: tuple[str | None, ...]) -> float:
    """Of hours, minutes, seconds and their fraction."""
    hours, minutes, seconds, fraction = parts
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + int(seconds or 0) + float(f"0.{fraction}")
