"""One pass over an opened file: its packets to its tracks, and warnings of what was wrong with it."""

import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, TypeVar

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Discard, Disposition, Stream

from ..config import MediaConfig
from ..types import Audio, Frames
from .audio import AudioTrack
from .frames import Clock, FrameSampler, VideoTrack, too_large
from .grid import Grid
from .hdr import TRANSFERS
from .source import INDEX_LAST, Handle, open_container, open_handle
from .timeline import Timeline, in_step
from .tracks import Tracks

_MAX_BAD_READS = 100
_USUAL_STEP_S = 0.04
_WAITING_BYTES = 64_000_000  # of packets that wait for those of another track
_WAITING_LIVE_BYTES = 8_000_000  # likewise in a source that can be read only once: it may be live
_TRUSTED_LENGTHS = frozenset(("mov", "mp4", "matroska", "webm", "avi", "flv", "asf", "mxf", "wav"))

_USUAL_FPS = 25.0
_SMALL_PIXELS = 300_000  # two decoder threads wait for each other longer than they decode such a frame
S = TypeVar("S", av.VideoStream, av.AudioStream)


class Container:
    """An opened file with its wanted tracks, or a part of it with times from that part's start on.

    Raises:
        ValueError: there is nothing to read in it, or its frames are too large.
    """

    def __init__(
        self, handle: Handle, container: InputContainer, config: MediaConfig,
        part: tuple[float, float] | None = None, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        self.handle, self.name, self.config, self.part = handle, handle.name, config, part
        self.start_s, end_s = part or (0.0, math.inf)
        self.length_s = end_s - self.start_s
        self._container = container
        self._read_error = ""
        video, audio, problems = find_tracks(container, config)
        self.video = video if config.video else None
        self.audio = audio if config.audio else None
        if self.video is None and self.audio is None:
            reason = "; ".join(problems.values()) or "the wanted track is switched off"
            raise ValueError(f"{self.name}: nothing to read: {reason}")
        self._problems = [problems[kind] for kind in problems if getattr(config, kind)]
        self._file_origin_s = origin_of(video, audio)
        self.timeline: Timeline | None = None  # begins with the first packet
        self.origin_s = (self._file_origin_s or 0.0) + self.start_s
        self._video_track = None if self.video is None else self._open_video(self.video, grid)
        self._audio_track = None
        if self.audio is not None:
            self._audio_track = AudioTrack(config.rate_hz, -self.start_s, self.length_s, config.channels)
        self._tracks = Tracks(self._video_track, self._audio_track, self.audio, self.origin_s, handle)
        for stream in container.streams:
            if stream not in (self.video, self.audio):
                stream.discard = Discard.all

    @classmethod
    def open(
        cls, source: Any, config: MediaConfig, protocols: Sequence[str],
        part: tuple[float, float] | None = None, grid: Grid | None = None,
    ) -> "Container":  # fmt: skip
        """The container at a path or an allowed URL, or in a binary file object."""
        with ExitStack() as opened:
            handle = open_handle(source, protocols)
            opened.callback(handle.close)
            if grid is None and config.frames and config.video:
                grid = spread_grid(handle, config, part)
            container = opened.enter_context(open_container(handle, config.max_pixels))
            whole = cls(handle, container, config, part, grid)
            opened.pop_all()  # `close` frees them
            return whole

    @property
    def duration_s(self) -> float | None:
        """The length in the header, true or not."""
        length_s = header_length_s(self._container)
        return None if length_s is None else max(0.0, min(length_s - self.start_s, self.length_s))

    def close(self) -> None:
        """Free the decoders and the file."""
        self._container.close()
        self.handle.close()

    def parts(self, on_warning: Callable[[str], object]) -> Generator[Frames | Audio, None, None]:
        """Frames and audio in the file's order.

        Raises:
            OSError: the bytes stopped coming; what came before was given.
            ValueError: nothing could be decoded at all.
        """
        for text in self._problems:
            on_warning(f"{self.name}: {text}; the rest is read")
        tracks = [s.index for s in (self.video, self.audio) if s is not None]
        max_bytes = _WAITING_BYTES if self.handle.seekable() else _WAITING_LIVE_BYTES
        timeline = self.timeline = timeline_of(self._container, self._file_origin_s)
        with closing(self._tracks):
            try:
                for placed in in_step(map(timeline.place, self._packets()), tracks, max_bytes):
                    yield from self._tracks.push(placed.packet, placed.time_s - self.start_s)
                    if timeline.may_move or (self.part and self._tracks.may_be_done):
                        yield from self._tracks.join()
                        if self.part and self._tracks.done:
                            break
                if self.handle.stop.is_set():
                    return
                yield from self._tracks.finish()
            except Exception:
                yield from self._tracks.join()  # what came before the error
                raise
        self.handle.raise_failure(
            f"reading failed at {self._end_s():.1f} s; what came before was given, try again"
        )
        faults = self._faults()
        self._check_not_empty(faults)
        for text in faults:
            on_warning(f"{self.name}: {text}")

    @property
    def end_s(self) -> float:
        """Where the media ends, as far as it was read, or its part."""
        return min(self._end_s() - self.start_s, self.length_s)

    @property
    def reached_s(self) -> dict[str, float]:
        """Modality -> the time before which none of it comes any more, as of the part that came last."""
        return self._tracks.reached_s

    def _open_video(self, video: av.VideoStream, grid: Grid | None) -> VideoTrack:
        config, context = self.config, video.codec_context
        name = f"{self.name}: video track {video.index} ({context.name})"
        if video.width * video.height > config.max_pixels:
            raise too_large(name, video.width, video.height, config.max_pixels)
        is_small = video.width * video.height <= _SMALL_PIXELS and (os.cpu_count() or 1) <= 2
        context.thread_count = config.threads or int(is_small)
        context.thread_type = "AUTO"
        if config.decode != "exact":
            context.skip_frame = "NONREF" if config.decode == "nonref" else "NONKEY"
        rate = average_rate(video)
        tick_s = float(video.time_base or 1e-6)
        sampler = FrameSampler(
            config, name, tolerance_s=min(tick_s / 2, 1e-3), length_s=self.length_s, grid=grid,
            pixel_aspect=float(video.sample_aspect_ratio or 1),
        )  # fmt: skip
        step_s = 1.0 / rate if rate else _USUAL_STEP_S
        return VideoTrack(video, sampler, Clock(tick_s, self.origin_s, step_s, media_start_s=-self.start_s))

    def _packets(self) -> Iterator[av.Packet]:
        """All packets of the wanted tracks; damaged stretches are stepped over."""
        streams = [s for s in (self.video, self.audio) if s is not None]
        # After an error the demuxer goes on behind the damage. A file that is damaged all over ends the loop.
        for _ in range(_MAX_BAD_READS):
            try:
                for packet in self._container.demux(streams):
                    if self.handle.stop.is_set():
                        return
                    if packet.size:
                        yield packet
                return
            except IndexError:  # PyAV (18.1) at the end of a file in which further tracks turned up
                return
            except av.FFmpegError as error:
                self._read_error = str(error)
            if self.handle.failure is not None or self.handle.stop.is_set():
                return

    def _end_s(self) -> float:
        """Seconds of the media that were read."""
        ends, video, audio = [-self.start_s], self._video_track, self._audio_track
        if video is not None:
            ends += [video.end_s, *([video.sampler.end_s] if video.sampler.num_frames else [])]
        if audio is not None:
            ends.append(audio.end_s if audio.num_samples else audio.reached_s)
        return self.start_s + max(ends)

    def _check_not_empty(self, faults: Sequence[str]) -> None:
        """ValueError if there was neither a frame nor a sample."""
        has_frames = self._video_track is not None and self._video_track.sampler.num_frames
        if has_frames or (self._audio_track is not None and self._audio_track.num_samples):
            return
        if self.part and self._end_s() > 0:
            raise ValueError(
                f"{self.name}: there is nothing in its part from {self.part[0]:g} to {self.part[1]:g} s; "
                f"the media ends at {self._end_s():.1f} s"
            )
        if self._read_error and "mov" in self._container.format.name and not self.handle.seekable():
            raise ValueError(f"{self.name}: {INDEX_LAST}")
        reason = "; ".join(faults) or "there are no packets"
        raise ValueError(f"{self.name}: nothing could be decoded: {reason}")

    def _faults(self) -> list[str]:
        """All that was wrong with the file, as far as it was read."""
        video, audio, end_s = self._video_track, self._audio_track, self._end_s()
        assert self.timeline is not None
        if video is not None:  # stamps that the timeline took away are told of there
            video.clock.num_missing = max(0, video.clock.num_missing - self.timeline.num_wrong)
        warning = self.timeline.warning()
        faults: list[tuple[object, str]] = [(warning, str(warning))]
        faults.append((self._read_error, f"damaged at or before {end_s:.1f} s: {self._read_error}"))
        if video is not None:
            name, sampler, warning = f"video track {video.stream.index}", video.sampler, video.clock.warning()
            num, want, bad_s = sampler.num_frames, self.config.frames, self.start_s + video.first_bad_s
            is_short = num < want and self.config.decode == "exact"
            inexact = "a key frame did not stand by itself; a frame before it may be missing"
            hdr = TRANSFERS.get(video.stream.codec_context.color_trc)
            faults += [
                (hdr, f"{name} is HDR ({hdr}); it was tone-mapped to BT.709"),
                (not num, f"{name} gave no frame"),
                (video.num_bad, f"{name}: {video.num_bad} packets were lost, first at {bad_s:.1f} s"),
                (sampler.num_bad, f"{name}: {sampler.num_bad} frames could not be scaled"),
                (is_short, f"{name} gave {num} of {want} frames; it could not be decoded up to its last one"),
                (video.num_inexact, f"{name}: {inexact}"),
                (warning, f"{name}: {warning}"),
            ]
        if audio is not None and self.audio is not None:
            name, warning = f"audio track {self.audio.index}", audio.warning()
            faults += [
                (not audio.num_samples, f"{name} gave no audio"),
                (audio.num_bad, f"{name}: {audio.num_bad} packets were lost"),
                (warning, f"{name}: {warning}"),
            ]
        header_s = header_length_s(self._container) or end_s  # a recording that goes on has no length yet
        is_trusted = _TRUSTED_LENGTHS & set(self._container.format.name.split(","))
        is_wrong = self.part is None and is_trusted and abs(header_s - end_s) > max(1.0, 0.01 * header_s)
        faults.append((is_wrong, f"the header says {header_s:.1f} s, the media ends at {end_s:.1f} s"))
        return [text for is_so, text in faults if is_so]


def spread_grid(handle: Handle, config: MediaConfig, part: tuple[float, float] | None) -> Grid | None:
    """The instants of `MediaConfig.frames` by the packets of a file, whatever its header says."""
    if not handle.seekable():
        raise ValueError(
            f"{handle.name}: frames = {config.frames} are spread over a whole video, whose end isn't known "
            "in a source that can be read only once; save it to a file, or set frames to 0 and use rate_fps"
        )
    start_s, end_s = part or (0.0, math.inf)
    with open_container(handle, config.max_pixels) as container:
        times = first_and_last(container, config, start_s, end_s - start_s)
    return times and Grid.spread(config, *times)


def find_tracks(
    container: InputContainer, config: MediaConfig | None = None
) -> tuple[av.VideoStream | None, av.AudioStream | None, dict[str, str]]:
    """(the video track to read, the audio track, "video" or "audio" -> what is wrong with a track that can't
    be read). ValueError for a track that `config` names and the file hasn't."""
    config = config or MediaConfig()
    problems: dict[str, str] = {}
    best = container.streams.best
    video = _first_known(video_tracks(container), best("video"), "video", config.video_track, problems)
    audio = _first_known(container.streams.audio, best("audio"), "audio", config.audio_track, problems)
    return video, audio, problems


def video_tracks(container: InputContainer) -> list[av.VideoStream]:
    """The video tracks that are no cover art."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def _first_known(
    streams: Sequence[S], best: Stream | None, kind: str, choice: str, problems: dict[str, str]
) -> S | None:
    """The track that is wanted, by number or language; else FFmpeg's choice, else the first that can be
    decoded."""
    known: Sequence[S] = sorted(streams, key=lambda s: s is not best)
    if choice and streams:
        known = [s for i, s in enumerate(streams) if choice in (str(i), s.language)]
        if not known:
            tracks = ", ".join(f"{i} ({s.language or 'no language'})" for i, s in enumerate(streams))
            raise ValueError(f"{kind}_track {choice!r} is none of the {kind} tracks {tracks}")
    for stream in known:
        if stream.codec_context is not None:
            return stream
    problems[kind] = f"no {kind} track"
    if streams:
        problems[kind] = f"{kind} track {known[0].index} has a codec that this FFmpeg doesn't know"
    return None


def average_rate(stream: av.VideoStream) -> float | None:
    """Frames a second by the header, None where it says nothing sensible."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return None


def origin_of(*streams: av.VideoStream | av.AudioStream | None) -> float | None:
    """Time at which the media starts by the file's own clock: of the earliest first frame or sample; None if
    the header doesn't say."""
    starts = [
        float(s.start_time * s.time_base)
        for s in streams
        if s is not None and s.start_time is not None and s.time_base is not None
    ]
    return min(starts, default=None)


def timeline_of(container: InputContainer, origin_s: float | None) -> Timeline:
    """The timeline of a file whose stamps begin at origin_s, or with its first packet."""
    return Timeline(origin_s, Flags.ts_discont in Flags(container.format.flags))


def header_length_s(container: InputContainer) -> float | None:
    """The length in the header, from the start of the media; None if there is none."""
    if not container.duration:
        return None
    # Matroska counts from 0, wherever its stamps begin
    is_from_0 = "matroska" in container.format.name
    return (container.duration - (max(0, container.start_time or 0) if is_from_0 else 0)) / 1e6


def first_and_last(
    container: InputContainer, config: MediaConfig, start_s: float = 0.0, length_s: float = math.inf
) -> tuple[float, float, float] | None:
    """(time of the first frame, of the last, seconds a frame lasts) by all packets of the video track; None
    without a frame. Times count from `start_s` of the media; frames outside [0, length_s) don't count."""
    video, audio, _ = find_tracks(container, config)
    if video is None:
        return None
    timeline = timeline_of(container, origin_of(video, audio))
    step_s = 1.0 / (average_rate(video) or _USUAL_FPS)
    first_s = last_s = None
    num = 0
    for packet in packets_of(container, [s for s in (video, audio) if s is not None]):
        timeline.place(packet)
        if packet.stream is not video:
            continue
        stamp = packet.dts if packet.pts is None else packet.pts
        num += packet.size > 0
        if stamp is None or packet.time_base is None or packet.is_discard:
            continue
        time_s = round(float(stamp * packet.time_base) - timeline.origin_s - start_s, 9)
        if 0 <= time_s < length_s:
            first_s = time_s if first_s is None else min(first_s, time_s)
            last_s = time_s if last_s is None else max(last_s, time_s)
    if first_s is not None and last_s is not None:
        return first_s, last_s, step_s
    # No packet has a stamp: only their number is known.
    return (0.0, min(length_s, num * step_s) - step_s, step_s) if num else None


def packets_of(container: InputContainer, streams: Sequence[Stream]) -> Iterator[av.Packet]:
    """The packets up to the end, or to where the file is damaged."""
    # IndexError: PyAV (18.1), in a file in which further tracks turned up
    with suppress(av.FFmpegError, IndexError):
        yield from container.demux(*streams)
