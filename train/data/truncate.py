"""Examples that fit into the context of a language model: long texts lose whole turns and events."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...config import LLMConfig
from ...llm import CausalLM, Example, text_positions, video_positions
from .questions import Turns, shortened


@dataclass(frozen=True)
class Room:
    """The positions of a language model; videos and texts must fit into them."""

    context: int | None  # positions that it was trained for; None: unknown, everything fits
    tokenizer: Any
    config: LLMConfig
    names: Sequence[str]  # streams in its order

    @classmethod
    def of(cls, llm: CausalLM) -> "Room":
        """Of a language model; the language model itself is not kept."""
        return cls(llm.context, llm.tokenizer, llm.settings, llm.names)

    def fitted(self, example: Example, where: str) -> tuple[Example, int]:
        """(the example with as much text as fits after its video, turns and events that were dropped).

        The last turns of a dialogue go first. Questions that don't see one another must each fit alone. A
        single answer that is too long loses its last lines. ValueError, which calls the example `where`: the
        video leaves no room for the shortest of its texts.
        """
        turns: Turns = [(question, answer or "") for question, answer in example.turns]
        if self.context is None:
            return example, 0
        video = video_positions(example, self.tokenizer, self.config, self.names)
        room = self.context - video

        def size(some: Turns) -> int:
            return text_positions(some, self.tokenizer, self.config, dialogue=example.dialogue)

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
