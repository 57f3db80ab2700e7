"""Questions and answers made of a record: grounding, dense and segment captions, choices, its own dialogues.

The tasks are VTimeLLM's (arXiv 2311.18445) and LongVALE's (arXiv 2411.19772); the wording is ours. Times are
written as whole seconds or, as those two do, as hundredths of the video, 00 to 99.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...events.parse import to_seconds
from .records import Event, Record, Turn

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
WORDING: dict[str, Sequence[str]] = {
    "grounding": GROUNDING, "segment": SEGMENT, "dense": DENSE, "caption": CAPTION,
}  # fmt: skip
"""Kind -> forms of its question; {text}, {start} and {end} are filled in."""
LETTERS = "ABCD"
SYMBOL = re.compile(r"<[a-z]\d+>")


@dataclass(frozen=True)
class Shortened:
    """Turns that fit, and what had to go.

    Attributes:
        turns: (question, answer) pairs.
        dropped: turns, or events of a dense answer, that were left out.
    """

    turns: Turns
    dropped: int


def say_time(time_s: float, duration_s: float, times: Times) -> str:
    """A time as it is written: whole seconds, or min(round(100 t / duration), 99) in two digits.

    Raises:
        ValueError: hundredths of a video whose length isn't known.
    """
    if times == "seconds":
        return str(round(time_s))
    if duration_s <= 0:
        raise ValueError("times in hundredths need the video's length; give duration_s, or write seconds")
    return f"{min(max(round(100 * time_s / duration_s), 0), 99):02d}"


def turns_of(
    record: Record, kind: Kind, generator: np.random.Generator, *, duration_s: float,
    times: Times = "seconds", most: int = 8, wording: Mapping[str, Sequence[str]] | None = None,
) -> Turns:  # fmt: skip
    """(question, answer) pairs about a record, drawn by `generator`; empty where it has nothing of that kind.

    Args:
        record: a video and what is said of it.
        kind: "grounding" (text to times), "segment" (times to text), "dense" (all events), "choice" (which of
            up to four events), "conversation" (one of its dialogues), "caption" (of the whole), "qa" (its
            dialogues of one turn, each for itself).
        generator: draws events, their order, and the wording.
        duration_s: of the video.
        times: how they are written.
        most: questions at most, of the kinds that have one for each event or dialogue.
        wording: kind -> forms of its question, for those of WORDING that are to be asked otherwise.
    """
    at = Clock(duration_s, times)
    forms = WORDING | dict(wording or {})
    events = [e for e in record.events if e.text.strip()]
    if kind == "conversation":
        if not record.dialogues:
            return []
        return _dialogue(record, int(generator.integers(len(record.dialogues))), at)
    if kind == "qa":
        single = [i for i, turns in enumerate(record.dialogues) if len(turns) == 2]
        drawn_of = [single[i] for i in generator.permutation(len(single))[:most]]
        return [turn for i in drawn_of for turn in _dialogue(record, i, at)]
    if kind == "caption":
        captions = [c for c in record.captions if c.strip()]
        return (
            [(_one(forms["caption"], generator), captions[int(generator.integers(len(captions)))])]
            if captions
            else []
        )
    if not events:
        return []
    if kind == "dense":
        return [(_one(forms["dense"], generator), "\n".join(at.line(e) for e in events))]
    drawn = [events[i] for i in generator.permutation(len(events))[:most]]
    if kind == "grounding":
        unique = [
            e for e in drawn if sum(o.text == e.text for o in events) == 1
        ]  # else there are several answers
        return [(_one(forms["grounding"], generator).format(text=e.text), f"{at.span(e)}.") for e in unique]
    if kind == "segment":
        return [
            (_one(forms["segment"], generator).format(start=at.ends(e)[0], end=at.ends(e)[1]), e.text)
            for e in drawn
        ]
    if kind == "choice":
        return [turn for e in drawn if (turn := _choice(e, events, at, generator)) is not None]
    raise ValueError(f"kind must be one of {Kind.__args__}, got {kind!r}")


def shortened(turns: Turns, num_tokens: Callable[[str], int], most: int) -> Shortened:
    """Turns of at most `most` tokens: the last go first, of a single long answer its last lines.

    Args:
        turns: (question, answer) pairs.
        num_tokens: tokens of a text.
        most: tokens of all questions and answers together.

    Raises:
        ValueError: not even one question with one line of its answer fits.
    """
    return shortened_by(turns, lambda some: sum(num_tokens(q) + num_tokens(a) for q, a in some), most)


def shortened_by(turns: Turns, size: Callable[[Turns], int], most: int) -> Shortened:
    """`shortened`, where the size of turns is more than their texts'."""
    kept, dropped = list(turns), 0
    while len(kept) > 1 and size(kept) > most:
        kept.pop()
        dropped += 1
    if not kept or size(kept) <= most:
        return Shortened(kept, dropped)
    question, answer = kept[0]
    lines = answer.split("\n")
    while len(lines) > 1 and size([(question, "\n".join(lines))]) > most:
        lines.pop()
        dropped += 1
    kept = [(question, "\n".join(lines))]
    if size(kept) > most:
        raise ValueError(f"a question of {size(kept)} tokens doesn't fit into {most}: {question[:60]!r}")
    return Shortened(kept, dropped)


@dataclass(frozen=True)
class Clock:
    """Writes times of one video."""

    duration_s: float
    times: Times

    def __call__(self, time_s: float) -> str:
        """A time."""
        return say_time(time_s, self.duration_s, self.times)

    def ends(self, event: Event) -> tuple[str, str]:
        """First and last time of an event; the last second is included, hundredths are rounded."""
        if self.times == "hundredths":
            return self(event.start_s), self(event.end_s)
        first, last = to_seconds(event.start_s, event.end_s)
        return str(first), str(last)

    def span(self, event: Event) -> str:
        """From when to when."""
        return "From {} to {}".format(*self.ends(event))

    def line(self, event: Event) -> str:
        """An event of a dense answer."""
        return f"{self.span(event)}, {event.text}"


def _choice(
    event: Event, events: Sequence[Event], at: Clock, generator: np.random.Generator
) -> tuple[str, str] | None:
    """Which of up to four texts happens then; None where no other text is told apart by time."""
    others = sorted({
        e.text for e in events
        if e.text != event.text and (e.end_s <= event.start_s or e.start_s >= event.end_s)
    } - {e.text for e in events if e.start_s < event.end_s and e.end_s > event.start_s})  # fmt: skip
    if not others:
        return None
    wrong = [others[i] for i in generator.permutation(len(others))[: len(LETTERS) - 1]]
    texts = [event.text, *wrong]
    order = generator.permutation(len(texts))
    choices = " ".join(f"({LETTERS[place]}) {texts[i]}" for place, i in enumerate(order))
    answer = LETTERS[int(np.flatnonzero(order == 0)[0])]
    start, end = at.ends(event)
    return CHOICE.format(start=start, end=end, choices=choices), answer


def _dialogue(record: Record, number: int, at: Clock) -> Turns:
    """A dialogue with its symbols of times written out.

    Raises:
        ValueError: a symbol stands for no time.
    """
    token = record.meta.get("token", {})

    def told(turn: Turn) -> str:
        def seconds(found: re.Match[str]) -> str:
            if found[0] not in token:
                raise ValueError(f"record {record.key!r}: {found[0]} in its dialogue stands for no time")
            return at(float(token[found[0]]))

        return SYMBOL.sub(seconds, turn.text)

    turns = record.dialogues[number]
    return [(told(q), told(a)) for q, a in zip(turns[::2], turns[1::2], strict=True)]


def _one(wordings: Sequence[str], generator: np.random.Generator) -> str:
    return wordings[int(generator.integers(len(wordings)))]
