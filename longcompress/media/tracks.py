"""The tracks of a file: packets in; frames and audio out, in the order of the packets.

Audio decodes in a thread beside video, in turns of a second, so both cores of a small machine have work. Each
part comes at the place that its packet has, however the threads ran.
"""

from collections.abc import Iterator
from typing import NamedTuple

import av

from ..types import Audio, Frames
from .audio import AudioTrack
from .frames import VideoTrack
from .side_thread import SideThread

_MAX_TURNS = 64  # packets that are handed to the side thread at once
_MAX_AHEAD = 4  # times that many packets may be

_Result = tuple[Frames | Audio, dict[str, float]]  # a part, and what is reached with it


class _Turn(NamedTuple):
    """What the audio track is told of a packet: of its own track, or that another one's came."""

    time_s: float  # until when all packets were taken in
    video_s: float  # before which no frame will be returned any more
    packet: av.Packet | None = None
    frames: Frames | None = None  # that come at this place
    is_last: bool = False


class Tracks:
    """Decodes the packets of a video track, an audio track, or both.

    Args:
        video: the video track.
        audio: the audio track, its stream, and the time of its stamp 0.
        is_live: nothing may wait for a thread.
    """

    def __init__(
        self, video: VideoTrack | None, audio: AudioTrack | None, stream: av.AudioStream | None,
        origin_s: float, is_live: bool,
    ) -> None:  # fmt: skip
        self.video, self.audio, self._stream, self._origin_s = video, audio, stream, origin_s
        self._tick_s = 0.0 if stream is None else float(stream.time_base or 1 / stream.sample_rate)
        has_thread = video is not None and audio is not None and not is_live
        self._side: SideThread[_Result] = SideThread(has_thread * _MAX_AHEAD)
        self._max_turns = _MAX_TURNS if has_thread else 1
        self._turns: list[_Turn] = []
        self._time_s = 0.0
        # Modality -> the time before which none of it comes any more, as of the part that came last.
        self.reached_s: dict[str, float] = {}

    def push(self, packet: av.Packet, time_s: float) -> Iterator[Frames | Audio]:
        """The parts that are there, not all of which this packet completed."""
        self._time_s = time_s
        is_video = self.video is not None and packet.stream_index == self.video.stream.index
        if self.video is not None and is_video:
            for frames in self.video.push(packet):
                yield from self._put(_Turn(time_s, self._video_s, frames=frames))
        if self.audio is not None:
            yield from self._put(_Turn(time_s, self._video_s, None if is_video else packet))

    def join(self) -> Iterator[Frames | Audio]:
        """All parts of the packets that came; then the audio track is this thread's until the next packet."""
        yield from self._put()
        yield from self._parts(self._side.take())

    def finish(self) -> Iterator[Frames | Audio]:
        """All that the decoders, the sampler and the resampler hold."""
        if self.video is not None:
            for frames in self.video.finish():
                yield from self._put(_Turn(self._time_s, self._video_s, frames=frames))
        if self.audio is not None:
            yield from self._put(_Turn(self._time_s, self._video_s, is_last=True))
        yield from self.join()

    @property
    def is_video_done(self) -> bool:
        """Whether all wanted frames have come."""
        return self.video is None or self.video.sampler.done

    def close(self) -> None:
        """End the thread."""
        self._side.close()

    @property
    def _video_s(self) -> float:
        return 0.0 if self.video is None else self.video.sampler.reached_s

    def _put(self, *turns: _Turn) -> Iterator[Frames | Audio]:
        """Let turns wait for others; with frames, or none, all are taken."""
        self._turns += turns
        if turns and turns[-1].frames is None and len(self._turns) < self._max_turns:
            return
        waiting, self._turns = self._turns, []
        yield from self._parts(self._side.put(self._take(waiting)))

    def _parts(self, results: Iterator[_Result]) -> Iterator[Frames | Audio]:
        for part, reached_s in results:
            self.reached_s = reached_s
            yield part

    def _take(self, turns: list[_Turn]) -> Iterator[_Result]:
        """Parts, and what is reached with each; in the side thread, which has the audio track."""
        for turn in turns:
            for part in self._audio_of(turn) if turn.frames is None else (turn.frames,):
                reached_s = {} if self.video is None else {"video": turn.video_s}
                if self.audio is not None:
                    reached_s["audio"] = self.audio.given_until_s(turn.time_s)
                yield part, reached_s

    def _audio_of(self, turn: _Turn) -> Iterator[Audio]:
        assert self.audio is not None
        if turn.packet is not None or turn.is_last:
            yield from self._decode(turn.packet)
        yield from self.audio.finish() if turn.is_last else self.audio.pause(turn.time_s)

    def _decode(self, packet: av.Packet | None) -> Iterator[Audio]:
        assert self._stream is not None and self.audio is not None
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.FFmpegError:
            self.audio.num_bad += 1
            return
        for frame in frames:
            time_s = None if frame.pts is None else round(frame.pts * self._tick_s - self._origin_s, 9)
            yield from self.audio.push(frame, time_s)
