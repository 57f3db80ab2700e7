"""The merged past with which a live context begins, made ready bit by bit before it is needed."""

from typing import Any

import torch

from .compression.state import MergeState
from .config_live import LiveConfig
from .llm.live import LiveReader, Part, Parts, sliced
from .types import CompressedVideo


class Prefix:
    """What comes before the turns.

    Args:
        parts: of the language model's prompt.
        start_s: where near begins.
        state: what is held of all before; None: nothing of it is read.
    """

    def __init__(self, parts: Parts, start_s: float, state: MergeState | None = None) -> None:
        self.parts, self.start_s, self.state = parts, start_s, state
        self.past: CompressedVideo | None = None
        self.reader, self.chunks = LiveReader(parts.llm), list[list[Part]]()
        # to be read; None: the past isn't laid out
        self.waiting: list[Part] | None = None if state is not None else [parts.past(None)]

    @property
    def is_ready(self) -> bool:
        """Whether what follows can be read; a prefix without a past is read with it."""
        return self.waiting is not None and (self.past is None or not self.waiting)

    @torch.no_grad()
    def work(self, config: LiveConfig) -> None:
        """A part of the work: to merge the past, to lay it out, or to read a slice of it."""
        if self.state is not None:
            self.past, self.state = self.state.compress(config.past), None
        elif self.waiting is None:
            assert self.past is not None
            self.past = self.past.to(self.parts.llm.lm.device)
            self.waiting = sliced(self.parts.llm, self.parts.past(self.past), config.slice_tokens)
        else:
            part, *self.waiting = self.waiting
            self.chunks.append([part])
            self.reader.read([part])

    def data(self) -> dict[str, Any]:
        """All but the language model, for `restore`."""
        state = None if self.state is None else self.state.state()
        names = ("past", "waiting", "chunks")
        return {"start_s": self.start_s, "state": state} | {name: getattr(self, name) for name in names}

    @classmethod
    def restore(cls, parts: Parts, data: dict[str, Any], empty: MergeState) -> "Prefix":
        """The prefix of `data`; what it had read is read again, as it was."""
        prefix = cls(parts, data["start_s"])
        if data["state"] is not None:
            prefix.state = empty.copy()
            prefix.state.set_state(data["state"])
        prefix.past, prefix.waiting, prefix.chunks = data["past"], data["waiting"], data["chunks"]
        for chunk in prefix.chunks:
            prefix.reader.read(chunk)
        return prefix
