"""MAGQA's in-span score: replies given while a video runs, judged where they were due."""

from collections.abc import Mapping, Sequence
from typing import Any

from .intervals import Compat, entry_counts, mean
from .judge import Judge, first_digit, rating, replies
from .soda import Annotator

Reply = tuple[float | None, str]  # time_s, text; no time where an answer doesn't say when
_LOWEST, _HIGHEST = 1.0, 5.0
_PAPER_EXAMPLES = 2000


def magqa(
    reference: Annotator,
    predicted: Mapping[Any, Sequence[Reply]],
    questions: Mapping[Any, str],
    judge: Judge,
    *,
    compat: Compat = None,
) -> tuple[dict[str, Any], dict[Any, float]]:
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
    read = [read_score(reply, _LOWEST, _HIGHEST) for reply in replies(judge, pairs)]
    scores = {pair: _LOWEST if value is None else value for pair, value in zip(pairs, read, strict=True)}
    examples = []
    for answers in due.values():
        of_answers = [sum(map(scores.__getitem__, some)) / len(some) if some else _LOWEST for some in answers]
        examples.append(sum(of_answers) / len(of_answers))
    turns = [[text for _, text in predicted.get(key, ())] for key in keys]
    filled = max(_PAPER_EXAMPLES - len(keys), 0) if is_paper else 0
    metrics = {
        "in_span": mean(examples + [_LOWEST] * filled),
        "turns": mean([float(len(texts)) for texts in turns] + [0.0] * filled),
        "turns_distinct": mean([float(len(set(texts))) for texts in turns] + [0.0] * filled),
        "num": len(keys),
        **entry_counts(reference, predicted, empty="num_silent"),
        "num_without_reference": len(reference) - len(keys),
        "num_judged": len(pairs),
        "num_unparsed": sum(value is None for value in read),
        "judge": judge.name,
        "prompt": judge.prompt,
    }
    return metrics, dict(zip(keys, examples, strict=True))
