"""Events to files and back: JSONL, SRT, WebVTT, CSV, EDL (CMX3600), YouTube chapters."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from .types import Event

VERSION = 1
ARROW = "-->"
_TIME = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})")
_CODE = re.compile(r"(\d{2,}):(\d{2}):(\d{2})[:;](\d{2})")


def write_events(
    events: Iterable[Event],
    to: str | Path | TextIO,
    format: str,
    *,
    rate_fps: float = 25.0,
    title: str = "events",
) -> None:
    """Write events to a path or an open text stream; a path is replaced whole or not at all.

    Args:
        events: in time order.
        to: where.
        format: one of FORMATS.
        rate_fps: pictures a second, for "edl".
        title: of an "edl".

    Raises:
        ValueError: for another format or a rate that is not > 0.
    """
    _known(format)
    if not rate_fps > 0:
        raise ValueError(f"rate_fps must be > 0, got {rate_fps}")
    text = WRITERS[format](list(events), rate_fps, title)
    if not isinstance(to, str | Path):
        to.write(text)
        return
    path = Path(to)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf8", newline="")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_events(source: str | Path | TextIO, format: str, *, rate_fps: float = 25.0) -> list[Event]:
    """Events out of a path or an open text stream, as far as the format has them.

    Raises:
        ValueError: for another format, "chapters" (they have no ends), or text that is not of the format.
    """
    _known(format)
    if format not in READERS:
        raise ValueError(
            f"format {format!r} can only be written: it says where events begin, not where they end"
        )
    text = Path(source).read_text(encoding="utf-8-sig") if isinstance(source, str | Path) else source.read()
    return READERS[format](text.removeprefix("\ufeff").replace("\r\n", "\n"), rate_fps)


def _known(format: str) -> None:
    if format not in WRITERS:
        raise ValueError(f"format must be one of {sorted(WRITERS)}, got {format!r}")


def _clock(seconds: float, comma: str) -> str:
    total = round(max(0.0, seconds) * 1000)
    hours, rest = divmod(total, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{comma}{rest % 1000:03d}"


def _seconds(text: str, line: int) -> float:
    match = _TIME.search(text)
    if match is None:
        raise ValueError(f"line {line}: a time such as 00:01:02.345 is needed, got {text.strip()!r}")
    hours, minutes, seconds, part = match.groups()
    whole = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return (1000 * whole + int(part.ljust(3, "0"))) / 1000


def _cue(text: str) -> str:
    """Text that can't end a cue or be taken for a time line: blank lines close up, arrows are written out."""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return "\n".join(line for line in lines if line).replace(ARROW, "\u2192")


def _write_jsonl(events: list[Event], rate_fps: float, title: str) -> str:
    rows = ({"version": VERSION, "start_s": e.start_s, "end_s": e.end_s, "text": e.text} for e in events)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_jsonl(text: str, rate_fps: float) -> list[Event]:
    out = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row.get("version", VERSION) > VERSION:
                raise ValueError(f"line {number}: version {row['version']} is newer than {VERSION}; upgrade")
            out.append(Event(float(row["start_s"]), float(row["end_s"]), str(row.get("text", ""))))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"line {number}: an object with start_s and end_s is needed, got {line!r}"
            ) from error
    return out


def _write_srt(events: list[Event], rate_fps: float, title: str) -> str:
    return "".join(
        f"{n}\n{_clock(e.start_s, ',')} {ARROW} {_clock(e.end_s, ',')}\n{_cue(e.text)}\n\n"
        for n, e in enumerate(events, 1)
    )


def _write_vtt(events: list[Event], rate_fps: float, title: str) -> str:
    cues = (
        f"{_clock(e.start_s, '.')} {ARROW} {_clock(e.end_s, '.')}\n"
        f"{_cue(e.text).replace('&', '&amp;').replace('<', '&lt;')}\n\n"
        for e in events
    )
    return "WEBVTT\n\n" + "".join(cues)


def _read_srt(text: str, rate_fps: float) -> list[Event]:
    return _cues(text, lambda t: t)


def _read_vtt(text: str, rate_fps: float) -> list[Event]:
    if not text.startswith("WEBVTT"):
        raise ValueError(f"line 1: WEBVTT is needed, got {text[:20]!r}")
    return _cues(text, lambda t: t.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def _cues(text: str, plain: Callable[[str], str]) -> list[Event]:
    """Blocks with a time line; numbers, settings, notes and styles around them are left out."""
    out, line = [], 1
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.split("\n")
        at = next((i for i, row in enumerate(lines) if ARROW in row), None)
        if at is not None:
            start, _, end = lines[at].partition(ARROW)
            said = "\n".join(row for row in lines[at + 1 :] if row.strip())
            out.append(Event(_seconds(start, line + at), _seconds(end, line + at), plain(said)))
        line += len(lines) + 1
    return out


def _write_csv(events: list[Event], rate_fps: float, title: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["start_s", "end_s", "text"])
    writer.writerows([repr(e.start_s), repr(e.end_s), e.text] for e in events)
    return out.getvalue()


def _read_csv(text: str, rate_fps: float) -> list[Event]:
    rows = csv.DictReader(io.StringIO(text))
    if not {"start_s", "end_s"} <= set(rows.fieldnames or ()):
        raise ValueError(f"line 1: columns start_s and end_s are needed, got {rows.fieldnames}")
    try:
        return [Event(float(row["start_s"]), float(row["end_s"]), row.get("text") or "") for row in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"line {rows.line_num}: start_s and end_s must be seconds, {error}") from error


def _write_edl(events: list[Event], rate_fps: float, title: str) -> str:
    base = max(1, round(rate_fps))

    def code(frame: int) -> str:
        seconds, rest = divmod(frame, base)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{rest:02d}"

    out = [f"TITLE: {' '.join(title.split())}\nFCM: NON-DROP FRAME\n"]
    for number, event in enumerate(events, 1):
        first = round(event.start_s * rate_fps)
        last = max(first + 1, round(event.end_s * rate_fps))
        span = f"{code(first)} {code(last)}"
        comment = " ".join(event.text.split())
        out.append(f"{number:03d}  AX       V     C        {span} {span}\n* COMMENT: {comment}\n")
    return "\n".join(out)


def _read_edl(text: str, rate_fps: float) -> list[Event]:
    """Events to the picture: an EDL knows no finer times."""
    base = max(1, round(rate_fps))
    out: list[Event] = []
    for line in text.split("\n"):
        codes = _CODE.findall(line)
        if len(codes) == 4:
            at = [(int(h) * 3600 + int(m) * 60 + int(s)) * base + int(f) for h, m, s, f in codes[:2]]
            out.append(Event(at[0] / rate_fps, at[1] / rate_fps))
        elif out and line.startswith("* COMMENT:"):
            out[-1] = Event(out[-1].start_s, out[-1].end_s, line.removeprefix("* COMMENT:").strip())
    if not out and text.strip():
        raise ValueError("an EDL needs event lines with four time codes, none was found")
    return out


def _write_chapters(events: list[Event], rate_fps: float, title: str) -> str:
    lines = []
    if not events or events[0].start_s >= 1:
        lines.append("0:00 start")  # the first chapter must be at 0
    for event in events:
        whole = int(event.start_s)
        hours = f"{whole // 3600}:{whole // 60 % 60:02d}" if whole >= 3600 else f"{whole // 60}"
        lines.append(f"{hours}:{whole % 60:02d} {' '.join(event.text.split())}")
    return "\n".join(lines) + "\n"


WRITERS: dict[str, Callable[[list[Event], float, str], str]] = {
    "jsonl": _write_jsonl,
    "srt": _write_srt,
    "vtt": _write_vtt,
    "csv": _write_csv,
    "edl": _write_edl,
    "chapters": _write_chapters,
}
READERS: dict[str, Callable[[str, float], list[Event]]] = {
    "jsonl": _read_jsonl,
    "srt": _read_srt,
    "vtt": _read_vtt,
    "csv": _read_csv,
    "edl": _read_edl,
}
