"""YouCook2: the steps of a recipe with their times, as TimeChat, MMDuet and their successors score them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..metrics.soda import Captioned, soda_of_each
from ..metrics.youcook import reply_segments, youcook2, youcook2_corpus
from .answers import events_of
from .dense import Events, PairScores
from .files import Record, is_lines, one_file, read_object, read_records, video_of, write_json
from .magqa import replies_of
from .spoken import read_spoken
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task

PROMPT = (
    "List the cooking steps that the video shows, in order of time, one a line, each with its start and end "
    "in seconds, like this: From 12.0 to 15.5 seconds, chop the onions."
)


def read_recipes(paths: Sequence[Path]) -> list[Example[Events]]:
    """YouCook2's own annotations (validation videos of them), or TimeChat's val.caption_coco_format.json."""
    whole, twice = read_object(one_file(paths, "gold"))
    if whole.has("database"):
        database = whole.within(whole.get("database"), "database")
        if twice:
            raise whole.fault("each video must be there once", twice)
        videos = [database.within(database.value[name], f"video {name!r}") for name in database.value]
        named = zip(database.value, videos, strict=True)
        return [_video(name, one) for name, one in named if one.get("subset") == "validation"]
    return [_captioned(one) for one in whole.records("annotations")]


def _video(name: str, video: Record) -> Example[Events]:
    steps = tuple(
        (*one.span(one.get("segment"), "'segment'"), one.text("sentence"))
        for one in video.records("annotations")
    )
    return Example(video_of(name), video_of(name), "", steps, video.maybe_number("duration"))


def _captioned(record: Record) -> Example[Events]:
    """One video of TimeChat's file: its sentences are one text, "a. b. c."."""
    name = video_of(record.name("image_id"))
    spans = [record.span(one, f"segments {i}") for i, one in enumerate(record.items("segments"), 1)]
    sentences = [one.strip().removesuffix(".") + "." for one in record.text("pure_cap").split(". ")]
    if len(spans) != len(sentences):
        raise record.fault(
            "'pure_cap' must have a sentence for each of 'segments'", f"{len(sentences)} and {len(spans)}"
        )
    steps = tuple((*span, said) for span, said in zip(spans, sentences, strict=True))
    return Example(name, name, "", steps, record.maybe_number("duration"))


def read_steps(paths: Sequence[Path], examples: Sequence[Example[Events]], how: How) -> Predictions[Events]:
    """{video: [{"caption", "timestamp"}]} as TimeChat and MMDuet write it, MMDuet's replies, or our lines."""
    path = one_file(paths, "pred")
    if is_lines(path):
        records = read_records(path)
        if not records or not records[0].has("model_response_list"):
            return read_spoken(paths, examples, how, task="captioning", parse=events_of)
        return _streamed(records, how)
    whole, twice = read_object(path)
    said: dict[str, Said[Events]] = {}
    again = list(twice)
    for name in whole.value:
        steps: tuple[Captioned, ...] = tuple(
            (*one.span(one.get("timestamp"), "'timestamp'"), one.text("caption", "sentence"))
            for one in whole.records(name)
        )
        if video_of(name) in said:
            again.append(name)
        else:
            said[video_of(name)] = Said("", steps)
    return Predictions(said, tuple(video_of(name) for name in again if video_of(name) in said))


def _streamed(records: Sequence[Record], how: How) -> Predictions[Events]:
    said: dict[str, Said[Events]] = {}
    twice = []
    for record in records:
        name = video_of(record.name("question_id"))
        if name in said:
            twice.append(name)
            continue
        timed = sorted((time_s, text) for time_s, text in replies_of(record) if time_s is not None)
        first_start_s = None if how.compat == "paper" else 0.0
        said[name] = Said("", tuple(reply_segments(timed, first_start_s=first_start_s)))
    return Predictions(said, tuple(twice))


def write_steps(path: Path, examples: Sequence[Example[Events]], said: Mapping[str, Said[Events]]) -> None:
    """TimeChat's form, its videos with .mp4 as its gold has them."""
    write_json(
        path,
        {
            f"{one.id}.mp4": [
                {"caption": text, "timestamp": [start_s, end_s]}
                for start_s, end_s, text in said[one.id].value or ()
            ]
            for one in examples
            if one.id in said
        },
    )


def score_steps(examples: Sequence[Example[Events]], said: Mapping[str, Said[Events]], how: How) -> Scored:
    """F1, CIDEr, METEOR and SODA_c; videos without a prediction score 0, in the papers too."""
    gold = {one.id: list(one.truth) for one in examples}
    predicted = {key: list(one.value or ()) for key, one in said.items()}
    metrics = youcook2(gold, predicted, which_meteor=how.meteor, compat=how.compat)
    ordered = {
        key: [(min(start, end), max(start, end), text) for start, end, text in some]
        for key, some in predicted.items()
    }
    each = soda_of_each(gold, ordered, PairScores(how))
    return Scored(
        metrics,
        {"SODA_c": {key: one.f1 for key, one in each.items()}},
        lambda: [youcook2_corpus(gold, predicted, which_meteor=how.meteor, compat=how.compat)],
    )


YOUCOOK2 = Task(
    about="the steps of a recipe with times, in a video of 5 min; F1, CIDEr, METEOR, SODA_c",
    where="youcookii_annotations_trainval.json of youcook2.eecs.umich.edu, or TimeChat's "
    "val.caption_coco_format.json, linked from github.com/RenShuhuai-Andy/TimeChat",
    read=read_recipes,
    prompts={DEFAULT: lambda example: PROMPT},
    parse=events_of,
    read_predictions=read_steps,
    write_predictions=write_steps,
    score=score_steps,
)
