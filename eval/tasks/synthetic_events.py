"""The list of all events of a synthetic video, by `VideoMemory.list_events`, against the events it has."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ...events.listing import EventList
from ...events.parse import join_events
from ...synthetic.questions import NOTHING, is_clear
from ...synthetic.scenes import OBJECTS, SOUNDS, Scene, make_scene
from ...types import Event
from ..metrics.intervals import Captioned, mean, tiou_matrix
from .answers import events_of, without_thoughts
from .forms import lines_file, read_spoken
from .synthetic import QA_SEED, examples_of
from .task import DEFAULT, Answers, Example, How, Prediction, Scored, Task, groups_of

if TYPE_CHECKING:
    from ...memory import VideoMemory

TASK = "synthetic_events"
MIN_IOU = 0.5
NAMES = {"": None, "/seen": frozenset(OBJECTS), "/heard": frozenset(SOUNDS)}  # of each kind of event, and all
COUNTS = ("num_asked", "num_asked_again", "num_dropped", "num_joined", "num_without_time")


@dataclass(frozen=True)
class Listing:
    """Events, and for a prediction the counts of `EventList`, by the names of COUNTS."""

    events: tuple[Captioned, ...]
    counts: dict[str, int] = field(default_factory=dict)


def truth_of(scene: Scene) -> Listing:
    """The events of a scene, those of a name that touch as one; without those that are too short for whole
    seconds to give their time (`is_clear`)."""
    clear = (Event(e.start_s, e.end_s, e.name) for e in scene.events if is_clear(e))
    return Listing(tuple((e.start_s, e.end_s, e.text) for e in join_events(clear, 0.0)))


def synthesize_events(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video of synthetic QA, and the list of its events as the only example."""
    scene = make_scene(QA_SEED + number, seconds)
    return scene, [Example("", "", "All events", truth_of(scene), seconds)]


def answer(memory: "VideoMemory", max_new_tokens: int | None) -> str:
    """The events of a memory and their counts, as `listing_in` reads them."""
    return words_of(memory.list_events(max_new_tokens=max_new_tokens))


def words_of(listed: EventList) -> str:
    """A list of events and its counts as JSON."""
    counts = {name: getattr(listed, name) for name in COUNTS[:-1]} | {COUNTS[-1]: len(listed.unparsed)}
    texts = [str(window) for window in listed.unparsed]
    return json.dumps({"events": [asdict(e) for e in listed.events], "counts": counts, "unparsed": texts})


def listing_in(text: str, example: Example, how: How) -> Listing | None:
    """What `answer` gives, or events in any form; None where no time could be read."""
    words = without_thoughts(text).strip()
    try:
        value = json.loads(words)
    except ValueError:
        value = None
    counts: Any = {}
    if isinstance(value, dict) and isinstance(value.get("counts"), dict):
        counts = {name: num for name, num in value["counts"].items() if name in COUNTS}
        words = json.dumps(value.get("events")) if value.get("events") else NOTHING
    events = () if words.lower().startswith(NOTHING) else events_of(words, example, how)
    return None if events is None else Listing(events, counts)


def num_hits(truth: Sequence[Captioned], listed: Sequence[Captioned]) -> int:
    """True events that have an event of the list of their name, with an IoU of MIN_IOU or more, one each."""
    left, hits = list(listed), 0
    for event in truth:
        ious = tiou_matrix([event], left)[0] * [other[2] == event[2] for other in left]
        if len(left) and ious.max() >= MIN_IOU:
            del left[int(ious.argmax())]
            hits += 1
    return hits


def scores_of(truth: Sequence[Captioned], listed: Sequence[Captioned]) -> dict[str, float]:
    """F1, precision and recall of a video as far as they have a meaning; precision is 0 of an empty list."""
    hits, missed = num_hits(truth, listed), bool(truth) and not listed
    nums = {"F1": (len(truth) + len(listed)) / 2, "precision": len(listed) + missed, "recall": len(truth)}
    return {name: hits / num for name, num in nums.items() if num}


def score_listings(answers: Answers) -> Scored:
    """F1, precision and recall of each video's events, of all and of those seen and heard; means over videos.

    A video without a prediction has no event. Where neither a video nor its list has an event of a kind there
    is no score of it.

    Returns:
        F1, precision, recall, each also as METRIC/seen, METRIC/heard and METRIC/minutes/GROUP; num; num_true
        and num_listed, events; the sums of COUNTS.
    """
    each: dict[str, dict[str, float]] = {}
    sums = dict.fromkeys(("num_true", "num_listed", *COUNTS), 0)
    for example in answers.examples:
        prediction = answers.by_id.get(example.id)
        listing = Listing(()) if prediction is None else prediction.value or Listing(())
        for name, num in listing.counts.items():
            sums[name] += num
        sums["num_true"] += len(example.truth.events)
        sums["num_listed"] += len(listing.events)
        for end, names in NAMES.items():
            truth, listed = (
                [event for event in some.events if names is None or event[2] in names]
                for some in (example.truth, listing)
            )
            for metric, value in scores_of(truth, listed).items():
                each.setdefault(metric + end, {})[example.id] = value
    metrics: dict[str, Any] = {name: mean(values.values()) for name, values in each.items()}
    for kind, members in groups_of(answers.examples).items():
        for group, ids in members.items():
            for name in ("F1", "precision", "recall"):
                metrics[f"{name}/{kind}/{group}"] = mean(
                    [each[name][key] for key in ids if key in each[name]]
                )
    return Scored(metrics | {"num": len(answers.examples)} | sums, each)


def score_of(listed: EventList, scene: Scene) -> dict[str, Any]:
    """The metrics of the list of one video's events."""
    example = Example("", "", "", truth_of(scene), scene.duration_s)
    words = words_of(listed)
    prediction = Prediction(words, listing_in(words, example, How()))
    return score_listings(Answers([example], {example.id: prediction}, How())).metrics


def line_of(example: Example, prediction: Prediction) -> dict[str, str]:
    """A line {"id", "answer"}."""
    return {"id": example.id, "answer": prediction.text}


TASKS = {
    TASK: Task(
        about="all events of a synthetic video: F1 at an IoU of .5, same name; counts of windows asked",
        where="synthesized from seeds (--minutes, --num-videos); reference of `eval score` is the run's file",
        read=partial(examples_of, task=TASK, synthesize=synthesize_events),
        prompts={DEFAULT: lambda example: example.question},
        parse=listing_in,
        entries=partial(read_spoken, task="synthetic", parse=listing_in),
        write=lines_file("predictions.jsonl", line_of),
        score=score_listings,
        synthesize=synthesize_events,
        answer=answer,
    )
}
