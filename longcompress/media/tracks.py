"""The tracks of a file: packets in; frames and audio out, in the order of the packets.

Video decodes in a thread beside the one that reads the file and decodes audio, so both cores of a small
machine have work. Each part comes at the place that its packet has, however the threads ran.
"""

from collections.abc import Iterable, Iterator

import av

from ..types import Audio, Frames
from .audio import AudioTrack
from .frames import VideoTrack
from .side_thread import SideThread
from .source import Handle

_MAX_ITEMS = 64  # that are handed to the side thread at once
_MAX_AHEAD = 4  # times that many may be

# A packet of video, decoded audio or None (the end), and the time before which no audio comes behind it.
_Item = tuple[av.Packet | Audio | None, float]
_Result = tuple[Frames | Audio, dict[str, float]]  # a part, and what is reached with it


class Tracks:
    """Decodes the packets of a video track, an audio track, or both.

    Args:
        video: the video track.
        audio: the audio track, its stream, and the time of its stamp 0.
        handle: the file's; one that can be read only once may be live, and nothing waits for a thread.
    """

    def __init__(
        self, video: VideoTrack | None, audio: AudioTrack | None, stream: av.AudioStream | None,
        origin_s: float, handle: Handle,
    ) -> None:  # fmt: skip
        self.video, self.audio, self._stream, self._origin_s = video, audio, stream, origin_s
        self._video_index = -1 if video is None else video.stream.index
        self._tick_s = 0.0 if stream is None else float(stream.time_base or 1 / stream.sample_rate)
        has_thread = video is not None and audio is not None and handle.seekable()
        self._side: SideThread[_Result] = SideThread(has_thread * _MAX_AHEAD)
        self._max_items = _MAX_ITEMS if has_thread else 1
        self._items: list[_Item] = []
        self._has_new_video = False  # since `join`; the last wanted frame may be in it
        self._time_s, self._stop = 0.0, handle.stop
        # Modality -> the time before which none of it comes any more, as of the part that came last.
        self.reached_s: dict[str, float] = {}

    def push(self, packet: av.Packet, time_s: float) -> Iterable[Frames | Audio]:
        """The parts that are there, not all of which this packet completed; to be taken before the next."""
        self._time_s = time_s
        if packet.stream_index == self._video_index:
            self._add([packet])
            self._has_new_video = True
            if self.audio is not None:
                self._add(self.audio.pause(time_s))
        else:
            self._decode(packet)
        return self._put() if len(self._items) >= self._max_items else ()

    def join(self) -> Iterator[Frames | Audio]:
        """All parts of the packets that came; then the video track is this thread's until the next packet."""
        yield from self._put()
        yield from self._parts(self._side.take())
        self._has_new_video = False

    def finish(self) -> Iterator[Frames | Audio]:
        """All that the decoders, the sampler and the resampler hold."""
        self._add([None])
        if self.audio is not None:
            self._decode(None)
            self._add(self.audio.finish())
        yield from self.join()

    @property
    def may_be_done(self) -> bool:
        """Whether all wanted parts may have come: of audio they have, of video `join` tells."""
        if self.audio is not None and not self.audio.done:
            return False
        return self._has_new_video if self._side.num_ahead else self.done

    @property
    def done(self) -> bool:
        """Whether all wanted parts have come; right behind `join`."""
        return (self.video is None or self.video.sampler.done) and (self.audio is None or self.audio.done)

    def close(self) -> None:
        """End the thread."""
        self._side.close()

    def _put(self) -> Iterator[Frames | Audio]:
        """Hand over what waits."""
        items, self._items = self._items, []
        yield from self._parts(self._side.put(self._take(items)))

    def _parts(self, results: Iterator[_Result]) -> Iterator[Frames | Audio]:
        for part, reached_s in results:
            self.reached_s = reached_s
            yield part

    def _take(self, items: list[_Item]) -> Iterator[_Result]:
        """Parts, and what is reached with each; in the side thread, which has the video track."""
        for item, audio_s in items:
            if isinstance(item, Audio):
                yield item, self._reached(audio_s)
            elif self.video is not None and not self._stop.is_set():
                for frames in self.video.finish() if item is None else self.video.push(item):
                    yield frames, self._reached(audio_s)

    def _reached(self, audio_s: float) -> dict[str, float]:
        reached_s = {} if self.video is None else {"video": self.video.sampler.reached_s}
        return reached_s if self.audio is None else {**reached_s, "audio": audio_s}

    def _decode(self, packet: av.Packet | None) -> None:
        assert self._stream is not None and self.audio is not None
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.FFmpegError:
            self.audio.num_bad += 1
            return
        for frame in frames:
            time_s = None if frame.pts is None else round(frame.pts * self._tick_s - self._origin_s, 9)
            self._add(self.audio.push(frame, time_s))

    def _add(self, items: Iterable[av.Packet | Audio | None]) -> None:
        """Items take their places as they come."""
        for item in items:
            self._items.append((item, 0.0 if self.audio is None else self.audio.given_until_s(self._time_s)))
