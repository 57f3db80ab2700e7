"""Push frames, audio and text as they come; ask at any moment; bounded for ever. A file is a session fed by
`media`."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .compression.state import STATE_CLASSES, MergeState
from .config_live import LiveConfig, TriggerConfig
from .context import LIVE_CLASSES
from .encode import PATIENCE_S, SegmentEncoder
from .live_feed import LiveFeed
from .llm.live import Part
from .media.reader import Reading
from .media.steps import Steps
from .memory import VideoMemory, sampling, sampling_hint
from .model import LongCompress
from .serialize import pack, unpack
from .session_events import Dropped, Reply, SegmentClosed, SessionEvent
from .types import MAX_TIME_S, Answer, Audio, Encoded, Frames, Segment

FORMAT = 9  # of snapshots
SHORT_S = 1e-3  # step of a frame that is pushed alone
SNAPSHOT_CLASSES = (
    *STATE_CLASSES, *LIVE_CLASSES, Frames, Audio, Encoded, LiveConfig, TriggerConfig
)  # fmt: skip


class Session:
    """A model that takes in a video as it comes.

    Args:
        model: what encodes and answers.
        budget: tokens of the memory at any moment; None: as the model's config says.
        media: what will come, of "video" and "audio" (which feeds every audio encoder); None: all that the
            model takes in.
        keep_assignment: remember which raw token went where, to plot it; this grows with the video.
        patience_s: where video or audio lags behind the other by more, it is taken to be silent until then;
            what comes later is `Dropped`. None: live.patience_s, or two minutes.
        live: read what comes step by step, a step being the time of a frame (or of the frames that a token
            stands for), and answer from that (LiveConfig; `model.config.live` is the model's own).
    """

    def __init__(
        self,
        model: LongCompress,
        budget: int | None = None,
        *,
        media: Sequence[str] | None = None,
        keep_assignment: bool = False,
        patience_s: float | None = None,
        live: LiveConfig | None = None,
    ) -> None:
        self.model = model
        self.budget = model.config.budget.tokens if budget is None else budget
        if patience_s is None:
            patience_s = PATIENCE_S if live is None else live.patience_s
        self.live = None if live is None else LiveFeed(model, live, media, patience_s)
        self.encoder = SegmentEncoder(model, media, patience_s) if self.live is None else self.live.encoder
        model.check_budget(self.budget, self.encoder.streams)
        self._state = model.merge_state(self.budget, keep_assignment=keep_assignment)
        self._num_raw = 0
        self._merge_s = 0.0
        self._closed = False
        self._is_live = True  # a Reading has thinned its frames

    def push(self, part: Frames | Audio) -> list[SessionEvent]:
        """Take in frames or audio that follow what came before of their modality; parts of any length.

        What comes too late is `Dropped`. Of frames at a higher rate than the model's, one a step is taken.

        Raises:
            ValueError: the session has ended, a sample is not a number, or a time does not count from the
                start of the video.
        """
        if self._closed:
            raise ValueError("session has ended, by close() or flush(); make a new one for another video")
        if not len(part):
            return []
        if part.end_s > MAX_TIME_S:
            raise ValueError(
                f"{part.modality} at {part.start_s:.0f} s: times count from the start of the video; subtract "
                "the time at which it began"
            )
        if isinstance(part, Audio) and not part.samples.isfinite().all():
            raise ValueError(f"samples must be finite, got NaN or infinity in audio at {part.start_s:g} s")
        events: list[SessionEvent] = []
        if self.live is not None and self._is_live and isinstance(part, Frames):
            part = self.live.steps.thin(part)
        if num := self._clock.num_late(part):
            late, part = part.cut(0, num), part.cut(num, len(part))
            reason = f"late: after later {late.modality}, or after {self._clock.patience_s:g} s of patience"
            events.append(Dropped(late.modality, late.start_s, late.end_s, reason))
        if self.live is not None:
            return events + self.live.push(part, self._add)
        if self._is_live and isinstance(part, Frames) and part.step_s < self._step_s * (1 - 1e-6):
            part = self._thinned(part)
        return events + self._add(self.encoder.push(part))

    def push_frame(self, image: Any, time_s: float | None = None) -> list[SessionEvent]:
        """Take in a frame: (H, W, 3) uint8 array or tensor, or a PIL image.

        Args:
            image: RGB.
            time_s: its time in seconds from the start; None: a frame step after the last. Frames may come at
                a higher rate than the model's: one a step is taken.
        """
        time_s = self._clock.end_of("video") if time_s is None else time_s
        pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
        media_config = self.model.config.media
        # nobody knows how many more frames come within the model's step
        step_s = 1 / media_config.rate_fps if media_config.frames else SHORT_S
        return self.push(Frames(pixels[None], torch.tensor([time_s], dtype=torch.float64), step_s))

    def push_audio(self, samples: Any, rate_hz: int, start_s: float | None = None) -> list[SessionEvent]:
        """Take in mono samples (n,): floats in [-1, 1], or integers of 8, 16 or 32 bits in their whole range.

        Args:
            samples: array or tensor.
            rate_hz: samples a second.
            start_s: time of the first; None: right after the last.
        """
        samples = samples if isinstance(samples, Tensor) else torch.from_numpy(np.asarray(samples))
        if not samples.is_floating_point():
            samples = _floats(samples)
        start_s = self._clock.end_of("audio") if start_s is None else start_s
        return self.push(Audio(samples.float(), start_s, rate_hz))

    def push_text(
        self, text: str, time_s: float | None = None, *, reply: Literal["must", "may"] = "must"
    ) -> list[SessionEvent]:
        """A user's question, answered now from what came until now; or a request that stands.

        Args:
            text: not empty.
            time_s: when it is said; None: now. In a live session it may be later: it is read before the first
                step that isn't earlier, and its events come then.
            reply: "may" (live sessions): it stands until it is withdrawn, and is answered whenever the
                trigger fires. The number to withdraw it by is in the `Asked` that comes back.
        """
        if self.live is not None:
            return self.live.push_text(text, time_s, reply == "must")
        if reply == "may":
            raise ValueError('reply "may" needs a live session: Session(model, live=model.config.live)')
        now_s = self.encoder.end_s if time_s is None else time_s
        return [Reply(now_s, text, self.ask(text))]

    def withdraw(self, request: int) -> list[SessionEvent]:
        """The request of this number stands no longer; ValueError if it doesn't stand."""
        return self._need_live().withdraw(request)

    def cancel(self) -> list[SessionEvent]:
        """What is being said ends, and nothing of it stays; no event where nothing is."""
        return self._need_live().cancel()

    def context(self) -> list[Part]:
        """What the language model of a live session has read, in order; to be printed, or read again."""
        return self._need_live().context.context()

    def advance(self, time_s: float) -> list[SessionEvent]:
        """Nothing older than time_s will come of any stream."""
        if self.live is not None:
            return self.live.reach(self.encoder.media, time_s, self._add)
        return self._add(self.encoder.advance(time_s))

    def reach(self, modality: str, time_s: float) -> list[SessionEvent]:
        """Nothing of "video" or "audio" before time_s will come any more."""
        if self.live is not None:
            return self.live.reach([modality], time_s, self._add)
        return self._add(self.encoder.reach(modality, time_s))

    def flush(self) -> list[SessionEvent]:
        """Encode and close all that waits, at the end of the video; say all that is due. Nothing can be
        pushed after it but questions."""
        self._closed = True
        if self.live is not None:
            return self.live.flush(self._add)
        return self._add(self.encoder.flush())

    def close(self) -> list[SessionEvent]:
        """The same as `flush`."""
        return self.flush()

    def run(self, source: Iterable[Frames | Audio]) -> Iterator[SessionEvent]:
        """Take in all that `source` gives, then flush; yields events as they happen.

        A `media.Reading` says how far each of its tracks has come, so nothing in it is ever late.
        """
        if isinstance(source, Reading):
            self._clock.patience_s, self._is_live = math.inf, False
        for part in source:
            yield from self.push(part)
            if isinstance(source, Reading):
                for modality in self.encoder.media:
                    yield from self.reach(modality, source.reached_s.get(modality, 0.0))
        yield from self.flush()

    def state(self) -> MergeState:
        """What is kept of all that came until now, to compress to any budget; changes nothing here."""
        state = self._state.copy()
        if not self._closed:  # what waits for its block or its segment counts
            encoder = self.encoder.copy()
            waiting = [] if self.live is None else self.live.steps.parts
            for segment in [s for part in waiting for s in encoder.push(part)] + encoder.flush():
                state.add(segment)
        state.duration_s = max(map(self._clock.end_of, self.encoder.media))
        return state

    def memory(self, budget: int | None = None) -> VideoMemory:
        """What came until now, as min(budget, held) tokens; changes nothing here."""
        video = self.state().compress(self.budget if budget is None else budget)
        merge = self.model.config.merge
        source = {
            "read_s": dict(self.encoder.read_s), "merge": [merge.representative, merge.place],
            "media": sampling(self.model),
        }  # fmt: skip
        return VideoMemory(video, self.model, self.model.identity(), source, self.stats())

    def ask(self, question: str, *, budget: int | None = None, **options: Any) -> Answer:
        """The answer to a question about what came until now; see VideoMemory.ask. ValueError before that."""
        memory = self.memory(budget)
        if not memory.num_tokens:
            raise ValueError("session holds no token: nothing has come that could be asked about")
        return memory.ask(question, **options)

    def stats(self) -> dict[str, float]:
        """Sizes and times: seconds that came, raw tokens, frames that reused the features before them
        (VisionConfig.reuse_below), tokens, groups and bytes held, seconds spent."""
        held = [group for chunk in self._state.chunks for group in chunk.groups.values()]
        return {
            "duration_s": self.encoder.end_s, "raw_tokens": self._num_raw,
            "reused_frames": self.encoder.num_reused, "held_tokens": self._state.num_tokens(),
            "held_groups": self._state.num_groups,
            "held_bytes": sum(group.tokens.num_bytes + group.metric.nbytes for group in held),
            "pending": self.encoder.num_pending, "encode_s": self.encoder.encode_s,
            "merge_s": self._merge_s,
        } | ({} if self.live is None else self.live.stats())  # fmt: skip

    def snapshot(self) -> bytes:
        """All there is to go on from here, bit for bit, in another process; bounded, like the session."""
        state = {
            "format": FORMAT, "identity": self.model.identity(), "budget": self.budget,
            "media": list(self.encoder.media), "sampling": sampling(self.model),
            "keep_assignment": self._state.keep_assignment,
            "closed": self._closed, "encoder": self.encoder.state(), "state": self._state.state(),
            "num_raw": self._num_raw, "live": None if self.live is None else self.live.state(),
            "speaker": None if self.live is None else self.model.speaker(),
        }  # fmt: skip
        return pack(state, SNAPSHOT_CLASSES)

    @classmethod
    def restore(cls, model: LongCompress, data: bytes) -> "Session":
        """The session that `snapshot` was taken of.

        Raises:
            ValueError: if data is cut, of another format, or from a model with other encoders than `model`,
                of a live session also with another language model.
        """
        state = unpack(data, SNAPSHOT_CLASSES, model.device)
        if not isinstance(state, dict) or "format" not in state:
            raise ValueError("data is no snapshot of a session; take one with Session.snapshot")
        if state["format"] != FORMAT:
            raise ValueError(
                f"data has format {state['format']}, this version reads {FORMAT}; take it anew with "
                f"Session.snapshot"
            )
        if state["identity"] != model.identity():
            raise ValueError(
                f"data was made by other encoders than model {model.config.name!r} has; "
                f"restore it with the model that made it"
            )
        if hint := sampling_hint({"media": state["sampling"]}, model):
            raise ValueError(f"data has other frames than model {model.config.name!r} takes{hint}")
        live = state["live"]
        if live is not None and state["speaker"] != model.speaker():
            raise ValueError(
                f"data is of a session with another language model than {model.config.name!r} has; restore "
                "it with the model that made it"
            )
        session = cls(
            model, state["budget"], media=state["media"], keep_assignment=state["keep_assignment"],
            live=None if live is None else live["config"],
        )  # fmt: skip
        session.encoder.set_state(state["encoder"])
        session._state.set_state(state["state"])
        session._num_raw, session._closed = state["num_raw"], state["closed"]
        if session.live is not None:
            empty = model.merge_state(state["budget"], keep_assignment=state["keep_assignment"])
            session.live.set_state(live, empty)
        return session

    @property
    def _clock(self) -> SegmentEncoder | Steps:
        """What knows how far each of the media has come."""
        return self.encoder if self.live is None else self.live.steps

    def _need_live(self) -> LiveFeed:
        if self.live is None:
            raise ValueError("session must be live: Session(model, live=model.config.live)")
        return self.live

    @property
    def _step_s(self) -> float:
        """Seconds from a frame that the model takes to the next; 0 where `frames` spreads them."""
        media_config = self.model.config.media
        return 0.0 if media_config.frames else 1 / media_config.rate_fps

    def _thinned(self, frames: Frames) -> Frames:
        """The first frame of every step in which none came before, each for its whole step."""
        times = torch.cat([frames.time_s.new_tensor([self.encoder.last_s("video")]), frames.time_s])
        first = (times / self._step_s + 1e-6).floor().diff() > 0
        return Frames(frames.pixels[first], frames.time_s[first], self._step_s)

    def _add(self, segments: Iterable[Segment]) -> list[SessionEvent]:
        events: list[SessionEvent] = []
        for segment in segments:
            start = time.perf_counter()
            num = self._state.add(segment)
            self._merge_s += time.perf_counter() - start
            self._num_raw += num
            held = self._state.num_tokens()
            if self.live is not None:
                self.live.context.close(segment.end_s, self._state.copy())
            events.append(SegmentClosed(segment.index, segment.start_s, segment.end_s, num, held))
        return events


def _floats(samples: Tensor) -> Tensor:
    """Integer samples as floats in [-1, 1]."""
    bits = {torch.uint8: 8, torch.int8: 8, torch.int16: 16, torch.int32: 32}.get(samples.dtype)
    if bits is None:
        raise ValueError(
            f"samples must be floats in [-1, 1] or integers of 8, 16 or 32 bits, got {samples.dtype}"
        )
    silence = 128 if samples.dtype == torch.uint8 else 0
    return ((samples.double() - silence) / 2 ** (bits - 1)).float()
