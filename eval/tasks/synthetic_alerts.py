"""Alerts about synthetic videos: replies to a standing request, against the moments at which they are due."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from ...synthetic.questions import TEMPLATES, read_spans
from ...synthetic.requests import Request, pairs_of, request
from ...synthetic.scenes import OBJECTS, SOUNDS, Scene, make_scene
from ..metrics.bootstrap import means_of
from ..metrics.intervals import Interval
from ..metrics.timely import Timeline, corpus_of, delays
from .files import lines_text, one_file, read_records
from .played import Played, line_of, played_in
from .synthetic import QA_SEED, examples_of
from .task import (
    DEFAULT,
    Answers,
    Entries,
    Example,
    How,
    Paths,
    Prediction,
    Scored,
    Synthesize,
    Task,
    groups_of,
)

TASK = "synthetic_alerts"
NUM_REQUESTS = 4  # of each kind about a video; one of them is for what never comes
OPEN_KINDS = ("appears", "sounds", "happens", "happened")  # these name nothing
TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Due:
    """When a reply is due, from each start on, and the synthetic request that says what is to be said."""

    moments: tuple[Interval, ...]
    request: Request | None = None


def synthesize_alerts(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video, and requests about what is seen and heard in it, the last of each kind about what isn't."""
    scene = make_scene(QA_SEED + number, seconds)
    random, examples = np.random.default_rng([9, number]), list[Example]()
    for kind, known, events in (("seen", OBJECTS, scene.of("video")), ("heard", SOUNDS, scene.of("audio"))):
        names = sorted({event.name for event in events})
        others = sorted(set(known) - set(names))
        chosen = [*random.permutation(names)[: NUM_REQUESTS - 1], *random.permutation(others)[:1]]
        for name in map(str, chosen):
            text = TEMPLATES[f"when_{kind}"][0].format(object=name, sound=name)
            examples.append(_example(request(kind, scene.events, seen=name, heard=name), seconds, text))
    return scene, examples


def synthesize_requests(number: int, seconds: float) -> tuple[Scene, list[Example]]:
    """A video, and requests of the other kinds: of two things at once (the last of a pair that is never
    together), how often one comes, and what appears, is heard, happens and has ended."""
    scene = make_scene(QA_SEED + number, seconds)
    random, seen = np.random.default_rng([10, number]), sorted({event.name for event in scene.of("video")})
    together = sorted(pairs_of(scene.events))
    heard = sorted({event.name for event in scene.of("audio")})
    apart = sorted({(a, b) for a in seen for b in heard} - set(together))
    pairs = [*random.permutation(together)[: NUM_REQUESTS - 1], *random.permutation(apart)[:1]]
    some = [request("both", scene.events, seen=str(a), heard=str(b)) for a, b in pairs]
    some += [
        request("count", scene.events, seen=str(name)) for name in random.permutation(seen)[:NUM_REQUESTS]
    ]
    some += [request(kind, scene.events) for kind in OPEN_KINDS]
    return scene, [_example(asked, seconds, asked.text) for asked in some]


def _example(asked: Request, seconds: float, question: str) -> Example:
    due = Due(tuple(asked.due), asked)
    return Example("", "", question, due, seconds, groups=(("kind", asked.kind),))


def request_of(example: Example) -> str:
    """What stands while the video plays."""
    asked = example.truth.request
    return example.question if asked is None else asked.text


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
    """`corpus_of` of all requests, and as NAME/KIND; a request without a prediction has no reply.

    Returns:
        Its numbers within TOLERANCE_S; right and right/KIND, the share of the replies in time that say just
        what is to be said then; num (requests), num_due, num_replies.
    """
    video, lines = answers.column("video"), dict[str, Timeline]()
    kinds = groups_of(answers.examples).get("kind", {})
    right: dict[str, dict[Any, float]] = {
        name: {} for name in ("right", *(f"right/{kind}" for kind in kinds))
    }
    video_of = dict[Any, str]()  # of each reply in time
    for example in answers.examples:
        prediction, due = answers.by_id.get(example.id), example.truth
        value = (prediction and prediction.value) or Played(())
        duration_s = max(value.duration_s or 0.0, example.duration_s or 0.0)
        replies = [(min(time_s, duration_s), text) for time_s, text in value.replies if time_s is not None]
        lines[example.id] = Timeline(due.moments, [time_s for time_s, _ in replies], duration_s)
        for i in delays(due.moments, lines[example.id].replies_s, TOLERANCE_S) if due.request else ():
            (time_s, text), key = replies[i], (example.id, i)
            is_right = float(due.request.is_right(ceil(time_s) - 1, text))  # it comes at its step's end
            video_of[key] = example.video
            right["right"][key] = right[f"right/{due.request.kind}"][key] = is_right
    corpora = [corpus_of(lines, video, TOLERANCE_S)]
    for kind, ids in kinds.items():
        some = {key: lines[key] for key in ids}
        corpora.append(corpus_of(some, video, TOLERANCE_S, f"/{kind}"))
    corpora.append(means_of(right, video_of))
    metrics = {name: x for c in corpora for name, x in c.whole().items()}
    counts = {
        "num": len(lines), "num_due": sum(len(line.due) for line in lines.values()),
        "num_replies": sum(len(line.replies_s) for line in lines.values()),
    }  # fmt: skip
    return Scored(metrics | counts, {}, corpora)


def _task(synthesize: Synthesize, name: str, *, about: str, spans: bool) -> Task:
    return Task(
        about=about,
        where="synthesized from seeds (--minutes, --num-videos); reference of `eval score` is the run's file",
        read=partial(examples_of, task=name, synthesize=synthesize),
        prompts={DEFAULT: lambda example: example.question},
        times={DEFAULT: "whole_seconds"},
        parse=played,
        entries=read_played,
        write=write_played,
        score=score_alerts,
        synthesize=synthesize,
        request=request_of,
        tells=tells if spans else None,
    )


TASKS = {
    TASK: _task(
        synthesize_alerts, TASK, spans=True,
        about="standing requests on synthetic videos: F1 of replies within 2 s, delay, false alarms an hour",
    ),
    "synthetic_requests": _task(
        synthesize_requests, "synthetic_requests", spans=False,
        about="as synthetic_alerts: two things at once, counts, what appears, is heard, happens, has ended",
    ),
}  # fmt: skip
