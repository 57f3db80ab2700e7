"""What a task is: examples, prompts, a parser of answers, files of predictions, a score."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias

from ...synthetic.scenes import Scene
from ..metrics.bootstrap import Corpus
from ..metrics.judge import Judge
from .examples import Answers, Example, Examples, Paths, Prediction, Predictions, Truth, Value

Times = Literal["seconds", "whole_seconds", "hundredths"]
DEFAULT = "default"  # the name of our own prompt

# Of a video's number and its seconds.
Synthesize: TypeAlias = Callable[[int, float], tuple[Scene, list[Example[Any]]]]
Line: TypeAlias = Callable[[Example[Truth], Prediction[Value]], object]
Parse: TypeAlias = Callable[[str, Example[Truth], "How"], Value | None]
Prompt: TypeAlias = Callable[[Example[Any]], str]
Read: TypeAlias = Callable[[Paths], list[Example[Truth]]]
Write: TypeAlias = Callable[[Path, Examples[Truth], Answers[Value], "How"], list[Path]]


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

    def __post_init__(self) -> None:
        if self.compat not in (None, "paper"):
            raise ValueError(f"compat must be None or 'paper', got {self.compat!r}")

    @property
    def in_papers_hundredths(self) -> bool:
        """Whether answers are read as the papers' scripts do that know hundredths only."""
        return self.compat == "paper" and self.times == "hundredths"

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
        corpora: the other numbers, in a form that is computed again over resampled videos.
    """

    metrics: dict[str, Any]
    each: dict[str, dict[str, float]] = field(default_factory=dict)
    corpora: Sequence[Corpus] = ()


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
    prompts: Mapping[str, Prompt]
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
