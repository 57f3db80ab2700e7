"""What a file says of itself, without decoding it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from ..config import MediaConfig
from .source import Handle, open_container, open_handle

_FIRST_PACKETS = 100
_USUAL_FPS = 25.0
JUMP_S = 3600.0  # a larger step in the time stamps is a lying stamp
S = TypeVar("S", av.VideoStream, av.AudioStream)


@dataclass(frozen=True)
class MediaInfo:
    """What the header of a file says, true or not.

    Attributes:
        name: path or URL.
        duration_s: length; None if unknown. From the packets where they were scanned.
        has_video: there is a video track that can be decoded.
        has_audio: there is an audio track that can be decoded.
        width: of the frames as stored, before rotation; 0 without frames.
        height: likewise.
        rate_fps: frames a second on average; None if unknown.
        rate_hz: samples a second; 0 without audio.
        channels: of the sound.
        num_bytes: size; None if unknown.
        container: FFmpeg's name of it.
        video_codec: FFmpeg's name of it; "" without frames.
        audio_codec: likewise.
        rotation_deg: counterclockwise turn that shows the frames upright: 0, 90, 180 or 270.
        keyframe_gap_s: longest distance of two key frames; None unless the packets were scanned.
    """

    name: str
    duration_s: float | None = None
    has_video: bool = False
    has_audio: bool = False
    width: int = 0
    height: int = 0
    rate_fps: float | None = None
    rate_hz: int = 0
    channels: int = 0
    num_bytes: int | None = None
    container: str = ""
    video_codec: str = ""
    audio_codec: str = ""
    rotation_deg: int = 0
    keyframe_gap_s: float | None = None


def probe(
    source: str | Path | BinaryIO, *, protocols: Sequence[str] = ("file",), keyframes: bool = False
) -> MediaInfo:
    """What the header says; with `keyframes` also what the packets say (reads all of a seekable source).

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


def find_tracks(container: InputContainer) -> tuple[av.VideoStream | None, av.AudioStream | None, list[str]]:
    """The frame and the audio track to read, and what is wrong with those that can't be."""
    trouble: list[str] = []
    frames = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    video = _first_known(frames, container.streams.best("video"), "video", trouble)
    audio = _first_known(container.streams.audio, container.streams.best("audio"), "audio", trouble)
    return video, audio, trouble


def _first_known(streams: Sequence[S], best: Stream | None, kind: str, trouble: list[str]) -> S | None:
    """FFmpeg's choice, else the first that can be decoded."""
    for stream in sorted(streams, key=lambda s: s is not best):
        if stream.codec_context is not None:
            return stream
    if streams:
        trouble.append(f"{kind} track {streams[0].index} has a codec that this FFmpeg doesn't know")
    else:
        trouble.append(f"no {kind} track")
    return None


def average_rate(stream: av.VideoStream) -> float | None:
    """Frames a second by the header, None where it says nothing sensible."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate <= 1000:
            return float(rate)
    return None


def start_of(stream: av.VideoStream | av.AudioStream | None) -> float | None:
    """Time of the first frame or sample by the file's own clock."""
    if stream is None or stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def video_span(
    container: InputContainer, start_s: float = 0.0, length_s: float = math.inf
) -> tuple[float, float, float] | None:
    """(time of the first frame, of the last, seconds a frame lasts) by all packets of the track; None
    without a frame. Times count from `start_s` of the media; frames outside [0, length_s) don't count."""
    video, audio, _ = find_tracks(container)
    if video is None:
        return None
    starts = [s for s in (start_of(video), start_of(audio)) if s is not None]
    origin_s = min(starts, default=0.0) + start_s
    lasts_s = 1.0 / (average_rate(video) or _USUAL_FPS)
    first_s = last_s = None
    num = 0
    try:
        for packet in container.demux([video]):
            stamp = packet.dts if packet.pts is None else packet.pts
            num += packet.size > 0
            if stamp is None or packet.time_base is None or packet.is_discard:
                continue
            time_s = round(float(stamp * packet.time_base) - origin_s, 9)
            if 0 <= time_s < length_s and time_s - (time_s if last_s is None else last_s) <= JUMP_S:
                first_s = time_s if first_s is None else min(first_s, time_s)
                last_s = time_s if last_s is None else max(last_s, time_s)
    except (av.FFmpegError, IndexError):  # IndexError: PyAV (18.1), where further tracks turned up
        pass  # a damaged end: what was read counts
    if first_s is not None and last_s is not None:
        return first_s, last_s, lasts_s
    return (0.0, min(length_s, num * lasts_s) - lasts_s, lasts_s) if num else None


def _info(container: InputContainer, handle: Handle) -> MediaInfo:
    video, audio, _ = find_tracks(container)
    return MediaInfo(
        name=handle.name,
        duration_s=None if container.duration is None else container.duration / 1e6,
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
    """Of the first frame: PyAV gives the flag only with a decoded one."""
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
    wanted = [s for s in (video, audio) if s is not None]
    first = min((s for s in map(start_of, wanted) if s is not None), default=0.0)
    end = 0.0
    key: float | None = None
    gap: float | None = None
    try:
        for packet in container.demux(wanted):
            if packet.pts is None or packet.time_base is None:
                continue
            time = float(packet.pts * packet.time_base) - first
            end = max(end, time + float((packet.duration or 0) * packet.time_base))
            if packet.stream is video and packet.is_keyframe:
                gap = gap if key is None else max(gap or 0.0, time - key)
                key = time
    except (av.FFmpegError, IndexError):  # IndexError: PyAV (18.1), where further tracks turned up
        pass  # a damaged end: what was read counts
    if key is not None:
        gap = max(gap or 0.0, end - key)
    return replace(info, duration_s=end or info.duration_s, keyframe_gap_s=gap)
