"""What a task is: examples, prompts, a parser of answers, files of predictions, a score."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...synthetic.scenes import Scene
from ..metrics.answers import Judge
from ..metrics.bootstrap import Corpus
from .files import write_text

if TYPE_CHECKING:
    from ...memory import VideoMemory

Times = Literal["seconds", "whole_seconds", "hundredths"]
DEFAULT = "default"  # the name of our own prompt


@dataclass(frozen=True)
class Example:
    """One thing that is asked.

    Attributes:
        id: what predictions call it; different from all others of the task.
        video: the video, as the annotations name it, without folder and suffix.
        question: what is asked: a sentence to find, a question; empty where only the video is given.
        truth: the right answer, in the form of its task.
        duration_s: length of the video, if the annotations say it.
        span_s: the part of the video that is asked about, None for all of it.
        options: of multiple choice, without their letters.
        groups: (kind, name) pairs for tables: ("length", "short").
        context: said before the question: the turns of a dialogue.
    """

    id: str
    video: str
    question: str
    truth: Any
    duration_s: float | None = None
    span_s: tuple[float, float] | None = None
    options: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """One answer: the words as they came, and what could be read in them (None: nothing)."""

    text: str
    value: Any

    @property
    def words(self) -> str:
        """The words, of a value of words if there are no others."""
        return self.text or (self.value if isinstance(self.value, str) else "")


Paths: TypeAlias = Sequence[Path]
Entries: TypeAlias = Iterable[tuple[str | None, str | Prediction]]
Prompt: TypeAlias = Callable[[Example], str]
Parse: TypeAlias = Callable[[str, Example, "How"], Any]
# Of a video's number and its seconds.
Synthesize: TypeAlias = Callable[[int, float], tuple[Scene, list[Example]]]


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
        return Judge(self.asker.name, self.judge_prompt or prompt, self.asker.ask) if self.asker else None

    def required_judge(self, task: str, prompt: str) -> Judge:
        """The judge of a task that has no score without one; ValueError if there is none."""
        if judge := self.judge(prompt):
            return judge
        raise ValueError(
            f"{task} is scored by a judge, got none; give --judge-url and --judge-model of an "
            "OpenAI-compatible endpoint"
        )


@dataclass
class Answers:
    """Examples, and what was predicted for them.

    Attributes:
        examples: what was asked.
        by_id: by the id of the example, unknown ids included.
        how: how they are read and scored.
        duplicates: ids that a prediction file has again; what came first counts.
        num_other: its entries of another task, or of a further prompt for the same question.
    """

    examples: Sequence[Example]
    by_id: dict[str, Prediction]
    how: How
    duplicates: list[str] = field(default_factory=list)
    num_other: int = 0

    @property
    def known(self) -> list[tuple[Example, Prediction]]:
        """The examples that have a prediction, with it."""
        return [(example, self.by_id[example.id]) for example in self.examples if example.id in self.by_id]

    @property
    def counted(self) -> list[Example]:
        """The examples that count for the papers: those with an entry. Without `how.compat` all."""
        return [e for e in self.examples if self.how.compat is None or e.id in self.by_id]

    def values(self, empty: Any = None) -> dict[str, Any]:
        """What each prediction says, `empty` where nothing could be read."""
        return {key: empty if item.value is None else item.value for key, item in self.by_id.items()}

    def column(self, name: str) -> dict[str, Any]:
        """That attribute of each example, by its id."""
        return {example.id: getattr(example, name) for example in self.examples}


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
class Task:
    """A benchmark.

    Attributes:
        about: what is asked and how it is scored, in a line.
        where: where to get the data, in a line.
        read: reference files to examples.
        prompts: name to what a model is asked; "default" is ours, others are of the papers.
        times: prompt to what numbers in answers to it are; seconds where it has no entry.
        parse: an answer's words to what they say, None if nothing could be read.
        entries: files of predictions of these examples to ids (None: of another task) and words, or what
            they say where it is no words.
        write: names and texts of files that `entries` reads, in the benchmark's own format where it keeps the
            answers whole.
        score: the scores.
        needs_judge: without a judge there is no score.
        uses_meteor: METEOR is among the scores.
        synthesize: of a task with synthetic videos, a video and the questions about it; ids and groups of its
            video are added later.
        answer: of a task that asks in another way than by a prompt, a memory and the longest answer to the
            words; the same of all examples of a video.
        request: what stands while a video plays (`eval run --live`); None: it can't be played.
        tells: of an answer, and the seconds of the question before and of this one, whether it tells of
            something new; None: it does where it is another than the last.
    """

    about: str
    where: str
    read: Callable[[Paths], Iterable[Example]]
    prompts: Mapping[str, Prompt]
    parse: Parse
    entries: Callable[[Paths, Sequence[Example], How], Entries]
    write: Callable[[Answers], dict[str, str]]
    score: Callable[[Answers], Scored]
    times: Mapping[str, Times] = field(default_factory=dict)
    needs_judge: bool = False
    uses_meteor: bool = False
    synthesize: Synthesize | None = None
    answer: "Callable[[VideoMemory, int | None], str] | None" = None
    request: Prompt | None = None
    tells: Callable[[str, float, float], bool] | None = None

    def prompt(self, name: str) -> Prompt:
        """The prompt of that name, or a text with {question} in it, as a model was trained to be asked;
        ValueError for another."""
        if "{question}" in name:
            return lambda example: name.replace("{question}", example.question)
        if name not in self.prompts:
            known = ", ".join(self.prompts)
            raise ValueError(f"prompt must be one of {known}, or a text with {{question}}, got {name!r}")
        return self.prompts[name]

    def read_predictions(self, paths: Paths, examples: Sequence[Example], how: How) -> Answers:
        """The predictions of files; the words of unknown ids are not read."""
        known = {example.id: example for example in examples}
        out = Answers(examples, {}, how)
        for key, item in self.entries(paths, examples, how):
            if key is None:
                out.num_other += 1
            elif key in out.by_id:
                out.duplicates.append(key)
            elif isinstance(item, Prediction):
                out.by_id[key] = item
            else:
                out.by_id[key] = prediction_of(item, known.get(key), how, self.parse)
        return out

    def write_predictions(self, folder: Path, answers: Answers) -> list[Path]:
        """Write the files; their paths."""
        paths = {folder / name: text for name, text in self.write(answers).items()}
        for path, text in paths.items():
            write_text(path, text)
        return list(paths)


def prediction_of(words: str, example: Example | None, how: How, parse: Parse) -> Prediction:
    """The words, and what they say if the example is known."""
    return Prediction(words, None if example is None else parse(words, example, how))


def groups_of(examples: Iterable[Example]) -> dict[str, dict[str, list[str]]]:
    """Kind of group -> name -> ids of its examples, all in the order of the examples."""
    groups: dict[str, dict[str, list[str]]] = {}
    for example in examples:
        for kind, name in dict.fromkeys(example.groups):
            groups.setdefault(kind, {}).setdefault(name, []).append(example.id)
    return groups
