"""Events to files and back: JSONL, SRT, VTT, CSV, EDL, and YouTube chapters.

JSONL and CSV keep times and text exactly. SRT and VTT round times to milliseconds (half to even) and stand in
order of start; EDL rounds to frames, at least one. Where a text would break a format:

- SRT, VTT, EDL: "\\r\\n" and "\\r" become "\\n".
- SRT, VTT: a blank line in a text, which would end it, gets an invisible WORD JOINER (U+2060), and in SRT
  so does "-->", before its ">". One that was there is doubled, so reading gives back what was written.
- VTT: &, < and > are written as references.
- EDL: each line of a text is a comment of its own. Chapters: a line break becomes a space.
"""

import csv
import html
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from ..types import Event

VERSION = 1  # of the JSONL lines
CHAPTER_S = 10  # YouTube shows no chapters at all if one is shorter

_JOINER = "\u2060"
_JOINERS = re.compile(f"{_JOINER}({_JOINER}?)")
_TIMING = re.compile(r"\s*([0-9:.,]+)\s*-->\s*([0-9:.,]+)(?:\s.*)?")
_CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]+(?:[.,][0-9]+)?)")
_TAG = re.compile(r"<[^>\n]*>")
_TIMECODE = r"([0-9]+):([0-9]{2}):([0-9]{2})([:;.])([0-9]{2,3})"
_EDIT = re.compile(rf"\s*[0-9]+\s+\S+\s+\S+\s+\S+(?:\s+[0-9]+)?\s+{_TIMECODE}\s+{_TIMECODE}(?:\s.*)?")
_REMARK = re.compile(r"\s*\*\s?(RATE_FPS|COMMENT|FROM CLIP NAME): ?(.*)", re.DOTALL)


def formats() -> tuple[str, ...]:
    """Names of the formats that can be written; all but "chapters" can be read too."""
    return tuple(WRITERS)


def write_events(
    events: Iterable[Event],
    path_or_stream: str | Path | IO[str],
    format: str,
    *,
    rate_fps: float = 25.0,
    title: str = "Events",
) -> None:
    """Write events to a file, which appears whole or not at all, or to an open text stream.

    Args:
        events: with finite times >= 0.
        path_or_stream: a path, or anything with `write(str)`; a stream stays open.
        format: one of `formats()`.
        rate_fps: frames a second of the video, for EDL.
        title: of the EDL (and its clips), and of the chapter before the first event.
    """
    if format not in WRITERS:
        raise ValueError(f"format must be one of {', '.join(WRITERS)}, got {format!r}")
    _check_rate(rate_fps)
    events = list(events)
    for number, event in enumerate(events):
        _check_event(event, number, format)
    text = WRITERS[format](events, rate_fps, " ".join(title.split()))
    if isinstance(path_or_stream, str | Path):
        _write_whole(Path(path_or_stream), text.encode())
    else:
        path_or_stream.write(text)


def read_events(
    path_or_stream: str | Path | IO[str] | IO[bytes], format: str, *, rate_fps: float = 25.0
) -> list[Event]:
    """The events of a file or an open stream, in its order.

    Args:
        path_or_stream: a path, or anything with `read()`, text or bytes; UTF-8, or UTF-16 with its mark.
        format: one of `formats()`, but not "chapters".
        rate_fps: frames a second, for an EDL that we did not write; ours say it.

    Raises:
        ValueError: naming file, format and line, if the file is not what it should be.
    """
    if format not in READERS:
        why = "chapters can't be read, they have no ends; " if format == "chapters" else ""
        raise ValueError(f"{why}format must be one of {', '.join(READERS)}, got {format!r}")
    _check_rate(rate_fps)
    data: str | bytes
    if isinstance(path_or_stream, str | Path):
        name, data = str(path_or_stream), Path(path_or_stream).read_bytes()
    else:
        name, data = str(getattr(path_or_stream, "name", "stream")), path_or_stream.read()
    try:
        return READERS[format](_decode(data, format), rate_fps)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_rate(rate_fps: float, where: str = "") -> None:
    if not 0.5 < rate_fps < 1000:
        raise ValueError(f"{where}rate_fps must be the video's frames a second, 1 to 999, got {rate_fps}")


def _check_event(event: Event, number: int, format: str) -> None:
    if not (event.start_s >= 0 and event.end_s < math.inf):
        got = f"{event.start_s} to {event.end_s}"
        raise ValueError(f"{format}: event {number} needs finite times >= 0 seconds, got {got}")
    if re.search("[\ud800-\udfff]", event.text):
        raise ValueError(f"{format}: event {number} needs a text without lone surrogates, got {event.text!r}")


def _write_whole(path: Path, data: bytes) -> None:
    """All of the data under that name, or what was there before."""
    if path.exists() and not path.is_file():  # /dev/null and pipes are not to be replaced
        path.write_bytes(data)
        return
    path = path.resolve()  # a link goes on pointing where it did
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _decode(data: str | bytes, format: str) -> str:
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte {data[error.start : error.start + 1]!r}"
        raise _fault(format, line, "UTF-8 text (convert the file)", got) from error


def _fault(format: str, line: int, need: str, got: str) -> ValueError:
    return ValueError(f"{format} line {line}: needs {need}, got {got[:100]}")


def _event(start_s: float, end_s: float, text: str, format: str, line: int) -> Event:
    if not 0 <= start_s <= end_s < math.inf:
        raise _fault(format, line, "0 <= start <= end seconds", f"{start_s} to {end_s}")
    return Event(start_s, end_s, text)


def _lines(text: str) -> list[str]:
    """Not `splitlines`, which also cuts at characters that a text may have."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _to_jsonl(events: list[Event], rate_fps: float, title: str) -> str:
    rows = (
        {"version": VERSION, "start_s": float(e.start_s), "end_s": float(e.end_s), "text": e.text}
        for e in events
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _from_jsonl(text: str, rate_fps: float) -> list[Event]:
    """Lines without a version are taken for ours; other keys are passed over."""
    need = f'{{"version": {VERSION}, "start_s": number, "end_s": number, "text": string}}'
    found = []
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=float)  # an int may be beyond every float
        except (ValueError, RecursionError) as error:
            raise _fault("jsonl", number, need, repr(line)) from error
        row = row if isinstance(row, dict) and row.get("version", VERSION) == VERSION else {}
        start_s, end_s, words = row.get("start_s"), row.get("end_s"), row.get("text", "")
        if not (isinstance(start_s, float) and isinstance(end_s, float) and isinstance(words, str)):
            raise _fault("jsonl", number, need, repr(line))
        found.append(_event(start_s, end_s, words, "jsonl", number))
    return found


def _to_csv(events: list[Event], rate_fps: float, title: str) -> str:
    out = io.StringIO(newline="")
    rows = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(("start_s", "end_s", "text"))
    rows.writerows((float(e.start_s), float(e.end_s), e.text) for e in events)
    return out.getvalue()


def _from_csv(text: str, rate_fps: float) -> list[Event]:
    """Columns in any order among others; comma, semicolon or tab between them."""
    head = text.lstrip().split("\n", 1)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
    found: list[Event] = []
    columns: list[int] = []
    try:
        for row in rows:
            if not any(field.strip() for field in row):
                continue
            if not columns:
                columns = _columns(row, rows.line_num)
            elif len(row) <= max(columns):
                raise _fault("csv", rows.line_num, f"{max(columns) + 1} fields", f"{len(row)}: {row}")
            else:
                start_s, end_s = (_seconds(row[i], "csv", rows.line_num) for i in columns[:2])
                found.append(_event(start_s, end_s, row[columns[2]], "csv", rows.line_num))
    except csv.Error as error:
        raise _fault("csv", rows.line_num, "rows of CSV", str(error)) from error
    return found


def _columns(header: list[str], line: int) -> list[int]:
    names = [name.strip().lower().removesuffix("_s") for name in header]
    if not {"start", "end", "text"} <= set(names):
        raise _fault("csv", line, "a header with start_s, end_s and text", str(header))
    return [names.index(name) for name in ("start", "end", "text")]


def _seconds(said: str, format: str, line: int) -> float:
    """Seconds of "83.5", "83,5" or "1:23.5"."""
    clock = _CLOCK.fullmatch(said.strip())
    try:
        if clock is None:
            return float(said.replace(",", "."))
        hours, minutes, seconds = clock.groups(default="0")
        whole, _, part = seconds.replace(",", ".").partition(".")
        scale = 10 ** len(part)  # one division, so that 12.345 is the float nearest to it
        return (((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * scale + int(part or 0)) / scale
    except (ValueError, OverflowError) as error:
        raise _fault(format, line, "seconds or HH:MM:SS.mmm", repr(said)) from error


def _clock(seconds: float, point: str) -> str:
    rest, thousandths = divmod(round(seconds * 1000), 1000)
    minutes, seconds = divmod(rest, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{thousandths:03d}"


def _cues(events: list[Event], point: str, escape: Callable[[str], str]) -> Iterator[str]:
    for event in sorted(events, key=lambda e: e.start_s):
        text = "\n".join(_lines(event.text)).replace(_JOINER, 2 * _JOINER)
        lines = escape(text).split("\n")
        for i, line in enumerate(lines):
            lines[i] += _JOINER * (not line.strip() or (i > 0 and line.strip().isdigit()))
        times = f"{_clock(event.start_s, point)} --> {_clock(event.end_s, point)}"
        yield "\n".join([times, *(lines if text else []), "", ""])


def _to_srt(events: list[Event], rate_fps: float, title: str) -> str:
    cues = _cues(events, ",", lambda text: text.replace("-->", f"--{_JOINER}>"))
    return "".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _to_vtt(events: list[Event], rate_fps: float, title: str) -> str:
    return "".join(["WEBVTT\n\n", *_cues(events, ".", lambda text: html.escape(text, quote=False))])


def _timing(line: str, format: str, number: int) -> tuple[float, float] | None:
    """Start and end if this line is a cue's times; a fault if it only should be."""
    if "-->" not in line or not (format == "vtt" or re.match(r"\s*[0-9]", line)):
        return None
    times = _TIMING.fullmatch(line)
    if times is None or not all(_CLOCK.fullmatch(said) for said in times.groups()):
        raise _fault(format, number, "HH:MM:SS.mmm --> HH:MM:SS.mmm", repr(line))
    start_s, end_s = (_seconds(said, format, number) for said in times.groups())
    _event(start_s, end_s, "", format, number)
    return start_s, end_s


def _from_srt(text: str, rate_fps: float) -> list[Event]:
    """A cue goes on to the next line of times, so blank lines in a text do no harm, nor missing numbers."""
    lines, found = _lines(text), []
    timings = [(i, times) for i, line in enumerate(lines) if (times := _timing(line, "srt", i + 1))]
    if not text.strip():
        return []
    if not timings:
        first = next(i for i, line in enumerate(lines) if line.strip())
        raise _fault("srt", first + 1, "cues with HH:MM:SS,mmm --> HH:MM:SS,mmm", repr(lines[first]))
    ends = [i - (i > 0 and lines[i - 1].strip().isdigit()) for i, _ in timings[1:]]
    for (at, times), end in zip(timings, [*ends, len(lines)], strict=True):
        body = lines[at + 1 : max(end, at + 1)]
        while body and not body[-1].strip():
            body.pop()
        found.append(Event(*times, _JOINERS.sub(r"\1", "\n".join(body))))
    return found


def _from_vtt(text: str, rate_fps: float) -> list[Event]:
    """Cues without their settings and tags; notes, styles, regions and names of cues are passed over."""
    lines, found = _lines(text), []
    if not re.fullmatch(r"WEBVTT(?:\s.*)?", lines[0]):
        raise _fault("vtt", 1, "WEBVTT", repr(lines[0]))
    block: list[str] = []
    for number, line in enumerate(chain(lines[1:], [""]), 2):
        if line.strip():
            block.append(line)
            continue
        if block and not re.match(r"(?:NOTE|STYLE|REGION)(?:\s|$)", block[0]):
            for i, said in enumerate(block[:2]):
                if times := _timing(said, "vtt", number - len(block) + i):
                    body = html.unescape(_TAG.sub("", "\n".join(block[i + 1 :])))
                    found.append(Event(*times, _JOINERS.sub(r"\1", body)))
                    break
        block = []
    return found


def _to_edl(events: list[Event], rate_fps: float, title: str) -> str:
    """A cut of the video: the source side has the events' times, the record side is one after the other."""
    out = [f"TITLE: {title}", "FCM: NON-DROP FRAME", ""]
    base, at = round(rate_fps), 0
    for number, event in enumerate(events, 1):
        first = round(event.start_s * rate_fps)
        last = max(first + 1, round(event.end_s * rate_fps))
        stamps = (first, last, at, at + last - first)
        at += last - first
        out.append(f"{number:03d}  AX       V     C        {' '.join(_timecode(n, base) for n in stamps)}")
        out += [f"* RATE_FPS: {float(rate_fps)!r}"] * (number == 1) + [f"* FROM CLIP NAME: {title}"]
        out += [f"* COMMENT: {line}" for line in _lines(event.text)]
    return "\n".join([*out, ""])


def _timecode(frames: int, base: int) -> str:
    seconds, frames = divmod(frames, base)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}:{frames:02d}"


def _from_edl(text: str, rate_fps: float) -> list[Event]:
    """Source times of the edits; their comments are the text, or else the clip's name."""
    edits: list[tuple[int, tuple[str, ...], bool, dict[str, list[str]]]] = []
    drop, lines = False, _lines(text)
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*[0-9]", line):
            match = _EDIT.fullmatch(line)
            if match is None:
                raise _fault("edl", number, "number, reel, track, C and four timecodes", repr(line))
            edits.append((number, match.groups(), drop, {"COMMENT": [], "FROM CLIP NAME": []}))
        elif line.lstrip().startswith("FCM:"):
            drop = "NON" not in line
        elif (remark := _REMARK.fullmatch(line)) and remark[1] == "RATE_FPS":
            rate_fps = _seconds(remark[2], "edl", number)
            _check_rate(rate_fps, f"edl line {number}: ")
        elif remark and edits:
            edits[-1][-1][remark[1]].append(remark[2])
    if not edits and text.strip() and "TITLE:" not in text:
        raise _fault("edl", 1, "a TITLE or edits", repr(lines[0]))
    found = []
    for number, parts, drop, remarks in edits:
        start_s, end_s = (_source_s(parts[i : i + 5], rate_fps, drop, number) for i in (0, 5))
        words = "\n".join(remarks["COMMENT"] or [name.strip() for name in remarks["FROM CLIP NAME"][:1]])
        found.append(_event(start_s, end_s, words, "edl", number))
    return found


def _source_s(parts: tuple[str, ...], rate_fps: float, drop: bool, line: int) -> float:
    """Seconds of hours, minutes, seconds, separator, frames. Drop-frame leaves out numbers, not frames."""
    hours, minutes, seconds, frames = (int(parts[i]) for i in (0, 1, 2, 4))
    if (drop := drop or parts[3] == ";") and round(rate_fps) not in (30, 60):
        rate_fps = 30000 / 1001
    base = round(rate_fps)
    if frames >= base or seconds > 59 or minutes > 59:
        need = f"timecodes of {rate_fps:g} frames a second (or another rate_fps)"
        raise _fault("edl", line, need, f"{parts[0]}:{parts[1]}:{''.join(parts[2:])}")
    minutes += 60 * hours
    count = (60 * minutes + seconds) * base + frames
    return (count - drop * (base // 15) * (minutes - minutes // 10)) / rate_fps


def _to_chapters(events: list[Event], rate_fps: float, title: str) -> str:
    """Lines as YouTube wants them: the first at 0:00, none shorter than 10 s; nearer ones share a line."""
    chapters: list[tuple[int, list[str]]] = []
    for event in sorted(event for event in events if event.text.strip()):
        name, at = " ".join(event.text.split()), math.floor(event.start_s)
        if not chapters:
            chapters.append((0, [title or "Start"] if at >= CHAPTER_S else []))
        if at - chapters[-1][0] >= CHAPTER_S:
            chapters.append((at, [name]))
        elif name not in chapters[-1][1]:
            chapters[-1][1].append(name)
    out = []
    for at, names in chapters or [(0, [])]:
        hours, rest = divmod(at, 3600)
        clock = f"{hours}:{rest // 60:02d}" if hours else f"{rest // 60}"
        out.append(f"{clock}:{rest % 60:02d} {', '.join(names) or title or 'Start'}\n")
    return "".join(out)


WRITERS: dict[str, Callable[[list[Event], float, str], str]] = {
    "jsonl": _to_jsonl, "srt": _to_srt, "vtt": _to_vtt,
    "csv": _to_csv, "edl": _to_edl, "chapters": _to_chapters,
}  # fmt: skip
READERS: dict[str, Callable[[str, float], list[Event]]] = {
    "jsonl": _from_jsonl, "srt": _from_srt, "vtt": _from_vtt, "csv": _from_csv, "edl": _from_edl,
}  # fmt: skip
