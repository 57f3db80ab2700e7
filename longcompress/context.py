"""A conversation about a running video: frames go into the language model's cache one by one, and it replies
when it has something to say (MMDuet)."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .compression.triggers import TriggerState, step
from .config_live import LiveConfig
from .encoders import Stream, VisionEncoder
from .llm import CausalLM
from .llm.cache import Reader, speak
from .llm.duet import FRAME, pieces_of
from .media import fit_pixels
from .model import LongCompress
from .types import Audio, Encoded, Frames


@dataclass(frozen=True)
class Asked:
    """A user's turn was read; in a session it is a request that stands, with its number."""

    time_s: float
    text: str
    request: int | None = None


@dataclass(frozen=True)
class Scored:
    """A frame was read.

    Attributes:
        time_s: of the frame.
        scores: head -> probability.
        fired: the trigger lets the model speak now.
        request: of a session, which the scores are about.
    """

    time_s: float
    scores: dict[str, float]
    fired: bool
    request: int | None = None


@dataclass(frozen=True)
class Replied:
    """The model spoke.

    Attributes:
        time_s: of the last frame that it had seen.
        ids: with the token that ends a reply, unless it was cut.
        text: without.
    """

    time_s: float
    ids: list[int]
    text: str


Event = Asked | Scored | Replied


def converse(
    context: "Context", frames: Iterable[tuple[float, Tensor]], questions: Sequence[tuple[float, str]] = ()
) -> Iterator[Event]:
    """What happens while frames come.

    A question is read before the first frame that isn't earlier; in released form at most one a frame.

    Args:
        context: an empty one.
        frames: (second, tokens (n, D)) of each, rising.
        questions: (second, text) in order.
    """
    config, state = context.config, TriggerState()
    waiting, times = deque(questions), [time_s for time_s, _ in questions]
    if times != sorted(times):
        raise ValueError(f"questions must be in order of time, got seconds {times}")
    for number, (time_s, x) in enumerate(frames):
        if number == config.max_frames > 0:
            return
        while waiting and waiting[0][0] <= time_s:
            asked_s, text = waiting.popleft()
            context.ask(text)
            yield Asked(asked_s, text)
            if config.turns == "released":
                break
        scores = context.see(x)
        try:
            state, fired = step(config.trigger, state, scores, time_s)
        except ValueError as error:
            raise ValueError(f"frame {number} at {time_s:g} s: {error}") from error
        yield Scored(time_s, scores, fired)
        if fired:
            ids = context.speak()
            yield Replied(time_s, ids, context.text(ids))


def frames_of(model: LongCompress, parts: Iterable[Frames | Audio]) -> Iterator[tuple[float, Tensor]]:
    """(second, tokens (n, D)) of each frame among parts of a video, as `media.read` gives them."""
    video = model.video
    if not isinstance(video, VisionEncoder) or video.projector is None:
        raise ValueError(
            f'model {model.config.name!r} must have video.tokens "projected", which the language model reads '
            "frame by frame; load mmduet"
        )
    stream = Stream(video)

    def each(encoded: Iterable[Encoded]) -> Iterator[tuple[float, Tensor]]:
        for part in encoded:
            tokens = part.tokens
            for first in range(0, len(tokens), video.patches):
                yield float(tokens.start_s[first]), tokens.x[first : first + video.patches]

    for part in parts:
        if isinstance(part, Frames):
            pixels = fit_pixels(part.pixels, model.config.media)
            yield from each(stream.push(Frames(pixels, part.time_s, part.step_s)))
    yield from each(stream.flush())


class Context:
    """What the model has read, and what it reads next. `ids` is all of it, frames as FRAME.

    Args:
        llm: a language model with heads.
        config: how turns follow one another, and what becomes of replies.
    """

    def __init__(self, llm: CausalLM, config: LiveConfig) -> None:
        if llm.heads is None:
            raise ValueError(
                "llm must have heads (llm.heads in its config) to speak by itself, got a model without"
            )
        self.llm, self.config = llm, config
        self.heads = llm.heads
        self.pieces = pieces_of(llm.tokenizer)
        self.reader = Reader(llm.lm)
        self.ids: list[int] = []
        self.seen: list[int] = []  # tokens of replies, for the repetition penalty
        self._role = "system"  # whose turn it was last
        self._is_open = False  # a stream turn is open
        self._owed: list[int] = []  # ids that the turn before still lacks

    @property
    def is_released(self) -> bool:
        """Whether turns follow one another as in MMDuet's inference script."""
        return self.config.turns == "released"

    def ask(self, text: str) -> None:
        """Read a user's turn."""
        pieces, user = self.pieces, self.pieces.user(text)
        if self.is_released:  # the end of a kept reply is forgotten
            ids = [pieces.end] * (self._role == "stream") + user + pieces.stream
        else:
            ids = self._before() + [pieces.end] * self._is_open + user
        self._read(ids)
        self._role, self._is_open, self._owed = "user", False, []

    @torch.no_grad()
    def see(self, x: Tensor) -> dict[str, float]:
        """Read the tokens x (n, D) of a frame; the scores of each head after it."""
        pieces = self.pieces
        if not self.is_released:
            ids = self._before() + ([] if self._is_open else pieces.stream)
        elif not self.ids:
            ids = pieces.system
        else:
            keeps = self._role == "assistant" and self.config.replies == "keep"
            ids = self._owed + pieces.stream if keeps else []
        hidden = self._read(ids, x)
        self._role, self._is_open, self._owed = "stream", True, []
        return {name: float(score) for name, score in self.heads.scores(hidden[-1:]).items()}

    def speak(self) -> list[int]:
        """The ids of a reply now, with the token that ends it unless it was cut; see LiveConfig.replies."""
        config, pieces, keep = self.config, self.pieces, self.config.replies == "keep"
        ids = [pieces.end, *pieces.answer]
        self._check(len(ids) + 1)
        limit = self.llm.context or math.inf
        tokens = speak(
            self.reader if keep else self.reader.fork(), ids, pieces.end, penalty=config.repetition_penalty,
            max_tokens=int(min(config.max_reply_tokens, limit - self.reader.count - len(ids))),
            seen=self.seen,
        )  # fmt: skip
        self._role = "assistant"
        if keep:
            self.ids += ids + tokens[:-1]
            self._owed = tokens[-1:]
            if not self.is_released and tokens[-1] != pieces.end:
                self._owed = [*self._owed, pieces.end]
            self._is_open = False
        return tokens

    def text(self, ids: Sequence[int]) -> str:
        """The text of a reply."""
        return str(self.llm.tokenizer.decode(ids, skip_special_tokens=True))

    def _before(self) -> list[int]:
        """What comes before any other turn."""
        return self._owed if self.ids else self.pieces.system

    def _read(self, ids: list[int], x: Tensor | None = None) -> Tensor:
        """(n, D) final states of ids and then x."""
        rows = self.reader.embed(ids)
        rows = rows if x is None else torch.cat([rows, x.to(rows)])
        self._check(len(rows))
        self.ids += ids + [FRAME] * (len(rows) - len(ids))
        return self.reader.read(rows).hidden

    def _check(self, num: int) -> None:
        """ValueError where num more tokens pass the language model's context."""
        limit = self.llm.context
        if limit is not None and self.reader.count + num > limit:
            raise ValueError(
                f"the conversation has {self.reader.count:,} tokens, and {num:,} more pass the language "
                f"model's context of {limit:,}; end it earlier (live.max_frames) or take fewer frames"
            )
