"""The only loop from media to segments: parts of a video -> encoder streams -> segmenter -> segments.

Files, live input, benchmarks, synthetic clips and shards all run through `SegmentEncoder`. Its state is
bounded, and the segments don't depend on how the input was cut into parts.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .compression.segmenter import Segmenter
from .encoders import Stream
from .media import fit_pixels
from .model import LongCompress
from .threads import single_thread, threads_for
from .types import Audio, Encoded, Frames, Segment

PATIENCE_S = 120.0  # live media that lag behind others by more are taken to be silent until then
SAME_S = 1e-3  # media that begin so much before the end of what came still follow it
GAP_S = {"video": 60.0, "audio": 2e-3}  # a longer silence ends the block that waits, whoever tells of it


class SegmentEncoder:
    """Parts of media in, closed segments out.

    Args:
        model: whose encoders run; its config says where segments end.
        media: what will come, of "video" and "audio" (which feeds every audio encoder); None: all that the
            model takes in.
        patience_s: media that lag behind others by more are taken to be silent until then; infinite where
            the source says how far each track has come (`reach`).
        tap: called with a stream's name and each part of what its encoder gives, before it is segmented.
            With it video is encoded a token's frames at a time.

    Raises:
        ValueError: the model takes in none of `media`.
    """

    def __init__(
        self,
        model: LongCompress,
        media: Sequence[str] | None = None,
        patience_s: float = math.inf,
        tap: Callable[[str, Encoded], object] | None = None,
    ) -> None:
        known = model.media
        media = known if media is None else tuple(media)
        if not media or set(media) - set(known):
            raise ValueError(f"media must be some of {known}, which the model takes in, got {media}")
        self.config = model.config
        encoders = {n: e for n, e in model.encoders.items() if e.modality in media}
        if tap is not None and "video" in encoders:
            encoders["video"] = copy.copy(encoders["video"])  # its weights are shared
            encoders["video"].block = encoders["video"].frames_per_token
        self._tap = tap
        self._streams = {name: Stream(encoder) for name, encoder in encoders.items()}
        self._segmenter = Segmenter(model.config.segments, tuple(encoders))
        self.patience_s = patience_s
        # Modality -> start of its last frame or sample, end of what came, and the time before which nothing
        # comes any more.
        self._last_s: dict[str, float] = {}
        self._end_s: dict[str, float] = {}
        self._reached_s: dict[str, float] = {}
        self.read_s: dict[str, float] = {}  # modality -> seconds of frames or samples that came
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

    def last_s(self, modality: str) -> float:
        """Start of the last frame, or end of the audio, that came; -infinity before any."""
        return self._last_s.get(modality, -math.inf)

    def end(self, end_s: float) -> None:
        """The media ended at end_s, within the time that its last frame stands for."""
        self._end_s = {modality: min(old_s, end_s) for modality, old_s in self._end_s.items()}

    def end_of(self, modality: str) -> float:
        """Until when media of this modality have come."""
        return self._end_s.get(modality, 0.0)

    def num_late(self, part: Frames | Audio) -> int:
        """Frames or samples at the beginning of `part` that come too late: after later ones, or after a time
        until which their modality was taken to be silent."""
        reached_s = self._reached_s.get(part.modality, 0.0) - SAME_S
        if isinstance(part, Frames):  # a frame may come before the one before has been shown for its step
            late = (part.time_s < reached_s) | (part.time_s <= self.last_s("video"))
            return int(late.sum())
        bound_s = max(reached_s, self.end_of("audio") - SAME_S)
        return min(len(part), max(0, math.ceil((bound_s - part.start_s) * part.rate_hz)))

    def push(self, part: Frames | Audio) -> list[Segment]:
        """The segments that are closed now. `part` follows what was pushed before of its modality.

        Raises:
            ValueError: audio of another sample rate than the encoders take.
        """
        names = self._fed_by(part.modality)
        if not names or not len(part):
            return []
        end_s = part.end_s
        self._last_s[part.modality] = float(part.time_s[-1]) if isinstance(part, Frames) else end_s
        self._end_s[part.modality] = max(end_s, self.end_of(part.modality))
        length_s = len(part) * part.step_s if isinstance(part, Frames) else len(part) / part.rate_hz
        self.read_s[part.modality] = self.read_s.get(part.modality, 0.0) + length_s
        if isinstance(part, Frames):
            part = Frames(fit_pixels(part.pixels, self.config.media), part.time_s, part.step_s)
        else:
            self.check_rate(part)
        # one track may feed two streams: audio goes to "audio" and "speech"
        segments = [segment for name in names for segment in self._segment(name, self._encode(name, part))]
        # live media that lag far behind hold every segment open: take them to be silent
        for modality in self.media:
            if modality != part.modality:
                segments += self.reach(modality, end_s - self.patience_s)
        return segments

    def reach(self, modality: str, time_s: float) -> list[Segment]:
        """The segments closed by the news that nothing of a modality before time_s comes any more."""
        if time_s <= self._reached_s.get(modality, 0.0):
            return []
        self._reached_s[modality] = time_s
        # unless there is a gap, what waits for its block gets company
        return self._end_block(modality, time_s) if time_s > self.end_of(modality) + GAP_S[modality] else []

    def advance(self, time_s: float) -> list[Segment]:
        """The segments closed by the news that the video has come to time_s, and nothing before comes."""
        segments: list[Segment] = []
        for modality in self.media:
            if self.end_of(modality) < time_s:
                segments += self._end_block(modality, time_s)
                self._end_s[modality] = self._reached_s[modality] = time_s
        return segments

    def pass_by(self, time_s: float) -> list[Segment]:
        """The segments closed by the news that the video has come to time_s, where a step ends: blocks go on
        waiting for what follows, unless there is a gap."""
        segments: list[Segment] = []
        for name, stream in self._streams.items():
            modality = stream.encoder.modality
            has_gap = modality == "audio" and time_s > self.end_of(modality) + GAP_S[modality]
            if has_gap and stream.num_pending:
                segments += self._segment(name, self._encode(name))
            if not stream.num_pending:
                segments += self._segmenter.advance(name, time_s - SAME_S)
        return segments

    def early(self) -> dict[str, Encoded]:
        """Stream -> tokens of the audio that waits for its block, encoded as if nothing followed; changes
        nothing."""
        start, out = time.perf_counter(), {}
        for name, stream in self._streams.items():
            if stream.encoder.modality == "audio" and stream.num_pending:
                with threads_for(stream.encoder):
                    parts = [part for part in stream.copy().flush() if len(part)]
                if parts:
                    out[name] = Encoded.join(parts)
        self.encode_s += time.perf_counter() - start
        return out

    def flush(self) -> list[Segment]:
        """All that waits, encoded and closed as at the end of the video."""
        segments = [s for name in self._streams for s in self._segment(name, self._encode(name))]
        return segments + self._segmenter.flush()

    def copy(self) -> "SegmentEncoder":
        """An independent copy; encoders and tensors are shared, for nothing here writes into them."""
        twin = copy.copy(self)
        twin._tap = None
        twin._streams = {name: stream.copy() for name, stream in self._streams.items()}
        twin._segmenter, twin._end_s = self._segmenter.copy(), dict(self._end_s)
        twin._last_s, twin._reached_s = dict(self._last_s), dict(self._reached_s)
        twin.read_s = dict(self.read_s)
        return twin

    def state(self) -> dict[str, Any]:
        """All but model and configuration, for `set_state`."""
        return {
            "streams": {name: stream.state() for name, stream in self._streams.items()},
            "segmenter": self._segmenter.state(), "last_s": dict(self._last_s), "end_s": dict(self._end_s),
            "reached_s": dict(self._reached_s), "read_s": dict(self.read_s),
            "patience_s": self.patience_s, "num_reused": self.num_reused,
        }  # fmt: skip

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, stream in self._streams.items():
            stream.set_state(state["streams"][name])
        self._segmenter.set_state(state["segmenter"])
        self._last_s, self._end_s = dict(state["last_s"]), dict(state["end_s"])
        self._reached_s, self.patience_s = dict(state["reached_s"]), state["patience_s"]
        self.read_s = dict(state["read_s"])
        self.num_reused = state["num_reused"]

    def _fed_by(self, modality: str) -> list[str]:
        return [name for name, stream in self._streams.items() if stream.encoder.modality == modality]

    def check_rate(self, part: Audio) -> None:
        """ValueError for audio of another sample rate than the encoders take."""
        encoders: list[Any] = [self._streams[name].encoder for name in self._fed_by("audio")]
        rates = {encoder.rate_hz for encoder in encoders}
        if rates != {part.rate_hz}:
            raise ValueError(
                f"audio must come at {', '.join(map(str, rates))} samples a second, got {part.rate_hz}; "
                f"resample it, or read the source with longcompress.media.read, which does"
            )

    def _encode(self, name: str, part: Frames | Audio | None = None) -> list[Encoded]:
        """What a stream gives for `part`, or what it still holds back (None)."""
        start = time.perf_counter()
        stream = self._streams[name]
        with threads_for(stream.encoder):
            encoded = stream.flush() if part is None else stream.push(part)
        self.encode_s += time.perf_counter() - start
        self.num_reused += sum(e.reused for e in encoded)
        return encoded

    def _end_block(self, modality: str, time_s: float) -> list[Segment]:
        """The segments closed when all that waits is encoded, and nothing before time_s follows it."""
        segments: list[Segment] = []
        for name in self._fed_by(modality):
            segments += self._segment(name, self._encode(name))
            segments += self._segmenter.advance(name, time_s - SAME_S)
        return segments

    @single_thread()
    def _segment(self, name: str, encoded: Iterable[Encoded]) -> list[Segment]:
        segments: list[Segment] = []
        for part in encoded:
            if self._tap is not None:
                self._tap(name, part)
            segments += self._segmenter.push(name, part)
        return segments


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
