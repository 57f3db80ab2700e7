"""Videos with text that a language model has positions for: what is too long loses whole turns and events."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...config import LLMConfig
from ...llm import CausalLM, Example, text_positions, video_positions
from .questions import Turns, shortened_by


@dataclass(frozen=True)
class Room:
    """Positions of a language model, and what videos and texts take of them.

    Attributes:
        context: positions that it was made for; None: not known, all fits.
        tokenizer: its own.
        config: of the language model.
        names: streams in the language model's order.
    """

    context: int | None
    tokenizer: Any
    config: LLMConfig
    names: Sequence[str]

    @classmethod
    def of(cls, llm: CausalLM) -> "Room":
        """That of a language model; the language model itself is not kept."""
        return cls(llm.context, llm.tokenizer, llm.settings, llm.names)

    def fitted(self, example: Example, where: str) -> tuple[Example, int]:
        """(the example with as much text as fits after its video, turns and events that had to go).

        The last turns of a dialogue go first; of questions that don't see one another each has to fit alone.
        Of a single answer that is too long its last lines go.

        Args:
            example: with an answer to each question.
            where: what errors call it.

        Raises:
            ValueError: the video leaves no room for the least of its text.
        """
        turns: Turns = [(question, answer or "") for question, answer in example.turns]
        if self.context is None:
            return example, 0
        video = video_positions(example, self.tokenizer, self.config, self.names)
        left = self.context - video
        if self._text(turns, example.dialogue) <= left:
            return example, 0
        kept: Turns = []
        dropped, least = 0, []
        for together in [turns] if example.dialogue else [[turn] for turn in turns]:
            question, answer = together[0]
            least.append(self._text([(question, answer.partition("\n")[0])], example.dialogue))
            if least[-1] > left:
                dropped += len(together)
                continue
            short = shortened_by(together, lambda some: self._text(some, example.dialogue), left)
            kept += short.turns
            dropped += short.dropped
        if not kept:
            raise ValueError(
                f"{where}: its video takes {video} positions and the least of its text {min(least)}, of the "
                f"{self.context} that the language model has; take smaller budgets"
            )
        return replace(example, turns=kept), dropped

    def _text(self, turns: Turns, dialogue: bool) -> int:
        return text_positions(turns, self.tokenizer, self.config, dialogue=dialogue)
