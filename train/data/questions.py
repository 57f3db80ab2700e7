"""Questions and answers made of a record: grounding, dense and segment captions, choices, its own dialogues.

The tasks are VTimeLLM's (arXiv 2311.18445) and LongVALE's (arXiv 2411.19772); the wording is ours. Times are
written as whole seconds or, as those two do, as hundredths of the video, 00 to 99.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...events.parse import to_seconds
from ...llm import Example
from ...types import Event
from ..records import Record

Times = Literal["seconds", "hundredths"]
Kind = Literal["grounding", "segment", "dense", "choice", "conversation", "caption", "qa"]
Turns = list[tuple[str, str]]

GROUNDING = (
    "When does this happen: {text}",
    "From when to when can this be seen or heard: {text}",
    "Give the start and the end of this: {text}",
    "At what time is this going on: {text}",
)
SEGMENT = (
    "What happens from {start} to {end}?",
    "Describe what goes on between {start} and {end}.",
    "Tell what is seen and heard from {start} to {end}.",
)
DENSE = (
    "What happens, and when?",
    "List all that happens with its times.",
    "Describe each event of the video and say from when to when it lasts.",
)
CHOICE = "Which of these happens from {start} to {end}? {choices}"
CAPTION = ("What is the video about?", "Describe the video in a few words.")
TEMPLATES: dict[str, Sequence[str]] = {
    "grounding": GROUNDING, "segment": SEGMENT, "dense": DENSE, "caption": CAPTION,
}  # fmt: skip
"""Kind -> forms of its question; {text}, {start} and {end} are filled in."""
LETTERS = "ABCD"
SYMBOL = re.compile(r"<[a-z]\d+>")


def turns_of(
    record: Record, kind: Kind, generator: np.random.Generator, *, duration_s: float,
    times: Times = "seconds", max_questions: int = 8, templates: Mapping[str, Sequence[str]] | None = None,
) -> Turns:  # fmt: skip
    """(question, answer) pairs about a record; empty if it has nothing of that kind.

    Args:
        record: a video and its annotations.
        kind: "grounding" (text to times), "segment" (times to text), "dense" (all events), "choice" (which of
            up to four events), "conversation" (one of its dialogues), "caption" (of the whole), "qa" (its
            dialogues of one turn, each for itself).
        generator: samples events, their order, and the template.
        duration_s: of the video.
        times: how times are written.
        max_questions: of the kinds that have a question for each event or dialogue.
        templates: kind -> forms of its question, in place of those of TEMPLATES.
    """
    at = Clock(duration_s, times)
    forms = TEMPLATES | dict(templates or {})
    events = [e for e in record.events if e.text.strip()]
    if kind == "conversation" and record.dialogues:
        return _dialogue(record, int(generator.integers(len(record.dialogues))), at)
    if kind == "qa":
        single = [i for i, turns in enumerate(record.dialogues) if len(turns) == 2]
        order = generator.permutation(len(single))[:max_questions]
        return [turn for i in order for turn in _dialogue(record, single[i], at)]
    captions = [c for c in record.captions if c.strip()]
    if kind == "caption" and captions:
        return [(_choose(forms["caption"], generator), _choose(captions, generator))]
    if kind in ("conversation", "caption") or not events:
        return []
    if kind == "dense":
        return [(_choose(forms["dense"], generator), "\n".join(f"{at.span(e)}, {e.text}" for e in events))]
    sampled = [events[i] for i in generator.permutation(len(events))[:max_questions]]
    turns = []
    for event in sampled:
        if kind == "grounding":
            if sum(e.text == event.text for e in events) == 1:  # else there are several answers
                question = _choose(forms["grounding"], generator).format(text=event.text)
                turns.append((question, f"{at.span(event)}."))
        elif kind == "segment":
            start, end = at.ends(event)
            turns.append((_choose(forms["segment"], generator).format(start=start, end=end), event.text))
        else:
            turns += _choice(event, events, at, generator)
    return turns


def shortened(turns: Turns, size: Callable[[Turns], int], max_size: int) -> tuple[Turns, int]:
    """(turns of at most `max_size`, number of turns and lines dropped): the last turns go first, of a single
    long answer its last lines; ValueError if not even one question with one line of its answer fits."""
    fitting, dropped = list(turns), 0
    while fitting and (num := size(fitting)) > max_size:
        question, answer = fitting.pop()
        if not fitting:  # the only one
            shorter, more, _ = answer.rpartition("\n")
            if not more:
                raise ValueError(f"a question of {num} tokens doesn't fit into {max_size}: {question[:60]!r}")
            fitting = [(question, shorter)]
        dropped += 1
    return fitting, dropped


@dataclass(frozen=True)
class Room:
    """The positions of a language model; videos and texts must fit into them."""

    context: int | None  # positions that it was trained for; None: unknown, everything fits
    sizes: Callable[[Example], tuple[int, Callable[[Turns], int]]]  # of a language model, which isn't kept

    def fitted(self, example: Example, where: str) -> tuple[Example, int]:
        """(the example with as much text as fits after its video, turns and events that were dropped).

        The last turns of a dialogue go first. Questions that don't see one another must each fit alone. A
        single answer that is too long loses its last lines. ValueError, which calls the example `where`: the
        video leaves no room for the shortest of its texts.
        """
        if self.context is None:
            return example, 0
        turns: Turns = [(question, answer or "") for question, answer in example.turns]
        video, size = self.sizes(example)
        room = self.context - video
        if size(turns) <= room:
            return example, 0
        fitting: Turns = []
        dropped, min_sizes = 0, []
        for group in [turns] if example.dialogue else [[turn] for turn in turns]:
            question, answer = group[0]
            min_sizes.append(size([(question, answer.partition("\n")[0])]))
            if min_sizes[-1] > room:
                dropped += len(group)
                continue
            short, num = shortened(group, size, room)
            fitting += short
            dropped += num
        if not fitting:
            raise ValueError(
                f"{where}: its video takes {video} positions and its shortest text {min(min_sizes)}, of the "
                f"{self.context} that the language model has; take smaller budgets"
            )
        return replace(example, turns=fitting), dropped


@dataclass(frozen=True)
class Clock:
    """Writes times of one video."""

    duration_s: float
    times: Times

    def __call__(self, time_s: float) -> str:
        """A time: whole seconds, or min(round(100 t / duration), 99) in two digits."""
        if self.times == "seconds":
            return str(round(time_s))
        if self.duration_s <= 0:
            raise ValueError("times in hundredths need the video's length; give duration_s, or write seconds")
        return f"{min(max(round(time_s / self.duration_s * 100), 0), 99):02d}"

    def ends(self, event: Event) -> tuple[str, str]:
        """First and last time of an event; the last second is included, hundredths are rounded."""
        if self.times == "hundredths":
            return self(event.start_s), self(event.end_s)
        first, last = to_seconds(event.start_s, event.end_s)
        return str(first), str(last)

    def span(self, event: Event) -> str:
        """From when to when."""
        return "From {} to {}".format(*self.ends(event))


def _choice(event: Event, events: Sequence[Event], at: Clock, generator: np.random.Generator) -> Turns:
    """Which of up to four texts happens then; empty if every other text happens then too."""
    then = {e.text for e in events if e.start_s < event.end_s and e.end_s > event.start_s} | {event.text}
    others = sorted({e.text for e in events} - then)
    if not others:
        return []
    wrong = [others[i] for i in generator.permutation(len(others))[: len(LETTERS) - 1]]
    texts = [event.text, *wrong]
    order = generator.permutation(len(texts)).tolist()
    choices = " ".join(f"({letter}) {texts[i]}" for letter, i in zip(LETTERS, order, strict=False))
    start, end = at.ends(event)
    return [(CHOICE.format(start=start, end=end, choices=choices), LETTERS[order.index(0)])]


def _dialogue(record: Record, number: int, at: Clock) -> Turns:
    """A dialogue with its symbols of times written out."""
    token = record.meta.get("token", {})

    def time_of(symbol: re.Match[str]) -> str:
        if symbol[0] not in token:
            raise ValueError(f"record {record.key!r}: {symbol[0]} in its dialogue stands for no time")
        return at(float(token[symbol[0]]))

    texts = [SYMBOL.sub(time_of, turn.text) for turn in record.dialogues[number]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _choose(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
