"""YouCook2: the steps of a recipe with their times, as TimeChat, MMDuet and their successors score them."""

from collections.abc import Iterator, Sequence

from ..metrics.dense import reply_segments, youcook2
from .answers import events_of
from .events import timed, timed_texts
from .files import Record, is_lines, one_file, read_object, read_records, video_of
from .forms import json_file, read_spoken
from .magqa import replies_of
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task

PROMPT = (
    "List the cooking steps that the video shows, in order of time, one a line, each with its start and end "
    "in seconds, like this: From 12.0 to 15.5 seconds, chop the onions."
)


def read_recipes(paths: Paths) -> Iterator[Example]:
    """YouCook2's own annotations (validation videos of them), or TimeChat's val.caption_coco_format.json."""
    whole = read_object(one_file(paths, "reference"))
    if whole.has("database"):
        database = whole.within(whole.get("database"), "database")
        if whole.twice:
            raise whole.fault("each video must be there once", list(whole.twice))
        for key, value in database.value.items():
            video, name = database.within(value, f"video {key!r}"), video_of(key)
            if video.get("subset") == "validation":
                steps = timed_texts(video, "annotations", "segment", "sentence")
                yield Example(name, name, "", steps, video.maybe_number("duration"))
        return
    yield from map(_captioned, whole.records("annotations"))


def _captioned(record: Record) -> Example:
    """One video of TimeChat's file: its sentences are one text, "a. b. c."."""
    name = video_of(record.name("image_id"))
    sentences = [item.strip().removesuffix(".") + "." for item in record.text("pure_cap").split(". ")]
    spans = record.spans("segments")
    if len(spans) != len(sentences):
        needed = "'pure_cap' must have a sentence for each of 'segments'"
        raise record.fault(needed, f"{len(sentences)} and {len(spans)}")
    steps = tuple((*span, text) for span, text in zip(spans, sentences, strict=True))
    return Example(name, name, "", steps, record.maybe_number("duration"))


def read_steps(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """{video: [{"caption", "timestamp"}]} as TimeChat and MMDuet write it, MMDuet's replies, or our lines."""
    if not is_lines(path := one_file(paths, "pred")):
        whole = read_object(path)
        for name in whole.names():
            yield video_of(name), Prediction("", timed_texts(whole, name, "timestamp", "caption", "sentence"))
        return
    records = read_records(path)
    if not records or not records[0].has("model_response_list"):
        yield from read_spoken(paths, examples, how, task="captioning", parse=events_of)
        return
    for record in records:
        timed = sorted((time_s, text) for time_s, text in replies_of(record) if time_s is not None)
        steps = reply_segments(timed, first_start_s=None if how.compat == "paper" else 0.0)
        yield video_of(record.name("question_id")), Prediction("", tuple(steps))


def score_steps(answers: Answers) -> Scored:
    """F1, CIDEr, METEOR and SODA_c; videos without a prediction score 0, in the papers too."""
    compat = answers.how.compat
    metrics, each, corpus = youcook2(answers.column("truth"), answers.values(()), compat=compat)
    f1 = {key: video.f1 for key, video in each.items()}
    return Scored(metrics, {"SODA_c": f1} if f1 else {}, [corpus])


YOUCOOK2 = Task(
    about="the steps of a recipe with times, in a video of 5 min; F1, CIDEr, METEOR, SODA_c",
    where="youcookii_annotations_trainval.json of youcook2.eecs.umich.edu, or TimeChat's "
    "val.caption_coco_format.json, linked from github.com/RenShuhuai-Andy/TimeChat",
    read=read_recipes,
    prompts={DEFAULT: lambda example: PROMPT},
    parse=events_of,
    entries=read_steps,
    # TimeChat's form, its videos with .mp4 as its references have them
    write=json_file(lambda known: {f"{e.id}.mp4": timed(answer.value, "caption") for e, answer in known}),
    score=score_steps,
    uses_meteor=True,
)
