"""Answers to questions: an option, or free text that a judge reads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .intervals import entry_counts, mean
from .judge import Judge, rating, replies, verdict

Texts = Mapping[Any, str]  # of each question
HIGHEST = 5.0  # of a judge's scores
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def multiple_choice(
    reference: Mapping[Any, str], predicted: Mapping[Any, str | None]
) -> tuple[dict[str, Any], dict[Any, float]]:
    """(share of questions with the right option, 1 or 0 for each question).

    Options are letters in either case; None where an answer could not be read (num_unparsed). Such a question
    is wrong, as is one without an entry.
    """
    each = {}
    for key, right in reference.items():
        option = _option(predicted.get(key))
        each[key] = float(bool(option) and option == _option(right))
    counts = entry_counts(reference, predicted, lambda option: option is None, empty="num_unparsed")
    return _accuracy(each) | counts, each


def exact_match(
    references: Mapping[Any, Sequence[str]], predicted: Texts
) -> tuple[dict[str, Any], dict[Any, float]]:
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
) -> tuple[dict[str, Any], dict[str, dict[Any, float]]]:
    """(share of free answers that a judge calls right with the mean of its scores, both of each question).

    The judge is to reply with yes or no and a score from 0 to 5 (Video-ChatGPT's `{'pred': 'yes', 'score':
    4}` or the like). A missing answer is wrong with score 0, and the judge is not asked. A reply without yes
    or no is wrong. A reply without a score in range has score 0.

    num_no_verdict and num_no_score count unreadable replies.
    """
    rated, scores, reply = _rated(reference, predicted, questions, judge)
    verdicts = {key: verdict(text) for key, text in reply.items()}
    right = {key: float(verdicts.get(key) is True) for key in reference}
    unread = {"num_no_verdict": sum(value is None for value in verdicts.values())}
    return _accuracy(right) | rated | unread, {"accuracy": right, "score": scores}


def rated_answers(
    reference: Texts, predicted: Texts, questions: Texts, judge: Judge
) -> tuple[dict[str, Any], dict[Any, float]]:
    """(mean of a judge's scores from 0 to 5 of free answers, the score of each).

    A missing answer, and a reply without a score in range, has score 0.
    """
    metrics, scores, _ = _rated(reference, predicted, questions, judge)
    return metrics, scores


def _rated(
    reference: Texts, predicted: Texts, questions: Texts, judge: Judge
) -> tuple[dict[str, Any], dict[Any, float], dict[Any, str]]:
    """(what `rated_answers` returns, the judge's reply to each answer that has a word)."""
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


def _accuracy(each: Mapping[Any, float]) -> dict[str, Any]:
    return {"accuracy": mean(each.values()), "num": len(each)}


def by_group(
    each: Mapping[Any, float], groups: Mapping[str, Sequence[Any]], kind: str = ""
) -> dict[str, Any]:
    """accuracy/NAME and num/NAME of the ids of each group, and macro_accuracy, the mean over groups.

    Of a kind of groups these are accuracy/KIND/NAME, num/KIND/NAME, macro_accuracy/KIND.
    """
    end = f"/{kind}" if kind else ""
    means = {name: sum(each[key] for key in ids) / len(ids) for name, ids in sorted(groups.items())}
    out: dict[str, Any] = {f"macro_accuracy{end}": sum(means.values()) / len(means)}
    for name, value in means.items():
        out |= {f"accuracy{end}/{name}": value, f"num{end}/{name}": len(groups[name])}
    return out
