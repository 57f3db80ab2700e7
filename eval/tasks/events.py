"""Events with their times: when a sentence happens, all that happens, what happens in a span.

Charades-STA, ActivityNet Captions, LongVALE: located, captioned with times, or by span; and YouCook2's steps.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...events.parse import to_percent
from ...types import Event
from ..metrics.bootstrap import means_of
from ..metrics.captions import caption_scores
from ..metrics.curves import curve_iou
from ..metrics.dense import dense_captions, meteor_of_pairs, reply_segments, soda_c, youcook2
from ..metrics.intervals import Captioned, grounding
from .answers import events_of, span_of, words_of
from .files import Record, is_lines, one_file, read_object, read_records, read_text, video_of
from .forms import Known, json_file, question_prompt, read_spoken, write_spoken
from .played import Played, played_in, replies_of
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Prompt, Scored, Task, Times

CURVE_FRAMES, CURVE_THRESHOLD = 2, 0.5  # of a curve; MMDuet doesn't say which it took

# huangb23/VTimeLLM, vtimellm/eval/eval.py, CC BY-NC-ND 4.0: four sentences, quoted for comparison.
FIND_AS_VTIMELLM = "During which frames can we see {}?"
TELL_AS_VTIMELLM = (  # after "<video>\\n" their script writes a space
    " Could you please describe the events in the video in detail? Be specific about the activities of "
    "individuals, their surroundings, and interactions with others. The output should be in JSON format, "
    'structured as follows: {"event": "xx", "timestamps": "from xx to xx"}.'
)
DEFAULT_PROMPT = (
    "List what happens in the video, in order of time, one event a line, each with its start and end in "
    "seconds, like this: From 12.0 to 15.5 seconds, a dog jumps over a fence."
)
WHERE = "longvale-annotations-eval.json of the data set at github.com/ttgeng233/LongVALE (CC BY-NC-SA 4.0)"
# ttgeng233/LongVALE, longvalellm/eval/eval.py, MIT; the spelling is theirs.
FIND_AS_LONGVALE = (
    "At which time interval can we find {} taking place in the video? "
    "Give the timestamps in the fromat: From xx to xx."
)
TELL_AS_LONGVALE = (  # after "<video>\\n" their script writes a space, but not in FIND_AS_LONGVALE
    " Could you please detail the events that took place during different time segments in the video? "
    "List the events in the format: From xx to xx, event1. \n From xx to xx, event2. \n ..."
)
TELL_OF_LONGVALE = (
    " Can you describe what occurred from {:02d} to {:02d} in the video? Please give the event description "
    "directly."
)
ASK_OF = (
    "What happens in the video from {:g} to {:g} seconds? Describe what is seen, heard and said, in one "
    "sentence."
)
ASK_STEPS = (
    "List the cooking steps that the video shows, in order of time, one a line, each with its start and end "
    "in seconds, like this: From 12.0 to 15.5 seconds, chop the onions."
)


def ask_as_paper(form: str) -> Prompt:
    """A prompt with the sentence as both papers put it in: in small letters, without its full stop."""
    return lambda example: form.format(example.question.strip().lower().removesuffix("."))


PROMPTS = {
    DEFAULT: question_prompt(
        "When does this happen in the video: {}? "
        "Answer with the start and the end in seconds, like this: From 12.0 to 15.5 seconds."
    ),
    # The words that our own language models are taught; the last second is included.
    "whole-seconds": question_prompt("When does this happen: {}? Answer like this: 187 to 192."),
}
TIMES: dict[str, Times] = {"whole-seconds": "whole_seconds"}


def score_spans(answers: Answers) -> Scored:
    """Recall at 1 and mean IoU; an answer that could not be read is IoU 0.

    A video that was played is grounded by its curve (`curve_iou`): the IoU is of frames. For the papers: IoU
    rounded to two decimals, and sentences without an entry left out.
    """
    reference = {example.id: example.truth for example in answers.counted}
    values = answers.values()
    options: Any = {"num_frames": CURVE_FRAMES, "threshold": CURVE_THRESHOLD}
    ious = {
        key: curve_iou(value.times_s, value.relevance, [reference[key]], **options)
        for key, value in values.items()
        if isinstance(value, Played) and key in reference
    }
    spans = {key: None if isinstance(value, Played) else value for key, value in values.items()}
    return Scored(*grounding(reference, spans, round_iou=answers.how.compat == "paper", ious=ious))


def read_located(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """A log or lines of our own, or MMDuet's lines with a curve, {"question_id", "debug_data"}."""
    path = one_file(paths, "pred")
    records = read_records(path) if is_lines(path) else []
    if not records or not records[0].has("debug_data"):
        yield from read_spoken(paths, examples, how, task="grounding", parse=span_of)
        return
    for record in records:
        yield record.name("question_id", "id"), Prediction("", played_in(record))


def events_by_video(path: Path) -> dict[str, tuple[float, tuple[Captioned, ...]]]:
    """Length and events of each video of {video: {"duration", "timestamps", "sentences"}}."""
    whole = read_object(path)
    if whole.twice:
        raise whole.fault("each video must be there once", list(whole.twice))
    out = {}
    for video, value in whole.value.items():
        record = whole.within(value, f"video {video!r}")
        spans, sentences = record.spans("timestamps"), record.texts("sentences")
        if len(spans) != len(sentences):
            got = f"{len(spans)} and {len(sentences)}"
            raise record.fault("'timestamps' and 'sentences' must be as many", got)
        events = tuple((*span, text) for span, text in zip(spans, sentences, strict=True))
        out[video] = record.number("duration"), events
    return out


def read_sentences(paths: Paths) -> Iterator[Example]:
    """An example for each sentence: where is it?"""
    for e in read_spans(paths):
        yield replace(e, question=e.truth.strip(), truth=e.span_s, span_s=None)


def read_charades(paths: Paths) -> Iterator[Example]:
    """Charades-STA's lines "VIDEO START END##sentence", or the JSON that VTimeLLM made of them."""
    path = one_file(paths, "reference")
    if path.suffix == ".json":
        yield from read_sentences(paths)
        return
    numbers = Counter[str]()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        head, _, sentence = line.partition("##")
        try:
            video, start, end = head.split()
            span = float(start), float(end)
        except ValueError:
            span = None
        if span is None or not sentence.strip():
            raise ValueError(
                f"{path}:{number}: must be 'VIDEO START END##sentence' with seconds, got {line[:80]!r}"
            )
        yield Example(f"{video}_{numbers[video]}", video, sentence.strip(), span)
        numbers[video] += 1


def timed_texts(record: Record, name: str, span: str, *texts: str) -> tuple[Captioned, ...]:
    """The events in a list of objects, of which `span` is the time and one of `texts` the text."""
    return tuple(
        (*event.span(event.get(span), repr(span)), event.text(*texts)) for event in record.records(name)
    )


def whole_videos(paths: Paths) -> Iterator[Example]:
    """An example for each video: its events, by each annotator (one a file)."""
    each = [events_by_video(path) for path in paths]
    for video in dict.fromkeys(video for annotator in each for video in annotator):
        known = [annotator[video] for annotator in each if video in annotator]
        yield Example(video, video, "", tuple(events for _, events in known), known[0][0])


def score_events(answers: Answers) -> Scored:
    """SODA_c (of the first annotator) and the ActivityNet protocol; no events that could be read score 0."""
    predicted, truths, compat = answers.values(()), answers.column("truth"), answers.how.compat
    num_annotators = max(map(len, truths.values()), default=1)
    reference = [
        {key: events[i] for key, events in truths.items() if len(events) > i} for i in range(num_annotators)
    ]
    scorer = meteor_of_pairs(swapped=compat == "paper")
    soda, columns = soda_c(reference[0], predicted, scorer, compat=compat)
    protocol, corpus = dense_captions(reference, predicted, compat=compat)
    metrics = {name: soda[name] for name in (*columns, "scorer")}
    f1 = columns["SODA_c"]
    sides = means_of(columns, {key: key for key in f1})
    return Scored(metrics | protocol, {"SODA_c": f1} if scorer else {}, [sides, corpus])


def read_events(paths: Paths, examples: Sequence[Example], how: How, *, root: str = "results") -> Entries:
    """ActivityNet's form, TimeChat's, VTimeLLM's or LongVALE's log, MMDuet's replies, or our own lines.

    ActivityNet's is {"results": {video: [{"sentence", "timestamp": [start, end]}]}}; TimeChat's has no root,
    and "caption" for "sentence".
    """
    if not is_lines(path := one_file(paths, "pred")):
        whole = read_object(path)
        videos = whole.within(whole.get(root), root) if root else whole
        for name in videos.names():
            yield (
                video_of(name),
                Prediction("", timed_texts(videos, name, "timestamp", "sentence", "caption")),
            )
        return
    records = read_records(path)
    if not records or not records[0].has("model_response_list"):
        yield from read_spoken(paths, examples, how, task="captioning", parse=events_of)
        return
    for record in records:
        timed = sorted((time_s, text) for time_s, text in replies_of(record) if time_s is not None)
        steps = reply_segments(timed, first_start_s=None if how.compat == "paper" else 0.0)
        yield video_of(record.name("question_id")), Prediction("", tuple(steps))


def timed(events: Sequence[Captioned] | None, text_name: str) -> list[dict[str, object]]:
    """Events as files of predictions have them; of an answer that could not be read none."""
    return [{text_name: text, "timestamp": [start_s, end_s]} for start_s, end_s, text in events or ()]


@json_file
def write_results(known: Known) -> dict[str, object]:
    """The official form."""
    results = {example.id: timed(prediction.value, "sentence") for example, prediction in known}
    return {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}


def read_spans(paths: Paths) -> Iterator[Example]:
    """An example for each event: what happens there?"""
    for video, (duration_s, events) in events_by_video(one_file(paths, "reference")).items():
        for i, (start_s, end_s, text) in enumerate(events):
            yield Example(f"{video}_{i}", video, "", text, duration_s, (start_s, end_s))


def ask_what_as_longvale(example: Example) -> str:
    """The question of LongVALE's script, in hundredths."""
    start_s, end_s = sorted(example.span_s or ())
    return TELL_OF_LONGVALE.format(*to_percent(Event(start_s, end_s, ""), example.duration_s or 0.0))


def score_captions(answers: Answers) -> Scored:
    """BLEU, METEOR, ROUGE-L and CIDEr over the corpus; for the papers, of events that have an entry."""
    predicted = {key: prediction.value or prediction.text for key, prediction in answers.by_id.items()}
    reference = {example.id: [example.truth] for example in answers.counted}
    metrics, corpus = caption_scores(reference, predicted, answers.column("video"))
    return Scored(metrics, corpora=[corpus])


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


def score_steps(answers: Answers) -> Scored:
    """F1, CIDEr, METEOR and SODA_c; videos without a prediction score 0, in the papers too."""
    truths, steps = answers.column("truth"), answers.values(())
    metrics, each, corpus = youcook2(truths, steps, compat=answers.how.compat)
    return Scored(metrics, each, [corpus])


CHARADES_STA = Task(
    about="when a sentence happens in a video of 30 s; R@1 at IoU .3 .5 .7, mIoU",
    where="charades_sta_test.txt of github.com/jiyanggao/TALL; videos of prior.allenai.org/projects/charades",
    read=read_charades,
    prompts=PROMPTS | {"vtimellm": ask_as_paper(FIND_AS_VTIMELLM)},
    times=TIMES | {"vtimellm": "hundredths"},
    parse=span_of,
    entries=read_located,
    write=partial(write_spoken, task="grounding"),
    score=score_spans,
    request=lambda example: example.question,
)

ACTIVITYNET_GROUNDING = replace(
    CHARADES_STA,
    about="when a sentence happens in a video of 2 min; R@1 at IoU .3 .5 .7, mIoU",
    where="val_1.json or val_2.json of ActivityNet Captions, cs.stanford.edu/people/ranjaykrishna/densevid",
    read=read_sentences,
)

ACTIVITYNET_DENSE = Task(
    about="all that happens in a video of 2 min, with times; SODA_c, CIDEr, METEOR, ROUGE-L, BLEU, F1",
    where="val_1.json (and val_2.json, a second annotator) of ActivityNet Captions, as activitynet-grounding",
    read=whole_videos,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "vtimellm": lambda example: TELL_AS_VTIMELLM},
    times={"vtimellm": "hundredths"},
    parse=events_of,
    entries=read_events,
    write=write_results,
    score=score_events,
    uses_meteor=True,
)
LONGVALE_TVG = replace(
    ACTIVITYNET_GROUNDING,
    about="when an audio-visual event happens; R@1 at IoU .3 .5 .7, mIoU",
    where=WHERE,
    prompts=PROMPTS | {"longvale": ask_as_paper(FIND_AS_LONGVALE)},
    times=TIMES | {"longvale": "hundredths"},
)

LONGVALE_DVC = replace(
    ACTIVITYNET_DENSE,
    about="all audio-visual events with times; SODA_c, CIDEr, METEOR",
    where=WHERE,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "longvale": lambda example: TELL_AS_LONGVALE},
    times={"longvale": "hundredths"},
    write=partial(write_spoken, task="captioning"),
)

LONGVALE_SC = Task(
    about="what happens in a given span; BLEU-4, METEOR, ROUGE-L, CIDEr over the corpus",
    where=WHERE,
    read=read_spans,
    prompts={DEFAULT: lambda example: ASK_OF.format(*example.span_s or ()), "longvale": ask_what_as_longvale},
    parse=words_of,
    entries=partial(read_spoken, task="seg_captioning", parse=words_of),
    write=partial(write_spoken, task="seg_captioning"),
    score=score_captions,
    uses_meteor=True,
)

YOUCOOK2 = Task(
    about="the steps of a recipe with times, in a video of 5 min; F1, CIDEr, METEOR, SODA_c",
    where="youcookii_annotations_trainval.json of youcook2.eecs.umich.edu, or TimeChat's "
    "val.caption_coco_format.json, linked from github.com/RenShuhuai-Andy/TimeChat",
    read=read_recipes,
    prompts={DEFAULT: lambda example: ASK_STEPS},
    parse=events_of,
    entries=partial(read_events, root=""),
    # TimeChat's form, its videos with .mp4 as its references have them
    write=json_file(lambda known: {f"{e.id}.mp4": timed(answer.value, "caption") for e, answer in known}),
    score=score_steps,
    uses_meteor=True,
    request=lambda example: "Tell me the cooking steps as they are done.",
)

ACTIVITYNET = {
    "charades-sta": CHARADES_STA,
    "activitynet-grounding": ACTIVITYNET_GROUNDING,
    "activitynet-dense": ACTIVITYNET_DENSE,
}
LONGVALE = {"longvale-tvg": LONGVALE_TVG, "longvale-dvc": LONGVALE_DVC, "longvale-sc": LONGVALE_SC}
