"""What a task is: examples, prompts, a parser of answers, files of predictions, a score."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from ...synthetic.scenes import Scene
from ..metrics.bootstrap import Corpus
from ..metrics.judge import Judge

Truth = TypeVar("Truth")
Value = TypeVar("Value")
Times = Literal["seconds", "whole_seconds", "hundredths"]
DEFAULT = "default"  # the name of our own prompt


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


Synthesize: TypeAlias = Callable[
    [int, float], tuple[Scene, list[Example[Any]]]
]  # video's number, its seconds


@dataclass(frozen=True)
class Prediction(Generic[Value]):
    """One answer: the words as they came, and what could be read in them (None: nothing)."""

    text: str
    value: Value | None

    @property
    def words(self) -> str:
        """The words, of a value of words if there are no others."""
        return self.text or (self.value if isinstance(self.value, str) else "")


Paths: TypeAlias = Sequence[Path]
Examples: TypeAlias = Sequence[Example[Truth]]
Answers: TypeAlias = Mapping[str, Prediction[Value]]  # by the id of the example
Answered: TypeAlias = Sequence[tuple[Example[Truth], Prediction[Value]]]
Parse: TypeAlias = Callable[[str, Example[Truth], "How"], Value | None]
Read: TypeAlias = Callable[[Paths], list[Example[Truth]]]
Write: TypeAlias = Callable[[Path, Examples[Truth], Answers[Value], "How"], list[Path]]


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

    def is_new(self, key: str) -> bool:
        """True for an id that comes for the first time; another one is listed as a duplicate."""
        if key in self.by_id:
            self.duplicates.append(key)
        return key not in self.by_id


@dataclass(frozen=True)
class Asker:
    """A model that judges: its name, and prompts to replies."""

    name: str
    ask: Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class How:
    """What a score may depend on; all of it stands in the result.

    Attributes:
        compat: "paper" for the quirks of the papers' scripts.
        times: what numbers in answers are; None: what the file's format has by itself. "187 to 192" is
            [187, 192) in "seconds" and [187, 193) in "whole_seconds", which include the last.
        asker: the judge, None for none.
        judge_prompt: what it is asked instead of the task's own words.
    """

    compat: Literal["paper"] | None = None
    times: Times | None = None
    asker: Asker | None = None
    judge_prompt: str | None = None

    def judge(self, prompt: str) -> Judge | None:
        """The judge with the task's prompt, or the caller's; None without a judge."""
        if self.asker is None:
            return None
        return Judge(self.asker.name, self.judge_prompt or prompt, self.asker.ask)

    def required_judge(self, task: str, prompt: str) -> Judge:
        """The judge of a task that has no score without one; ValueError if there is none."""
        if (judge := self.judge(prompt)) is None:
            raise ValueError(
                f"{task} is scored by a judge, got none; give --judge-url and --judge-model of an "
                "OpenAI-compatible endpoint"
            )
        return judge


@dataclass(frozen=True)
class Scored:
    """What predictions are worth.

    Attributes:
        metrics: names to numbers, and what belongs beside them (the METEOR, the judge).
        each: main numbers of each example, by name, then id: what intervals and comparisons are of.
        corpora: makes the form in which the other numbers are computed again over resampled videos.
    """

    metrics: dict[str, Any]
    each: dict[str, dict[str, float]] = field(default_factory=dict)
    corpora: Callable[[], Sequence[Corpus]] = tuple


@dataclass(frozen=True)
class Task(Generic[Truth, Value]):
    """A benchmark.

    Attributes:
        about: what is asked and how it is scored, in a line.
        where: where to get the data, in a line.
        read: reference files to examples.
        prompts: name to what a model is asked; "default" is ours, others are of the papers.
        times: prompt to what numbers in answers to it are; seconds where it has no entry.
        parse: an answer's words to what they say, None if nothing could be read.
        read_predictions: files to predictions of these examples.
        write_predictions: into a folder, files that `read_predictions` reads, in the benchmark's own format
            where it keeps the answers whole; their paths.
        score: examples and their predictions to the scores.
        needs_judge: without a judge there is no score.
        uses_meteor: METEOR is among the scores.
        synthesize: of a task with synthetic videos, a video and the questions about it; ids and groups of its
            video are added later.
    """

    about: str
    where: str
    read: Read[Truth]
    prompts: Mapping[str, Callable[[Example[Truth]], str]]
    parse: Parse[Truth, Value]
    read_predictions: Callable[[Paths, Examples[Truth], How], Predictions[Value]]
    write_predictions: Write[Truth, Value]
    score: Callable[[Examples[Truth], Answers[Value], How], Scored]
    times: Mapping[str, Times] = field(default_factory=dict)
    needs_judge: bool = False
    uses_meteor: bool = False
    synthesize: Synthesize | None = None


def members_of(examples: Iterable[Example[Truth]]) -> dict[tuple[str, str], list[str]]:
    """The ids of the examples of each (kind, name) group, in the order of the examples."""
    members: dict[tuple[str, str], list[str]] = {}
    for example in examples:
        for group in dict.fromkeys(example.groups):
            members.setdefault(group, []).append(example.id)
    return members


def counted(examples: Examples[Truth], predictions: Answers[Value], how: How) -> list[Example[Truth]]:
    """The examples that count: all, but for the papers only those with an entry."""
    return [example for example in examples if how.compat is None or example.id in predictions]
