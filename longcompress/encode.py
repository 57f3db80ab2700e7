"""The only loop from media to segments: parts of a video -> encoder streams -> segmenter -> segments.

Files, live input, benchmarks, synthetic clips and shards all run through `SegmentEncoder`. Its state is
bounded, and the segments don't depend on how the input was cut into parts.
"""

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .compression.segmenter import Segmenter
from .encoders import Stream, VisionEncoder
from .media import fit_pixels
from .model import LongCompress
from .types import Audio, Encoded, Frames, Segment

PATIENCE_S = 120.0  # a stream that lags behind another by more is taken to be silent until then
SAME_S = 1e-3  # a part that begins so much before the end of the part before still follows it


class SegmentEncoder:
    """Parts of media in, closed segments out.

    Args:
        model: whose encoders run; its config says where segments end.
        media: what will come, of "video" and "audio" (which feeds every audio encoder); None: all that the
            model takes in.

    Raises:
        ValueError: the model takes in none of `media`.
    """

    def __init__(self, model: LongCompress, media: Sequence[str] | None = None) -> None:
        known = model.media
        media = known if media is None else tuple(media)
        if not media or set(media) - set(known):
            raise ValueError(f"media must be some of {known}, which the model takes in, got {media}")
        self.config = model.config
        encoders = {n: e for n, e in model.encoders.items() if e.modality in media}
        self._streams = {name: Stream(encoder) for name, encoder in encoders.items()}
        self._segmenter = Segmenter(model.config.segments, tuple(encoders))
        self._end_s: dict[str, float] = {}
        self.num_reused = 0  # frames that took the features of the frame before
        self.encode_s = 0.0  # seconds spent in encoders

    @property
    def streams(self) -> tuple[str, ...]:
        """Streams that come out, in the model's order."""
        return tuple(self._streams)

    @property
    def media(self) -> tuple[str, ...]:
        """What comes in, of "video" and "audio"."""
        return tuple(dict.fromkeys(stream.encoder.modality for stream in self._streams.values()))

    @property
    def end_s(self) -> float:
        """Until when anything has come."""
        return max(self._end_s.values(), default=0.0)

    @property
    def num_pending(self) -> int:
        """Frames and samples that wait for their block to be encoded."""
        return sum(stream.num_pending for stream in self._streams.values())

    def end_of(self, modality: str) -> float:
        """Until when media of this modality has come."""
        return max((self._end_s.get(name, 0.0) for name in self._fed_by(modality)), default=0.0)

    def overlap_s(self, part: Frames | Audio) -> float:
        """Seconds by which `part` begins before the end of what came already; 0 if it follows."""
        tolerance_s = SAME_S + (part.step_s if isinstance(part, Frames) else 0.0)
        overlap_s = self.end_of(part.modality) - part.start_s
        return overlap_s if overlap_s > tolerance_s else 0.0

    def push(self, part: Frames | Audio) -> list[Segment]:
        """The segments that are closed now. `part` follows what was pushed before of its modality.

        Raises:
            ValueError: audio of another sample rate than the encoders take.
        """
        names = self._fed_by(part.modality)
        if not names or not len(part):
            return []
        end_s = part.end_s
        if isinstance(part, Frames):
            part = Frames(fit_pixels(part.pixels, self.config.media), part.time_s, part.step_s)
        else:
            self._check_rate(part, names)
        # one track may feed two streams: audio goes to "audio" and "speech"
        segments: list[Segment] = []
        for name in names:
            self._end_s[name] = max(end_s, self._end_s.get(name, 0.0))
            segments += self._segment(name, self._encode(name, part))
        # a stream that lags far behind holds every segment open: take it to be silent
        silent_s = end_s - PATIENCE_S
        for name in self._streams:
            if name not in names and self._end_s.get(name, 0.0) < silent_s:
                self._end_s[name] = silent_s
                segments += self._segmenter.advance(name, silent_s)
        return segments

    def advance(self, time_s: float) -> list[Segment]:
        """The segments closed by the news that nothing older than time_s will come of any stream."""
        segments: list[Segment] = []
        for name in self._streams:
            if self._end_s.get(name, 0.0) < time_s:  # what waits for its block won't get company in time
                segments += self._segment(name, self._encode(name))
                self._end_s[name] = time_s
                segments += self._segmenter.advance(name, time_s)
        return segments

    def flush(self) -> list[Segment]:
        """All that waits, encoded and closed as at the end of the video."""
        segments = [s for name in self._streams for s in self._segment(name, self._encode(name))]
        return segments + self._segmenter.flush()

    def copy(self) -> "SegmentEncoder":
        """An independent copy; encoders and tensors are shared, for nothing here writes into them."""
        twin = copy.copy(self)
        twin._streams = {name: stream.copy() for name, stream in self._streams.items()}
        twin._segmenter, twin._end_s = self._segmenter.copy(), dict(self._end_s)
        return twin

    def state(self) -> dict[str, Any]:
        """All but model and configuration, for `set_state`."""
        return {
            "streams": {name: stream.state() for name, stream in self._streams.items()},
            "segmenter": self._segmenter.state(), "end_s": dict(self._end_s), "num_reused": self.num_reused,
        }  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, stream in self._streams.items():
            stream.set_state(state["streams"][name])
        self._segmenter.set_state(state["segmenter"])
        self._end_s, self.num_reused = dict(state["end_s"]), state["num_reused"]

    def _fed_by(self, modality: str) -> list[str]:
        return [name for name, stream in self._streams.items() if stream.encoder.modality == modality]

    def _check_rate(self, part: Audio, names: Sequence[str]) -> None:
        encoders = [self._streams[name].encoder for name in names]
        rates = {encoder.rate_hz for encoder in encoders if not isinstance(encoder, VisionEncoder)}
        if rates != {part.rate_hz}:
            raise ValueError(
                f"audio must come at {', '.join(map(str, rates))} samples a second, got {part.rate_hz}; "
                f"resample it, or read the source with longcompress.media.read, which does"
            )

    def _encode(self, name: str, part: Frames | Audio | None = None) -> list[Encoded]:
        """What a stream gives for `part`, or what it still holds back (None)."""
        start = time.perf_counter()
        stream = self._streams[name]
        encoded = stream.flush() if part is None else stream.push(part)
        self.encode_s += time.perf_counter() - start
        self.num_reused += sum(e.reused for e in encoded)
        return encoded

    def _segment(self, name: str, encoded: Iterable[Encoded]) -> list[Segment]:
        return [segment for e in encoded for segment in self._segmenter.push(name, e)]


def segments_of(
    model: LongCompress, parts: Iterable[Frames | Audio], media: Sequence[str] | None = None
) -> tuple[list[Segment], float]:
    """(all segments of a video, its seconds); nothing is merged, so this grows with the video.

    Args:
        model: its encoders and where it cuts.
        parts: frames and audio as `media.read` gives them.
        media: as for SegmentEncoder.
    """
    encoder = SegmentEncoder(model, media)
    segments = [segment for part in parts for segment in encoder.push(part)]
    return segments + encoder.flush(), encoder.end_s


def segments_of_encoded(model: LongCompress, streams: Mapping[str, Encoded]) -> list[Segment]:
    """All segments of a video whose streams are encoded already, as other projects publish features."""
    segmenter = Segmenter(model.config.segments, tuple(streams))
    segments = [segment for name, encoded in streams.items() for segment in segmenter.push(name, encoded)]
    return segments + segmenter.flush()
