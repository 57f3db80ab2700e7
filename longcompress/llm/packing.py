"""Which samples share a row of tokens, and which language models have no masks."""

from collections.abc import Sequence
from typing import Any

from .cache import attending


def first_fit(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows of indices into `lengths`: each goes into the first row with room for it, else a new row.

    A row has at most `max_tokens` tokens; a longer sample has a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number, length in enumerate(lengths):
        at = next((i for i, left in enumerate(room) if length <= left), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[at].append(number)
        room[at] -= length
    return rows


def has_state(lm: Any) -> bool:
    """Whether some of its layers carry a state instead of attending: their samples can't be masked, and their
    caches hold one sequence."""
    num_attending, num_layers = attending(lm.config)
    return num_attending < num_layers
