"""A film's questions to lines of a run."""

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from longcompress.memory import VideoMemory

from .tasks.task import Example, How, Said, Task

QUESTIONS_AT_ONCE = 8  # always the same ones together: an answer must not depend on where a run was killed


@dataclass(frozen=True)
class Asking:
    """What stays the same from film to film.

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


def by_film(examples: Sequence[Example[Any]]) -> dict[str, list[Example[Any]]]:
    """Film -> its examples, both in the order they come in."""
    out: dict[str, list[Example[Any]]] = {}
    for one in examples:
        out.setdefault(one.video, []).append(one)
    return out


def answered(
    asking: Asking, memory: VideoMemory, examples: Sequence[Example[Any]], done: Container[str],
    watch_s: float, warned: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Lines of the examples of a film that aren't done.

    Args:
        asking: how they are asked and read.
        memory: of the film.
        examples: all of the film's.
        done: ids.
        watch_s: seconds that the memory took.
        warned: what reading the film complained of.
    """
    ask = asking.task.prompts[asking.prompt]
    for at in range(0, len(examples), QUESTIONS_AT_ONCE):
        some = examples[at : at + QUESTIONS_AT_ONCE]
        if all(one.id in done for one in some):
            continue
        begun = time.perf_counter()
        prompts = [ask(one) for one in some]
        answers = memory.ask_all(prompts, max_new_tokens=asking.max_new_tokens)
        answer_s = (time.perf_counter() - begun) / len(some)
        for one, prompt, answer in zip(some, prompts, answers, strict=True):
            if one.id in done:
                continue
            value = asking.task.parse(answer.text, one, asking.how)
            line = {
                "id": one.id,
                "video": one.video,
                "prompt": prompt,
                "answer": answer.text,
                "value": asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
                "parsed": value is not None,
                "score": worth(asking, one, Said(answer.text, value)),
                "tokens": memory.num_tokens,
                "seconds": {"watch": round(watch_s, 3), "answer": round(answer_s, 3)},
            }
            yield line | ({"warnings": list(warned)} if warned else {})


def unread(examples: Sequence[Example[Any]], done: Container[str], why: str) -> Iterator[dict[str, Any]]:
    """Lines of the examples of a film that there is nothing of."""
    return ({"id": e.id, "video": e.video, "lost": why} for e in examples if e.id not in done)


def worth(asking: Asking, example: Example[Any], said: Said[Any]) -> dict[str, float] | None:
    """The main numbers of one example; None where only a corpus, or a judge, has a score."""
    if asking.judged:
        return None
    each = asking.task.score([example], {example.id: said}, asking.how).each
    return {name: values[example.id] for name, values in each.items() if example.id in values} or None
