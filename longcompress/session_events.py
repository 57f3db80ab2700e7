"""What happens in a session."""

from dataclasses import dataclass

from .types import Answer


@dataclass(frozen=True)
class Asked:
    """A request was read; it stands under its number."""

    time_s: float
    text: str
    request: int


@dataclass(frozen=True)
class Scored:
    """A step was read.

    Attributes:
        time_s: its start.
        scores: head -> probability.
        fired: the trigger lets the model speak now.
        request: which the scores are about; 0: none, and it may speak all the same (turns "released").
    """

    time_s: float
    scores: dict[str, float]
    fired: bool
    request: int | None = None


@dataclass(frozen=True)
class SegmentClosed:
    """A segment went into memory: tokens that came in, tokens held in all after it."""

    index: int
    start_s: float
    end_s: float
    tokens_in: int
    tokens_held: int


@dataclass(frozen=True)
class Dropped:
    """What could not be used or was forgotten, its interval, and why: "video" or "audio" that came too late,
    the "score" of a step, a "step" after the last that is read, a "reply" that was not said to its end, a
    "turn" that left the context."""

    what: str
    time_s: float
    end_s: float
    reason: str


@dataclass(frozen=True)
class ReplyBegan:
    """The model begins to answer a request: what it had seen by then."""

    time_s: float
    request: int


@dataclass(frozen=True)
class ReplyPart:
    """More text of the answer to a request, when the video had come to time_s."""

    time_s: float
    request: int
    text: str


@dataclass(frozen=True)
class Reply:
    """An answer to pushed text.

    Attributes:
        time_s: what had been seen by then.
        question: the text.
        answer: what the model said.
        request: of a standing request its number.
        done_s: how far the video had come at the last word; None: no further.
        is_repeat: it is the last answer to this request again; it never gets into the context.
    """

    time_s: float
    question: str
    answer: Answer
    request: int | None = None
    done_s: float | None = None
    is_repeat: bool = False


SessionEvent = SegmentClosed | Dropped | Reply | Asked | Scored | ReplyBegan | ReplyPart
