"""Questions that wait for their answers, and the rows of a batch while they are generated."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..llm.prompt import Turns
from ..memory import VideoMemory
from ..types import Answer
from .reading import Stopped
from .request import Generation


@dataclass
class Completion:
    """An answer and its counts: positions of the prompt, those of them that were read before, tokens."""

    answer: Answer
    num_prompt: int
    num_cached: int
    num_tokens: int
    is_whole: bool


@dataclass(eq=False)
class Question:
    """A question that waits for its answer; `say` is called with the text so far."""

    memory: VideoMemory
    turns: Turns
    generation: Generation
    future: asyncio.Future[Completion]
    say: Callable[[str], object] | None = None
    is_stopped: bool = False


class Rows:
    """A streamer of transformers' generate for a batch: counts tokens, and gives the text of each row as it
    grows.

    Args:
        llm: the language model.
        questions: of the B rows.
    """

    def __init__(self, llm: Any, questions: Sequence[Question]) -> None:
        self.llm, self.questions = llm, questions
        ends = getattr(llm.lm.generation_config, "eos_token_id", None)
        several = ends if isinstance(ends, list) else [ends]
        self.ends = {llm.tokenizer.eos_token_id, *several}
        self.tokens: list[list[int]] = [[] for _ in questions]
        self.is_done = [False] * len(questions)
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """(B,) the next token of each row; the first call has the prompt. Stopped, when nobody waits."""
        if self._is_prompt:
            self._is_prompt = False
            return
        if all(question.is_stopped for question in self.questions):
            raise Stopped
        for row, token in enumerate(value.tolist()):
            if self.is_done[row]:
                continue
            self.tokens[row].append(token)
            self.is_done[row] = token in self.ends
            question = self.questions[row]
            if question.say is not None and not question.is_stopped:
                text = self.llm.tokenizer.decode(self.tokens[row], skip_special_tokens=True).strip()
                # a character may come in several tokens
                question.future.get_loop().call_soon_threadsafe(question.say, text.rstrip("\ufffd"))

    def end(self) -> None:
        """Nothing more comes."""
