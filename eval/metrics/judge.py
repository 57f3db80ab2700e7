"""A judge of free answers: a model that is asked in words, and its replies read back."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_FIELDS = re.compile(r"\{(question|reference|answer)\}")
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?(?!\w|\.[0-9])")
_SCORE = re.compile(r"""\bscore\b["']?\s*(?:is|of|[:=])?\s*["']?(?=-?[0-9])""", re.IGNORECASE)
_YES_NO = re.compile(r"""\bpred\w*["']?\s*[:=]\s*["']?(yes|no)\b|^\W*(yes|no)\b""", re.IGNORECASE)


@dataclass(frozen=True)
class Judge:
    """A judge: name and version, prompt with {reference}, {answer}, maybe {question}, and how it is asked."""

    name: str
    prompt: str
    ask: Callable[[Sequence[str]], Sequence[str]]

    def __post_init__(self) -> None:
        missing = {"reference", "answer"} - set(_FIELDS.findall(self.prompt))
        if missing:
            names = " and ".join(f"{{{name}}}" for name in sorted(missing))
            raise ValueError(f"Judge.prompt must say where texts go, {names} is missing; got {self.prompt!r}")


def replies(judge: Judge, cases: Sequence[tuple[str, str, str]]) -> list[str]:
    """The judge's reply to each (question, reference, answer); equal prompts are asked once."""

    def filled(question: str, reference: str, answer: str) -> str:
        texts = {"question": question, "reference": reference, "answer": answer}
        return _FIELDS.sub(lambda field: texts[field[1]], judge.prompt)

    prompts = [filled(*case) for case in cases]
    different = list(dict.fromkeys(prompts))
    known = dict(zip(different, judge.ask(different) if different else [], strict=True))
    return [known[prompt] for prompt in prompts]


def rating(reply: str, low: float, high: float) -> float | None:
    """The number after "score", or else the first number; None if there is none in [low, high]."""
    score = _SCORE.search(reply)
    match = _NUMBER.search(reply, score.end() if score else 0)
    value = float(match[0]) if match else None
    return value if value is not None and low <= value <= high else None


def first_digit(reply: str, low: float, high: float) -> float | None:
    """The first character as a number; None if it is none in [low, high]. How MAGQA's scripts read."""
    first = reply[:1]
    return float(first) if first in "0123456789" and first and low <= int(first) <= high else None


def verdict(reply: str) -> bool | None:
    """True for yes, False for no: after "pred", or as the first word; None for neither."""
    match = _YES_NO.search(reply)
    return (match[1] or match[2]).lower() == "yes" if match else None
