"""`longcompress live`: a running source, requests that stand, and what happens, as it happens."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from . import common
from .common import Failed, ModelOptions, bars, check_positive, complain, writing
from .output import clock

if TYPE_CHECKING:
    from ..live.capture import Capture
    from ..live.log import Item, Text
    from ..model import LongCompress
    from ..session import Session
    from ..session_events import SessionEvent


@dataclass(frozen=True)
class LiveOptions(ModelOptions):
    """A model and where its media may come from; --live.near_s 30 and the like say how it is read.

    Attributes:
        model: a preset, a folder, or a hub name owner/model.
        budget: tokens of the session's memory; the model's own number if not given.
        protocols: the kinds of source that are allowed: file stdin rtsp rtsps rtmp rtmps http https udp tcp
            v4l2 avfoundation dshow x11grab gdigrab alsa pulse lavfi.
    """

    model: str = "tiny-duet"
    budget: int | None = None
    protocols: list[str] = field(default_factory=lambda: ["file", "stdin"])


def live(
    source: str, *, say: list[str] | None = None, when: list[float] | None = None, out: str | None = None,
    vtt: str | None = None, record: str | None = None, plot: str | None = None, speed: float = 0.0,
    seconds: float | None = None, max_lag_s: float = 3.0, retry_s: float = 60.0, timeout_s: float = 10.0,
    json: bool = False, options: LiveOptions,
) -> int:  # fmt: skip
    """Follow a running source and tell of what was asked for, until it ends or Ctrl-C.

    Args:
        source: a path, - for standard input, a URL (rtsp://...), or a device: v4l2:/dev/video0, x11grab::0,
            alsa:default.
        say: requests that stand, each in quotes: "Tell me when the kettle boils."
        when: seconds at which they are read, one for each; 0 if not given.
        out: a file of events, a JSON line each, written as they happen.
        vtt: a WebVTT file of the replies, written as they come.
        record: a new folder for a log that `longcompress live replay` plays again.
        plot: an image of scores and replies, written at the end: .png, .svg or .pdf.
        speed: media seconds a second, to play a file as if it were live; 0 is as fast as it can be read.
        seconds: end after so many of the media.
        max_lag_s: where the model falls behind by more, frames that wait are dropped, at twice as much audio.
            Files are never dropped from unless --speed is given.
        retry_s: a source of the network or a device that fails is opened again for so long.
        timeout_s: silence that counts as a failure.
        json: print events as JSON lines instead of replies.
    """
    check_positive(seconds=seconds, max_lag_s=max_lag_s, timeout_s=timeout_s)
    for name, value in {"speed": speed, "retry_s": retry_s}.items():
        if not value >= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be >= 0, got {value}")
    texts = _texts(say or [], when or [])
    from ..live.capture import Capture
    from ..live.log import Log, play
    from ..media.live import KINDS, kind_of, live_source
    from ..plot import check_plot

    kind = kind_of(source, options.protocols)
    for path in (out, vtt, plot):
        if path is not None:
            common.check_writable(Path(path))
    if plot is not None:
        check_plot(plot)
    model = common.load_model(options)
    config, tracks = model.config.media, list[str]()
    parts = live_source(
        source, replace(config, video="video" in model.media, audio="audio" in model.media),
        protocols=options.protocols, speed=speed, retry_s=retry_s, timeout_s=timeout_s,
        on_warning=lambda text: complain("warning", text), on_open=tracks.extend,
    )  # fmt: skip
    capture = Capture(parts, max_lag_s, may_drop=KINDS[kind].is_live or speed > 0)
    with common.reading():
        first = next(capture, None)
        if first is None:
            raise ValueError(f"source {source}: neither a frame nor a sample came")
    session = _session(model, options, [name for name in model.media if name in tracks])
    with ExitStack() as opened, _until_interrupted(capture):
        log = None
        if record is not None:
            with writing(record):
                log = Log(record, session)
        lines = None if out is None else opened.enter_context(writing_lines(out))
        captions = None if vtt is None else opened.enter_context(writing_lines(vtt))
        if captions is not None:
            captions.write("WEBVTT\n\n")
        events: list[SessionEvent] = []
        failed: list[OSError | ValueError] = []
        shape = "{n:.0f} s of media [{elapsed}]"
        bar = opened.enter_context(tqdm(disable=not bars(), bar_format=shape))
        for event in play(session, _items(first, capture, texts, seconds, failed), log):
            _show(event, lines, captions, json)
            bar.update(session.encoder.end_s - bar.n)
            if plot is not None:
                events.append(event)
    if plot is not None:
        from ..plot import plot_scores

        with writing(plot):
            plot_scores(events, session.encoder.end_s, plot)
    complain("note", _summary(session))
    if failed:
        raise Failed(3, f"{failed[0]}; what came before was read")
    return 0


def replay(folder: str, *, check: bool = False, json: bool = False, options: LiveOptions) -> int:
    """Play a log of `live --record` again, and print what happens.

    Args:
        folder: of the log.
        check: compare with what happened then; exit code 1 if an event is another.
        json: print events as JSON lines instead of replies.
    """
    from ..live import log

    with common.reading():
        next(iter(log.read_items(folder)), None)
    model = common.load_model(options)
    with common.reading():
        events = log.replay(folder, model)
        if not check:
            for event in events:
                _show(event, None, None, json)
            return 0
        faults = list(log.differences(folder, events))
    for number, old, new in faults[: common.SHOWN]:
        complain("error", f"event {number} was {old or 'not there'}, is {new or 'not there'}")
    print(f"{folder}: {f'{len(faults):,} events differ' if faults else 'all events are the same'}")
    return int(bool(faults))


def _texts(say: list[str], when: list[float]) -> "list[Text]":
    """Requests and their times."""
    from ..live.log import Text

    if when and len(when) != len(say):
        raise ValueError(f"--when must have a number for each --say, got {len(when)} for {len(say)}")
    if any(not time_s >= 0 for time_s in when):
        raise ValueError(f"--when must be seconds >= 0, got {when}")
    return [Text(text, time_s) for text, time_s in zip(say, when or [0.0] * len(say), strict=True)]


def _session(model: "LongCompress", options: LiveOptions, media: list[str]) -> "Session":
    from ..session import Session

    live = model.config.live.for_heads(getattr(model.llm, "heads", None) is not None)
    if live != model.config.live:
        complain("note", "the model has no heads: it is asked about each request after each step (live.poll)")
    return Session(model, options.budget, media=media, live=live)


def _items(
    first: "Item", capture: "Capture", texts: "list[Text]", seconds: float | None,
    failed: list[OSError | ValueError],
) -> "Iterator[Item]":  # fmt: skip
    """Requests, then what comes, up to a second of the media; an error of the source ends it."""
    from ..session_events import Dropped
    from ..types import Audio

    yield from texts
    yield first
    try:
        for item in capture:
            if seconds is None or isinstance(item, Dropped):
                yield item
            elif item.start_s >= seconds + 1.0:  # by then the other track has come so far, too
                break
            elif item.start_s < seconds:
                if isinstance(item, Audio) and item.end_s > seconds:
                    item = item.cut(0, round((seconds - item.start_s) * item.rate_hz))
                yield item
    except (OSError, ValueError) as error:
        failed.append(error)
    capture.close()


@contextmanager
def _until_interrupted(capture: "Capture") -> Iterator[None]:
    """Ctrl-C ends the source, and what came until then is read; a second one ends all."""

    def stop(number: int, frame: object) -> None:
        complain("note", "ending; Ctrl-C again ends at once")
        capture.close()
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        capture.close()


@contextmanager
def writing_lines(path: str) -> Iterator[IO[str]]:
    """A file that others read while it grows."""
    with writing(path), open(path, "w", buffering=1, encoding="utf-8") as file:
        yield file


def _show(event: "SessionEvent", lines: IO[str] | None, captions: IO[str] | None, json: bool) -> None:
    """An event on standard output and in files."""
    from ..live.log import event_line
    from ..session_events import Dropped, Reply

    if lines is not None:
        lines.write(event_line(event) + "\n")
    reply = event if isinstance(event, Reply) and not event.is_repeat else None
    if captions is not None and reply is not None:
        captions.write(cue(reply.time_s, reply.answer.text))
    if json:
        print(event_line(event), flush=True)
    elif reply is not None:
        number = f" [{reply.request}]" if reply.request else ""
        print(f"{clock(reply.time_s)}{number} {reply.answer.text}", flush=True)
    elif isinstance(event, Dropped):
        what = f"{event.what} of {event.time_s:.1f} to {event.end_s:.1f} s"
        complain("warning", f"{what} dropped: {event.reason}")


def cue(start_s: float, text: str) -> str:
    """A cue of WebVTT, shown for as long as it takes to read."""
    end_s = start_s + max(2.0, len(text) / 15)
    rounded = [round(t, 3) for t in (start_s, end_s)]
    times = " --> ".join(f"{t // 3600:02.0f}:{t % 3600 // 60:02.0f}:{t % 60:06.3f}" for t in rounded)
    plain = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;").split())
    return f"{times}\n{plain}\n\n"


def _summary(session: "Session") -> str:
    stats: dict[str, Any] = session.stats()
    return (
        f"{clock(stats['duration_s'])} of media, {stats['steps']:,} steps, {stats['replies']:,} replies, "
        f"{stats['cache_tokens']:,} of at most {stats['max_cache_tokens']:,} tokens in the context"
    )
