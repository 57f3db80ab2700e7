"""Dense captioning: ActivityNet Captions, and the scorer that LongVALE shares."""

from collections.abc import Iterator, Sequence

from ..metrics.bootstrap import means_of
from ..metrics.dense import dense_captions
from ..metrics.soda import Captioned, meteor_of_pairs, soda_c
from .answers import events_of
from .files import Record, is_lines, one_file, read_object
from .forms import Known, json_file, read_spoken
from .grounding import events_by_video
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task

# huangb23/VTimeLLM, vtimellm/eval/eval.py, CC BY-NC-ND 4.0: three sentences, quoted for comparison.
VTIMELLM = (  # after "<video>\\n" their script writes a space
    " Could you please describe the events in the video in detail? Be specific about the activities of "
    "individuals, their surroundings, and interactions with others. The output should be in JSON format, "
    'structured as follows: {"event": "xx", "timestamps": "from xx to xx"}.'
)
DEFAULT_PROMPT = (
    "List what happens in the video, in order of time, one event a line, each with its start and end in "
    "seconds, like this: From 12.0 to 15.5 seconds, a dog jumps over a fence."
)


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
    soda, each = soda_c(reference[0], predicted, scorer, compat=compat)
    protocol, corpus = dense_captions(reference, predicted, compat=compat)
    metrics = {name: soda[name] for name in ("SODA_c", "SODA_c_precision", "SODA_c_recall", "scorer")}
    sides = {
        "SODA_c_precision": {key: video.precision for key, video in each.items()},
        "SODA_c_recall": {key: video.recall for key, video in each.items()},
    }
    f1 = {key: video.f1 for key, video in each.items()}
    corpora = [means_of(sides, {key: key for key in each}), corpus] if each else [corpus]
    return Scored(metrics | protocol, {"SODA_c": f1} if scorer else {}, corpora)


def read_events(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """The official form, VTimeLLM's or LongVALE's log, or our own lines.

    The official form is {"results": {video: [{"sentence", "timestamp": [start, end]}]}}.
    """
    if is_lines(one_file(paths, "pred")):
        yield from read_spoken(paths, examples, how, task="captioning", parse=events_of)
        return
    whole = read_object(paths[0])
    results = whole.within(whole.get("results"), "results")
    for name in results.names():
        yield name, Prediction("", timed_texts(results, name, "timestamp", "sentence", "caption"))


def timed(events: Sequence[Captioned] | None, text_name: str) -> list[dict[str, object]]:
    """Events as files of predictions have them; of an answer that could not be read none."""
    return [{text_name: text, "timestamp": [start_s, end_s]} for start_s, end_s, text in events or ()]


@json_file
def write_results(known: Known) -> dict[str, object]:
    """The official form."""
    results = {example.id: timed(prediction.value, "sentence") for example, prediction in known}
    return {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}


ACTIVITYNET_DENSE = Task(
    about="all that happens in a video of 2 min, with times; SODA_c, CIDEr, METEOR, ROUGE-L, BLEU, F1",
    where="val_1.json (and val_2.json, a second annotator) of ActivityNet Captions, as activitynet-grounding",
    read=whole_videos,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "vtimellm": lambda example: VTIMELLM},
    times={"vtimellm": "hundredths"},
    parse=events_of,
    entries=read_events,
    write=write_results,
    score=score_events,
    uses_meteor=True,
)
