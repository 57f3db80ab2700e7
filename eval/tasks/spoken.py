"""Answers as JSON lines: the log of VTimeLLM's and LongVALE's evaluation, and our own plain form.

A line of the log is {"video_id", "task", "query_id", "answer", "info": {"sentence_id"}}: "answer" is the
model's text, "task" is "grounding", "captioning" or "seg_captioning", "query_id" counts prompts (papers score
the first), "sentence_id" counts the sentences of a video from 0. Its numbers are hundredths of the video.

Our own is {"id", "answer"}; its numbers are seconds.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from .examples import Answers, Example, Examples, Paths, Prediction, Predictions, Truth, Value
from .files import Record, read_records, write_lines
from .forms import answered, collected, parsed
from .task import How, Parse


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
    known = list(answered(examples, predictions))
    if how.times != "hundredths":
        lines = [{"id": example.id, "answer": prediction.words} for example, prediction in known]
        return [write_lines(folder / "predictions.jsonl", lines)]
    log = []
    for example, prediction in known:
        line = {"video_id": example.video, "task": task, "query_id": 0, "answer": prediction.words}
        number = example.id.rpartition("_")[2]
        log.append(line if task == "captioning" else line | {"info": {"sentence_id": int(number)}})
    return [write_lines(folder / "predictions.json", log)]
