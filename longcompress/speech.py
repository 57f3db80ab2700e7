"""An answer in the making, on a fork of the context that it was begun in."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .llm import CausalLM, StockLM
from .llm.cache import pick
from .llm.live import LiveReader, Part, Parts

HALF = "�"  # how a tokenizer writes a character that is not whole yet


def is_late(text: str, seen_s: float, late_s: float) -> bool:
    """Whether a text ends in a second, behind words, that lies more than late_s before seen_s, or after it;
    never where late_s is 0."""
    second = re.search(r"\D([0-9]+(\.[0-9]+)?)(\s*s)?$", text)
    return late_s > 0 and second is not None and not 0 <= seen_s - float(second[1]) <= late_s


class Speech:
    """An answer that goes on token by token.

    Args:
        chunks: what `reader` has read, to be read again from a snapshot.
        reader: a fork of the context's.
        question: the part before the answer.
        request: its number, None of a question.
        text: of the request or question.
        seen_s: what was seen by then.

    Attributes:
        fired_s: steps at which the trigger asked for it.
    """

    def __init__(
        self, chunks: Sequence[list[Part]], reader: LiveReader, question: Part, request: int | None,
        text: str, seen_s: float,
    ) -> None:  # fmt: skip
        self.chunks, self.reader, self.part = list(chunks), reader, question
        self.request, self.question, self.seen_s = request, text, seen_s
        self.fired_s: list[float] = []
        self.tokens: list[int] = []
        self.is_told = request is None  # whether an event has told of it
        self._num_said = 0  # characters of the text that `piece` has returned
        self._logits: Tensor = reader.read([question]).logits

    def say(self, parts: Parts, num: int, limit: int, penalty: float, seen: Sequence[int]) -> None:
        """Up to `num` tokens more (0: all of at most `limit`)."""
        stop = limit if num == 0 else min(limit, len(self.tokens) + num)
        while len(self.tokens) < stop and not self.is_done(parts, limit):
            logits = self._logits.clone()
            logits[parts.suppressed] = -float("inf")
            self.tokens.append(pick(logits, penalty, [*seen, *self.tokens]))
            if not self.is_done(parts, limit):
                self._read(parts, self.tokens[-1])

    def chance(self, token: int) -> float:
        """The probability that it goes on with a token."""
        return float(self._logits.softmax(-1)[token])

    def piece(self, parts: Parts, limit: int) -> str:
        """The text that no piece before had."""
        text = self.text(parts)
        if text.endswith(HALF) and not self.is_done(parts, limit):
            return ""
        self._num_said, start = len(text), self._num_said
        return text[start:]

    def is_done(self, parts: Parts, limit: int) -> bool:
        """Whether it has come to its end."""
        return len(self.tokens) >= limit or (bool(self.tokens) and self.tokens[-1] in parts.ends)

    def text(self, parts: Parts) -> str:
        """What was said."""
        tokens = self.tokens[:-1] if self.tokens and self.tokens[-1] in parts.ends else self.tokens
        return str(parts.llm.tokenizer.decode(tokens, skip_special_tokens=True))

    def state(self) -> dict[str, Any]:
        """All of it, for `restore`."""
        return {
            "chunks": self.chunks, "part": self.part, "request": self.request, "question": self.question,
            "seen_s": self.seen_s, "fired_s": self.fired_s, "tokens": self.tokens,
            "num_said": self._num_said, "is_told": self.is_told,
        }  # fmt: skip

    @classmethod
    def restore(cls, llm: CausalLM | StockLM, parts: Parts, state: dict[str, Any]) -> "Speech":
        """The answer that `state` is of; all is read as it was read."""
        reader = LiveReader(llm)
        for chunk in state["chunks"]:
            reader.read(chunk)
        speech = cls(
            state["chunks"], reader, state["part"], state["request"], state["question"], state["seen_s"]
        )
        speech.tokens, speech.fired_s = state["tokens"], state["fired_s"]
        speech._num_said, speech.is_told = state["num_said"], state["is_told"]
        for token in speech.tokens:
            speech._read(parts, token)
        return speech

    def _read(self, parts: Parts, token: int) -> None:
        self._logits = self.reader.read([parts.text("answer", [token])]).logits
