"""The haystack: what is shown or heard once in a long video, at a known depth, and whether a model finds it.

Videos are those of `scenes`, drawn from a seed: nothing of anybody's. A video has needles of four kinds at
each
depth: *frame* (an object shown once), *audio* (a sound heard once), *binding* (an object shown twice, a
audio heard often, together once), *two_hop* (the sound that follows an object shown once). All else is
distraction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .questions import TEMPLATES, Question, printed_seconds
from .scenes import OBJECTS, SOUNDS, Scene, SceneEvent, make_scene

Kind = Literal["video", "audio", "binding", "two_hop"]
KINDS: tuple[Kind, ...] = ("video", "audio", "binding", "two_hop")
ASKED = {"video": "when_seen", "audio": "when_heard", "binding": "binding", "two_hop": "first_after"}
LENGTH_S = 8.0  # of a needle
PLACE_S = 15.0  # from one needle of a depth to the next
NEAR_S = 2.0  # nothing of its own sort lies nearer to a needle
DEPTHS = 5
FIRST_SEED = 11_000_000  # videos of haystacks; training stays below
LEAST_S = DEPTHS * (len(KINDS) + 1) * PLACE_S * 0.8


@dataclass(frozen=True)
class Needle:
    """Something hidden.

    Attributes:
        kind: of KINDS.
        depth: share of the video before the needle's depth begins, of 0, 1 / DEPTHS, ...
        question: about it, with its true span or name.
        start_s, end_s: where it lies.
    """

    kind: Kind
    depth: float
    question: Question
    start_s: float
    end_s: float


def haystack(seed: int, duration_s: float) -> tuple[Scene, list[Needle]]:
    """A video and its needles, one of each kind at each of DEPTHS depths; the same for the same arguments.

    Args:
        seed: of all that is drawn.
        duration_s: at least LEAST_S.

    Raises:
        ValueError: the video is too short to keep its needles apart.
    """
    if duration_s < LEAST_S:
        raise ValueError(f"duration_s must be >= {LEAST_S:g} to keep needles apart, got {duration_s:g}")
    rng = np.random.default_rng([seed, 4])
    objects = [str(name) for name in rng.permutation(OBJECTS)]
    sounds = [str(name) for name in rng.permutation(SOUNDS)]
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
            events, question = _needle(
                KINDS[kind], start_s, (shown[i], heard[i], bound[i], first[i]), hay_sounds[i], rng
            )
            hidden += events
            needles.append(Needle(KINDS[kind], i / DEPTHS, question, start_s, start_s + LENGTH_S))
    rest = [event for event in rest if not any(_near(event, needle) for needle in hidden)]
    for i, name in enumerate(bound):  # seen a second time, without the sound
        again = _alone(name, hay_sounds[i], hidden, rest, duration_s, rng)
        hidden.append(again)
        rest = [event for event in rest if not _near(event, again)]
    shown_events = tuple(sorted(rest + hidden, key=lambda event: event.start_s))
    return Scene(seed, float(duration_s), shown_events), needles


def _needle(
    kind: Kind, start_s: float, names: Sequence[str], hay_sound: str, rng: np.random.Generator
) -> tuple[list[SceneEvent], Question]:
    """What is added to the video, and what is asked."""
    shown, heard, bound, first = names
    asked, end_s = ASKED[kind], start_s + LENGTH_S
    form = TEMPLATES[asked][0]
    if kind == "video":
        event = _seen(shown, start_s, end_s, rng)
        return [event], _span_question(asked, form.format(object=shown), [event])
    if kind == "audio":
        event = _played(heard, start_s, end_s, rng)
        return [event], _span_question(asked, form.format(sound=heard), [event])
    if kind == "binding":
        both = [_seen(bound, start_s, end_s, rng), _played(hay_sound, start_s, end_s, rng)]
        return both, _span_question(asked, form.format(object=bound, sound=hay_sound), both)
    both = [_seen(first, start_s, end_s, rng), _played(hay_sound, start_s + 3, end_s + 2, rng)]
    question = Question(asked, form.format(object=first), hay_sound, names=(hay_sound,))
    return both, question


def _span_question(kind: str, text: str, events: Sequence[SceneEvent]) -> Question:
    start_s = max(event.start_s for event in events)
    end_s = min(event.end_s for event in events)
    printed = [printed_seconds(event) for event in events]
    answer = f"{max(a for a, _ in printed)} to {min(b for _, b in printed)}"
    return Question(kind, text, answer, spans=((start_s, end_s),))


def _seen(name: str, start_s: float, end_s: float, rng: np.random.Generator) -> SceneEvent:
    size = float(rng.uniform(0.28, 0.40))
    points = rng.uniform(0.54 * size, 1 - 0.54 * size, (3, 2)).tolist()
    path = tuple((float(x), float(y)) for x, y in points)
    return SceneEvent(start_s, end_s, "video", name, path, size, float(rng.uniform(-0.25, 0.25)))


def _played(name: str, start_s: float, end_s: float, rng: np.random.Generator) -> SceneEvent:
    return SceneEvent(
        start_s, end_s, "audio", name, pitch=float(rng.uniform(0.96, 1.04)),
        loudness=float(rng.uniform(0.15, 0.35)), key=int(rng.integers(1 << 31)),
    )  # fmt: skip


def _near(event: SceneEvent, needle: SceneEvent) -> bool:
    """Whether a distraction would touch a needle of its own sort."""
    apart = event.end_s + NEAR_S <= needle.start_s or needle.end_s + NEAR_S <= event.start_s
    return event.kind == needle.kind and not apart


def _alone(
    name: str, hay_sound: str, hidden: Sequence[SceneEvent], hay: Sequence[SceneEvent], duration_s: float,
    rng: np.random.Generator,
) -> SceneEvent:  # fmt: skip
    """Another showing of an object, away from what is hidden and from a sound."""
    sounding = [event for event in (*hidden, *hay) if event.name == hay_sound]
    for start_s in rng.permutation(np.arange(0, duration_s - LENGTH_S, 0.5)).tolist():
        event = _seen(name, start_s, start_s + LENGTH_S, rng)
        silent = all(o.end_s + NEAR_S <= start_s or event.end_s + NEAR_S <= o.start_s for o in sounding)
        if silent and not any(_near(o, event) for o in hidden):
            return event
    raise ValueError(
        f"duration_s = {duration_s:g} leaves no place to show the {name} alone; take a longer video"
    )
