"""What the scores of a step are: those of heads, or the answer to a question about each request."""

from collections.abc import Sequence
from typing import Any

from .config_live import POLL, LiveConfig
from .llm.cache import Read
from .llm.live import LiveReader, Parts
from .llm.prompt import encode

NOBODYS = 0  # the request of scores in released form before anything was asked


class LiveScores:
    """Scores of a step: by heads about the last request or all (LiveConfig.heads_of), about each by a poll.

    Args:
        llm: the language model.
        config: whose scores are taken, and the question of the poll.
        parts: of the language model's prompt.

    Raises:
        ValueError: the trigger needs heads that the model lacks, or the poll's answers begin alike.
    """

    def __init__(self, llm: Any, config: LiveConfig, parts: Parts) -> None:
        self.config, self.parts = config, parts
        self.heads = getattr(llm, "heads", None)
        if self.heads is None and POLL not in config.trigger.heads:
            raise ValueError(
                f"live.trigger.heads {config.trigger.heads} need a model with heads (llm.heads in config); "
                'got none: poll it: TriggerConfig(heads=("poll",), ...)'
            )
        # the tokens that these begin with; -1 of an empty one
        self._yes, self._no, self.nothing = (
            (encode(llm.tokenizer, x) or [-1])[0] for x in (config.poll_yes, config.poll_no, config.nothing)
        )
        if POLL in config.trigger.heads and self._yes == self._no:
            raise ValueError(
                f"live.poll_yes and poll_no must begin with different tokens, got {config.poll_yes!r} and "
                f"{config.poll_no!r}"
            )

    def of(
        self, read: Read, reader: LiveReader, standing: Sequence[tuple[int, str]], before: Sequence[int],
        now_s: float,
    ) -> list[tuple[int | None, dict[str, float]]]:  # fmt: skip
        """(request, scores) of a step that was read; the request is None where nothing may be said.

        Args:
            read: what `reader` made of the step.
            reader: of all until now.
            standing: (number, text) of requests.
            before: ids that close what is open, before a question.
            now_s: end of the step.
        """
        if POLL in self.config.trigger.heads:
            return [(number, {POLL: self.poll(reader, text, before, now_s)}) for number, text in standing]
        assert self.heads is not None
        scores = {name: float(p) for name, p in self.heads.scores(read.hidden[-1:]).items()}
        nobodys = NOBODYS if self.config.turns == "released" else None
        about = standing if self.config.heads_of == "all" else standing[-1:]
        return [(number, scores) for number, _ in about] or [(nobodys, scores)]

    def poll(self, reader: LiveReader, text: str, before: Sequence[int], now_s: float) -> float:
        """The probability that the answer to the poll about a request begins with yes."""
        question = self.config.poll.format(request=text, now=f"{now_s:.0f}")
        ids = [*before, *self.parts.ask(question, stands=False)]
        logits = reader.fork().read([self.parts.text("answer", ids)]).logits
        if self._yes < 0:
            return 1 - float(logits.softmax(-1)[self._no])
        return float(logits[[self._yes, self._no]].softmax(-1)[0])
