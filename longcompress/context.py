"""What a live session's language model reads: a bounded list that can be printed, and the same in a cache.

The list is [past, merged][turns][near, step by step], and behind it an answer on a fork of the cache. At a
border of segments the context is read anew: the older half of what was near is read merged from then on.
What is merged is read ahead, a slice a step, so that no step takes long. MMDuet's conversations are the same
without a past: all steps are near, and nothing is read anew.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from .compression.state import MergeState
from .compression.triggers import TriggerState, step, unsaid
from .config_live import POLL, LiveConfig
from .events.parse import parse_spans
from .live_bound import bound_of, tokens_a_step
from .live_prefix import Prefix
from .live_reading import Reading
from .live_scores import LiveScores
from .llm.cache import Read, cache_bytes
from .llm.live import LiveReader, Part, as_text, parts_of
from .model import LongCompress
from .session_events import Asked, Dropped, Reply, ReplyBegan, ReplyPart, Scored, SessionEvent
from .speech import HALF, Speech, is_late
from .types import Answer, CompressedVideo, Tokens

Streams = Mapping[str, Tokens]


class Turn(NamedTuple):
    """A text in the context: a request that stands, with its number, or what was said."""

    time_s: float
    text: str
    ids: list[int]
    request: int | None


class LiveContext:
    """The context, the requests that stand, and what is being said.

    Args:
        model: with its language model.
        config: how far the context reaches, and when the model speaks.
        streams: what will come.
        step_s: length of a step.

    Raises:
        ValueError: the trigger needs heads that the model lacks, the turns a tokenizer of another kind, or
            the context doesn't fit the language model's.
    """

    def __init__(
        self, model: LongCompress, config: LiveConfig, streams: Sequence[str], step_s: float
    ) -> None:
        self.model, self.config, self.llm = model, config, model.llm
        self.parts = parts_of(model.llm)
        self.scores = LiveScores(model.llm, config, self.parts)
        self.is_released = config.turns == "released"
        if self.is_released and not self.parts.opening:
            raise ValueError(
                'live.turns "released" needs heads, and a tokenizer with the tokens <|im_start|> and '
                f'<|im_end|> (Qwen\'s), got {type(self.llm.tokenizer).__name__}; take turns "trained"'
            )
        self.max_step = {name: tokens_a_step(model, name, step_s) for name in streams}
        self.max_tokens = bound_of(model, config, self.parts, self.max_step, step_s)
        self.now = Reading(Prefix(self.parts, 0.0), (), self.is_released)
        self.ahead: Prefix | None = None  # what comes in the place of its prefix
        self.next: Reading | None = None  # what was read behind that
        self.turns: list[Turn] = []  # the oldest first
        self.borders: list[tuple[float, MergeState]] = []  # of closed segments, to begin near at
        self.triggers: dict[str, TriggerState] = {}  # by request; "" of all of them in released form
        self.due: list[Speech] = []  # that wait to be said
        self.speech: Speech | None = None
        self.last: dict[str, str] = {}  # request -> its last answer
        self.seen: list[int] = []  # tokens of answers, for the repetition penalty
        self.counts = {"requests": 0, "steps": 0, "rebuilds": 0, "replies": 0, "repeats": 0}

    # --- what comes

    def close(self, border_s: float, state: MergeState) -> None:
        """A segment ended at border_s, and `state` is what is held of all until there."""
        if self.config.near_s:
            self.borders.append((border_s, state))

    @torch.no_grad()
    def see(self, streams: Streams, start_s: float, end_s: float) -> list[SessionEvent]:
        """Read a step's tokens; what happens then."""
        if 0 < self.config.max_frames <= self.counts["steps"]:
            reason = f"the conversation ended after live.max_frames = {self.config.max_frames} steps"
            return [Dropped("step", start_s, end_s, reason)]
        events: list[SessionEvent] = []
        step_tokens = {}
        for name, tokens in streams.items():
            limit = self.max_step[name]
            if len(tokens) > limit:
                reason = f"more than {limit} tokens in a step of stream {name!r}: it has too many gaps"
                events.append(Dropped(name, start_s, end_s, reason))
                tokens = tokens.take(slice(-limit, None))
            if len(tokens):
                step_tokens[name] = tokens
        if step_tokens:
            events += self._score(self._read_step(step_tokens), start_s, end_s)
        events += self._speak(end_s)
        if self.config.near_s:
            self._move_on(end_s)
        return events

    def ask(self, question: str, time_s: float) -> list[SessionEvent]:
        """The answer to a question now; it ends what is being said.

        Raises:
            ValueError: nothing was read yet, or the question is empty or too long.
        """
        if not self.now.chunks:
            raise ValueError("session holds no token: nothing has come that could be asked about")
        ids = self._question(question, stands=False)
        events = self.cancel(time_s, "a question came")
        if self.speech is not None:
            self.due.insert(0, self.speech)
        self.speech = Speech(self.now.chunks, self.now.reader.fork(), ids, None, question, time_s)
        return events + self._say(0, time_s)

    def request(self, text: str, time_s: float) -> list[SessionEvent]:
        """A text that stands until it is withdrawn.

        Raises:
            ValueError: it is empty, or has no room.
        """
        self._question(text, stands=self.is_released)
        # in released form a request opens the turn of frames behind it, and nothing else does
        ids = self.parts.turn(text) + (self.parts.opening if self.is_released else [])
        pinned = sum(len(turn.ids) for turn in self.turns if turn.request is not None)
        if len(ids) + pinned > self.config.text_tokens:
            raise ValueError(
                f"text has {len(ids)} tokens, and the requests that stand {pinned}: together at most "
                f"live.text_tokens = {self.config.text_tokens}; shorten it, withdraw a request, or raise it"
            )
        self.counts["requests"] += 1
        asked = Asked(time_s, text, self.counts["requests"])
        opening = [] if self.is_released else self.parts.opening
        return [asked, *self._add(Turn(time_s, text, ids, asked.request), opening)]

    def withdraw(self, request: int, time_s: float) -> list[SessionEvent]:
        """The request stands no longer; the context is read anew without it.

        Raises:
            ValueError: it doesn't stand.
        """
        if request not in (known := [turn.request for turn in self.turns if turn.request is not None]):
            raise ValueError(f"request must be one of {known}, which stand, got {request}")
        self.turns = [turn for turn in self.turns if turn.request != request]
        self.due = [speech for speech in self.due if speech.request != request]
        self.triggers.pop(str(request), None)
        self.last.pop(str(request), None)
        events = list[SessionEvent]()
        if self.speech is not None and self.speech.request == request:
            events, self.speech = self.cancel(time_s, "its request was withdrawn"), None
        if self.now.chunks:
            self._rebuild()
        return events

    def cancel(self, time_s: float, reason: str = "cancelled") -> list[SessionEvent]:
        """What is being said ends, and nothing of it stays; no event where nothing is. What may turn out to
        be nothing, and was not told of, goes on."""
        speech = self.speech
        if speech is None or not speech.is_told:
            return []
        self.speech = None
        return [Dropped("reply", speech.seen_s, time_s, reason)]

    def finish(self, time_s: float) -> list[SessionEvent]:
        """All that is due is said to its end."""
        events = self._say(0, time_s) if self.speech is not None else []
        return events + self._speak(time_s, num=0)

    def context(self) -> list[Part]:
        """What the cache holds, in order, each part with its text."""
        return [part._replace(text=as_text(self.parts, part)) for chunk in self.now.chunks for part in chunk]

    def stats(self) -> dict[str, float]:
        """Numbers of steps, replies and rebuilds; tokens and bytes of the cache."""
        return {
            **self.counts,
            "cache_tokens": self.now.reader.count,
            "cache_bytes": sum(cache_bytes(reader.cache) for reader in self._readers()),
            "max_cache_tokens": self.max_tokens, "text_tokens": self.now.num_text,
            "near_tokens": sum(len(tokens) for step in self.now.steps for tokens in step.values()),
        }  # fmt: skip

    def _readers(self) -> list[LiveReader]:
        others = [self.now.prefix, self.ahead, self.next, self.speech, *self.due]
        return [self.now.reader, *(other.reader for other in others if other is not None)]

    # --- what is read

    def _read_step(self, streams: dict[str, Tokens]) -> Read:
        for reading in (self.now, self.next):
            if reading is not None:
                reading.add(streams)
        self.counts["steps"] += 1
        return self.now.go_on() if self.now.chunks else self._rebuild()

    def _add(self, turn: Turn, opening: list[int]) -> list[SessionEvent]:
        """A turn more, which is read now, and `opening` before the next frame; where it has no room behind
        near, the context is read anew."""
        self.turns.append(turn)
        dropped = self._forget()
        now = self.now
        if turn not in self.turns or not now.chunks:
            return dropped
        num = now.num_text + len(now.closing) + len(turn.ids) + len(self.parts.opening)
        if num > self.config.text_tokens:
            self._rebuild()
        else:
            now.say(turn.ids, opening)
        return dropped

    def _forget(self) -> list[SessionEvent]:
        """The oldest turns that are no requests leave, until the rest has room."""
        events: list[SessionEvent] = []
        total = sum(len(turn.ids) for turn in self.turns)
        for turn in list(self.turns):
            if total <= self.config.text_tokens:
                break
            if turn.request is None:
                self.turns.remove(turn)
                total -= len(turn.ids)
                reason = f"more than live.text_tokens = {self.config.text_tokens} of text"
                events.append(Dropped("turn", turn.time_s, turn.time_s, reason))
        return events

    def _move_on(self, now_s: float) -> None:
        """Where near is too long, its older half goes over to the past, at a border of segments. A step does
        a part of that work: it makes the prefix ready, or reads a slice of what is near behind it."""
        near_s, ahead = self.config.near_s, self.ahead
        if ahead is None:
            self.ahead = self._next_prefix(now_s)
        elif not ahead.is_ready:
            ahead.work(self.config)
        elif now_s >= max(self.now.prefix.start_s + near_s, ahead.start_s + near_s / 2):
            self._catch_up(ahead)

    def _next_prefix(self, now_s: float) -> Prefix | None:
        """What will come before near when it begins at the next border, if that is known."""
        near_start_s, near_s = self.now.prefix.start_s, self.config.near_s
        self.borders = [border for border in self.borders if border[0] > near_start_s]
        if not self.borders or now_s < near_start_s + near_s / 2:
            return None
        # the last border that leaves half of near, else the next
        limit_s = max(near_start_s, now_s - near_s) + near_s / 2
        number = max(1, sum(border_s <= limit_s for border_s, _ in self.borders))
        (border_s, state), self.borders = self.borders[number - 1], self.borders[number:]
        return Prefix(self.parts, border_s, state if self.config.past else None)

    def _catch_up(self, ahead: Prefix) -> None:
        """Read a slice of near behind the next prefix, or all of it where a turn came meanwhile; what has
        all takes the place of what is read now."""
        reading, num = self.next, self.config.slice_tokens
        if reading is None:
            reading = self._anew(ahead)
        elif reading.ids != self._turn_ids():
            reading, num = self._anew(ahead), 0
        reading.go_on(num)
        self.next = reading
        if reading.is_whole:
            self.now, self.next, self.ahead = reading, None, None
            self.counts["rebuilds"] += 1

    def _rebuild(self) -> Read:
        """Read the turns and what is near anew, behind the prefix, in a single forward."""
        self.now = self._anew(self.now.prefix)
        self.counts["rebuilds"] += 1
        return self.now.go_on()

    def _anew(self, prefix: Prefix) -> Reading:
        return self.now.anew(prefix, self._turn_ids(), self.is_released)

    def _turn_ids(self) -> list[int]:
        return [i for turn in self.turns for i in turn.ids]

    # --- when it speaks

    def _score(self, read: Read, start_s: float, end_s: float) -> list[SessionEvent]:
        """Scores of a step; what fires becomes due, as it can be answered now."""
        config = self.config
        standing = [(turn.request, turn.text) for turn in self.turns if turn.request is not None]
        rows = self.scores.of(read, self.now.reader, standing, self.now.closing, end_s)
        events: list[SessionEvent] = []
        for request, scores in rows:
            # MMDuet's script counts on when a request comes; ours never compares scores about two requests
            is_one = self.is_released and POLL not in config.trigger.heads
            name, fired = "" if is_one else str(request), False
            if request is not None:
                try:
                    state = self.triggers.get(name, TriggerState())
                    self.triggers[name], fired = step(config.trigger, state, scores, start_s)
                except ValueError as error:
                    events.append(Dropped("score", start_s, end_s, str(error)))
            events.append(Scored(start_s, scores, fired, request))
            if fired and request is not None:
                self._fire(request, dict(standing), start_s, end_s)
        return events

    def _fire(self, request: int, standing: dict[int, str], fired_s: float, end_s: float) -> None:
        """A request becomes due, unless it is, or there is nothing to say: it reads what there is now."""
        for speech in self.due:
            if speech.request == request and not speech.tokens:
                speech.fired_s.append(fired_s)
                return
        text = standing.get(request, "")
        # in MMDuet's turns the last user's turn is what an answer is to
        stands = self.is_released or [*standing][-1:] == [request]
        part = self._question(text or "?", stands=stands)
        speech = Speech(self.now.chunks, self.now.reader.fork(), part, request, text, end_s)
        speech.fired_s.append(fired_s)
        if self.config.nothing_at < 1 and speech.chance(self.scores.nothing) >= self.config.nothing_at:
            self._unsaid(speech)
        else:
            self.due.append(speech)

    # --- what it says

    def _speak(self, time_s: float, num: int | None = None) -> list[SessionEvent]:
        """Go on saying what is being said, then what is due."""
        num = self.config.step_tokens if num is None else num
        events = [] if self.speech is None else self._say(num, time_s)
        while self.speech is None and self.due:
            self.speech = self.due.pop(0)
            events += self._say(num, time_s)
        return events

    def _unsaid(self, speech: Speech) -> None:
        """Of heads that score about all requests, one that had nothing to say may be asked again at once."""
        if self.config.heads_of == "all" and (name := str(speech.request)) in self.triggers:
            self.triggers[name] = unsaid(self.triggers[name], speech.fired_s)

    def _question(self, text: str, *, stands: bool) -> Part:
        """The part between the context and an answer; ValueError where it has no room."""
        ids = [*self.now.closing, *self.parts.ask(text, stands)]
        if not text.strip():
            raise ValueError("text must not be empty; say what to tell of, e.g. 'Tell me when it rains.'")
        limit = (self.llm.context or math.inf) - self.max_tokens - self.config.max_reply_tokens
        if len(ids) > limit:
            raise ValueError(
                f"text has {len(ids)} tokens as a question, and the language model's context has room for "
                f"{limit:.0f} beside the video; shorten it, or lower live.past"
            )
        return self.parts.text("answer", ids)

    def _say(self, num: int, time_s: float) -> list[SessionEvent]:
        """Up to `num` tokens more of what is being said; 0: all."""
        speech, config = self.speech, self.config
        assert speech is not None
        limit = config.max_reply_tokens
        speech.say(self.parts, num, limit, config.repetition_penalty, self.seen)
        is_done, name = speech.is_done(self.parts, limit), str(speech.request)
        text, events = speech.text(self.parts).strip(), list[SessionEvent]()
        shown = text if is_done else text.rstrip(HALF)
        self.speech = None if is_done else speech
        is_repeat = speech.request is not None and is_done and self.last.get(name) == text
        may_be_nothing = bool(config.nothing) and config.nothing.startswith(shown)
        is_held = not speech.is_told and (may_be_nothing or config.late_s > 0)
        is_unsaid = (may_be_nothing and text == config.nothing) or is_late(text, speech.seen_s, config.late_s)
        is_unsaid = is_held and is_done and is_unsaid
        if is_done and (is_unsaid or is_repeat):
            self._unsaid(speech)
        if is_unsaid or (is_held and not is_done):
            return events
        if speech.request is not None:
            if not speech.is_told:
                events.append(ReplyBegan(speech.seen_s, speech.request))
            speech.is_told = True
            if piece := speech.piece(self.parts, limit):
                events.append(ReplyPart(time_s, speech.request, piece))
        if not is_done:
            return events
        if speech.request is not None:
            self.last[name] = text
        if config.repetition_penalty != 1.0:
            self.seen = sorted({*self.seen, *speech.tokens} - {*self.parts.ends})
        self.counts["replies"] += 1
        self.counts["repeats"] += is_repeat
        answer = Answer(text, tuple(parse_spans(text, duration_s=time_s)))
        done_s = time_s if time_s > speech.seen_s else None
        events.append(Reply(speech.seen_s, speech.question, answer, speech.request, done_s, is_repeat))
        if (is_repeat and not self.is_released) or config.replies == "drop":
            if self.is_released:  # the frames' turn is never ended
                self.now.closing = []
            return events
        question = speech.question if speech.request is None else None
        ids, opening = self.parts.exchange(question, speech.tokens, text), self.parts.opening
        if self.is_released:  # the last token is read before the next frame, or never
            ids = ids[: len(ids) - 1 - (speech.tokens[-1] not in self.parts.ends)]
            opening = [*speech.tokens[-1:], *opening]
        turn = Turn(time_s, text, ids, None)
        if config.replies == "log":
            self.turns.append(turn)
            return events + self._forget()
        return events + self._add(turn, opening)

    # --- snapshots

    def state(self) -> dict[str, Any]:
        """All but what the constructor takes, for `set_state`."""
        speech = self.speech
        return {name: getattr(self, name) for name in _DATA} | {
            "speech": None if speech is None else speech.state(), "due": [x.state() for x in self.due],
            "borders": [(border_s, state.state()) for border_s, state in self.borders],
            "prefix": self.now.prefix.data(), "ahead": None if self.ahead is None else self.ahead.data(),
            "now": self.now.data(), "next": None if self.next is None else self.next.data(),
        }  # fmt: skip

    def set_state(self, state: dict[str, Any], empty: MergeState) -> None:
        """Go on from what `state` gave: the context is read again as it was read; `empty` is a merge state of
        the session's budget."""
        for name in _DATA:
            setattr(self, name, state[name])
        self.borders = []
        for border_s, values in state["borders"]:
            twin = empty.copy()
            twin.set_state(values)
            self.borders.append((border_s, twin))
        self.now = Reading.restore(Prefix.restore(self.parts, state["prefix"], empty), state["now"])
        self.ahead = self.next = None
        if state["ahead"] is not None:
            self.ahead = Prefix.restore(self.parts, state["ahead"], empty)
            self.next = Reading.restore(self.ahead, state["next"]) if state["next"] is not None else None
        if state["speech"] is not None:
            self.speech = Speech.restore(self.llm, self.parts, state["speech"])
        self.due = [Speech.restore(self.llm, self.parts, values) for values in state["due"]]


_DATA = ("turns", "triggers", "last", "seen", "counts")


LIVE_CLASSES = (Turn, Part, TriggerState, CompressedVideo)
"""The classes that a live context is made of, for `serialize.pack`; beside those of a merge state."""
