"""Push frames, audio and text as they come; ask at any moment; bounded for ever. A file is a session fed by
`media`."""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .compression.segmenter import Segmenter
from .compression.state import KINDS, Hold
from .encoders import Stream, VisionEncoder
from .media import reader as media
from .memory import VideoMemory
from .model import LongCompress
from .serialize import pack, unpack
from .types import Answer, Audio, Encoded, Frames, Segment

SNAPSHOT = 1  # format of snapshots
KINDS_OF_MEDIA: dict[type, str] = {Frames: "video", Audio: "audio"}
PATIENCE_S = 120.0  # a stream that lags behind another by more is taken to be silent until then


@dataclass(frozen=True)
class SegmentClosed:
    """A stretch of video went into memory: tokens that came in, tokens held in all after it."""

    index: int
    start_s: float
    end_s: float
    tokens_in: int
    tokens_held: int


@dataclass(frozen=True)
class Dropped:
    """Input that could not be used: what, from where on, why."""

    what: str
    time_s: float
    reason: str


@dataclass(frozen=True)
class Reply:
    """An answer to pushed text: what had been seen by then, the question, the answer."""

    time_s: float
    question: str
    answer: Answer


Happened = SegmentClosed | Dropped | Reply


class Session:
    """A model that compresses.

    Args:
        model: what compresses and answers.
        budget: tokens of the memory at any moment; None: as the model's config says.
        streams: what will come, of "frame" and "audio" (which feeds all streams that hear); None: all that
            the model takes in.
        keep_assignment: remember which raw token went where, for frames of it; this grows with the video.
    """

    def __init__(
        self,
        model: LongCompress,
        budget: int | None = None,
        *,
        streams: Sequence[str] | None = None,
        keep_assignment: bool = False,
    ) -> None:
        self.model = model
        self.budget = model.config.budget.tokens if budget is None else budget
        self.keep_assignment = keep_assignment
        known = media_of(model)
        come = known if streams is None else tuple(streams)
        unknown = sorted(set(come) - set(known))
        if unknown or not come:
            raise ValueError(f"streams must be some of {known}, which the model takes in, got {come}")
        encoders = {n: t for n, t in model.encoders.items() if KINDS_OF_MEDIA[t.takes] in come}
        model.compressor.check(self.budget, list(encoders))
        self._streams = {name: Stream(encoder) for name, encoder in encoders.items()}
        self._segmenter = Segmenter(model.config.segments, tuple(encoders))
        self._hold = Hold()
        self._end_s: dict[str, float] = {}
        self._raw = self._reused = 0
        self._encode_s = self._merge_s = 0.0
        self._closed = False

    def push(self, part: Frames | Audio) -> list[Happened]:
        """Take in frames or audio that follow what came before of their kind; parts of any length."""
        if self._closed:
            raise ValueError("session is closed; make a new one")
        kind = KINDS_OF_MEDIA[type(part)]
        names = self._fed(kind)
        if not names or not len(part):
            return []
        end_s = float(part.time_s[-1]) + part.step_s if isinstance(part, Frames) else part.end_s
        begin_s = float(part.time_s[0]) if isinstance(part, Frames) else part.start_s
        encoders = [self._streams[name].encoder for name in names]
        rates = {encoder.rate_hz for encoder in encoders if not isinstance(encoder, VisionEncoder)}
        if isinstance(part, Audio) and rates != {part.rate_hz}:
            raise ValueError(
                f"audio must come at {', '.join(map(str, rates))} samples a second, got {part.rate_hz}; "
                f"resample it, or read the source with longcompress.media.reader.read, which does"
            )
        late_s = self._end_of(kind) - begin_s
        if late_s > 1e-3 + (part.step_s if isinstance(part, Frames) else 0.0):
            return [Dropped(kind, begin_s, f"late: {late_s:.3f} s before the end of what came already")]
        if isinstance(part, Frames):
            part = Frames(media.fit_pixels(part.pixels, self.model.config.media), part.time_s, part.step_s)
        out: list[Happened] = []
        for name in names:
            self._end_s[name] = max(end_s, self._end_s.get(name, 0.0))
            out += self._take(name, self._timed(partial(self._streams[name].push, part)))
        for other in self._streams:
            silent_s = end_s - PATIENCE_S
            if other not in names and self._end_s.get(other, 0.0) < silent_s:
                self._end_s[other] = silent_s
                out += self._close(self._segmenter.advance(other, silent_s))
        return out

    def push_frame(self, image: Any, t: float | None = None) -> list[Happened]:
        """Take in one frame, (H, W, 3) uint8 array or tensor or PIL; t: its seconds, None: one step after
        the last."""
        step_s = 1 / self.model.config.media.rate_fps
        time_s = self._end_of("video") if t is None else t
        pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        return self.push(Frames(pixels[None], torch.tensor([time_s], dtype=torch.float64), step_s))

    def push_audio(self, pcm: Any, sample_rate: int, t0: float | None = None) -> list[Happened]:
        """Take in mono samples (n,), float in [-1, 1] or int16; t0: seconds of the first, None: right after
        the last."""
        samples = pcm if isinstance(pcm, Tensor) else torch.from_numpy(np.asarray(pcm))
        if samples.dtype == torch.int16:
            samples = samples.float() / 32768
        start_s = self._end_of("audio") if t0 is None else t0
        return self.push(Audio(samples.float(), start_s, sample_rate))

    def push_text(
        self,
        text: str,
        t: float | None = None,
        role: str = "user",
        reply: Literal["must", "may", "no"] = "must",
    ) -> list[Happened]:
        """A user's turn. "must" answers now from what was seen; "may" and "no" answer nothing (no head
        decides yet)."""
        if role != "user":
            raise ValueError(f"role must be 'user', got {role!r}")
        now_s = max(self._end_s.values(), default=0.0) if t is None else t
        return [Reply(now_s, text, self.ask(text))] if reply == "must" else []

    def advance(self, t: float) -> list[Happened]:
        """Nothing older than t seconds will come of any stream."""
        out: list[Happened] = []
        for name in self._streams:
            if self._end_s.get(name, 0.0) < t:
                out += self._take(name, self._timed(self._streams[name].flush))
                self._end_s[name] = t
                out += self._close(self._segmenter.advance(name, t))
        return out

    def flush(self) -> list[Happened]:
        """Encode and close all that waits, as at the end of the video."""
        out: list[Happened] = []
        for name, stream in self._streams.items():
            out += self._take(name, self._timed(stream.flush))
        return out + self._close(self._segmenter.flush())

    def close(self) -> list[Happened]:
        """`flush`, and take in nothing more."""
        out = self.flush()
        self._closed = True
        return out

    def run(self, source: Iterable[Frames | Audio]) -> Iterator[Happened]:
        """Take in all that `source` gives, then flush; yields what happens as it happens."""
        for part in source:
            yield from self.push(part)
        yield from self.flush()

    def memory(self, budget: int | None = None) -> VideoMemory:
        """What was seen until now, as min(budget, held) tokens; changes nothing here."""
        seen = self
        if not self._closed:
            seen = copy.copy(self)
            seen._streams = {n: s.copy() for n, s in self._streams.items()}
            seen._segmenter, seen._hold = self._segmenter.copy(), self._hold.copy()
            seen.flush()
        budget = self.budget if budget is None else budget
        streams, globals_, members = self.model.compressor.compress_to(seen._hold, budget)
        return VideoMemory(
            streams, globals_, max(self._end_s.values(), default=0.0), budget,
            identity=self.model.identity(), members=members, model=self.model,
        )  # fmt: skip

    def held(self) -> Hold:
        """All that is kept of what was closed until now, to compress any budget from; a copy that shares
        tensors."""
        return self._hold.copy()

    def ask(self, question: str, *, budget: int | None = None, **options: Any) -> Answer:
        """The answer to a question about what was seen until now; what waits for its block counts."""
        return self.memory(budget).ask(question, **options)

    def stats(self) -> dict[str, float]:
        """Sizes and times: seconds seen, raw tokens, frames the encoder was spared (`reuse_below`),
        tokens and groups held, bytes held, seconds spent."""
        held = [g for p in self._hold.pieces for g in p.groups.values()]
        return {
            "seen_s": max(self._end_s.values(), default=0.0), "raw_tokens": self._raw,
            "reused_frames": self._reused, "held_tokens": self._hold.num_tokens(),
            "held_groups": self._hold.num_groups(),
            "held_bytes": sum(g.tokens.x.nbytes + g.metric.nbytes + 28 * len(g) for g in held),
            "pending": sum(s.num_pending for s in self._streams.values()),
            "encode_s": self._encode_s, "merge_s": self._merge_s,
        }  # fmt: skip

    def snapshot(self) -> bytes:
        """All there is to go on from here, bit for bit, in another process; bounded, like the session."""
        state = {
            "format": SNAPSHOT, "identity": self.model.identity(), "budget": self.budget,
            "streams": list(self._streams), "keep_assignment": self.keep_assignment, "closed": self._closed,
            "blocks": {n: s.state() for n, s in self._streams.items()}, "segmenter": self._segmenter.state(),
            "hold": self._hold, "end_s": self._end_s, "raw": self._raw, "reused": self._reused,
        }  # fmt: skip
        return pack(state, (*KINDS, Frames, Audio, Encoded))

    @classmethod
    def restore(cls, model: LongCompress, data: bytes) -> "Session":
        """The session that `snapshot` was taken of.

        Raises:
            ValueError: if data is cut, of a newer format, or from a model with other encoders than `model`.
        """
        state = unpack(data, (*KINDS, Frames, Audio, Encoded), model.device)
        if not isinstance(state, dict) or "format" not in state:
            raise ValueError("data is no snapshot of a session; take one with Session.snapshot")
        if state["format"] > SNAPSHOT:
            raise ValueError(
                f"data has format {state['format']}, this version reads up to {SNAPSHOT}; "
                f"upgrade longcompress"
            )
        if state["identity"] != model.identity():
            raise ValueError(
                f"data was made by other encoders than model {model.config.name!r} has; "
                f"restore it with the model that made it"
            )
        come = {KINDS_OF_MEDIA[model.encoders[name].takes] for name in state["streams"]}
        session = cls(model, state["budget"], streams=sorted(come), keep_assignment=state["keep_assignment"])
        for name, stream in session._streams.items():
            stream.set_state(state["blocks"][name])
        session._segmenter.set_state(state["segmenter"])
        session._hold, session._end_s, session._raw = state["hold"], state["end_s"], state["raw"]
        session._reused, session._closed = state["reused"], state["closed"]
        return session

    def _fed(self, kind: str) -> list[str]:
        """Streams that media of this kind feeds."""
        return [
            name for name, stream in self._streams.items() if KINDS_OF_MEDIA[stream.encoder.takes] == kind
        ]

    def _end_of(self, kind: str) -> float:
        """Until when media of this kind has come."""
        return max((self._end_s.get(name, 0.0) for name in self._fed(kind)), default=0.0)

    def _take(self, name: str, encoded: list[Encoded]) -> list[Happened]:
        """Hand what was encoded on; close the segments that are complete."""
        self._reused += sum(part.reused for part in encoded)
        return [told for part in encoded for told in self._close(self._segmenter.push(name, part))]

    def _timed(self, work: Any) -> Any:
        begin = time.perf_counter()
        out = work()
        self._encode_s += time.perf_counter() - begin
        return out

    def _close(self, segments: list[Segment]) -> list[Happened]:
        out: list[Happened] = []
        begin = time.perf_counter()
        for segment in segments:
            keep = self.keep_assignment
            raw = self.model.compressor.close(self._hold, segment, self.budget, keep_assignment=keep)
            self._raw += raw
            held = self._hold.num_tokens()
            out.append(SegmentClosed(segment.index, segment.start_s, segment.end_s, raw, held))
        self._merge_s += time.perf_counter() - begin
        return out


def compress(
    model: LongCompress,
    source: Any,
    budget: int | None = None,
    *,
    progress: bool = True,
    protocols: Sequence[str] = ("file",),
    keep_assignment: bool = False,
) -> Any:
    """Decode, encode and compress a video once, in bounded memory.

    Args:
        model: what compresses.
        source: path, URL, file object, arrays (`media.arrays`), or a list of paths and such: a list of videos.
        budget: tokens the memory will have (or all there are, if the video has fewer); None: the model's
            default.
        progress: show a bar with rate and time left.
        protocols: where files may come from; ("file", "http", "https") to allow the web.
        keep_assignment: remember which raw token went where; needed to plot merged patches. This grows with the
            video.

    Returns:
        VideoMemory, or a list of them for a list of videos.

    Raises:
        ValueError, FileNotFoundError: what can't be read, a budget too small.
    """
    if isinstance(source, list | tuple) and not any(isinstance(s, Frames | Audio) for s in source):
        options = {"progress": progress, "protocols": protocols, "keep_assignment": keep_assignment}
        return [compress(model, one, budget, **options) for one in source]  # type: ignore[arg-type]
    session, name = compressed(
        model, source, budget, progress=progress, protocols=protocols, keep_assignment=keep_assignment
    )
    if not session.stats()["raw_tokens"]:
        raise ValueError(f"source {name} gave neither a frame nor a sample that could be read")
    memory = session.memory()
    memory.source = source_of(source)
    memory.stats = session.stats()
    return memory


def compressed(
    model: LongCompress,
    source: Any,
    budget: int | None = None,
    *,
    part: tuple[float, float] | None = None,
    progress: bool = True,
    protocols: Sequence[str] = ("file",),
    keep_assignment: bool = False,
) -> tuple[Session, str]:
    """(a closed session that took in all of one video, or a part of it as if that were all, the video's name);
    arguments as for `compress` and `media.read`."""
    # a track that the model takes in and the video hasn't is warned of
    wanted = media_of(model)
    config = replace(model.config.media, video="video" in wanted, audio="audio" in wanted)
    with media.read(source, config, part=part, protocols=protocols) as parts:
        session = Session(
            model, budget, streams=_streams_of(source, parts, model), keep_assignment=keep_assignment
        )
        for one in _bar(parts, parts.duration_s, parts.name) if progress else parts:
            session.push(one)
        name = parts.name
    session.close()
    return session, name


def media_of(model: LongCompress) -> tuple[str, ...]:
    """What a model takes in, of "frame" and "audio"."""
    return tuple(dict.fromkeys(KINDS_OF_MEDIA[encoder.takes] for encoder in model.encoders.values()))


def _streams_of(source: Any, parts: media.Reading, model: LongCompress) -> list[str]:
    """Media that the model takes in and that will come, as far as it is known."""
    come = parts.streams
    if come is None and isinstance(source, list | tuple):
        come = tuple("video" if isinstance(s, Frames) else "audio" for s in source)
    return [kind for kind in media_of(model) if come is None or kind in come]


def _bar(parts: Iterable[Frames | Audio], duration_s: float | None, name: str) -> Iterator[Frames | Audio]:
    """The same parts, with a progress bar in seconds of video."""
    from tqdm import tqdm

    seen_s = 0.0
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} s of video [{elapsed}<{remaining}, {rate_fmt}]"
    with tqdm(
        total=duration_s, desc=Path(name).name, unit="s", bar_format=shape if duration_s else None
    ) as bar:
        for part in parts:
            yield part
            now_s = float(part.time_s[-1]) + part.step_s if isinstance(part, Frames) else part.end_s
            if now_s > seen_s:
                if bar.total is not None and now_s > bar.total:
                    bar.total = now_s
                bar.update(now_s - seen_s)
                seen_s = now_s


def source_of(source: Any) -> dict[str, Any]:
    """Base name, size and hash of a local file; the name alone of anything else."""
    if not isinstance(source, str | Path) or not Path(source).is_file():
        return {"name": str(source).rsplit("/", 1)[-1] if isinstance(source, str | Path) else "pushed"}
    import hashlib

    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": Path(source).name, "num_bytes": Path(source).stat().st_size, "sha256": digest}
