"""One pass over an opened file: its packets to its tracks, and the account of what was wrong with it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard

from .config import MediaConfig
from .media_open import Handle, open_container, open_handle
from .media_pictures import Clock, Grid, Pictures, PictureTrack, too_large
from .media_probe import average_rate, find_tracks, picture_span, start_of
from .media_sound import SoundTrack
from .types import Frames, Sound

_BAD_READS = 100
_USUAL_STEP_S = 0.04
_TRUSTED_LENGTHS = frozenset(("mov", "mp4", "matroska", "webm", "avi", "flv", "asf", "mxf", "wav"))


class Film:
    """An opened file with its wanted tracks, or a part of it with times from that part's start on.

    Raises:
        ValueError: there is nothing to read in it, or its pictures are too large.
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
        self.picture: PictureTrack | None = None
        self.sound: SoundTrack | None = None
        self.num_bad_sound = 0
        video, audio, trouble = find_tracks(container)
        if (not config.pictures or video is None) and (not config.sound or audio is None):
            raise ValueError(
                f"{self.name}: nothing to read: {'; '.join(trouble) or 'the wanted track is switched off'}"
            )
        wanted = {"picture": config.pictures, "sound": config.sound}
        self.trouble = [t for t in trouble if wanted[t.removeprefix("no ").split()[0]]]
        starts = [s for s in (start_of(video), start_of(audio)) if s is not None]
        self.origin_s = min(starts, default=0.0) + self.start_s
        self.video = video if config.pictures else None
        self.audio = audio if config.sound else None
        if self.video is not None:
            self._set_up_pictures(self.video)
        if self.audio is not None:
            self.sound = SoundTrack(config.rate_hz, begin_s=-self.start_s, length_s=self.length_s)
        for stream in container.streams:
            if stream not in (self.video, self.audio):
                stream.discard = Discard.all

    @classmethod
    def open(
        cls, source: Any, config: MediaConfig, protocols: Sequence[str],
        part: tuple[float, float] | None = None,
    ) -> "Film":  # fmt: skip
        """The film of a path, an allowed URL or a binary file object."""
        handle = open_handle(source, protocols)
        container = None
        try:
            grid = spread_grid(handle, config, part) if config.frames and config.pictures else None
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

    def items(self) -> Iterator[Frames | Sound | str]:
        """Pictures and sound in the file's order; a text is a warning.

        Raises:
            OSError: the bytes stopped coming; what came before was given.
            ValueError: nothing could be decoded at all.
        """
        for text in self.trouble:
            yield f"{self.name}: {text}; the rest is read"
        for packet in self._packets():
            if self.picture is not None and packet.stream_index == self.picture.stream.index:
                yield from self.picture.push(packet)
            else:
                yield from self._hear(packet)
            if self.part and self._done():
                break
        if self.handle.stop.is_set():
            return
        if self.picture is not None:
            yield from self.picture.finish()
        if self.sound is not None:
            yield from self._hear(None)
            yield from self.sound.finish()
        self.handle.raise_failure(
            f"reading failed at {self._end_s():.1f} s; what came before was given, try again"
        )
        yield from self._complaints()

    def _set_up_pictures(self, video: av.VideoStream) -> None:
        config, where = self.config, f"{self.name}: picture track {video.index} ({video.codec_context.name})"
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
        pictures = Pictures(
            config, where, tolerance_s=tolerance_s, pixel_aspect=aspect, length_s=self.length_s,
            grid=self.grid,
        )  # fmt: skip
        step_s = 1.0 / rate if rate else _USUAL_STEP_S
        clock = Clock(tick_s, self.origin_s, step_s, begin_s=-self.start_s)
        self.picture = PictureTrack(video, pictures, clock)

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

    def _hear(self, packet: av.Packet | None) -> Iterator[Sound]:
        if self.audio is None or self.sound is None:
            return
        try:
            frames = self.audio.codec_context.decode(packet)
        except av.FFmpegError:
            self.num_bad_sound += 1
            return
        tick_s = float(self.audio.time_base or 1 / self.audio.sample_rate)
        for frame in frames:
            stamp = frame.pts
            time_s = None if stamp is None else round(stamp * tick_s - self.origin_s, 9)
            yield from self.sound.push(frame, time_s)

    def _done(self) -> bool:
        """Whether all that is wanted was given."""
        pictures = self.picture is None or self.picture.pictures.done
        return pictures and (self.sound is None or self.sound.done)

    def _end_s(self) -> float:
        """Seconds of the media until which it was read."""
        ends = [-self.start_s]
        if self.picture is not None:
            pictures = self.picture.pictures
            ends += [self.picture.end_s, pictures.end_s if pictures.num_given else self.picture.end_s]
        if self.sound is not None:
            ends += [self.sound.end_s if self.sound.num_given else self.sound.reached_s]
        return self.start_s + max(ends)

    def _complaints(self) -> Iterator[str]:
        """What was wrong, or the error if nothing was right."""
        found = list(self._found())
        picture, sound = self.picture, self.sound
        if not (picture and picture.pictures.num_given) and not (sound and sound.num_given):
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
        picture, sound, end_s = self.picture, self.sound, self._end_s()
        if self.read_error:
            yield f"damaged at or before {end_s:.1f} s: {self.read_error}"
        if picture is not None:
            what = f"picture track {picture.stream.index}"
            if not picture.pictures.num_given:
                yield f"{what} gave no picture"
            if picture.num_bad:
                at_s = self.start_s + (picture.first_bad_s or 0.0)
                yield f"{what}: {picture.num_bad} packets were lost, first at {at_s:.1f} s"
            if picture.pictures.num_bad:
                yield f"{what}: {picture.pictures.num_bad} pictures could not be scaled"
            wanted, given = self.config.frames, picture.pictures.num_given
            if given < wanted and self.config.decode == "exact":
                yield f"{what} gave {given} of {wanted} pictures; it could not be decoded up to its last one"
            if picture.num_inexact:
                yield f"{what}: a key frame did not stand by itself; a picture before it may be missing"
            if complaint := picture.clock.complaint():
                yield f"{what}: {complaint}"
        if sound is not None and self.audio is not None:
            what = f"sound track {self.audio.index}"
            if not sound.num_given:
                yield f"{what} gave no sound"
            if num_bad := self.num_bad_sound + sound.num_bad:
                yield f"{what}: {num_bad} packets were lost"
            if complaint := sound.complaint():
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
    pictures.

    Raises:
        ValueError: the file can't be read twice.
    """
    if not handle.seekable():
        raise ValueError(
            f"{handle.name}: frames = {config.frames} are spread over a whole film, whose end isn't known of "
            "a source that can be read but once; save it to a file, or set frames to 0 and use rate_fps"
        )
    start_s, end_s = part or (0.0, math.inf)
    with open_container(handle, config.max_pixels) as container:
        span = picture_span(container, start_s, end_s - start_s)
    return span and Grid.spread(config, span)
