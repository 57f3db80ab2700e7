"""Anyone's predictions, in a benchmark's own format, to scores, without a model."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..metrics.bootstrap import interval, intervals_of
from ..tasks import TASKS
from ..tasks.files import read_object, read_text, video_of
from ..tasks.task import Example, How, Predictions, Said, Scored, Task

NUM_DRAWS = 1000  # of the intervals of corpus scores


def score_files(
    task: str,
    gold: Sequence[str | Path],
    pred: Sequence[str | Path],
    how: How | None = None,
    *,
    durations: str | Path | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """All that can be said of a prediction file.

    Args:
        task: a key of TASKS.
        gold: the benchmark's files.
        pred: the predictions.
        how: what the score depends on.
        durations: lengths of videos, where the gold has none: a JSON object, or a CSV with id and length.
        seed: of the intervals.
        num_draws: of the intervals of corpus scores; 0 for none.

    Returns:
        task, gold, pred and what `how` says; num_examples; missing, unknown, duplicate and unparsed (ids) and
        num_ of each; num_other; metrics; intervals (95 %, whole videos drawn); meteor, judge and prompt are
        among the metrics.

    Raises:
        ValueError: naming file and line or entry, if a file is not what it should be.
    """
    how = how or How()
    one = task_of(task)
    if not gold or not pred:
        raise ValueError(f"--gold and --pred need a file each, got {len(gold)} and {len(pred)}")
    examples = read_examples(task, gold, durations=durations)
    predictions: Predictions[Any] = one.read_predictions([Path(path) for path in pred], examples, how)
    scored = one.score(examples, predictions.said, how)
    report = {
        "task": task,
        "gold": [str(path) for path in gold],
        "pred": [str(path) for path in pred],
        "compat": how.compat,
        "times": how.times,
        "num_examples": len(examples),
    }
    return report | lost(examples, predictions) | told(examples, scored, seed=seed, num_draws=num_draws)


def task_of(name: str) -> Task[Any, Any]:
    """The task of that name."""
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {name!r}")
    return TASKS[name]


def read_examples(
    task: str, gold: Sequence[str | Path], *, durations: str | Path | None = None
) -> list[Example[Any]]:
    """The examples of gold files, each with an id of its own, at least one.

    Args:
        task: a key of TASKS.
        gold: the benchmark's files.
        durations: lengths of videos, where the gold has none.
    """
    examples: list[Example[Any]] = task_of(task).read([Path(path) for path in gold])
    names = " and ".join(str(path) for path in gold)
    if not examples:
        raise ValueError(f"--gold must hold examples of {task}, got none in {names}")
    seen: set[str] = set()
    for one in examples:
        if one.id in seen:
            raise ValueError(f"{names}: each id must be there once, {one.id!r} comes again; remove one")
        seen.add(one.id)
    if durations is None:
        return examples
    known = _lengths(Path(durations))
    return [
        one if one.duration_s is not None else replace(one, duration_s=known.get(one.video))
        for one in examples
    ]


def lost(examples: Sequence[Example[Any]], predictions: Predictions[Any]) -> dict[str, Any]:
    """Ids that are missing, unknown, there twice, or whose answer could not be read; and how many of each."""
    ids = {one.id for one in examples}
    said: Mapping[str, Said[Any]] = predictions.said
    lists = {
        "missing": [one.id for one in examples if one.id not in said],
        "unknown": [key for key in said if key not in ids],
        "duplicate": list(predictions.duplicates),
        "unparsed": [one.id for one in examples if one.id in said and said[one.id].value is None],
    }
    counts = {f"num_{name}": len(some) for name, some in lists.items()}
    return counts | {"num_other": predictions.num_other} | lists


def told(
    examples: Sequence[Example[Any]], scored: Scored, *, seed: int = 0, num_draws: int = NUM_DRAWS
) -> dict[str, Any]:
    """Metrics, and their intervals: whole videos drawn, with all their examples.

    Of means over examples, and over those of a group (NAME/KIND/GROUP, or NAME/GROUP), `interval` is taken;
    of other scores, computed again over the corpus of each draw, `intervals_of`.

    Args:
        examples: what was asked.
        scored: what was said is worth.
        seed: of the draws.
        num_draws: of `intervals_of`; 0 leaves those out.
    """
    videos = {one.id: one.video for one in examples}
    means: dict[str, dict[str, float]] = dict(scored.each)
    for name, values in scored.each.items():
        for one in (one for one in examples if one.id in values):
            for kind, group in one.groups:
                for of in (f"{name}/{kind}/{group}", f"{name}/{group}"):
                    if of in scored.metrics:
                        means.setdefault(of, {})[one.id] = values[one.id]
    intervals = {}
    for name, values in means.items():
        got = interval(values, videos, seed=seed)
        intervals[name] = {key: got[key] for key in ("mean", "low", "high", "num_videos")}
    for corpus in scored.corpora() if num_draws else ():
        got = intervals_of(corpus, num_draws=num_draws, seed=seed, progress=True)
        intervals |= {name: one for name, one in got.items() if name in scored.metrics and name not in means}
    return {"metrics": scored.metrics, "intervals": intervals}


def _lengths(path: Path) -> dict[str, float]:
    """Seconds by video, of a JSON object or a CSV with the columns id and length (Charades has such ones)."""
    if path.suffix.lower() != ".csv":
        whole, _ = read_object(path)
        return {video_of(name): whole.number(name) for name in whole.value}
    rows = csv.DictReader(read_text(path).splitlines())
    if not {"id", "length"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{path}:1: must have the columns id and length, got {rows.fieldnames}")
    out = {}
    for row in rows:
        try:
            out[video_of(row["id"])] = float(row["length"])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path}:{rows.line_num}: 'length' must be seconds, got {row['length']!r}"
            ) from error
    return out
