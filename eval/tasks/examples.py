"""What is asked and what is answered: examples with their truth, predictions with their words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

Truth = TypeVar("Truth")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Example(Generic[Truth]):
    """One thing that is asked.

    Attributes:
        id: what predictions call it; different from all others of the task.
        video: the video, as the annotations name it, without folder and suffix.
        question: what is asked: a sentence to find, a question; empty where only the video is given.
        truth: the right answer.
        duration_s: length of the video, if the annotations say it.
        span_s: the part of the video that is asked about, None for all of it.
        options: of multiple choice, without their letters.
        groups: (kind, name) pairs for tables: ("length", "short").
        context: said before the question: the turns of a dialogue.
    """

    id: str
    video: str
    question: str
    truth: Truth
    duration_s: float | None = None
    span_s: tuple[float, float] | None = None
    options: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction(Generic[Value]):
    """One answer: the words as they came, and what could be read in them (None: nothing)."""

    text: str
    value: Value | None

    @property
    def words(self) -> str:
        """The words, of a value of words if there are no others."""
        return self.text or (self.value if isinstance(self.value, str) else "")


@dataclass
class Predictions(Generic[Value]):
    """A prediction file as read.

    Attributes:
        by_id: by the id of the example, unknown ids included.
        duplicates: ids that came again; what came first counts.
        num_other: entries of another task of the same file, or of a further prompt for the same question.
    """

    by_id: dict[str, Prediction[Value]] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)
    num_other: int = 0


Paths: TypeAlias = Sequence[Path]
Examples: TypeAlias = Sequence[Example[Truth]]
Answers: TypeAlias = Mapping[str, Prediction[Value]]  # by the id of the example
Answered: TypeAlias = Sequence[tuple[Example[Truth], Prediction[Value]]]
