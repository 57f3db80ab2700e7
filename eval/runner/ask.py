"""A video's questions to lines of a run."""

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, NamedTuple

from ...memory import VideoMemory
from ..tasks.task import Answers, Example, How, Prediction, Task
from .score import task_of

QUESTIONS_AT_ONCE = 8  # always the same questions: no answer may depend on where a run was killed


class Encoded(NamedTuple):
    """A video at one budget: its memory or why there is none, seconds it took, warnings of reading it."""

    memory: VideoMemory | str
    seconds: float
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Questioner:
    """What stays the same from video to video: the task's name, examples and prompt, how answers are read.

    max_new_tokens is the longest answer; None: as the model's config says.
    """

    name: str
    examples: Sequence[Example]
    prompt: str
    max_new_tokens: int | None
    how: How

    @property
    def task(self) -> Task:
        """The task of that name."""
        return task_of(self.name)

    def lines(
        self, video: Encoded, examples: Sequence[Example], done: Container[str]
    ) -> Iterator[dict[str, Any]]:
        """Lines of the examples of a video that aren't done."""
        if isinstance(memory := video.memory, str):
            yield from (
                {"id": e.id, "video": e.video, "failed": memory} for e in examples if e.id not in done
            )
            return
        ask = self.task.prompts[self.prompt]
        for at in range(0, len(examples), QUESTIONS_AT_ONCE):
            some = examples[at : at + QUESTIONS_AT_ONCE]
            if all(example.id in done for example in some):
                continue
            start_s = time.perf_counter()
            prompts = [ask(example) for example in some]
            answers = memory.ask_all(prompts, max_new_tokens=self.max_new_tokens)
            answer_s = (time.perf_counter() - start_s) / len(some)
            for example, prompt, answer in zip(some, prompts, answers, strict=True):
                if example.id in done:
                    continue
                value = self.task.parse(answer.text, example, self.how)
                yield {
                    "id": example.id,
                    "video": example.video,
                    "prompt": prompt,
                    "answer": answer.text,
                    "value": asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
                    "parsed": value is not None,
                    "score": self.score(example, Prediction(answer.text, value)),
                    "tokens": memory.num_tokens,
                    "seconds": {"encode": round(video.seconds, 3), "answer": round(answer_s, 3)},
                } | ({"warnings": list(video.warnings)} if video.warnings else {})

    def score(self, example: Example, prediction: Prediction) -> dict[str, float] | None:
        """The main numbers of one example; None where only a corpus, or a judge, has a score."""
        if self.task.needs_judge:
            return None
        each = self.task.score(Answers([example], {example.id: prediction}, self.how)).each
        return {name: values[example.id] for name, values in each.items() if example.id in values} or None


def by_video(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Video -> its examples, both in the order they come in."""
    out: dict[str, list[Example]] = {}
    for example in examples:
        out.setdefault(example.video, []).append(example)
    return out
