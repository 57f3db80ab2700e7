"""Questions about places in the frame and about letters: kinds that `questions.ask` knows besides its KINDS.

Only what is clear is asked: which of two objects is further left or higher while both are seen, by a MARGIN
at all times; the part of the frame, by row and column, that has an object's middle from a second before the
second that is asked about until a second after it.
"""

import re
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from .scenes import LETTERS, OBJECTS, SceneEvent, position

# By kind of question; the first form is the one that evaluation uses.
TEMPLATES = {
    "left": (
        "Which is further left, the {object} or the {other}?",
        "Which one is more to the left, the {object} or the {other}?",
    ),
    "above": (
        "Which is higher, the {object} or the {other}?",
        "Which one is more to the top, the {object} or the {other}?",
    ),
    "where": ("At {second}, where is the {object}?", "At {second}, in which part is the {object}?"),
    "letter": ("Which letter is on the {object}?", "What letter does the {object} have?"),
}
KINDS = tuple(TEMPLATES)
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
CELLS = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
ANSWERS = frozenset({*OBJECTS, *CELLS, *LETTERS})

_FORMS = " ".join(form for forms in TEMPLATES.values() for form in forms)
VOCABULARY = (*sorted(set(re.findall(r"\b(?<!{)\w+", _FORMS))), *ROWS, *COLUMNS, *LETTERS)
"""All words of these questions and answers that are no object's name."""

TOGETHER_S = 2.0  # two objects are compared that are seen together this long
MARGIN = 0.12  # of the frame's side, between the middles of two objects
BORDERS = (0.4, 0.6)  # between the rows and the columns: middles of objects are everywhere alike often
BORDER_MARGIN = 0.03  # between an object's middle and a border


def facts(kind: str, objects: dict[str, list[SceneEvent]]) -> Iterator[tuple[dict[str, Any], str]]:
    """(slots of the wording, answer) of all questions of a kind about the objects of a video, by name."""
    single = {name: shown[0] for name, shown in objects.items() if len(shown) == 1}
    if kind == "where":
        yield from _where(single)
    elif kind == "letter":
        yield from (({"object": name}, event.letter) for name, event in single.items() if event.letter)
    else:
        axis = 0 if kind == "left" else 1
        for name, other in permutations(single, 2):
            apart = _apart(single[name], single[other], axis)
            if apart is not None and np.abs(apart).min() >= MARGIN and (apart < 0).all() == (apart < 0).any():
                yield {"object": name, "other": other}, other if apart[0] > 0 else name


def _apart(a: SceneEvent, b: SceneEvent, axis: int) -> Any:
    """(T,) how much further right (axis 0) or lower (1) a is than b while both are seen; None: hardly."""
    start_s, end_s = max(a.start_s, b.start_s), min(a.end_s, b.end_s)
    if end_s - start_s < TOGETHER_S:
        return None
    times = np.linspace(start_s, end_s, 64)
    return position(a, times)[:, axis] - position(b, times)[:, axis]


def _where(single: dict[str, SceneEvent]) -> Iterator[tuple[dict[str, Any], str]]:
    for name, event in single.items():
        for second in range(int(np.ceil(event.start_s)) + 1, int(event.end_s) - 1):
            at = position(event, np.linspace(second - 1, second + 2, 16))  # (16, 2)
            column, row = np.searchsorted(BORDERS, at[0])
            clear = (np.abs(at[..., None] - BORDERS) >= BORDER_MARGIN).all()
            if clear and (np.searchsorted(BORDERS, at) == (column, row)).all():
                yield {"object": name, "second": second}, f"{ROWS[row]} {COLUMNS[column]}"
