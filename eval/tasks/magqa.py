"""Shot2Story-MAGQA: a question whose several answers are due at several times, as MMDuet scores it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from ..metrics.answers import Reply, magqa
from .answers import duration_of, events_of, line_events
from .events import timed_texts
from .files import Record, one_file, read_records, video_of
from .forms import each_record, lines_file, number_or_text
from .judging import SYSTEM_ENDS
from .played import replies_of
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task, prediction_of

Replies: TypeAlias = tuple[Reply, ...]

PROMPT = (
    "{} The answer may change in the course of the video. Give every answer, in order of time, one a line, "
    "each with its start and end in seconds, like this: From 12.0 to 15.5 seconds, the dog is jumping."
)
JUDGE = (
    "Rate how correct an answer to a question about a video is, given the right answer: 5 says the same and "
    "all of it, 4 nearly, 3 in part, 2 little of it or against it, 1 wrong or about something else."
    f"{SYSTEM_ENDS}Question: {{question}}\nRight answer: {{reference}}\nAnswer: {{answer}}\n"
    "Reply with one digit from 1 to 5 and nothing else."
)
# yellow-binary-tree/MMDuet, test/evaluate.py, MIT: the rubric of its LLaMA judge, without its six examples.
JUDGE_OF_MMDUET = (
    "You are an evaluator for a video question answering system. Your task is to rate the correctness of the "
    "predicted answers against the ground truth answers. Use the following scale to assign a score:\n"
    "- 5: Perfect match; the predicted answer is completely correct and contains all the relevant "
    "information.\n"
    "- 4: Mostly correct; the predicted answer is largely accurate but may have minor omissions or slight "
    "inaccuracies.\n"
    "- 3: Partially correct; the predicted answer has some correct information, but also contains "
    "significant inaccuracies or missing key points.\n"
    "- 2: Slightly correct; the predicted answer has only a few correct elements, but most of the "
    "information is incorrect or irrelevant, or the predicted answer conflicts with the ground truth "
    "answer.\n"
    "- 1: Incorrect; the predicted answer is entirely wrong or does not address the question at all."
    f"{SYSTEM_ENDS}Question: {{question}}\nGround Truth Answer: {{reference}}\nPredicted Answer: {{answer}}"
)


@each_record
def read_questions(record: Record) -> Iterator[Example]:
    """MMDuet's test file: [{"question_id", "video", "conversation", "answer": [{"content", "time"}]}]."""
    turns = record.records("conversation")
    asked = next((turn for turn in turns if turn.get("role") == "user"), None)
    if asked is None:
        raise record.fault("'conversation' must have a turn of role 'user'", turns)
    answers = timed_texts(record, "answer", "time", "content")
    key, video = record.name("question_id"), video_of(record.name("video"))
    yield Example(key, video, asked.text("content"), answers, record.maybe_number("video_duration"))


def replies_in(text: str, example: Example, how: How) -> Replies | None:
    """Events of an answer as replies in the middle of each; an answer without times is one without a time."""
    middles: Replies
    if how.in_papers_hundredths:
        duration_s = duration_of(example)
        middles = tuple(((a + b) / 200 * duration_s, reply) for a, b, reply in line_events(text))
    else:
        events = events_of(text, example, how) or ()
        middles = tuple(((start_s + end_s) / 2, reply) for start_s, end_s, reply in events if reply)
    return middles or (((None, text.strip()),) if text.strip() else None)


def read_replies(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """MMDuet's lines: {"question_id", "model_response_list": [{"time", "content", "role"}]}.

    Lines of models that answer at the end have "model_response": [text] in place of the list.
    """
    known = {example.id: example for example in examples}
    for record in read_records(one_file(paths, "pred")):
        key = record.name("question_id", "id")
        if record.has("model_response_list"):
            yield key, Prediction("", replies_of(record))
            continue
        response = record.get("model_response", "answer")
        text = response[0] if isinstance(response, list) and len(response) == 1 else response
        if not isinstance(text, str):
            raise record.fault("'model_response' must be [text]", response)
        example = known.get(key)
        if example is not None and example.duration_s is None:
            example = replace(example, duration_s=record.maybe_number("video_duration"))
        yield key, prediction_of(text, example, how, replies_in)


def line_of(example: Example, prediction: Prediction) -> dict[str, object]:
    """MMDuet's line."""
    replies = [
        {"time": -1 if time_s is None else time_s, "content": text, "role": "assistant"}
        for time_s, text in prediction.value or ()
    ]
    return {"question_id": number_or_text(example.id), "model_response_list": replies}


def score_replies(answers: Answers) -> Scored:
    """The in-span score, by a judge."""
    compat = answers.how.compat
    judge = answers.how.required_judge("magqa", JUDGE_OF_MMDUET if compat == "paper" else JUDGE)
    reference, questions = answers.column("truth"), answers.column("question")
    metrics, each = magqa(reference, answers.values(()), questions, judge, compat=compat)
    return Scored(metrics, {} if compat else {"in_span": each})  # the papers' is no mean of examples


MAGQA = Task(
    about="a question with several answers, each due at its time; in-span score 1 to 5 by a judge",
    where="the test file of Shot2Story-MAGQA-39k, linked from github.com/yellow-binary-tree/MMDuet",
    read=read_questions,
    prompts={DEFAULT: lambda example: PROMPT.format(example.question)},
    parse=replies_in,
    entries=read_replies,
    write=lines_file("predictions.json", line_of),
    score=score_replies,
    needs_judge=True,
    request=lambda example: example.question,
)
