"""Anyone's predictions, in a benchmark's own format, to scores, without a model."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..metrics.bootstrap import interval, intervals_of
from ..tasks import TASKS
from ..tasks.files import read_object, read_text, video_of
from ..tasks.task import Answers, Example, How, Scored, Task

NUM_DRAWS = 1000  # of the intervals of corpus scores


def score_files(
    task: str, reference: Sequence[str | Path], pred: Sequence[str | Path], how: How | None = None, *,
    durations: str | Path | None = None, seed: int = 0, num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:  # fmt: skip
    """The report on a prediction file.

    Args:
        task: a key of TASKS, whose files `reference` and `pred` are.
        how: what the score depends on.
        durations: lengths of videos, where the reference has none: a JSON object, or a CSV with id and
            length.
        seed, num_draws: of the intervals of corpus scores; no draws for none.

    Returns:
        task, reference, pred and what `how` says; num_examples; missing, unknown, duplicate and unparsed
        (ids) and num_ of each; num_other; metrics; intervals (95 %, cluster bootstrap over videos).
    """
    how = how or How()
    if not reference or not pred:
        raise ValueError(f"--reference and --pred need a file each, got {len(reference)} and {len(pred)}")
    examples = read_examples(task, reference, durations=durations)
    answers = task_of(task).read_predictions(list(map(Path, pred)), examples, how)
    return {
        "task": task,
        "reference": list(map(str, reference)),
        "pred": list(map(str, pred)),
        "compat": how.compat,
        "times": how.times,
        "num_examples": len(examples),
        **problems(answers),
        **with_intervals(examples, task_of(task).score(answers), seed=seed, num_draws=num_draws),
    }


def task_of(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {name!r}")
    return TASKS[name]


def read_examples(
    task: str, reference: Sequence[str | Path], *, durations: str | Path | None = None
) -> list[Example]:
    """The examples of reference files, each with an id of its own, at least one."""
    examples = list(task_of(task).read(list(map(Path, reference))))
    names = " and ".join(str(path) for path in reference)
    if not examples:
        raise ValueError(f"--reference must hold examples of {task}, got none in {names}")
    if twice := [key for key, num in Counter(e.id for e in examples).items() if num > 1]:
        raise ValueError(f"{names}: each id must be there once, {twice[0]!r} comes again; remove one")
    if durations is None:
        return examples
    known = _lengths(Path(durations))
    return [replace(e, duration_s=known.get(e.video)) if e.duration_s is None else e for e in examples]


def problems(answers: Answers) -> dict[str, Any]:
    """Ids that are missing, unknown, duplicate, or whose answer could not be read; and how many of each."""
    ids, by_id = [example.id for example in answers.examples], answers.by_id
    lists = {
        "missing": [key for key in ids if key not in by_id],
        "unknown": [key for key in by_id if key not in set(ids)],
        "duplicate": answers.duplicates,
        "unparsed": [key for key in ids if key in by_id and by_id[key].value is None],
    }
    counts = {f"num_{name}": len(some) for name, some in lists.items()}
    return counts | {"num_other": answers.num_other} | lists


def with_intervals(
    examples: Sequence[Example], scored: Scored, *, seed: int = 0, num_draws: int = NUM_DRAWS
) -> dict[str, Any]:
    """Metrics, and their intervals by cluster bootstrap over videos.

    Means over examples, and over those of a group (NAME/KIND/GROUP, or NAME/GROUP), have an `interval`. Other
    scores are computed again over each resampled corpus (`intervals_of`); num_draws 0 leaves these out.
    """
    videos = {example.id: example.video for example in examples}
    means: dict[str, dict[str, float]] = dict(scored.each)
    for name, values in scored.each.items():
        for example in (example for example in examples if example.id in values):
            for kind, group in example.groups:
                for metric in (f"{name}/{kind}/{group}", f"{name}/{group}"):
                    if metric in scored.metrics:
                        means.setdefault(metric, {})[example.id] = values[example.id]
    intervals = {}
    for name, values in means.items():
        got = interval(values, videos, seed=seed)
        intervals[name] = {key: got[key] for key in ("mean", "low", "high", "num_videos")}
    for corpus in scored.corpora if num_draws else ():
        got = intervals_of(corpus, num_draws=num_draws, seed=seed, progress=True)
        names = [name for name in got if scored.metrics.get(name) is not None and name not in means]
        intervals |= {name: got[name] for name in names}
    return {"metrics": scored.metrics, "intervals": intervals}


def _lengths(path: Path) -> dict[str, float]:
    """Seconds by video, of a JSON object or a CSV with the columns id and length (as Charades has them)."""
    if path.suffix.lower() != ".csv":
        whole = read_object(path)
        return {video_of(name): whole.number(name) for name in whole.value}
    rows = csv.DictReader(read_text(path).splitlines())
    if not {"id", "length"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{path}:1: must have the columns id and length, got {rows.fieldnames}")
    out = {}
    for row in rows:
        try:
            out[video_of(row["id"])] = float(row["length"])
        except (TypeError, ValueError) as error:
            where, got = f"{path}:{rows.line_num}", row["length"]
            raise ValueError(f"{where}: 'length' must be seconds, got {got!r}") from error
    return out
