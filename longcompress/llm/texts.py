"""Texts with times, as subtitles, in the prompt: never merged, beside the budget, with their own limit."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..config_llm import LLMConfig, clock
from ..types import Event


def shown_texts(
    texts: Sequence[Event], tokenizer: Any, config: LLMConfig, names: Iterable[str] = ()
) -> tuple[list[tuple[float, str]], int]:
    """((start_s, text as it is written) of those that the prompt has by time, their tokens).

    All are, where they have at most `config.text_tokens` tokens together; else the first of every two, three,
    ..., the smallest number that fits. Special tokens, and `names`, are taken out of them: whoever wrote the
    subtitles doesn't write the prompt.
    """
    if not texts or not config.text_tokens:
        return [], 0
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *names} - {""}
    written = [(e.start_s, _written(_without(e.text, special), e.start_s, config)) for e in sorted(texts)]
    sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in written]
    for step in range(1, len(written) + 1):
        if (num := sum(sizes[::step])) <= config.text_tokens:
            return written[::step], num
    return [], 0


def text_info(texts: Sequence[Event], tokenizer: Any, config: LLMConfig) -> str:
    """How many texts the prompt has, and of how many tokens, in words."""
    shown, num = shown_texts(texts, tokenizer, config)
    limit = f"{num:,} of at most {config.text_tokens:,} tokens (llm.text_tokens)"
    return f"{len(shown):,} of {len(texts):,} texts in the prompt, {limit}, outside the budget"


def by_start(texts: Sequence[tuple[float, str]], starts: Sequence[float]) -> list[str]:
    """The texts from each of some rising starts on, joined; the first has also those before it."""
    edges = [-float("inf"), *starts[1:], float("inf")]
    return ["".join(text for at, text in texts if a <= at < b) for a, b in pairwise(edges)]


def _without(text: str, special: set[str]) -> str:
    """A text without any of these, also where taking out one makes another."""
    while inside := [name for name in special if name in text]:
        for name in inside:
            text = text.replace(name, "")
    return text


def _written(text: str, start_s: float, config: LLMConfig) -> str:
    return config.text.format(start=int(start_s), clock=clock(start_s), text=text)
