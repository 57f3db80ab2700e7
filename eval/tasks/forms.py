"""What the files of tasks have in common: an example a record, words by id, one file written.

Spoken answers are JSON lines of two forms. The log of VTimeLLM's and LongVALE's evaluation has {"video_id",
"task", "query_id", "answer", "info": {"sentence_id"}}: "answer" is the model's text, "task" is "grounding",
"captioning" or "seg_captioning", "query_id" counts prompts (papers score the first), "sentence_id" counts the
sentences of a video from 0. Its numbers are hundredths of the video. Ours has {"id", "answer"}, in seconds.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .examples import Answered, Answers, Example, Examples, Paths, Prediction, Predictions, Truth, Value
from .files import Record, one_file, read_records, write_json, write_lines
from .task import How, Line, Parse, Prompt, Read, Write

Item = TypeVar("Item")


class IdsByQuestion:
    """Ids of examples by video and question, for prediction files without ids."""

    def __init__(self, examples: Iterable[Example[Any]]) -> None:
        self._ids: dict[tuple[str, str], list[str]] = {}
        for example in examples:
            self._ids.setdefault((example.video, " ".join(example.question.split())), []).append(example.id)

    def take(self, video: str, question: str) -> str:
        """The id; of equal questions one after another, of an unknown question a text that is no id."""
        ids = self._ids.get((video, " ".join(question.split())), [])
        if not ids:
            return f"{video}: {question}"
        return ids.pop(0) if len(ids) > 1 else ids[0]


def answered(examples: Examples[Truth], predictions: Answers[Value]) -> Answered[Truth, Value]:
    """The examples that have a prediction, with it."""
    return [(example, predictions[example.id]) for example in examples if example.id in predictions]


def each_record(examples_of: Callable[[Record], Iterable[Example[Truth]]]) -> Read[Truth]:
    """A reader of one file of records, each with some examples."""

    def read(paths: Paths) -> list[Example[Truth]]:
        records = read_records(one_file(paths, "reference"))
        return [example for record in records for example in examples_of(record)]

    return read


def json_file(form: Callable[[Answered[Truth, Value]], object]) -> Write[Truth, Value]:
    """A writer of predictions.json, whose value `form` makes of the examples that have a prediction."""
    return lambda folder, examples, predictions, how: [
        write_json(folder / "predictions.json", form(answered(examples, predictions)))
    ]


def lines_file(name: str, line: Line[Truth, Value]) -> Write[Truth, Value]:
    """A writer of JSON lines, one for each example that has a prediction."""
    return lambda folder, examples, predictions, how: [
        write_lines(folder / name, [line(*pair) for pair in answered(examples, predictions)])
    ]


def collected(
    entries: Iterable[tuple[str, Item]],
    examples: Examples[Truth],
    read: Callable[[Item, Example[Truth] | None], Prediction[Value]],
    twice: Iterable[str] = (),
) -> Predictions[Value]:
    """What `read` makes of (id, item) pairs and the example of that id, None for an unknown id.

    `twice` are ids that the file had again and that the entries lack.
    """
    known = {example.id: example for example in examples}
    out: Predictions[Value] = Predictions()
    for key, item in entries:
        if key in out.by_id:
            out.duplicates.append(key)
        else:
            out.by_id[key] = read(item, known.get(key))
    out.duplicates = [key for key in twice if key in out.by_id] + out.duplicates
    return out


def predictions_of(
    texts: Iterable[tuple[str, str]],
    examples: Examples[Truth],
    how: How,
    parse: Parse[Truth, Value],
    twice: Iterable[str] = (),
) -> Predictions[Value]:
    """What (id, words) pairs say; the words of an unknown id are not read. `twice` as of `collected`."""
    return collected(texts, examples, lambda text, example: parsed(text, example, how, parse), twice)


def parsed(
    text: str, example: Example[Truth] | None, how: How, parse: Parse[Truth, Value]
) -> Prediction[Value]:
    """The words, and what they say if the example is known."""
    return Prediction(text, None if example is None else parse(text, example, how))


def question_prompt(form: str) -> Prompt:
    """A prompt with the question in it, without its full stop."""
    return lambda example: form.format(example.question.rstrip("."))


def number_or_text(key: str) -> int | str:
    """An id as files have it that number their questions."""
    return int(key) if key.isdecimal() else key


# --- answers as JSON lines


def sentence_id(video: str, number: int) -> str:
    """The id of a video's sentence, from 0."""
    return f"{video}_{number}"


def read_spoken(
    paths: Paths, examples: Examples[Truth], how: How, *, task: str, parse: Parse[Truth, Value]
) -> Predictions[Value]:
    """Predictions from a log (of `task`, as it calls it), or from lines of our own.

    Predictions of unknown ids are kept as they are, unread. With how.times, all numbers are that.
    """

    def is_other(record: Record) -> bool:
        return record.has("video_id") and (record.text("task") != task or record.number("query_id") != 0)

    def read(record: Record, example: Example[Truth] | None) -> Prediction[Value]:
        times = how.times or ("hundredths" if record.has("video_id") else "seconds")
        return parsed(record.text("answer", "pred", "text"), example, replace(how, times=times), parse)

    records = [record for path in paths for record in read_records(path)]
    known = [record for record in records if not is_other(record)]
    out = collected(((_id_of(record, task), record) for record in known), examples, read)
    out.num_other = len(records) - len(known)
    return out


def _id_of(record: Record, task: str) -> str:
    if not record.has("video_id"):
        return record.name("id", "question_id", "qid")
    video = record.name("video_id")
    if task == "captioning":
        return video
    info = record.within(record.get("info"), "info")
    number = info.number("sentence_id")
    if number != int(number) or number < 0:
        raise info.fault("'sentence_id' must be a whole number from 0", number)
    return sentence_id(video, int(number))


def write_spoken(
    folder: Path, examples: Examples[Any], predictions: Answers[Any], how: How, *, task: str
) -> list[Path]:
    """The log of answers in hundredths; of others our own lines, so that no time is rounded."""
    known = answered(examples, predictions)
    if how.times != "hundredths":
        lines = [{"id": example.id, "answer": prediction.words} for example, prediction in known]
        return [write_lines(folder / "predictions.jsonl", lines)]
    log = []
    for example, prediction in known:
        line = {"video_id": example.video, "task": task, "query_id": 0, "answer": prediction.words}
        number = example.id.rpartition("_")[2]
        log.append(line if task == "captioning" else line | {"info": {"sentence_id": int(number)}})
    return [write_lines(folder / "predictions.json", log)]
