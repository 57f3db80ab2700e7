"""The header and the packets of a file, without decoding it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition, Stream

from ..config import MediaConfig
from .source import Handle, open_container, open_handle
from .timeline import Timeline

_FIRST_PACKETS = 100
_USUAL_FPS = 25.0
S = TypeVar("S", av.VideoStream, av.AudioStream)


@dataclass(frozen=True)
class MediaInfo:
    """The header of a file, true or not."""

    name: str  # path or URL
    duration_s: float | None = None  # None if unknown; from the packets where they were scanned
    has_video: bool = False  # a video track that can be decoded
    has_audio: bool = False
    width: int = 0  # of the frames as stored, before rotation; 0 without frames
    height: int = 0
    rate_fps: float | None = None  # on average; None if unknown
    rate_hz: int = 0  # 0 without audio
    channels: int = 0
    num_bytes: int | None = None  # None if unknown
    container: str = ""  # FFmpeg's name, like the codecs
    video_codec: str = ""
    audio_codec: str = ""
    rotation_deg: int = 0  # counterclockwise turn that shows the frames upright: 0, 90, 180 or 270
    keyframe_gap_s: float | None = None  # longest distance of two key frames; None without a scan


def probe(
    source: str | Path | BinaryIO, *, protocols: Sequence[str] = ("file",), keyframes: bool = False
) -> MediaInfo:
    """The header; with `keyframes` also length and key frames by the packets (reads a whole seekable source).

    Only the first frame is decoded, for the rotation flag that comes with it.
    """
    handle = open_handle(source, protocols)
    try:
        with open_container(handle, MediaConfig.max_pixels) as container:
            info = _info(container, handle)
        if not keyframes:
            return info
        with open_container(handle, MediaConfig.max_pixels) as container:
            return _scan(container, info)
    finally:
        handle.close()


def find_tracks(
    container: InputContainer,
) -> tuple[av.VideoStream | None, av.AudioStream | None, dict[str, str]]:
    """(the video track to read, the audio track, "video" or "audio" -> what is wrong with a track that can't
    be read)."""
    problems: dict[str, str] = {}
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video = _first_known(videos, container.streams.best("video"), "video", problems)
    audio = _first_known(container.streams.audio, container.streams.best("audio"), "audio", problems)
    return video, audio, problems


def _first_known(streams: Sequence[S], best: Stream | None, kind: str, problems: dict[str, str]) -> S | None:
    """FFmpeg's choice, else the first that can be decoded."""
    for stream in sorted(streams, key=lambda s: s is not best):
        if stream.codec_context is not None:
            return stream
    problems[kind] = f"no {kind} track"
    if streams:
        problems[kind] = f"{kind} track {streams[0].index} has a codec that this FFmpeg doesn't know"
    return None


def average_rate(stream: av.VideoStream) -> float | None:
    """Frames a second by the header, None where it says nothing sensible."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return None


def origin_of(*streams: av.VideoStream | av.AudioStream | None) -> float:
    """Time at which the media starts by the file's own clock: of the earliest first frame or sample."""
    starts = [
        float(s.start_time * s.time_base)
        for s in streams
        if s is not None and s.start_time is not None and s.time_base is not None
    ]
    return min(starts, default=0.0)


def timeline_of(container: InputContainer, origin_s: float) -> Timeline:
    """The timeline of a file whose stamps begin at origin_s."""
    return Timeline(origin_s, bool(container.format.flags & Flags.ts_discont.value))


def header_length_s(container: InputContainer) -> float | None:
    """The length in the header, from the start of the media; None if there is none."""
    if not container.duration:
        return None
    # Matroska counts from 0, wherever its stamps begin
    is_from_0 = "matroska" in container.format.name
    return (container.duration - (max(0, container.start_time or 0) if is_from_0 else 0)) / 1e6


def first_and_last(
    container: InputContainer, start_s: float = 0.0, length_s: float = math.inf
) -> tuple[float, float, float] | None:
    """(time of the first frame, of the last, seconds a frame lasts) by all packets of the video track; None
    without a frame. Times count from `start_s` of the media; frames outside [0, length_s) don't count."""
    video, audio, _ = find_tracks(container)
    if video is None:
        return None
    timeline = timeline_of(container, origin_of(video, audio))
    step_s = 1.0 / (average_rate(video) or _USUAL_FPS)
    first_s = last_s = None
    num = 0
    for packet in _packets(container, [s for s in (video, audio) if s is not None]):
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


def _packets(container: InputContainer, streams: Sequence[Stream]) -> Iterator[av.Packet]:
    """The packets up to the end, or to where the file is damaged."""
    # IndexError: PyAV (18.1), in a file in which further tracks turned up
    with suppress(av.FFmpegError, IndexError):
        yield from container.demux(*streams)


def _info(container: InputContainer, handle: Handle) -> MediaInfo:
    video, audio, _ = find_tracks(container)
    return MediaInfo(
        name=handle.name,
        duration_s=header_length_s(container),
        has_video=video is not None,
        has_audio=audio is not None,
        width=video.width if video else 0,
        height=video.height if video else 0,
        rate_fps=average_rate(video) if video else None,
        rate_hz=audio.sample_rate if audio else 0,
        channels=audio.channels if audio else 0,
        num_bytes=handle.num_bytes,
        container=container.format.name,
        video_codec=video.codec_context.codec.name if video else "",
        audio_codec=audio.codec_context.codec.name if audio else "",
        rotation_deg=_rotation(container, video) if video else 0,
    )


def _rotation(container: InputContainer, video: av.VideoStream) -> int:
    """Rotation of the first frame: PyAV returns the flag only with a decoded frame."""
    if not 0 < video.width * video.height <= MediaConfig.max_pixels:
        return 0
    try:
        for packet in islice(container.demux(video), _FIRST_PACKETS):
            for frame in packet.decode():
                return round(frame.rotation / 90) % 4 * 90
    except av.FFmpegError:
        pass  # reading it will say what is wrong
    return 0


def _scan(container: InputContainer, info: MediaInfo) -> MediaInfo:
    """`info` with length and key-frame distance as the packets have them."""
    video, audio, _ = find_tracks(container)
    timeline = timeline_of(container, origin_of(video, audio))
    end_s = 0.0
    key_s: float | None = None
    gap_s: float | None = None
    for packet in _packets(container, [s for s in (video, audio) if s is not None]):
        timeline.place(packet)
        if packet.pts is None or packet.time_base is None:
            continue
        time_s = float(packet.pts * packet.time_base) - timeline.origin_s
        end_s = max(end_s, time_s + float((packet.duration or 0) * packet.time_base))
        if packet.stream is video and packet.is_keyframe:
            gap_s = gap_s if key_s is None else max(gap_s or 0.0, time_s - key_s)
            key_s = time_s
    if key_s is not None:
        gap_s = max(gap_s or 0.0, end_s - key_s)
    return replace(info, duration_s=end_s or info.duration_s, keyframe_gap_s=gap_s)
