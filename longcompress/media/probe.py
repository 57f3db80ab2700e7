"""The header and the packets of a file, without decoding it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition

from ..config import MediaConfig
from .demux import (
    average_rate,
    find_tracks,
    header_length_s,
    origin_of,
    packets_of,
    timeline_of,
    video_tracks,
)
from .hdr import TRANSFERS
from .source import Handle, open_container, open_handle

_FIRST_PACKETS = 100
USUAL_FPS = (24000 / 1001, 24.0, 25.0, 30000 / 1001, 30.0, 48.0, 50.0, 60000 / 1001, 60.0, 100.0, 120.0)


@dataclass(frozen=True)
class Track:
    """A video or audio track: its number among those of its kind, and whether it is read."""

    kind: str
    number: int
    codec: str
    language: str
    title: str
    is_default: bool
    is_read: bool


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
    pixel_aspect: float = 1.0  # width of a pixel by its height
    hdr: str = ""  # "PQ" or "HLG"
    timecode: str = ""  # of the first frame, as cameras write it
    timecode_fps: float | None = None  # frames a second that timecodes count in; None if it is no usual rate
    tracks: tuple[Track, ...] = ()


def probe(
    source: str | Path | BinaryIO, *, protocols: Sequence[str] = ("file",), keyframes: bool = False,
    config: MediaConfig | None = None,
) -> MediaInfo:  # fmt: skip
    """The header; with `keyframes` also length and key frames by the packets (reads a whole seekable source).

    Only the first frame is decoded, for the rotation flag that comes with it.
    """
    handle = open_handle(source, protocols)
    try:
        with open_container(handle, MediaConfig.max_pixels) as container:
            info = _info(container, handle, config or MediaConfig())
        if not keyframes:
            return info
        with open_container(handle, MediaConfig.max_pixels) as container:
            return _scan(container, info)
    finally:
        handle.close()


def _info(container: InputContainer, handle: Handle, config: MediaConfig) -> MediaInfo:
    video, audio, _ = find_tracks(container, config)
    tracks = []
    for kind, streams in (("video", video_tracks(container)), ("audio", container.streams.audio)):
        for number, stream in enumerate(streams):
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            title, is_read = stream.metadata.get("title", ""), stream in (video, audio)
            is_default = bool(stream.disposition & Disposition.default)
            tracks.append(Track(kind, number, codec, stream.language or "", title, is_default, is_read))
    info = MediaInfo(
        handle.name, header_length_s(container), num_bytes=handle.num_bytes, container=container.format.name,
        timecode=container.metadata.get("timecode", ""), tracks=tuple(tracks),
    )  # fmt: skip
    if audio is not None:
        info = replace(
            info, has_audio=True, rate_hz=audio.sample_rate, channels=audio.channels,
            audio_codec=audio.codec_context.codec.name,
        )  # fmt: skip
    if video is not None:
        info = replace(
            info, has_video=True, width=video.width, height=video.height, rate_fps=average_rate(video),
            video_codec=video.codec_context.codec.name, hdr=TRANSFERS.get(video.codec_context.color_trc, ""),
            pixel_aspect=float(video.sample_aspect_ratio or 1), timecode_fps=_timecode_fps(video),
            timecode=video.metadata.get("timecode", info.timecode),
            rotation_deg=_rotation(container, video),  # decodes: last
        )  # fmt: skip
    return info


def _timecode_fps(video: av.VideoStream) -> float | None:
    """The usual rate that the track's own is, or its own if it is whole and constant. A track of variable
    rate has its base rate; its average means nothing to an editor."""
    rates = [float(rate) for rate in (video.base_rate, video.average_rate) if rate]
    for rate in rates:
        for usual in USUAL_FPS:
            if abs(rate - usual) < 4e-4 * usual:
                return usual
    is_constant = len(rates) == 2 and abs(rates[0] - rates[1]) < 1e-3 * rates[0]
    return rates[0] if is_constant and rates[0] >= 1 and rates[0].is_integer() else None


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
    for packet in packets_of(container, [s for s in (video, audio) if s is not None]):
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
