"""Write events as JSONL, CSV, EDL, or as subtitles (SRT, VTT and ASS, through pysubs2).

JSONL and CSV keep times and text exactly. Subtitles stand in order of start and round times to milliseconds
(ASS: hundredths of a second). EDL rounds times to frames, and an event has at least one frame. Some texts
would break a format:

- Subtitles: blank lines are left out, because a blank line ends a text. "-->" becomes "->".
- VTT: &, < and > are written as references. ASS: braces become parentheses.
- EDL: each line of a text is a comment of its own.
"""

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import pysubs2

from ..files import replacing
from ..types import HALF, Event

VERSION = 1  # of the JSONL lines
SUBTITLES = {"srt": 100, "vtt": 100, "ass": 10}  # hours that the digits of a time can hold


def write_events(
    events: Iterable[Event],
    path_or_stream: str | Path | IO[str],
    format: str,
    *,
    rate_fps: float = 25.0,
    title: str = "Events",
    timecode: str = "",
) -> None:
    """Write events to an open text stream, or to a file, which appears whole or not at all.

    Args:
        events: with finite times >= 0.
        path_or_stream: a path, or anything with `write(str)`; a stream stays open.
        format: a key of `WRITERS`.
        rate_fps: frames a second of the video, for EDL.
        title: of the EDL and its clips.
        timecode: of the video's first frame, for EDL, as cameras write it: "01:00:00:00".
    """
    if format not in WRITERS:
        raise ValueError(f"format must be one of {', '.join(WRITERS)}, got {format!r}")
    if not 0.5 < rate_fps < 1000:
        raise ValueError(f"rate_fps must be the video's frames a second, 1 to 999, got {rate_fps}")
    events = list(events)
    hours = SUBTITLES.get(format, math.inf)
    for number, event in enumerate(events):
        where, got = f"{format}: event {number}", f"{event.start_s} to {event.end_s}"
        if not (event.start_s >= 0 and event.end_s < math.inf):
            raise ValueError(f"{where} needs finite times >= 0 seconds, got {got}")
        if HALF.search(event.text):
            raise ValueError(f"{where} needs a text without lone surrogates, got {event.text!r}")
        if event.end_s + 0.01 > hours * 3600:
            raise ValueError(f"{where} must end before {hours} hours, got {event.end_s} s; use jsonl or csv")
    first = _frames_of(timecode, round(rate_fps))
    title = " ".join(title.split())
    text = WRITERS[format](events, format=format, rate_fps=rate_fps, title=title, first_frame=first)
    if isinstance(path_or_stream, str | Path):
        with replacing(path_or_stream) as part:
            part.write_bytes(text.encode())
    else:
        path_or_stream.write(text)


def _lines(text: str) -> list[str]:
    """Unlike `splitlines`, this cuts at line breaks only, not at other separators that a text may have."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _to_jsonl(events: list[Event], **_: Any) -> str:
    rows = (
        {"version": VERSION, "start_s": float(e.start_s), "end_s": float(e.end_s), "text": e.text}
        for e in events
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _to_csv(events: list[Event], **_: Any) -> str:
    out = io.StringIO(newline="")
    rows = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(("start_s", "end_s", "text"))
    rows.writerows((float(e.start_s), float(e.end_s), e.text) for e in events)
    return out.getvalue()


def _to_subtitles(events: list[Event], format: str, **_: Any) -> str:
    subtitles = pysubs2.SSAFile()
    for event in sorted(events, key=lambda e: e.start_s):
        text = "\n".join(line for line in _lines(event.text) if line.strip()).replace("-->", "->")
        if format == "vtt":
            text = html.escape(text, quote=False)
        elif format == "ass":
            text = text.replace("{", "(").replace("}", ")")
        text = re.sub(r"\\(?=[hnN])", "\\\\\u2060", text)  # pysubs2 takes \N for a line break: part the two
        cue = pysubs2.SSAEvent(round(event.start_s * 1000), round(event.end_s * 1000))
        cue.plaintext = text
        subtitles.append(cue)
    # SRT and VTT keep braces as they are; without the option they would be read as tags of ASS.
    options = {} if format == "ass" else {"keep_ssa_tags": True}
    return str(subtitles.to_string(format, **options))


def _to_edl(events: list[Event], rate_fps: float, title: str, first_frame: int, **_: Any) -> str:
    """A cut of the video: the source side has the events' times, the record side is one after the other."""
    out = [f"TITLE: {title}", "FCM: NON-DROP FRAME", ""]
    base, at = round(rate_fps), 0
    for number, event in enumerate(events, 1):
        first = round(event.start_s * rate_fps)
        last = max(first + 1, round(event.end_s * rate_fps))
        stamps = (first_frame + first, first_frame + last, at, at + last - first)
        at += last - first
        out.append(f"{number:03d}  AX       V     C        {' '.join(_timecode(n, base) for n in stamps)}")
        out += [f"* RATE_FPS: {float(rate_fps)!r}"] * (number == 1) + [f"* FROM CLIP NAME: {title}"]
        out += [f"* COMMENT: {line}" for line in _lines(event.text)]
    return "\n".join([*out, ""])


def _frames_of(timecode: str, base: int) -> int:
    """The number of a timecode's frame; 0 for what is none. Drop-frame ones (";") count as they read."""
    match = re.fullmatch(r"(\d\d):(\d\d):(\d\d)[:;](\d\d)", timecode)
    if match is None:
        return 0
    hours, minutes, seconds, frames = map(int, match.groups())
    return (3600 * hours + 60 * minutes + seconds) * base + frames


def _timecode(frames: int, base: int) -> str:
    seconds, frames = divmod(frames, base)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"


WRITERS: dict[str, Callable[..., str]] = {
    "jsonl": _to_jsonl, **dict.fromkeys(SUBTITLES, _to_subtitles), "csv": _to_csv, "edl": _to_edl,
}  # fmt: skip
