"""One pass over an opened file: its packets to its tracks, and the account of what was wrong with it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard

from ..config import MediaConfig
from ..types import Audio, Frames
from .audio import AudioTrack
from .frames import Clock, FrameSampler, Grid, VideoTrack, too_large
from .probe import average_rate, find_tracks, start_of, video_span
from .source import Handle, open_container, open_handle

_BAD_READS = 100
_USUAL_STEP_S = 0.04
_TRUSTED_LENGTHS = frozenset(("mov", "mp4", "matroska", "webm", "avi", "flv", "asf", "mxf", "wav"))


class Video:
    """An opened file with its wanted tracks, or a part of it with times from that part's start on.

    Raises:
        ValueError: there is nothing to read in it, or its frames are too large.
    """

    def __init__(
        self, handle: Handle, container: InputContainer, config: MediaConfig,
        part: tuple[float, float] | None = None, grid: Grid | None = None,
    ) -> None:  # fmt: skip
        self.handle = handle
        self.grid = grid
        self.part = part
        self.start_s, end_s = part or (0.0, math.inf)
        self.length_s = end_s - self.start_s
        self.config = config
        self.container = container
        self.name = handle.name
        self.video_track: VideoTrack | None = None
        self.audio_track: AudioTrack | None = None
        self.num_bad_audio = 0
        video, audio, trouble = find_tracks(container)
        if (not config.video or video is None) and (not config.audio or audio is None):
            raise ValueError(
                f"{self.name}: nothing to read: {'; '.join(trouble) or 'the wanted track is switched off'}"
            )
        wanted = {"video": config.video, "audio": config.audio}
        self.trouble = [t for t in trouble if wanted[t.removeprefix("no ").split()[0]]]
        starts = [s for s in (start_of(video), start_of(audio)) if s is not None]
        self.origin_s = min(starts, default=0.0) + self.start_s
        self.video = video if config.video else None
        self.audio = audio if config.audio else None
        if self.video is not None:
            self._set_up_frames(self.video)
        if self.audio is not None:
            self.audio_track = AudioTrack(config.rate_hz, begin_s=-self.start_s, length_s=self.length_s)
        for stream in container.streams:
            if stream not in (self.video, self.audio):
                stream.discard = Discard.all

    @classmethod
    def open(
        cls, source: Any, config: MediaConfig, protocols: Sequence[str],
        part: tuple[float, float] | None = None,
    ) -> "Video":  # fmt: skip
        """The video of a path, an allowed URL or a binary file object."""
        handle = open_handle(source, protocols)
        container = None
        try:
            grid = spread_grid(handle, config, part) if config.frames and config.video else None
            container = open_container(handle, config.max_pixels)
            return cls(handle, container, config, part, grid)
        except BaseException:
            if container is not None:
                container.close()
            handle.close()
            raise

    @property
    def duration_s(self) -> float | None:
        """What the header says, true or not."""
        if self.container.duration is None:
            return None
        return max(0.0, min(self.container.duration / 1e6 - self.start_s, self.length_s))

    def close(self) -> None:
        """Frees the decoders and the file."""
        self.container.close()
        self.handle.close()

    def items(self) -> Iterator[Frames | Audio | str]:
        """Frames and audio in the file's order; a text is a warning.

        Raises:
            OSError: the bytes stopped coming; what came before was given.
            ValueError: nothing could be decoded at all.
        """
        for text in self.trouble:
            yield f"{self.name}: {text}; the rest is read"
        for packet in self._packets():
            if self.video_track is not None and packet.stream_index == self.video_track.stream.index:
                yield from self.video_track.push(packet)
            else:
                yield from self._hear(packet)
            if self.part and self._done():
                break
        if self.handle.stop.is_set():
            return
        if self.video_track is not None:
            yield from self.video_track.finish()
        if self.audio_track is not None:
            yield from self._hear(None)
            yield from self.audio_track.finish()
        self.handle.raise_failure(
            f"reading failed at {self._end_s():.1f} s; what came before was given, try again"
        )
        yield from self._complaints()

    def _set_up_frames(self, video: av.VideoStream) -> None:
        config, where = self.config, f"{self.name}: video track {video.index} ({video.codec_context.name})"
        if video.width * video.height > config.max_pixels:
            raise too_large(where, video.width, video.height, config.max_pixels)
        context = video.codec_context
        context.thread_count = config.threads
        context.thread_type = "AUTO"
        if config.decode != "exact":
            context.skip_frame = "NONREF" if config.decode == "nonref" else "NONKEY"
        rate = average_rate(video)
        tick_s = float(video.time_base or 1e-6)
        aspect = float(video.sample_aspect_ratio or 1)
        tolerance_s = min(tick_s / 2, 1e-3)
        sampler = FrameSampler(
            config, where, tolerance_s=tolerance_s, pixel_aspect=aspect, length_s=self.length_s,
            grid=self.grid,
        )  # fmt: skip
        step_s = 1.0 / rate if rate else _USUAL_STEP_S
        clock = Clock(tick_s, self.origin_s, step_s, begin_s=-self.start_s)
        self.video_track = VideoTrack(video, sampler, clock)

    def _packets(self) -> Iterator[av.Packet]:
        """All packets of the wanted tracks; damaged stretches are stepped over."""
        wanted = [s for s in (self.video, self.audio) if s is not None]
        self.read_error = ""
        for _ in range(_BAD_READS):
            try:
                for packet in self.container.demux(wanted):
                    if self.handle.stop.is_set():
                        return
                    if packet.size:
                        yield packet
                return
            except IndexError:  # PyAV (18.1) at the end of a file in which further tracks turned up
                return
            except av.FFmpegError as error:
                self.read_error = str(error)
            if self.handle.failure is not None or self.handle.stop.is_set():
                return

    def _hear(self, packet: av.Packet | None) -> Iterator[Audio]:
        if self.audio is None or self.audio_track is None:
            return
        try:
            frames = self.audio.codec_context.decode(packet)
        except av.FFmpegError:
            self.num_bad_audio += 1
            return
        tick_s = float(self.audio.time_base or 1 / self.audio.sample_rate)
        for frame in frames:
            stamp = frame.pts
            time_s = None if stamp is None else round(stamp * tick_s - self.origin_s, 9)
            yield from self.audio_track.push(frame, time_s)

    def _done(self) -> bool:
        """Whether all that is wanted was given."""
        sampler = self.video_track is None or self.video_track.sampler.done
        return sampler and (self.audio_track is None or self.audio_track.done)

    def _end_s(self) -> float:
        """Seconds of the media until which it was read."""
        ends = [-self.start_s]
        if self.video_track is not None:
            sampler = self.video_track.sampler
            ends += [self.video_track.end_s, sampler.end_s if sampler.num_given else self.video_track.end_s]
        if self.audio_track is not None:
            ends += [self.audio_track.end_s if self.audio_track.num_given else self.audio_track.reached_s]
        return self.start_s + max(ends)

    def _complaints(self) -> Iterator[str]:
        """What was wrong, or the error if nothing was right."""
        found = list(self._found())
        video_track, audio_track = self.video_track, self.audio_track
        if not (video_track and video_track.sampler.num_given) and not (
            audio_track and audio_track.num_given
        ):
            if self.part and self._end_s() > 0:
                raise ValueError(
                    f"{self.name}: there is nothing in its part from {self.part[0]:g} to {self.part[1]:g} s; "
                    f"the media ends at {self._end_s():.1f} s"
                )
            raise ValueError(
                f"{self.name}: nothing could be decoded: {'; '.join(found) or 'there are no packets'}"
            )
        yield from (f"{self.name}: {text}" for text in found)

    def _found(self) -> Iterator[str]:
        video_track, audio_track, end_s = self.video_track, self.audio_track, self._end_s()
        if self.read_error:
            yield f"damaged at or before {end_s:.1f} s: {self.read_error}"
        if video_track is not None:
            what = f"video track {video_track.stream.index}"
            if not video_track.sampler.num_given:
                yield f"{what} gave no frame"
            if video_track.num_bad:
                at_s = self.start_s + (video_track.first_bad_s or 0.0)
                yield f"{what}: {video_track.num_bad} packets were lost, first at {at_s:.1f} s"
            if video_track.sampler.num_bad:
                yield f"{what}: {video_track.sampler.num_bad} frames could not be scaled"
            wanted, given = self.config.frames, video_track.sampler.num_given
            if given < wanted and self.config.decode == "exact":
                yield f"{what} gave {given} of {wanted} frames; it could not be decoded up to its last one"
            if video_track.num_inexact:
                yield f"{what}: a key frame did not stand by itself; a frame before it may be missing"
            if complaint := video_track.clock.complaint():
                yield f"{what}: {complaint}"
        if audio_track is not None and self.audio is not None:
            what = f"audio track {self.audio.index}"
            if not audio_track.num_given:
                yield f"{what} gave no audio"
            if num_bad := self.num_bad_audio + audio_track.num_bad:
                yield f"{what}: {num_bad} packets were lost"
            if complaint := audio_track.complaint():
                yield f"{what}: {complaint}"
        header_s = (self.container.duration or 0) / 1e6
        if (
            self.part is None
            and _TRUSTED_LENGTHS & set(self.container.format.name.split(","))
            and abs(header_s - end_s) > max(1.0, 0.01 * header_s)
        ):
            yield f"the header says {header_s:.1f} s, the media ends at {end_s:.1f} s"


def spread_grid(handle: Handle, config: MediaConfig, part: tuple[float, float] | None) -> Grid | None:
    """The instants of `MediaConfig.frames` by the packets of a file, whatever its header says; None without
    frames.

    Raises:
        ValueError: the file can't be read twice.
    """
    if not handle.seekable():
        raise ValueError(
            f"{handle.name}: frames = {config.frames} are spread over a whole video, whose end isn't known of "
            "a source that can be read but once; save it to a file, or set frames to 0 and use rate_fps"
        )
    start_s, end_s = part or (0.0, math.inf)
    with open_container(handle, config.max_pixels) as container:
        span = video_span(container, start_s, end_s - start_s)
    return span and Grid.spread(config, span)
