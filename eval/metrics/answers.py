"""Answers to questions: an option, free text, replies in the course of a video; and a judge of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .intervals import Annotator, Columns, Compat, Each, Metrics, entry_counts, mean

Texts = Mapping[Any, str]  # of each question
Reply = tuple[float | None, str]  # time_s, text; no time where an answer doesn't say when
Replies = Mapping[Any, Sequence[Reply]]
HIGHEST = 5.0  # of a judge's scores
_LOWEST, _MAGQA_EXAMPLES = 1.0, 2000  # of its scores; that the papers fill it up to
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
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


def multiple_choice(reference: Texts, predicted: Mapping[Any, str | None]) -> tuple[Metrics, Each]:
    """(share of questions with the right option, 1 or 0 for each question).

    Options are letters in either case; None where an answer could not be read (num_unparsed). Such a question
    is wrong, as is one without an entry.
    """
    each = {}
    for key, right in reference.items():
        option = _option(predicted.get(key))
        each[key] = float(bool(option) and option == _option(right))
    counts = entry_counts(
        reference, predicted, lambda option: option is None, ("num_missing", "num_unparsed")
    )
    return _accuracy(each) | counts, each


def exact_match(references: Mapping[Any, Sequence[str]], predicted: Texts) -> tuple[Metrics, Each]:
    """(share of free answers that equal a reference but for case, punctuation, articles, spaces; of each).

    An answer without a word is empty.
    """
    each = {}
    for key, texts in references.items():
        answer = plain(predicted.get(key, ""))
        each[key] = float(bool(answer) and any(plain(text) == answer for text in texts))
    counts = entry_counts(references, predicted, lambda answer: not plain(answer))
    return _accuracy(each) | counts, each


def open_answers(
    reference: Texts, predicted: Texts, questions: Texts, judge: Judge
) -> tuple[Metrics, Columns]:
    """(share of free answers that a judge calls right with the mean of its scores, both of each question).

    The judge is to reply with yes or no and a score from 0 to 5 (Video-ChatGPT's `{'pred': 'yes', 'score':
    4}` or the like). A missing answer is wrong with score 0, and the judge is not asked. A reply without yes
    or no is wrong. A reply without a score in range has score 0.

    num_no_verdict and num_no_score count unreadable replies.
    """
    rated, scores, reply = rated_answers(reference, predicted, questions, judge)
    verdicts = {key: verdict(text) for key, text in reply.items()}
    right = {key: float(verdicts.get(key) is True) for key in reference}
    unread = {"num_no_verdict": sum(value is None for value in verdicts.values())}
    return _accuracy(right) | rated | unread, {"accuracy": right, "score": scores}


def rated_answers(
    reference: Texts, predicted: Texts, questions: Texts, judge: Judge
) -> tuple[Metrics, Each, dict[Any, str]]:
    """(mean of a judge's scores from 0 to 5 of free answers, score of each, reply to each with a word).

    A missing answer, and a reply without a score in range, has score 0.
    """
    keys = [key for key in reference if predicted.get(key, "").strip()]
    cases = [(questions[key], reference[key], predicted[key]) for key in keys]
    reply = dict(zip(keys, replies(judge, cases), strict=True))
    scores = {key: rating(text, 0, HIGHEST) for key, text in reply.items()}
    each = {key: scores.get(key) or 0.0 for key in reference}
    metrics = {
        "score": mean(each.values()),
        "num": len(reference),
        "num_no_score": sum(value is None for value in scores.values()),
        **entry_counts(reference, predicted, lambda answer: not answer.strip()),
        "judge": judge.name,
        "prompt": judge.prompt,
    }
    return metrics, each, reply


def plain(text: str) -> str:
    """Lower-cased words without punctuation and articles, a space between."""
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]|_", " ", text.casefold())).split())


def _option(letter: str | None) -> str:
    return (letter or "").strip().upper()


def _accuracy(each: Each) -> Metrics:
    return {"accuracy": mean(each.values()), "num": len(each)}


def by_group(each: Each, groups: Mapping[str, Sequence[Any]], kind: str = "") -> Metrics:
    """accuracy/NAME and num/NAME of the ids of each group, and macro_accuracy, the mean over groups.

    Of a kind of groups these are accuracy/KIND/NAME, num/KIND/NAME, macro_accuracy/KIND.
    """
    end = f"/{kind}" if kind else ""
    means = {name: sum(each[key] for key in ids) / len(ids) for name, ids in sorted(groups.items())}
    out: dict[str, Any] = {f"macro_accuracy{end}": sum(means.values()) / len(means)}
    for name, value in means.items():
        out |= {f"accuracy{end}/{name}": value, f"num{end}/{name}": len(groups[name])}
    return out


def magqa(
    reference: Annotator, predicted: Replies, questions: Texts, judge: Judge, *, compat: Compat = None
) -> tuple[Metrics, Each]:
    """(mean in-span score of examples with several answers in time, the score of each scored example).

    The score is from 1 to 5, and 1 for silence. A reference answer's score is the mean of the judge's scores
    of the replies whose time is in its span, both ends included, and 1 if there are none. An example's score
    is the mean over its reference answers. A reply of the judge that can't be read counts 1.

    A reply without a time is in no span. compat="paper" does as MMDuet's scripts: a reply without a time is
    in every span, only the first character of what the judge says is read, and the set is filled up to 2,000
    examples of score 1 and without replies (its size).

    Returns:
        in_span, turns and turns_distinct (replies of an example, all, and different texts), None of no
        examples; num (examples scored), num_without_reference (not scored), num_judged (pairs), num_unparsed
        (of these), and other counts.
    """
    is_paper = compat == "paper"

    def is_due(time_s: float | None, start_s: float, end_s: float) -> bool:
        return is_paper if time_s is None else start_s <= time_s <= end_s

    # Of each example its reference answers, each with the (question, answer, reply) of the replies due there.
    due = {
        key: [
            [(questions[key], right, text) for time_s, text in predicted.get(key, ()) if is_due(time_s, a, b)]
            for a, b, right in answers
        ]
        for key, answers in reference.items()
        if answers
    }
    keys = list(due)
    pairs = list(dict.fromkeys(pair for answers in due.values() for some in answers for pair in some))
    read_score = first_digit if is_paper else rating
    read = [read_score(reply, _LOWEST, HIGHEST) for reply in replies(judge, pairs)]
    scores = {pair: _LOWEST if value is None else value for pair, value in zip(pairs, read, strict=True)}
    examples = []
    for answers in due.values():
        of_answers = [sum(map(scores.__getitem__, some)) / len(some) if some else _LOWEST for some in answers]
        examples.append(sum(of_answers) / len(of_answers))
    turns = [[text for _, text in predicted.get(key, ())] for key in keys]
    filled = max(_MAGQA_EXAMPLES - len(keys), 0) if is_paper else 0
    metrics = {
        "in_span": mean(examples + [_LOWEST] * filled),
        "turns": mean([float(len(texts)) for texts in turns] + [0.0] * filled),
        "turns_distinct": mean([float(len(set(texts))) for texts in turns] + [0.0] * filled),
        "num": len(keys),
        **entry_counts(reference, predicted, names=("num_missing", "num_silent")),
        "num_without_reference": len(reference) - len(keys),
        "num_judged": len(pairs),
        "num_unparsed": sum(value is None for value in read),
        "judge": judge.name,
        "prompt": judge.prompt,
    }
    return metrics, dict(zip(keys, examples, strict=True))
