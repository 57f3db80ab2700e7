"""Questions about a whole video: kinds that `questions.ask` knows besides its KINDS.

What comes first of all, what comes most often, which of two never comes. Only what is clear is asked: the
first begins FIRST_S before the next, no two are equally frequent. The embedded model does not know them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from .scenes import OBJECTS, SOUNDS, SceneEvent

# By kind of question; the first form is the one that evaluation uses.
TEMPLATES = {
    "first": ("What is {sense} first of all?",),
    "commonest": ("What is {sense} most often?",),
    "never": ("Which is never {sense}, the {name} or the {other}?",),
}
KINDS = tuple(TEMPLATES)
FIRST_S = 1.0

Named = Mapping[str, Sequence[SceneEvent]]


def facts(kind: str, objects: Named, sounds: Named) -> Iterator[tuple[dict[str, Any], str]]:
    """(slots of the wording, answer) of all questions of a kind about what is seen and heard, by name."""
    for sense, named, names in (("seen", objects, OBJECTS), ("heard", sounds, SOUNDS)):
        if kind == "never":
            for name, other in product(names, names):
                if (name in named) != (other in named):
                    yield {"sense": sense, "name": name, "other": other}, other if name in named else name
            continue
        ranks = sorted((_rank(kind, events), name) for name, events in named.items())
        gap = FIRST_S if kind == "first" else 1
        if len(ranks) > 1 and ranks[1][0] - ranks[0][0] >= gap:
            yield {"sense": sense}, ranks[0][1]


def _rank(kind: str, events: Sequence[SceneEvent]) -> float:
    return min(event.start_s for event in events) if kind == "first" else -len(events)
