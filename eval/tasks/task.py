"""What a task is: examples, prompts, a parser of answers, files of predictions, a score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from longcompress.synthetic.scenes import Scene

from ..metrics.bootstrap import Corpus
from ..metrics.captions import WhichMeteor
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


Draw: TypeAlias = Callable[[int, float], tuple[Scene, list[Example[Any]]]]  # video's number, its seconds


@dataclass(frozen=True)
class Said(Generic[Value]):
    """One answer: the words as they came, and what could be read in them (None: nothing)."""

    text: str
    value: Value | None


@dataclass(frozen=True)
class Predictions(Generic[Value]):
    """A prediction file as read.

    Attributes:
        said: by the id of the example; ids that the gold doesn't have included.
        duplicates: ids that came again; what came first counts.
        num_other: entries of another task of the same file, or of a further prompt for the same question.
    """

    said: dict[str, Said[Value]]
    duplicates: tuple[str, ...] = ()
    num_other: int = 0


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
        meteor: which METEOR.
        asker: the judge, None for none.
        judge_prompt: what it is asked instead of the task's own words.
    """

    compat: Literal["paper"] | None = None
    times: Times | None = None
    meteor: WhichMeteor = "auto"
    asker: Asker | None = None
    judge_prompt: str | None = None

    def judge(self, prompt: str) -> Judge | None:
        """The judge with the task's prompt, or the caller's; it remembers its replies. None without one."""
        if self.asker is None:
            return None
        known: dict[str, str] = {}
        asker = self.asker

        def ask(prompts: Sequence[str]) -> list[str]:
            new = [one for one in prompts if one not in known]
            known.update(zip(new, asker.ask(new) if new else [], strict=True))
            return [known[one] for one in prompts]

        return Judge(asker.name, self.judge_prompt or prompt, ask)


@dataclass(frozen=True)
class Scored:
    """What predictions are worth.

    Attributes:
        metrics: names to numbers, and what belongs beside them (the METEOR, the judge).
        each: main numbers of each example, by name, then id: what intervals and comparisons are made of.
        corpora: makes the form in which the other numbers are computed again over drawn videos.
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
        read: gold files to examples.
        prompts: name to what a model is asked; "default" is ours, others are of the papers.
        times: prompt to what numbers in answers to it are; seconds where it has no entry.
        parse: an answer's words to what they say, None if nothing could be read.
        read_predictions: files to predictions of these examples.
        write_predictions: the benchmark's own format, as `read_predictions` reads it.
        score: examples and what was said of them to their worth.
        draw: of a task whose videos are drawn, a video and what is asked about it; ids and groups of its video
            are added later.
    """

    about: str
    where: str
    read: Callable[[Sequence[Path]], list[Example[Truth]]]
    prompts: Mapping[str, Callable[[Example[Truth]], str]]
    parse: Callable[[str, Example[Truth], How], Value | None]
    read_predictions: Callable[[Sequence[Path], Sequence[Example[Truth]], How], Predictions[Value]]
    write_predictions: Callable[[Path, Sequence[Example[Truth]], Mapping[str, Said[Value]]], None]
    score: Callable[[Sequence[Example[Truth]], Mapping[str, Said[Value]], How], Scored]
    times: Mapping[str, Times] = field(default_factory=dict)
    draw: Draw | None = None


def asked(
    examples: Sequence[Example[Truth]], said: Mapping[str, Said[Value]], how: How
) -> list[Example[Truth]]:
    """The examples that count: all, but for the papers only those with an entry."""
    return [one for one in examples if how.compat is None or one.id in said]


def values(examples: Sequence[Example[Truth]], said: Mapping[str, Said[Value]]) -> dict[str, Value]:
    """What was said and could be read, of these examples."""
    found = {one.id: said[one.id].value for one in examples if one.id in said}
    return {key: value for key, value in found.items() if value is not None}
