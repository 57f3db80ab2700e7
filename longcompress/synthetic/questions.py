"""Synthetic QA: questions about a list of events, their exact answers in words, and grading.

Times in text are whole seconds, the last one included: "187 to 192" stands for [187, 193). A frame is seen
once a second, on the second; a sound counts for the seconds it fills by half or more.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np

from . import places, whole
from .scenes import OBJECTS, SOUNDS, SceneEvent

Span = tuple[float, float]

# By kind of question; the first form is the one that evaluation uses.
TEMPLATES = {
    "when_seen": (
        "When does the {object} appear?",
        "When is the {object} seen?",
        "At what time does the {object} appear?",
    ),
    "when_heard": (
        "When is the {sound} heard?",
        "When does the {sound} sound?",
        "At what time is the {sound} heard?",
    ),
    "binding": (
        "When is the {object} seen while the {sound} is heard?",
        "When does the {object} appear while the {sound} is heard?",
        "At what time is the {object} seen while the {sound} is heard?",
    ),
    "while": ("What is seen while the {sound} is heard?", "What appears while the {sound} is heard?"),
    "first_after": (
        "What is heard first after the {object} appears?",
        "Which sound is heard first after the {object} appears?",
    ),
    "count": ("How often does the {object} appear?", "How often is the {object} seen?"),
    "between": (
        "What happens between {start} and {end}?",
        "What is seen and heard between {start} and {end}?",
    ),
}
KINDS = tuple(TEMPLATES)
SPAN_KINDS = ("when_seen", "when_heard", "binding")  # answered by one span of seconds

NOTHING = "nothing"
_FORMS = " ".join(form for forms in TEMPLATES.values() for form in forms)
_WORDS = sorted(set(re.findall(r"\b(?<!{)\w+", _FORMS)))
VOCABULARY = (*OBJECTS, *SOUNDS, *_WORDS, "to", NOTHING, "?", ",", *"0123456789")
"""All words of questions and answers, besides whole numbers; the name of an object is a unit."""

_FORMS_OF = TEMPLATES | whole.TEMPLATES | places.TEMPLATES
_SPAN = re.compile(r"(\d+)\s*(?:to|-)\s*(\d+)")
_ITEM = re.compile(r"([a-z]+(?: [a-z]+)?)\s+" + _SPAN.pattern)


@dataclass(frozen=True)
class Question:
    """A question and its only right answer."""

    kind: str  # of KINDS, places.KINDS or whole.KINDS
    text: str  # as printed, with offset_s added to all times
    answer: str  # likewise
    spans: tuple[Span, ...] = ()  # true seconds: a span for SPAN_KINDS, a span for each item of "between"
    names: tuple[str, ...] = ()  # in the answer; empty for "nothing"; for "between", a name for each span
    offset_s: int = 0  # what was added to the printed times


def printed_seconds(event: SceneEvent, *, offset_s: int = 0) -> tuple[int, int]:
    """First and last whole second of an event, as answers print them."""
    if event.kind == "video":
        first, last = ceil(event.start_s), ceil(event.end_s) - 1
    else:
        first, last = floor(event.start_s + 0.5), ceil(event.end_s - 0.5) - 1
    return first + offset_s, max(first, last) + offset_s


def common_span(events: Sequence[SceneEvent], *, offset_s: int = 0) -> tuple[Span, str]:
    """The seconds that all events share, exact and as answers print them."""
    printed = [printed_seconds(event, offset_s=offset_s) for event in events]
    span = (max(event.start_s for event in events), min(event.end_s for event in events))
    return span, f"{max(first for first, _ in printed)} to {min(last for _, last in printed)}"


def ask(
    events: Sequence[SceneEvent], duration_s: float, *, num: int, generator: np.random.Generator,
    kinds: Sequence[str] | Mapping[str, float] = KINDS, offset_s: int = 0, paraphrase: bool = False,
) -> list[Question]:  # fmt: skip
    """At most `num` distinct questions about a video, each with a unique answer. Objects that share colour or
    shape with another object of the video are asked about more often.

    The kinds, of KINDS, places.KINDS and whole.KINDS, are sampled evenly or by weight, and with `paraphrase`
    their wording; `offset_s`, a multiple of 10, is added to all printed times.
    """
    weights = dict(kinds) if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1.0)
    if unknown := set(weights) - set(_FORMS_OF):
        raise ValueError(f"kinds must be of {tuple(_FORMS_OF)}, got {sorted(unknown)}")
    if offset_s < 0 or offset_s % 10:
        raise ValueError(f"offset_s must be a multiple of 10, 0 or more, got {offset_s}")
    video = _Video(events, duration_s, offset_s)
    queues: dict[str, Iterator[_Fact]] = {}
    weights = {kind: weight for kind, weight in weights.items() if weight > 0}
    questions: list[Question] = []
    while len(questions) < num and weights:
        share = np.array(list(weights.values()))
        kind = list(weights)[int(generator.choice(len(share), p=share / share.sum()))]
        if kind not in queues:
            queues[kind] = _ordered(kind, video, generator)
        fact = next(queues[kind], None)
        if fact is None:
            del weights[kind]
            continue
        forms = _FORMS_OF[kind]
        form = forms[int(generator.integers(len(forms))) if paraphrase else 0]
        text = form.format(**fact.slots)
        questions.append(Question(kind, text, fact.answer, fact.spans, fact.names, offset_s))
    return questions


def grade(question: Question, text: str) -> dict[str, Any]:
    """Scores of an answer.

    Returns:
        parsed: whether the text has the form of an answer; if not, all else is 0.
        score: 0 to 1, the value to average: for SPAN_KINDS whether iou >= 0.5, for "between" f1, else exact.
        exact: whether it equals the right answer (for "while", in any order).
        iou: for SPAN_KINDS, of the best span of the text with the true float seconds.
        f1: for "between", of the items. A right item has the right name and a span IoU of 0.5 or more.
    """
    text = text.strip().rstrip(".").lower()
    if question.kind in SPAN_KINDS:
        spans = read_spans(text, question.offset_s)
        iou = max((_iou(span, question.spans[0]) for span in spans), default=0.0)
        exact = spans == read_spans(question.answer, question.offset_s)
        return {"parsed": bool(spans), "score": float(iou >= 0.5), "exact": exact, "iou": iou}
    if question.kind == "between":
        return _grade_items(question, text)
    if question.kind == "count":
        number = re.search(r"\d+", text)
        exact = number is not None and int(number[0]) == int(question.answer)
        return _grade_exact(number is not None, exact)
    if question.kind in places.KINDS:
        return _grade_exact(text in places.ANSWERS, text == question.answer)
    words = {part.strip() for part in text.split(",")}
    parsed = words == {NOTHING} or words <= {*OBJECTS, *SOUNDS}
    return _grade_exact(parsed, words == (set(question.names) or {NOTHING}))


def read_spans(text: str, offset_s: int = 0) -> list[Span]:
    """The spans of whole seconds that an answer names: "187 to 192" is (187, 193)."""
    spans = [(int(first) - offset_s, int(last) + 1 - offset_s) for first, last in _SPAN.findall(text)]
    return [(first, end) for first, end in spans if first < end]


def _iou(a: Span, b: Span) -> float:
    common = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return common / (a[1] - a[0] + b[1] - b[0] - common)


def _grade_exact(parsed: bool, exact: bool) -> dict[str, Any]:
    return {"parsed": parsed, "score": float(exact), "exact": exact}


def _grade_items(question: Question, text: str) -> dict[str, Any]:
    items = []
    for name, first, last in _ITEM.findall(text):
        items += [(name, span) for span in read_spans(f"{first} to {last}", question.offset_s)]
    if not items or not question.names:
        exact = text == NOTHING and not question.names
        return _grade_exact(bool(items) or text == NOTHING, exact) | {"f1": float(exact)}
    left = list(zip(question.names, question.spans, strict=True))
    for name, span in items:
        ious = {i: _iou(true, span) for i, (of, true) in enumerate(left) if of == name}
        best = max(ious, key=ious.__getitem__, default=None)
        if best is not None and ious[best] >= 0.5:
            del left[best]
    f1 = 2 * (len(question.names) - len(left)) / (len(items) + len(question.names))
    return {"parsed": True, "score": f1, "exact": text == question.answer, "f1": f1}


# --- facts of a video that questions are made of


class _Fact(NamedTuple):
    """A question without its wording."""

    slots: dict[str, Any]
    answer: str
    spans: tuple[Span, ...] = ()
    names: tuple[str, ...] = ()


class _Video:
    """The events by name."""

    def __init__(self, events: Sequence[SceneEvent], duration_s: float, offset_s: int) -> None:
        self.events, self.duration_s, self.offset_s = events, duration_s, offset_s
        self.objects: dict[str, list[SceneEvent]] = {}
        self.sounds: dict[str, list[SceneEvent]] = {}
        for event in sorted(events, key=lambda event: event.start_s):
            (self.objects if event.kind == "video" else self.sounds).setdefault(event.name, []).append(event)

    def printed(self, event: SceneEvent) -> str:
        return common_span([event], offset_s=self.offset_s)[1]


def _shared_s(a: SceneEvent, b: SceneEvent) -> float:
    """Seconds that two events share; below 0: their distance."""
    return min(a.end_s, b.end_s) - max(a.start_s, b.start_s)


def is_clear(event: SceneEvent) -> bool:
    """Whether whole seconds give its time well enough; rounding moves short events by half their length."""
    first, last = printed_seconds(event)
    return _iou((first, last + 1), (event.start_s, event.end_s)) >= 0.5


def _when(named: dict[str, list[SceneEvent]], slot: str, video: _Video) -> Iterator[_Fact]:
    for name, (event, *more) in named.items():
        if not more and is_clear(event):
            yield _Fact({slot: name}, video.printed(event), ((event.start_s, event.end_s),))


def _binding(video: _Video) -> Iterator[_Fact]:
    for name, shown in video.objects.items():
        for noise, played in video.sounds.items():
            if len(shown) == len(played) == 1:
                continue
            # rounded to seconds, events less than a second apart may touch
            near = [(a, b) for a in shown for b in played if _shared_s(a, b) > -1]
            if len(near) == 1 and _shared_s(*near[0]) >= 4:
                span, answer = common_span(near[0], offset_s=video.offset_s)
                yield _Fact({"object": name, "sound": noise}, answer, (span,))


def _while(video: _Video) -> Iterator[_Fact]:
    frames = [event for shown in video.objects.values() for event in shown]
    for noise, (event, *more) in video.sounds.items():
        near = sorted((p for p in frames if _shared_s(event, p) > 0), key=lambda p: p.start_s)
        if not more and all(_shared_s(event, p) >= 2 for p in near):
            names = tuple(dict.fromkeys(p.name for p in near))
            yield _Fact({"sound": noise}, ", ".join(names) or NOTHING, names=names)


def _first_after(video: _Video) -> Iterator[_Fact]:
    starts = sorted((event.start_s, name) for name, played in video.sounds.items() for event in played)
    for name, (event, *more) in video.objects.items():
        later = [(at, noise) for at, noise in starts if at >= event.start_s + 1]
        about_now = any(abs(at - event.start_s) < 1 for at, _ in starts)
        if not (more or about_now or (len(later) > 1 and later[1][0] - later[0][0] < 1.5)):
            names = tuple(noise for _, noise in later[:1])
            yield _Fact({"object": name}, names[0] if names else NOTHING, names=names)


def _count(video: _Video) -> Iterator[_Fact]:
    for name in OBJECTS:
        if (times := len(video.objects.get(name, ()))) <= 9:
            yield _Fact({"object": name}, str(times))


def _between(video: _Video, generator: np.random.Generator) -> Iterator[_Fact]:
    """All windows, in random order, that no event overlaps by less than a second."""
    num_tens = ceil(video.duration_s / 10)
    for number in generator.permutation(3 * num_tens).tolist():
        start, end = 10 * (number // 3), 10 * (number // 3 + number % 3 + 1)
        if end > 10 * num_tens:
            continue
        reach = [(event, min(event.end_s, end) - max(event.start_s, start)) for event in video.events]
        inside = [event for event, common in reach if common >= 1]
        if any(0 < common < 1 for _, common in reach) or not all(map(is_clear, inside)):
            continue
        inside.sort(key=lambda event: (printed_seconds(event)[0], event.kind, event.name))
        yield _Fact(
            {"start": start + video.offset_s, "end": end + video.offset_s},
            ", ".join(f"{event.name} {video.printed(event)}" for event in inside) or NOTHING,
            tuple((event.start_s, event.end_s) for event in inside),
            tuple(event.name for event in inside),
        )


def _whole(kind: str, video: _Video) -> Iterator[_Fact]:
    for slots, answer in whole.facts(kind, video.objects, video.sounds):
        yield _Fact(slots, answer, names=(answer,))


def _places(kind: str, video: _Video) -> Iterator[_Fact]:
    for slots, answer in places.facts(kind, video.objects):
        if "second" in slots:
            slots["second"] += video.offset_s
        yield _Fact(slots, answer)


_FINDERS: dict[str, Callable[[_Video], Iterator[_Fact]]] = {
    "when_seen": lambda video: _when(video.objects, "object", video),
    "when_heard": lambda video: _when(video.sounds, "sound", video),
    "binding": _binding,
    "while": _while,
    "first_after": _first_after,
    "count": _count,
    **{kind: partial(_whole, kind) for kind in whole.KINDS},
    **{kind: partial(_places, kind) for kind in places.KINDS},
}


def _ordered(kind: str, video: _Video, generator: np.random.Generator) -> Iterator[_Fact]:
    """All facts of a kind in the order to ask them: shuffled, hard ones earlier."""
    if kind == "between":
        return _between(video, generator)
    facts = list(_FINDERS[kind](video))
    num_words = Counter(word for name in video.objects for word in name.split())
    ranks = generator.random(len(facts))
    for i, fact in enumerate(facts):
        name = fact.slots.get("object", "")
        if sum(num_words[word] for word in name.split()) > 2 * (name in video.objects):
            ranks[i] **= 1 / 3
    order = [facts[i] for i in np.argsort(-ranks)]
    return _evenly(order, generator) if kind in ("count", "where") else iter(order)


def _evenly(facts: list[_Fact], generator: np.random.Generator) -> Iterator[_Fact]:
    """The facts in an order in which all answers are equally frequent, as long as they last."""
    groups: dict[str, list[_Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.answer, []).append(fact)
    while groups:
        for answer in generator.permutation(list(groups)).tolist():
            yield groups[answer].pop(0)
            if not groups[answer]:
                del groups[answer]
