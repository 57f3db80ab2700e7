"""A video's questions to lines of a run."""

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from longcompress.memory import VideoMemory

from ..tasks.task import Example, How, Said, Task

QUESTIONS_AT_ONCE = 8  # always the same ones together: an answer must not depend on where a run was killed


@dataclass(frozen=True)
class QuestionSampling:
    """What stays the same from video to video.

    Attributes:
        task: whose prompts, parser and score.
        prompt: name of the prompt.
        max_new_tokens: longest answer; None: as the model's config says.
        how: how answers are read.
        judged: without a judge answers have no score.
    """

    task: Task[Any, Any]
    prompt: str
    max_new_tokens: int | None
    how: How
    judged: bool = False


def by_video(examples: Sequence[Example[Any]]) -> dict[str, list[Example[Any]]]:
    """Video -> its examples, both in the order they come in."""
    out: dict[str, list[Example[Any]]] = {}
    for one in examples:
        out.setdefault(one.video, []).append(one)
    return out


def answered(
    question_sampling: QuestionSampling, memory: VideoMemory, examples: Sequence[Example[Any]], done: Container[str],
    compress_s: float, warned: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Lines of the examples of a video that aren't done.

    Args:
        asking: how they are asked and read.
        memory: of the video.
        examples: all of the video's.
        done: ids.
        compress_s: seconds that the memory took.
        warned: what reading the video complained of.
    """
    ask = question_sampling.task.prompts[question_sampling.prompt]
    for at in range(0, len(examples), QUESTIONS_AT_ONCE):
        some = examples[at : at + QUESTIONS_AT_ONCE]
        if all(one.id in done for one in some):
            continue
        begun = time.perf_counter()
        prompts = [ask(one) for one in some]
        answers = memory.ask_all(prompts, max_new_tokens=question_sampling.max_new_tokens)
        answer_s = (time.perf_counter() - begun) / len(some)
        for one, prompt, answer in zip(some, prompts, answers, strict=True):
            if one.id in done:
                continue
            value = question_sampling.task.parse(answer.text, one, question_sampling.how)
            line = {
                "id": one.id,
                "video": one.video,
                "prompt": prompt,
                "answer": answer.text,
                "value": asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
                "parsed": value is not None,
                "score": worth(question_sampling, one, Said(answer.text, value)),
                "tokens": memory.num_tokens,
                "seconds": {"compress": round(compress_s, 3), "answer": round(answer_s, 3)},
            }
            yield line | ({"warnings": list(warned)} if warned else {})


def unread(examples: Sequence[Example[Any]], done: Container[str], why: str) -> Iterator[dict[str, Any]]:
    """Lines of the examples of a video that there is nothing of."""
    return ({"id": e.id, "video": e.video, "lost": why} for e in examples if e.id not in done)


def worth(
    question_sampling: QuestionSampling, example: Example[Any], said: Said[Any]
) -> dict[str, float] | None:
    """The main numbers of one example; None where only a corpus, or a judge, has a score."""
    if question_sampling.judged:
        return None
    each = question_sampling.task.score([example], {example.id: said}, question_sampling.how).each
    return {name: values[example.id] for name, values in each.items() if example.id in values} or None
