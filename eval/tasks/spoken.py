"""Answers as JSON lines: the log of VTimeLLM's and LongVALE's evaluation, and our own plain form.

A line of the log is {"video_id", "task", "query_id", "answer", "info": {"sentence_id"}}: "answer" is what the
model said, "task" is "grounding", "captioning" or "seg_captioning", "query_id" counts prompts (papers score
the first), "sentence_id" counts the sentences of a video from 0. Its numbers are hundredths of the video.

Our own is {"id", "answer"}; its numbers are seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longcompress.events.parse import to_percent
from longcompress.types import Event

from ..metrics.intervals import Interval
from ..metrics.soda import Captioned
from .answers import duration_of
from .files import Record, read_records, write_lines
from .task import Example, How, Predictions, Said, Truth, Value

LOG_TASKS = ("grounding", "captioning", "seg_captioning")


def sentence_id(video: str, number: int) -> str:
    """The id of a video's sentence, from 0."""
    return f"{video}_{number}"


def read_spoken(
    paths: Sequence[Path],
    examples: Sequence[Example[Truth]],
    how: How,
    *,
    task: str,
    parse: Callable[[str, Example[Truth], How], Value | None],
) -> Predictions[Value]:
    """Predictions from a log, or from lines of our own.

    Args:
        paths: the files.
        examples: those of the gold; what is said of others is kept as it is, unread.
        how: with `times`, all numbers are that.
        task: as the log calls it.
        parse: reads an answer.
    """
    known = {one.id: one for one in examples}
    said: dict[str, Said[Value]] = {}
    twice: list[str] = []
    num_other = 0
    for record in (one for path in paths for one in read_records(path)):
        is_log = record.has("video_id")
        if is_log and (record.text("task") != task or record.number("query_id") != 0):
            num_other += 1
            continue
        key = _log_id(record, task) if is_log else record.name("id", "question_id", "qid")
        if key in said:
            twice.append(key)
            continue
        text = record.text("answer", "pred", "text")
        reading = replace(how, times=how.times or ("hundredths" if is_log else "seconds"))
        said[key] = Said(text, parse(text, known[key], reading) if key in known else None)
    return Predictions(said, tuple(twice), num_other)


def _log_id(record: Record, task: str) -> str:
    if record.text("task") not in LOG_TASKS:
        raise record.fault(f"'task' must be one of {', '.join(LOG_TASKS)}", record.get("task"))
    video = record.name("video_id")
    if task == "captioning":
        return video
    info = record.within(record.get("info"), "info")
    number = info.number("sentence_id")
    if number != int(number) or number < 0:
        raise info.fault("'sentence_id' must be a whole number from 0", number)
    return sentence_id(video, int(number))


def write_spoken(
    path: Path,
    examples: Sequence[Example[Truth]],
    said: Mapping[str, Said[Value]],
    *,
    task: str,
    say: Callable[[Value, Example[Truth]], str],
) -> None:
    """The log.

    Args:
        path: the file.
        examples: in their order.
        said: answers whose words, if there are any, are in hundredths; what was said in seconds goes in
            without its words.
        task: as the log calls it.
        say: puts a value into words, where there are none.
    """
    lines = []
    for one in examples:
        if one.id not in said:
            continue
        answer = said[one.id]
        words = answer.text if answer.text or answer.value is None else say(answer.value, one)
        line: dict[str, Any] = {"video_id": one.video, "task": task, "query_id": 0, "answer": words}
        number = one.id.rpartition("_")[2]
        lines.append(line if task == "captioning" else line | {"info": {"sentence_id": int(number)}})
    write_lines(path, lines)


def say_span(span: Interval, example: Example[Any]) -> str:
    """A span in hundredths of the video, as VTimeLLM answers."""
    first, last = to_percent(Event(*span, ""), duration_of(example, "hundredths") or 0.0)
    return f"From {first:02d} to {last:02d}."


def say_events(events: Sequence[Captioned], example: Example[Any]) -> str:
    """Events in hundredths of the video, one a line, as LongVALE's models answer; the last one is included."""
    duration_s = duration_of(example, "hundredths") or 0.0
    lines = []
    for start_s, end_s, text in events:
        first, _ = to_percent(Event(start_s, end_s, ""), duration_s)
        last = max(first, min(round(end_s / duration_s * 100) - 1, 99))
        lines.append(f"From {first:02d} to {last:02d}, {' '.join(text.split())}")
    return "\n".join(lines)
