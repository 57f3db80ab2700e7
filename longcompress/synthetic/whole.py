"""Kinds of `questions.ask` about a whole video, where clear by GAP: what comes first, most often, never."""

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
GAP = 1  # of seconds between the first and the next, or of times

Named = Mapping[str, Sequence[SceneEvent]]


def facts(kind: str, objects: Named, sounds: Named) -> Iterator[tuple[dict[str, Any], str]]:
    """(slots of the wording, answer) of all questions of a kind; events by name, in order of their starts."""
    for sense, named, names in (("seen", objects, OBJECTS), ("heard", sounds, SOUNDS)):
        if kind == "never":
            for name, other in product(names, names):
                if (name in named) != (other in named):
                    yield {"sense": sense, "name": name, "other": other}, other if name in named else name
            continue
        ranks = sorted((e[0].start_s if kind == "first" else -len(e), name) for name, e in named.items())
        if len(ranks) > 1 and ranks[1][0] - ranks[0][0] >= GAP:
            yield {"sense": sense}, ranks[0][1]
