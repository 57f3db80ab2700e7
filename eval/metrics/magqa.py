"""MAGQA's in-span score: replies given while a video runs, judged where they were due."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .intervals import mean
from .judge import Judge, first_digit, rating, replies
from .soda import Captioned

Reply = tuple[float | None, str]  # time_s, text; no time where an answer doesn't say when
_LOWEST, _HIGHEST = 1.0, 5.0
_PAPER_EXAMPLES = 2000


def magqa(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Reply]],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    compat: Literal["paper"] | None = None,
) -> dict[str, Any]:
    """Mean in-span score, from 1 (also that of silence) to 5, of examples with several answers in time.

    A gold answer's score is the mean of what the judge gives the replies whose time is in its span, both ends
    included, and 1 if there are none. An example's score is the mean over its gold answers. The judge is
    asked once about equal texts; a reply of its that can't be read counts 1.

    Args:
        gold: (start_s, end_s, text) of the answers to each question.
        predicted: (time_s, text) of the replies, equal ones in a row included. A reply without a time is in
            no span.
        questions: the question itself.
        judge: who rates, from 1 to 5.
        compat: "paper" does as MMDuet's scripts: a reply without a time is in every span, only the first
            character of what the judge says is read, and the set is filled up to 2,000 examples of score 1
            and without replies (its size; of a set that is smaller the score is pulled towards 1).

    Returns:
        in_span, turns and turns_distinct (replies of an example, all and different ones), None of no
        examples; num (examples scored), num_missing, num_silent (an entry without replies), num_unknown,
        num_without_gold (not scored), num_judged (pairs asked about), num_unparsed (of these), judge, prompt.
    """
    return magqa_and_each(gold, predicted, questions, judge, compat=compat)[0]


def magqa_and_each(
    gold: Mapping[Any, Sequence[Captioned]],
    predicted: Mapping[Any, Sequence[Reply]],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    compat: Literal["paper"] | None = None,
) -> tuple[dict[str, Any], dict[Any, float]]:
    """`magqa`, and the in-span score of each example that is scored."""
    if compat not in (None, "paper"):
        raise ValueError(f"compat must be None or 'paper', got {compat!r}")
    is_paper = compat == "paper"
    keys = [key for key in gold if gold[key]]
    due = {key: _due(gold[key], predicted.get(key, ()), untimed_fits=is_paper) for key in keys}
    pairs = list(
        dict.fromkeys(
            (questions[key], right, text) for key in keys for right, texts in due[key] for text in texts
        )
    )
    said = replies(judge, pairs)
    read = [(first_digit if is_paper else rating)(reply, _LOWEST, _HIGHEST) for reply in said]
    scores = {pair: _LOWEST if value is None else value for pair, value in zip(pairs, read, strict=True)}
    examples = [_score_of(due[key], questions[key], scores) for key in keys]
    turns = [[text for _, text in predicted.get(key, ())] for key in keys]
    filled = max(_PAPER_EXAMPLES - len(keys), 0) if is_paper else 0
    told = {
        "in_span": mean(examples + [_LOWEST] * filled),
        "turns": mean([float(len(some)) for some in turns] + [0.0] * filled),
        "turns_distinct": mean([float(len(set(some))) for some in turns] + [0.0] * filled),
        "num": len(keys),
        "num_missing": sum(key not in predicted for key in gold),
        "num_silent": sum(not predicted[key] for key in gold if key in predicted),
        "num_unknown": sum(key not in gold for key in predicted),
        "num_without_gold": len(gold) - len(keys),
        "num_judged": len(pairs),
        "num_unparsed": sum(value is None for value in read),
        "judge": judge.name,
        "prompt": judge.prompt,
    }
    return told, dict(zip(keys, examples, strict=True))


def _due(
    answers: Sequence[Captioned], given: Sequence[Reply], *, untimed_fits: bool
) -> list[tuple[str, list[str]]]:
    """Each gold answer with the replies whose time is in its span."""
    return [
        (
            right,
            [
                text
                for time_s, text in given
                if (untimed_fits if time_s is None else start_s <= time_s <= end_s)
            ],
        )
        for start_s, end_s, right in answers
    ]


def _score_of(
    due: Sequence[tuple[str, Sequence[str]]], question: str, scores: Mapping[tuple[str, str, str], float]
) -> float:
    """An example's score from those of its (question, gold answer, reply)."""
    of_answers = [
        sum(scores[question, right, text] for text in texts) / len(texts) if texts else _LOWEST
        for right, texts in due
    ]
    return sum(of_answers) / len(of_answers)
