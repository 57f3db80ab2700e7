"""Answers to questions: one of several options, or free text that a judge reads."""

import re
from collections.abc import Mapping
from typing import Any

from .intervals import mean
from .judge import Judge, rating, replies, verdict

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def multiple_choice(
    gold: Mapping[Any, str],
    predicted: Mapping[Any, str | None],
    *,
    groups: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """Share of questions with the right option.

    Args:
        gold: the right option of each question, "A", "B", ...
        predicted: the option that was chosen, None where the answer could not be read; letters in either
            case. What was not answered or not read is wrong.
        groups: a name for each question (its task, its length), for a table by group.

    Returns:
        accuracy; with groups also accuracy/GROUP, num/GROUP and macro_accuracy, the mean over groups (None of
        no questions); num, num_missing (without an entry), num_unparsed (None), num_unknown.
    """
    each = {}
    for key, right in gold.items():
        chosen = _option(predicted.get(key))
        each[key] = float(bool(chosen) and chosen == _option(right))
    return {
        **_by_group(each, groups),
        "num_missing": sum(key not in predicted for key in gold),
        "num_unparsed": sum(predicted.get(key, "") is None for key in gold),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def exact_match(
    gold: Mapping[Any, str], predicted: Mapping[Any, str], *, groups: Mapping[Any, str] | None = None
) -> dict[str, Any]:
    """Share of free answers that are the right one, but for case, punctuation, articles and spaces.

    Returns:
        As `multiple_choice`, with num_empty (answers without a word) for num_unparsed.
    """
    each = {
        key: float(bool(plain(right)) and plain(predicted.get(key, "")) == plain(right))
        for key, right in gold.items()
    }
    return {
        **_by_group(each, groups),
        "num_missing": sum(key not in predicted for key in gold),
        "num_empty": sum(not plain(predicted[key]) for key in gold if key in predicted),
        "num_unknown": sum(key not in gold for key in predicted),
    }


def open_answers(
    gold: Mapping[Any, str],
    predicted: Mapping[Any, str],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    highest: float = 5.0,
    groups: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """Share of free answers that a judge calls right, and the mean of its scores from 0 to `highest`.

    The judge is to reply with yes or no and a score (Video-ChatGPT's `{'pred': 'yes', 'score': 4}` or the
    like). What was not answered is wrong with score 0, without asking; so is what the judge does not say:
    a reply without yes or no is wrong, one without a score in range has score 0.

    Args:
        gold: the right answer to each question.
        predicted: what was answered.
        questions: the question itself.
        judge: who judges.
        highest: the best score.
        groups: a name for each question, for accuracies by group.

    Returns:
        accuracy and its groups as `multiple_choice`; score (None of no questions); num_no_verdict and
        num_no_score (replies that could not be read), num_missing, num_empty, num_unknown, judge, prompt.
    """
    asked = [key for key in gold if predicted.get(key, "").strip()]
    got = dict(
        zip(asked, replies(judge, [(questions[k], gold[k], predicted[k]) for k in asked]), strict=True)
    )
    verdicts = {key: verdict(reply) for key, reply in got.items()}
    scores = {key: rating(reply, 0, highest) for key, reply in got.items()}
    return {
        **_by_group({key: float(verdicts.get(key) is True) for key in gold}, groups),
        "score": mean([scores.get(key) or 0.0 for key in gold]),
        "num_no_verdict": sum(value is None for value in verdicts.values()),
        "num_no_score": sum(value is None for value in scores.values()),
        **_counts(gold, predicted, len(asked)),
        "judge": judge.name,
        "prompt": judge.prompt,
    }


def rated_answers(
    gold: Mapping[Any, str],
    predicted: Mapping[Any, str],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    lowest: float = 0.0,
    highest: float = 5.0,
) -> dict[str, Any]:
    """Mean score that a judge gives free answers: one of Video-ChatGPT's five aspects, say.

    What was not answered, and what the judge gives no score in range, has the lowest.

    Returns:
        score (None of no questions), num, num_no_score, num_missing, num_empty, num_unknown, judge, prompt.
    """
    return rated_and_each(gold, predicted, questions, judge, lowest=lowest, highest=highest)[0]


def rated_and_each(
    gold: Mapping[Any, str],
    predicted: Mapping[Any, str],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    lowest: float = 0.0,
    highest: float = 5.0,
) -> tuple[dict[str, Any], dict[Any, float]]:
    """`rated_answers`, and the score of each."""
    asked = [key for key in gold if predicted.get(key, "").strip()]
    got = replies(judge, [(questions[k], gold[k], predicted[k]) for k in asked])
    scores = {key: rating(reply, lowest, highest) for key, reply in zip(asked, got, strict=True)}
    values = {key: lowest if (value := scores.get(key)) is None else value for key in gold}
    told = {
        "score": mean(list(values.values())),
        "num": len(gold),
        "num_no_score": sum(value is None for value in scores.values()),
        **_counts(gold, predicted, len(asked)),
        "judge": judge.name,
        "prompt": judge.prompt,
    }
    return told, values


def plain(text: str) -> str:
    """Lower-cased words without punctuation and articles, a space between."""
    return " ".join(_ARTICLES.sub(" ", re.sub(r"[^\w\s]|_", " ", text.casefold())).split())


def _option(letter: str | None) -> str:
    return (letter or "").strip().upper()


def _by_group(each: Mapping[Any, float], groups: Mapping[Any, str] | None) -> dict[str, Any]:
    out: dict[str, Any] = {"accuracy": mean(list(each.values())), "num": len(each)}
    if groups is None:
        return out
    members: dict[str, list[float]] = {}
    for key, value in each.items():
        if key not in groups:
            raise ValueError(f"groups must name each question of the gold, got none for {key!r}")
        members.setdefault(groups[key], []).append(value)
    accuracies = {name: mean(values) for name, values in sorted(members.items())}
    out["macro_accuracy"] = mean([value for value in accuracies.values() if value is not None])
    out |= {f"accuracy/{name}": value for name, value in accuracies.items()}
    return out | {f"num/{name}": len(values) for name, values in sorted(members.items())}


def _counts(gold: Mapping[Any, str], predicted: Mapping[Any, str], num_asked: int) -> dict[str, int]:
    num_missing = sum(key not in predicted for key in gold)
    return {
        "num_missing": num_missing,
        "num_empty": len(gold) - num_missing - num_asked,
        "num_unknown": sum(key not in gold for key in predicted),
    }
