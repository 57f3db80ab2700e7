"""Alerts about synthetic videos: replies to a standing request, against the moments at which they are due."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...synthetic import requests
from ...synthetic.questions import TEMPLATES, read_spans
from ...synthetic.scenes import OBJECTS, SOUNDS, Scene, make_scene
from ..metrics.intervals import Interval
from ..metrics.timely import Timeline, corpus_of
from .files import lines_text, one_file, read_records
from .played import Played, line_of, played_in
from .synthetic import QA_SEED, examples_of
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task

TASK = "synthetic_alerts"
NUM_REQUESTS = 4  # of each kind about a video; one of them is for what never comes
TOLERANCE_S = 2.0
REQUESTS = {kind: requests.TEMPLATES[kind][0] for kind in ("seen", "heard")}


@dataclass(frozen=True)
class Due:
    """What a request is about, and when it is seen or heard: a reply is due at each start."""

    name: str
    moments: tuple[Interval, ...]


def synthesize_alerts(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video, and requests about what is seen and heard in it, the last of each kind about what isn't."""
    scene = make_scene(QA_SEED + number, seconds)
    random, examples = np.random.default_rng([9, number]), list[Example]()
    for kind, known, events in (("seen", OBJECTS, scene.of("video")), ("heard", SOUNDS, scene.of("audio"))):
        names = sorted({event.name for event in events})
        others = sorted(set(known) - set(names))
        chosen = [*random.permutation(names)[: NUM_REQUESTS - 1], *random.permutation(others)[:1]]
        for name in map(str, chosen):
            moments = tuple((event.start_s, event.end_s) for event in events if event.name == name)
            text = TEMPLATES[f"when_{kind}"][0].format(object=name, sound=name)
            examples.append(Example("", "", text, Due(name, moments), seconds, groups=(("kind", kind),)))
    return scene, examples


def request_of(example: Example) -> str:
    """What stands while the video plays."""
    kind = dict(example.groups).get("kind")
    name = example.truth.name
    return example.question if kind is None else REQUESTS[kind].format(object=name, sound=name)


def tells(text: str, since_s: float, now_s: float) -> bool:
    """Whether an answer in whole seconds says that it began since the question before."""
    return any(since_s - 1 < start_s <= now_s for start_s, _ in read_spans(text))


def played(text: str, example: Example, how: How) -> Played:
    """No reply: words that came at the end have no time."""
    return Played(())


def read_played(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """MMDuet's lines."""
    for record in read_records(one_file(paths, "pred")):
        yield record.name("question_id", "id"), Prediction("", played_in(record))


def write_played(answers: Answers) -> dict[str, str]:
    """MMDuet's lines."""
    lines = []
    for example, prediction in answers.known:
        value = prediction.value or Played(())
        rows: list[dict[str, float]] = [{} for _ in value.times_s]
        for name, scores in value.scores.items():
            for row, score in zip(rows, scores, strict=True):
                row[name] = score
        replies = [(time_s, text) for time_s, text in value.replies if time_s is not None]
        line = line_of(replies, value.times_s, rows, value.duration_s or example.duration_s or 0.0)
        lines.append({"question_id": example.id} | line)
    return {"predictions.jsonl": lines_text(lines)}


def score_alerts(answers: Answers) -> Scored:
    """`timely` of all requests, and as NAME/seen and NAME/heard; a request without a prediction has no reply.

    Returns:
        Its numbers within TOLERANCE_S, num (requests), num_due, num_replies.
    """
    video, lines = answers.column("video"), dict[str, Timeline]()
    for example in answers.examples:
        prediction = answers.by_id.get(example.id)
        value = (prediction and prediction.value) or Played(())
        duration_s = max(value.duration_s or 0.0, example.duration_s or 0.0)
        replies = [min(time_s, duration_s) for time_s, _ in value.replies if time_s is not None]
        lines[example.id] = Timeline(example.truth.moments, replies, duration_s)
    corpora, kinds = [corpus_of(lines, video, TOLERANCE_S)], answers.column("groups")
    for kind in REQUESTS:
        some = {key: line for key, line in lines.items() if ("kind", kind) in kinds[key]}
        if some:
            corpora.append(corpus_of(some, video, TOLERANCE_S, f"/{kind}"))
    metrics = {name: x for c in corpora for name, x in c.scores(np.ones(len(c.videos))).items()}
    counts = {
        "num": len(lines), "num_due": sum(len(line.due) for line in lines.values()),
        "num_replies": sum(len(line.replies_s) for line in lines.values()),
    }  # fmt: skip
    return Scored(metrics | counts, {}, corpora)


ALERTS = Task(
    about="standing requests about synthetic videos: F1 of replies within 2 s, delay, false alarms an hour",
    where="synthesized from seeds (--minutes, --num-videos); reference of `eval score` is the run's file",
    read=partial(examples_of, task=TASK, synthesize=synthesize_alerts),
    prompts={DEFAULT: lambda example: example.question},
    times={DEFAULT: "whole_seconds"},
    parse=played,
    entries=read_played,
    write=write_played,
    score=score_alerts,
    synthesize=synthesize_alerts,
    request=request_of,
    tells=tells,
)
