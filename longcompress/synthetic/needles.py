"""Needles in a haystack: events that a long video has once, at known depths, and questions about them.

A video has needles of four kinds at each depth: *video* (an object shown once), *audio* (a sound heard once),
*binding* (an object shown twice and a sound heard often, together once), *two_hop* (the sound that follows an
object shown once). All other events are distraction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .questions import TEMPLATES, Question, common_span
from .scenes import OBJECTS, SOUNDS, Scene, SceneEvent, make_scene, sample_sound

QUESTIONS = {"video": "when_seen", "audio": "when_heard", "binding": "binding", "two_hop": "first_after"}
KINDS = tuple(QUESTIONS)
LENGTH_S = 8.0  # of a needle
PLACE_S = 15.0  # from one needle of a depth to the next
NEAR_S = 2.0  # nothing of its own sort lies nearer to a needle
DEPTHS = 5
FIRST_SEED = 11_000_000  # videos of haystacks; training stays below
MIN_S = DEPTHS * (len(KINDS) + 1) * PLACE_S * 0.8


@dataclass(frozen=True)
class Needle:
    """Something hidden."""

    kind: str  # of KINDS
    depth: float  # share of the video before the needle's depth begins, of 0, 1 / DEPTHS, ...
    question: Question  # about it, with its true span or name
    start_s: float
    end_s: float


def haystack(seed: int, duration_s: float) -> tuple[Scene, list[Needle]]:
    """A video, always the same, and its needles, one of each kind at each of DEPTHS depths."""
    if duration_s < MIN_S:
        raise ValueError(f"duration_s must be >= {MIN_S:g} to keep needles apart, got {duration_s:g}")
    rng = np.random.default_rng([seed, 4])
    objects: list[str] = rng.permutation(OBJECTS).tolist()
    sounds: list[str] = rng.permutation(SOUNDS).tolist()
    shown, bound, first = objects[:DEPTHS], objects[DEPTHS : 2 * DEPTHS], objects[2 * DEPTHS : 3 * DEPTHS]
    heard, hay_sounds = sounds[:DEPTHS], sounds[DEPTHS:]
    hay = make_scene(seed, duration_s, objects=objects[3 * DEPTHS :])
    rest = [event for event in hay.events if event.kind == "video" or event.name in hay_sounds]
    hidden: list[SceneEvent] = []
    needles: list[Needle] = []
    slot_s = duration_s / DEPTHS
    for i in range(DEPTHS):
        first_s = i * slot_s + rng.uniform(1, max(1.5, slot_s - len(KINDS) * PLACE_S - LENGTH_S))
        for k, kind in enumerate(rng.permutation(len(KINDS)).tolist()):
            start_s = first_s + k * PLACE_S
            names = {"video": shown[i], "audio": heard[i], "binding": bound[i], "two_hop": first[i]}
            events, question = _needle(KINDS[kind], start_s, names[KINDS[kind]], hay_sounds[i], rng)
            hidden += events
            needles.append(Needle(KINDS[kind], i / DEPTHS, question, start_s, start_s + LENGTH_S))
    rest = [event for event in rest if not any(_near(event, needle) for needle in hidden)]
    for i, name in enumerate(bound):  # seen a second time, without the sound
        sounding = [event for event in hidden + rest if event.name == hay_sounds[i]]
        again = _alone(name, sounding, hidden, duration_s, rng)
        hidden.append(again)
        rest = [event for event in rest if not _near(event, again)]
    shown_events = tuple(sorted(rest + hidden, key=lambda event: event.start_s))
    return Scene(seed, float(duration_s), shown_events), needles


def _needle(
    kind: str, start_s: float, name: str, hay_sound: str, rng: np.random.Generator
) -> tuple[list[SceneEvent], Question]:
    """(events to add to the video, the question about them)."""
    asked, end_s = QUESTIONS[kind], start_s + LENGTH_S
    events = [(sample_sound if kind == "audio" else _seen)(rng, name, start_s, end_s)]
    if kind == "binding":
        events.append(sample_sound(rng, hay_sound, start_s, end_s))
    elif kind == "two_hop":
        events.append(sample_sound(rng, hay_sound, start_s + 3, end_s + 2))
    text = TEMPLATES[asked][0].format(object=name, sound=name if kind == "audio" else hay_sound)
    if kind == "two_hop":
        return events, Question(asked, text, hay_sound, names=(hay_sound,))
    span, answer = common_span(events)
    return events, Question(asked, text, answer, spans=(span,))


def _seen(rng: np.random.Generator, name: str, start_s: float, end_s: float) -> SceneEvent:
    size = rng.uniform(0.28, 0.40)
    path = tuple(map(tuple, rng.uniform(0.54 * size, 1 - 0.54 * size, (3, 2)).tolist()))
    return SceneEvent(start_s, end_s, "video", name, path, size, rng.uniform(-0.25, 0.25))


def _near(event: SceneEvent, needle: SceneEvent) -> bool:
    """Whether a distraction would touch a needle of its own sort."""
    return event.kind == needle.kind and _close(event, needle)


def _close(a: SceneEvent, b: SceneEvent) -> bool:
    """Whether less than NEAR_S lie between two events."""
    return a.start_s < b.end_s + NEAR_S and b.start_s < a.end_s + NEAR_S


def _alone(
    name: str, sounding: Sequence[SceneEvent], hidden: Sequence[SceneEvent], duration_s: float,
    rng: np.random.Generator,
) -> SceneEvent:  # fmt: skip
    """Another showing of an object, away from what is hidden and from the events of a sound."""
    for start_s in rng.permutation(np.arange(0, duration_s - LENGTH_S, 0.5)).tolist():
        event = _seen(rng, name, start_s, start_s + LENGTH_S)
        if not any(_close(o, event) for o in sounding) and not any(_near(o, event) for o in hidden):
            return event
    raise ValueError(
        f"duration_s = {duration_s:g} leaves no place to show the {name} alone; take a longer video"
    )
