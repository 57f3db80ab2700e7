"""`longcompress eval ...`: predictions scored as the benchmarks' papers do."""

from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jsonargparse import ArgumentParser

from .cli_films import check_writable, writing
from .cli_show import print_table

if TYPE_CHECKING:
    from .eval.tasks.task import Asker

_SHOWN = 5  # ids of a list that are printed


def score(words: Sequence[str]) -> None:
    """Score predictions in a benchmark's own format, without a model."""
    from .eval.metrics.captions import WhichMeteor
    from .eval.score import score_files
    from .eval.tasks import TASKS
    from .eval.tasks.task import How, Times

    parser = _parser("score", "Score predictions in a benchmark's own format; `eval tasks` lists benchmarks.")
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--gold", nargs="+", required=True, metavar="FILE", help="the benchmark's files")
    parser.add_argument("--pred", nargs="+", required=True, metavar="FILE", help="the predictions")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--out", metavar="FILE", help="the JSON object as a file too")
    parser.add_argument("--compat", choices=["paper"], help="with the quirks of the paper's script")
    parser.add_argument(
        "--times", choices=list(get_args(Times)), help="what numbers in answers are; by the file's format"
    )
    parser.add_argument("--durations", metavar="FILE", help="seconds by film, JSON or CSV with id and length")
    parser.add_argument("--meteor", choices=list(get_args(WhichMeteor)), default="auto", help="which METEOR")
    parser.add_argument(
        "--judge-url", help="an OpenAI-compatible endpoint, up to and without /chat/completions"
    )
    parser.add_argument("--judge-model", help="what the endpoint calls the judge")
    parser.add_argument("--judge-prompt", metavar="FILE", help="what to ask it: {question}, {gold}, {answer}")
    parser.add_argument("--judge-key", metavar="FILE", help="a file with the endpoint's key")
    parser.add_argument("--judge-cache", metavar="FILE", help="its replies, kept for the next time")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    given = parser.parse_args(list(words))
    if given.out:
        check_writable(Path(given.out))
    how = How(
        compat=given.compat,
        times=given.times,
        meteor=given.meteor,
        asker=_judge(given),
        judge_prompt=Path(given.judge_prompt).read_text(encoding="utf-8") if given.judge_prompt else None,
    )
    report = score_files(given.task, given.gold, given.pred, how, durations=given.durations, seed=given.seed)
    text = dumps(report, ensure_ascii=False)
    if given.out:
        with writing(given.out):
            Path(given.out).write_text(text + "\n", encoding="utf-8")
    print(text if given.json else "", end="\n" if given.json else "")
    if not given.json:
        _print(report)


def tasks(words: Sequence[str]) -> None:
    """List the benchmarks: what each asks, where its data are."""
    from .eval.tasks import TASKS

    parser = _parser("tasks", "List the benchmarks.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args(list(words))
    told = {
        name: {"about": one.about, "where": one.where, "prompts": list(one.prompts)}
        for name, one in TASKS.items()
    }
    if given.json:
        print(dumps(told, ensure_ascii=False))
        return
    for name, one in TASKS.items():
        print(f"{name}\n    {one.about}\n    data: {one.where}\n    prompts: {', '.join(one.prompts)}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"score": score, "tasks": tasks}


def main(words: Sequence[str]) -> int:
    """One of COMMANDS with its flags; the exit code."""
    try:
        COMMANDS[words[0]](words[1:])
    except SystemExit as error:  # the parser has said what is wrong
        return error.code if isinstance(error.code, int) else 2
    return 0


def _parser(name: str, about: str) -> ArgumentParser:
    return ArgumentParser(prog=f"longcompress eval {name}", description=about)


def _judge(given: Any) -> "Asker | None":
    if not given.judge_url and not given.judge_model:
        for flag in ("prompt", "key", "cache"):
            if given[f"judge_{flag}"]:
                raise ValueError(f"--judge-{flag} needs --judge-url and --judge-model, got neither")
        return None
    if not given.judge_url or not given.judge_model:
        raise ValueError(
            f"a judge needs both --judge-url and --judge-model, got {given.judge_url!r} and "
            f"{given.judge_model!r}"
        )
    from .eval.tasks.judging import endpoint

    key = Path(given.judge_key).read_text(encoding="utf-8").strip() if given.judge_key else None
    cache = Path(given.judge_cache) if given.judge_cache else None
    return endpoint(given.judge_url, given.judge_model, key=key, cache=cache)


def _print(report: dict[str, Any]) -> None:
    rows = []
    for name, value in report["metrics"].items():
        if isinstance(value, str):
            rows.append((name, value if len(value) < 80 else value[:77] + "...", ""))
            continue
        at = report["intervals"].get(name)
        around = f"{at['low']:.4f} to {at['high']:.4f}" if at and at["low"] is not None else ""
        rows.append((name, f"{value:.4f}" if isinstance(value, float) else str(value), around))
    print_table(f"{report['task']}, {report['num_examples']} examples", rows)
    for name in ("missing", "unknown", "duplicate", "unparsed"):
        if some := report[name]:
            more = f" and {len(some) - _SHOWN} more; --json lists all" if len(some) > _SHOWN else ""
            print(f"{name}: {len(some)}: {', '.join(some[:_SHOWN])}{more}")
