"""Live sources: cameras, streams, screens, microphones, pipes and files at their speed -> frames and audio.

Times count from the first thing that came. After an interruption, or where stamps start anew, they go on by
the clock on the wall.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer

from ..config import MediaConfig
from ..types import Audio, Frames
from .audio import AudioTrack
from .demux import find_tracks
from .frames import FrameSampler, too_large
from .source import open_container, open_handle, without_secrets

MAX_BAD = 100  # packets in a row that can't be decoded
BACK_S, LEAP_S = 2.0, 60.0  # stamps that go back or ahead by more start anew
PAUSES_S = (0.5, 1, 2, 4, 8)  # between attempts to connect again
WALK = "mpegts,hls,flv,live_flv,mpjpeg,matroska,mov,rtsp,rtp,sdp,aac,mp3,ogg,wav"  # formats of the network


class Kind(NamedTuple):
    """A kind of source."""

    format: str | None  # of FFmpeg; None: it is recognised
    protocols: str  # FFmpeg's, all that it may use
    is_device: bool = False  # named KIND:NAME, where the network has KIND://...
    is_live: bool = True  # it comes at its own pace, and may come again after its end


_FILE = Kind(None, "", is_live=False)
_DEVICES = ("v4l2", "avfoundation", "dshow", "x11grab", "gdigrab", "alsa", "pulse")
_HTTP = Kind(None, "http,https,tls,tcp,crypto")
KINDS = {
    "file": _FILE, "stdin": _FILE, "lavfi": Kind("lavfi", "", is_device=True, is_live=False),
    "rtsp": Kind(None, "rtsp,rtp,udp,tcp"), "rtsps": Kind(None, "rtsps,rtsp,rtp,srtp,udp,tcp,tls"),
    "rtmp": Kind("flv", "rtmp,tcp"), "rtmps": Kind("flv", "rtmps,rtmp,tls,tcp"),
    "http": _HTTP, "https": _HTTP, "udp": Kind("mpegts", "udp"), "tcp": Kind("mpegts", "tcp"),
    **{name: Kind(name, "", is_device=True) for name in _DEVICES},
}  # fmt: skip


def kind_of(source: str, protocols: Sequence[str]) -> str:
    """Which of KINDS a source is: "-" is stdin, `rtsp://...` rtsp, `v4l2:/dev/video0` v4l2, a path a file.

    Raises:
        ValueError: it has a scheme that is none of them, or is of a kind that is not among `protocols`.
    """
    match = None if source == "-" else re.match(r"([a-zA-Z][a-zA-Z0-9+.]+):(//)?", source)
    name = match[1].lower() if match else "stdin" if source == "-" else "file"
    kind = KINDS.get(name)
    if match and (kind is None or not (kind.is_device or match[2])):
        raise ValueError(
            f"source must be a path, - or of a kind in {', '.join(KINDS)} (rtsp://..., v4l2:/dev/video0), "
            f"got {name_of(source)}"
        )
    if name not in protocols:
        raise ValueError(
            f"source {name_of(source)} is of kind {name}, allowed are {', '.join(protocols)}; allow it "
            f"(--protocols {name}) if you trust it"
        )
    return name


def name_of(source: str) -> str:
    """A source for messages: of a URL without what is secret in it."""
    return without_secrets(source) if "://" in source else source


def live_source(
    source: str, config: MediaConfig, *, protocols: Sequence[str] = ("file",), speed: float = 0.0,
    retry_s: float = 60.0, timeout_s: float = 10.0, on_warning: Callable[[str], object] = print,
    on_open: Callable[[list[str]], object] | None = None,
) -> Iterator[Frames | Audio]:  # fmt: skip
    """Frames, at most one of each step of config.rate_fps, and audio of a live source, at once.

    Args:
        source: a path, - for standard input, a URL, or KIND:NAME of a device; see KINDS.
        config: rates, size, and which tracks are taken.
        protocols: the kinds that are allowed.
        speed: media seconds in a second at most, to play a file as if it were live; 0: as fast as it comes.
        retry_s: where a source of the network or a device ends or fails after it has given something, it is
            opened again for so long.
        timeout_s: silence of a source that counts as its failure.
        on_warning: called with a text about each interruption.
        on_open: called with what comes, of "video" and "audio".

    Raises:
        ValueError: the kind is not allowed or unknown, or nothing in it can be decoded.
        OSError: it can't be opened, or failed and did not come back.
    """
    kind = kind_of(source, protocols)
    is_live = KINDS[kind].is_live
    times, failed_s = _Times(is_live=is_live), math.inf
    attempt = 0
    while True:
        error: Exception | None = None
        try:
            with _opened(source, kind, config, timeout_s) as container:
                tracks = _tracks(container, source, config)
                if on_open is not None:
                    on_open([name for name, track in tracks.items() if track is not None])
                for part in _decoded(container, tracks, source, config, times, on_warning):
                    attempt, failed_s = 0, math.inf
                    _wait(part, speed, times)
                    yield part
        except (OSError, ValueError, av.FFmpegError) as caught:
            if not times.num or isinstance(caught, BadSource):
                raise _readable(source, kind, caught) from caught
            error = caught
        failed_s = min(failed_s, time.monotonic())
        if not is_live or time.monotonic() - failed_s >= retry_s:
            if error is None:
                return
            raise _readable(source, kind, error) from error
        if attempt == 0:
            why = "ended" if error is None else str(_readable(source, kind, error))
            on_warning(f"{name_of(source)}: {why}; it is opened again for {retry_s:g} s")
        time.sleep(min(PAUSES_S[min(attempt, len(PAUSES_S) - 1)], max(0.0, retry_s)))
        attempt += 1
        times.restart()


class BadSource(ValueError):
    """A source that will not be better when it is opened again."""


class _Times:
    """Seconds since the first thing that came."""

    def __init__(self, *, is_live: bool) -> None:
        self.is_live, self.num, self.began_s = is_live, 0, time.monotonic()
        self.step = -1  # number of the last one of which a frame was taken
        self._shift_s: float | None = None
        self._last_s: dict[int, float] = {}  # stream -> its last time

    def restart(self) -> None:
        """Stamps start anew."""
        self._shift_s = None

    def place(self, stream: int, stamp_s: float) -> tuple[float, bool]:
        """(seconds of a stamp, whether stamps started anew)."""
        self.began_s = self.began_s if self.num else time.monotonic()
        now_s = max(time.monotonic() - self.began_s, *self._last_s.values()) if self._last_s else 0.0
        is_first, last_s = self._shift_s is None, self._last_s.get(stream, now_s)
        time_s = now_s if self._shift_s is None else stamp_s + self._shift_s
        has_leapt = self.is_live and not is_first and not last_s - BACK_S <= time_s <= now_s + LEAP_S
        time_s = now_s if has_leapt else time_s
        self._shift_s, self.num = time_s - stamp_s, self.num + 1
        self._last_s[stream] = max(last_s, time_s)
        return time_s, has_leapt


@contextmanager
def _opened(source: str, kind: str, config: MediaConfig, timeout_s: float) -> Iterator[InputContainer]:
    entry = KINDS[kind]
    if kind in ("file", "stdin"):  # what reads files refuses playlists, too
        handle = open_handle(sys.stdin.buffer if kind == "stdin" else source, ("file",))
        try:
            with open_container(handle, config.max_pixels) as container:
                yield container
        finally:
            handle.close()
        return
    name = source.partition(":")[2] if entry.is_device else source
    options = {} if entry.is_device else {"protocol_whitelist": entry.protocols, "format_whitelist": WALK}
    options |= {"rtsp_transport": "tcp"} if kind == "rtsp" else {}
    if kind == "v4l2" or kind == "x11grab":
        options["framerate"] = f"{max(config.rate_fps, 5):g}"
    with av.open(name, format=entry.format, options=options, timeout=(timeout_s, timeout_s)) as container:
        yield container


def _tracks(container: InputContainer, source: str, config: MediaConfig) -> dict[str, Any]:
    """Modality -> its track, None where there is none or it isn't wanted."""
    video, audio, problems = find_tracks(container, config)
    tracks = {"video": video if config.video else None, "audio": audio if config.audio else None}
    if not any(tracks.values()):
        reason = "; ".join(problems.values()) or "no wanted track"
        raise BadSource(f"{name_of(source)}: nothing to read: {reason}")
    return tracks


def _decoded(
    container: InputContainer, tracks: dict[str, Any], source: str, config: MediaConfig, times: _Times,
    on_warning: Callable[[str], object],
) -> Iterator[Frames | Audio]:  # fmt: skip
    """Frames and audio as they come."""
    name = name_of(source)
    sampler, track = FrameSampler(config, name), AudioTrack(config.rate_hz, channels=config.channels)
    num_bad = 0
    for packet in container.demux([stream for stream in tracks.values() if stream is not None]):
        try:
            decoded: list[Any] = packet.decode()
            num_bad = 0
        except av.error.InvalidDataError:
            num_bad += 1
            if num_bad >= MAX_BAD:
                raise
            continue
        for frame in decoded:
            if frame.time is None:
                continue
            time_s, is_new = times.place(packet.stream_index, float(frame.time))
            if is_new:
                on_warning(f"{name}: its time stamps started anew at {time_s:.1f} s")
            if isinstance(frame, av.AudioFrame):
                if is_new:
                    yield from track.finish()
                    track = AudioTrack(config.rate_hz, channels=config.channels)
                yield from track.push(frame, max(0.0, time_s))
                yield from track.rest()
            elif (number := math.floor(time_s * config.rate_fps + 1e-6)) > times.step:
                if frame.width * frame.height > config.max_pixels:
                    raise BadSource(str(too_large(name, frame.width, frame.height, config.max_pixels)))
                times.step, pixels = number, torch.from_numpy(np.ascontiguousarray(sampler.fit(frame)))
                at_s = torch.tensor([max(0.0, time_s)], dtype=torch.float64)
                yield Frames(pixels[None], at_s, 1 / config.rate_fps)
    yield from track.finish()


def _wait(part: Frames | Audio, speed: float, times: _Times) -> None:
    """Until the media may have come so far."""
    if speed > 0:
        with suppress(ValueError):  # it is late already
            time.sleep(times.began_s + part.start_s / speed - time.monotonic())


def _readable(source: str, kind: str, error: Exception) -> Exception:
    """An error with the source's name and what helps."""
    if isinstance(error, BadSource):
        return error
    hints = {
        av.error.HTTPUnauthorizedError: "name and password are wrong or missing (rtsp://NAME:PASSWORD@...)",
        av.error.HTTPForbiddenError: "access is denied",
        PermissionError: "no permission; add the user to the group of the device (video, audio)",
        FileNotFoundError: "there is none of this name; see `ls /dev/video*`, `arecord -l`, or the path",
        ConnectionRefusedError: "nothing listens there",
        av.error.ExitError: "nothing came in time; is it on, and the address right?",
        TimeoutError: "nothing came in time; is it on, and the address right?",
    }
    if kind in ("file", "stdin") and not isinstance(error, FileNotFoundError):
        return error
    hint = next((text for cls, text in hints.items() if isinstance(error, cls)), str(error))
    kind_error = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
    return kind_error(f"source {name_of(source)} can't be read: {hint}")
