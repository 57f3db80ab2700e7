"""What the files of tasks have in common: an example a record, ids by question, one file written.

Spoken answers are JSON lines of two forms. The log of VTimeLLM's and LongVALE's evaluation has {"video_id",
"task", "query_id", "answer", "info": {"sentence_id"}}: "answer" is the model's text, "task" is "grounding",
"captioning" or "seg_captioning", "query_id" counts prompts (papers score the first), "sentence_id" counts the
sentences of a video from 0 (their ids are VIDEO_NUMBER). Its numbers are hundredths of the video. Ours has
{"id", "answer"}, in seconds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from .files import Record, json_text, lines_text, one_file, read_records
from .task import Answers, Entries, Example, How, Parse, Paths, Prediction, Prompt, prediction_of

Known = list[tuple[Example, Prediction]]
Write = Callable[[Answers], dict[str, str]]


class IdsByQuestion:
    """Ids of examples by video and question, for prediction files without ids."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._ids: dict[tuple[str, ...], list[str]] = {}
        for example in examples:
            self._ids.setdefault((example.video, *example.question.split()), []).append(example.id)

    def take(self, video: str, question: str) -> str:
        """The id; of equal questions one after another, of an unknown question a text that is no id."""
        ids = self._ids.get((video, *question.split()), [f"{video}: {question}"])
        return ids.pop(0) if len(ids) > 1 else ids[0]


def each_record(examples_of: Callable[[Record], Iterable[Example]]) -> Callable[[Paths], Iterable[Example]]:
    """A reader of one file of records, each with some examples."""
    return lambda paths: (
        example for record in read_records(one_file(paths, "reference")) for example in examples_of(record)
    )


def json_file(form: Callable[[Known], object]) -> Write:
    """A writer of predictions.json, whose value `form` makes of the examples that have a prediction."""
    return lambda answers: {"predictions.json": json_text(form(answers.known))}


def lines_file(name: str, line: Callable[[Example, Prediction], object]) -> Write:
    """A writer of JSON lines, one for each example that has a prediction."""
    return lambda answers: {name: lines_text(line(*pair) for pair in answers.known)}


def question_prompt(form: str) -> Prompt:
    """A prompt with the question in it, without its full stop."""
    return lambda example: form.format(example.question.rstrip("."))


def number_or_text(key: str) -> int | str:
    """An id as files have it that number their questions."""
    return int(key) if key.isdecimal() else key


# --- answers as JSON lines


def read_spoken(paths: Paths, examples: Sequence[Example], how: How, *, task: str, parse: Parse) -> Entries:
    """The entries of a log (of `task`, as it calls it), or of lines of our own.

    With how.times, all numbers are that.
    """
    known = {example.id: example for example in examples}
    for record in (record for path in paths for record in read_records(path)):
        is_log = record.has("video_id")
        if is_log and (record.text("task") != task or record.number("query_id") != 0):
            yield None, ""
            continue
        key = _logged_id(record, task) if is_log else record.name("id", "question_id", "qid")
        own = replace(how, times=how.times or ("hundredths" if is_log else "seconds"))
        yield key, prediction_of(record.text("answer", "pred", "text"), known.get(key), own, parse)


def _logged_id(record: Record, task: str) -> str:
    video = record.name("video_id")
    if task == "captioning":
        return video
    info = record.within(record.get("info"), "info")
    number = info.number("sentence_id")
    if number != int(number) or number < 0:
        raise info.fault("'sentence_id' must be a whole number from 0", number)
    return f"{video}_{int(number)}"


def write_spoken(answers: Answers, *, task: str) -> dict[str, str]:
    """The log of answers in hundredths; of others our own lines, so that no time is rounded."""
    if answers.how.times != "hundredths":
        lines = [{"id": example.id, "answer": prediction.words} for example, prediction in answers.known]
        return {"predictions.jsonl": lines_text(lines)}
    log: list[dict[str, Any]] = []
    for example, prediction in answers.known:
        log.append({"video_id": example.video, "task": task, "query_id": 0, "answer": prediction.words})
        if task != "captioning":
            log[-1]["info"] = {"sentence_id": int(example.id.rpartition("_")[2])}
    return {"predictions.json": lines_text(log)}
