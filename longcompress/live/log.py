"""What went into a live session and what happened, in a folder; played again it gives the same events."""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config_live import LiveConfig
from ..config_values import from_dict
from ..files import parse_json
from ..model import LongCompress
from ..session import Session
from ..session_events import Dropped, SessionEvent
from ..types import Audio, Frames

FORMAT = 2
HEADER, ITEMS, MEDIA, EVENTS = "header.json", "items.jsonl", "media.bin", "events.jsonl"


class Text(NamedTuple):
    """A text to push into a session; "may": it stands."""

    text: str
    time_s: float
    reply: str = "may"


Item = Frames | Audio | Dropped | Text


def event_line(event: SessionEvent) -> str:
    """An event as a line of JSON."""
    return json.dumps({"event": type(event).__name__, **asdict(event)})


class Log:
    """Writes a session as it goes; each line is whole on the disk, whenever the process ends.

    Args:
        folder: new or empty. Pixels and samples are compressed without loss: of a frame of 384 px up to
            0.4 MB, of a second of audio 0.06 MB.
        session: a live one, into which nothing was pushed yet.

    Raises:
        ValueError: the folder has something in it.
    """

    def __init__(self, folder: str | Path, session: Session) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"folder {folder} must be empty; name a new one, or remove the log in it")
        live = session.live
        assert live is not None
        header = {
            "format": FORMAT, "identity": session.model.identity(), "model": session.model.config.name,
            "speaker": session.model.speaker(),
            "media": list(live.encoder.media), "budget": session.budget, "live": asdict(live.config),
            "patience_s": live.steps.patience_s, "settings": session.model.settings(),
        }  # fmt: skip
        (folder / HEADER).write_text(json.dumps(header, indent=1))
        self._items: IO[str] = open(folder / ITEMS, "w")  # noqa: SIM115 - `close` closes them
        self._events: IO[str] = open(folder / EVENTS, "w")  # noqa: SIM115
        self._media: IO[bytes] = open(folder / MEDIA, "wb")  # noqa: SIM115

    def item(self, item: Item) -> None:
        """Something went in."""
        row: dict[str, Any]
        match item:
            case Frames():
                row = {"item": "frames", **self._stored(item.pixels)}
                row |= {"time_s": item.time_s.tolist(), "step_s": item.step_s}
            case Audio():
                row = {"item": "audio", **self._stored(item.samples)}
                row |= {"start_s": item.start_s, "rate_hz": item.rate_hz}
            case Text():
                row = {"item": "text", **item._asdict()}
            case Dropped():
                row = {"item": "dropped", **asdict(item)}
        self._items.write(json.dumps(row) + "\n")
        self._items.flush()

    def _stored(self, values: Tensor) -> dict[str, Any]:
        """The place of pixels or samples among the media, where they are now."""
        data = zlib.compress(np.ascontiguousarray(values.numpy()).tobytes(), 1)
        at = self._media.tell()
        self._media.write(data)
        self._media.flush()
        return {"shape": list(values.shape), "at": at, "num": len(data)}

    def event(self, event: SessionEvent) -> None:
        """Something happened."""
        self._events.write(event_line(event) + "\n")
        self._events.flush()

    def close(self) -> None:
        """The source ended: the session was flushed."""
        self._items.write('{"item": "end"}\n')
        for file in (self._items, self._events, self._media):
            file.close()


def play(session: Session, items: Iterable[Item], log: Log | None = None) -> Iterator[SessionEvent]:
    """What happens while items go in, and at the end; `log` has it all."""
    for item in items:
        if log is not None:
            log.item(item)
        yield from _logged(_push(session, item), log)
    yield from _logged(session.close(), log)
    if log is not None:
        log.close()


def replay(folder: str | Path, model: LongCompress) -> Iterator[SessionEvent]:
    """What happens when a log is played again; as it was, to the bit, on the same machine and versions.

    Raises:
        ValueError: it is no log, of another format, or of another model.
    """
    header = _header(Path(folder))
    made_by = (model.identity(), model.settings(), model.speaker())
    if (header["identity"], header["settings"], header["speaker"]) != made_by:
        raise ValueError(
            f"log {folder} is of model {header['model']!r} with its own weights and options; replay it with "
            f"the same --model, --config and flags, got {model.config.name!r}"
        )
    session = Session(
        model, header["budget"], media=header["media"], patience_s=header["patience_s"],
        live=from_dict(LiveConfig, header["live"]),
    )  # fmt: skip
    is_over = False
    for item in read_items(folder):
        is_over = item is None
        if item is not None:
            yield from _push(session, item)
    if is_over:
        yield from session.close()


def differences(folder: str | Path, events: Iterable[SessionEvent]) -> Iterator[tuple[int, str, str]]:
    """(number, line in the log, line now) of each event that is another; "" where there is none."""
    with open(Path(folder) / EVENTS) as file:
        number = 0
        for number, event in enumerate(events, 1):
            old, new = file.readline().rstrip("\n"), event_line(event)
            if old != new:
                yield number, old, new
        for more, line in enumerate(file, number + 1):
            yield more, line.rstrip("\n"), ""


def read_items(folder: str | Path) -> Iterator[Item | None]:
    """What went in, in order; None at the end of a log that was closed. A last line that was cut is left
    out."""
    _header(Path(folder))
    with open(Path(folder) / ITEMS) as lines, open(Path(folder) / MEDIA, "rb") as media:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            row = parse_json(line, f"{folder}/{ITEMS} line {number}")
            kind = row.pop("item")
            if kind == "end":
                yield None
            elif kind == "text":
                yield Text(**row)
            elif kind == "dropped":
                yield Dropped(**row)
            else:
                media.seek(row["at"])
                data = zlib.decompress(media.read(row["num"]))
                dtype = np.uint8 if kind == "frames" else np.float32
                values = torch.from_numpy(np.frombuffer(data, dtype).reshape(row["shape"]).copy())
                if kind == "frames":
                    times = torch.tensor(row["time_s"], dtype=torch.float64)
                    yield Frames(values, times, row["step_s"])
                else:
                    yield Audio(values, row["start_s"], row["rate_hz"])


def _push(session: Session, item: Item) -> list[SessionEvent]:
    if isinstance(item, Dropped):
        return [item]
    if isinstance(item, Text):
        return session.push_text(item.text, item.time_s, reply="must" if item.reply == "must" else "may")
    return session.push(item)


def _logged(events: Iterable[SessionEvent], log: Log | None) -> Iterator[SessionEvent]:
    for event in events:
        if log is not None:
            log.event(event)
        yield event


def _header(folder: Path) -> dict[str, Any]:
    if not (folder / HEADER).is_file():
        raise FileNotFoundError(f"no log in {folder}; `longcompress live SOURCE --record {folder}` makes one")
    header: dict[str, Any] = parse_json((folder / HEADER).read_text(), f"{folder}/{HEADER}")
    if header.get("format") != FORMAT:
        raise ValueError(f"log {folder} has format {header.get('format')}, this version reads {FORMAT}")
    return header
