"""`longcompress eval ...`: predictions scored as the benchmarks' papers do, and models asked for them."""

from collections.abc import Callable, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jsonargparse import ArgumentParser

from .common import check_writable, writing
from .output import print_table
from .sources import add_source, source_of

if TYPE_CHECKING:
    from ..eval.tasks.task import Asker

_SHOWN = 5  # ids of a list that are printed


def score(words: Sequence[str]) -> None:
    """Score predictions in a benchmark's own format, without a model."""
    from ..eval.runner.score import score_files
    from ..eval.tasks import TASKS
    from ..eval.tasks.task import How, Times

    parser = _parser("score", "Score predictions in a benchmark's own format; `eval tasks` lists benchmarks.")
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--reference", nargs="+", required=True, metavar="FILE", help="the benchmark's files")
    parser.add_argument("--pred", nargs="+", required=True, metavar="FILE", help="the predictions")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--out", metavar="FILE", help="the JSON object as a file too")
    parser.add_argument("--compat", choices=["paper"], help="with the quirks of the paper's script")
    parser.add_argument(
        "--times", choices=list(get_args(Times)), help="what numbers in answers are; by the file's format"
    )
    parser.add_argument(
        "--durations", metavar="FILE", help="seconds by video, JSON or CSV with id and length"
    )
    parser.add_argument(
        "--judge-url", help="an OpenAI-compatible endpoint, up to and without /chat/completions"
    )
    parser.add_argument("--judge-model", help="what the endpoint calls the judge")
    parser.add_argument(
        "--judge-prompt", metavar="FILE", help="what to ask it: {question}, {reference}, {answer}"
    )
    parser.add_argument("--judge-key", metavar="FILE", help="a file with the endpoint's key")
    parser.add_argument("--judge-cache", metavar="FILE", help="its replies, kept for the next time")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    _add_draws(parser)
    args = parser.parse_args(list(words))
    if args.out:
        check_writable(Path(args.out))
    how = How(
        compat=args.compat,
        times=args.times,
        asker=_judge(args),
        judge_prompt=Path(args.judge_prompt).read_text(encoding="utf-8") if args.judge_prompt else None,
    )
    report = score_files(
        args.task,
        args.reference,
        args.pred,
        how,
        durations=args.durations,
        seed=args.seed,
        num_draws=args.num_draws,
    )
    text = dumps(report, ensure_ascii=False)
    if args.out:
        with writing(args.out):
            Path(args.out).write_text(text + "\n", encoding="utf-8")
    print(text if args.json else "", end="\n" if args.json else "")
    if not args.json:
        _print(report)


def run(words: Sequence[str]) -> None:
    """Ask a model a benchmark's questions; the same words again go on where a killed run stopped."""
    from ..eval.runner.run import run
    from ..eval.runner.run_file import RunConfig, summary_path
    from ..eval.tasks import TASKS
    from ..eval.tasks.synthetic import depths_of
    from ..eval.tasks.task import Times
    from ..plot import plot_depths
    from .common import Common, load_model

    parser = _parser("run", "Ask a model a benchmark's questions; the same command resumes.")
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--model", required=True, help="a preset (tiny), a folder, or a hub name owner/model")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a header, a line an example")
    add_source(parser)
    parser.add_argument(
        "--budgets", nargs="+", default=[],
        help="tokens of a video's memory, or shares of its raw tokens: 1024 10%%; the model's own number. "
        "Several have a file each: FILE.1024.jsonl",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="of needle, its heat map, depth against length")
    parser.add_argument("--prompt", default="default", help="`eval tasks` lists each benchmark's")
    parser.add_argument("--limit", type=int, help="only the first examples of the reference, this many")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; the model's own number")
    parser.add_argument(
        "--streams", choices=["video", "audio", "both"], default="both", help="what is taken in"
    )
    parser.add_argument(
        "--times", choices=list(get_args(Times)), help="what numbers in answers are; as the prompt asks"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="ask again where a video was missing or unreadable"
    )
    parser.add_argument("--rate-fps", type=float, help="frames a second; the model's own number")
    parser.add_argument("--device", help="cpu, cuda, ...; the GPU if there is one")
    _add_draws(parser)
    parser.add_argument("--json", action="store_true", help="the summaries as JSON instead of tables")
    args = parser.parse_args(list(words))
    out = Path(args.out)
    if out.suffix != ".jsonl":
        raise ValueError(f"--out must end in .jsonl, got {out}; summary and predictions are named after it")
    check_writable(out)
    if args.plot:
        if args.task != "needle" or len(args.budgets) > 1:
            raise ValueError(f"--plot is of needle at one budget, got it with {args.task}; leave it out")
        check_writable(Path(args.plot))
    names = ("streams", "prompt", "max_new_tokens", "limit", "times")
    config = RunConfig(budgets=tuple(args.budgets), **{name: args[name] for name in names})
    source = source_of(args)
    model = load_model(Common(model=args.model, device=args.device, rate_fps=args.rate_fps))
    summaries = run(source, model, out, config, retry_failed=args.retry_failed, num_draws=args.num_draws)
    if args.plot:
        plot_depths(depths_of(source.examples, summaries[0]["each"]["recall"]), args.plot)
    for summary in summaries:
        if args.json:
            print(dumps(summary, ensure_ascii=False))
            continue
        _print(summary)
        for line in summary["failed"][:_SHOWN]:
            print(f"failed: {line['id']}: {line['failed']}")
        counts = f"{summary['num_answered']} answered, {summary['num_failed']} failed"
        print(f"{counts}; all of it in {summary_path(out.with_name(summary['run']))}")


def pairs(words: Sequence[str]) -> None:
    """Compare two runs on the same gold with the same prompt, example by example."""
    from ..eval.runner.run_file import pairs as compare

    parser = _parser("pairs", "What the first run is worth more than the second, with 95 % intervals.")
    parser.add_argument("first", metavar="A.jsonl", help="a run that came to its end")
    parser.add_argument("second", metavar="B.jsonl", help="another, of the same gold and prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args(list(words))
    report = compare(args.first, args.second, seed=args.seed)
    if args.json:
        print(dumps(report, ensure_ascii=False))
        return
    rows = [(name, *_shown(item["mean"], item)) for name, item in report["differences"].items()]
    title = f"{Path(args.first).name} minus {Path(args.second).name}, {report['num']} examples of both"
    print_table(title, rows)
    for name in ("first", "second"):
        if some := report[f"only_{name}"]:
            print(f"only in {args[name]}: {len(some)}: {_listed(some)}")


def tasks(words: Sequence[str]) -> None:
    """List the benchmarks: what each asks, where its data are."""
    from ..eval.tasks import TASKS

    parser = _parser("tasks", "List the benchmarks.")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args(list(words))
    listed = {
        name: {"about": element.about, "where": element.where, "prompts": list(element.prompts)}
        for name, element in TASKS.items()
    }
    if args.json:
        print(dumps(listed, ensure_ascii=False))
        return
    for name, item in TASKS.items():
        print(f"{name}\n    {item.about}\n    data: {item.where}\n    prompts: {', '.join(item.prompts)}")


def compare(words: Sequence[str]) -> None:
    """`cli_compare.compare`."""
    from .compare import compare

    compare(words)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "score": score, "tasks": tasks, "run": run, "pairs": pairs, "compare": compare,
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """One of COMMANDS with its flags; the exit code."""
    try:
        COMMANDS[words[0]](words[1:])
    except SystemExit as error:  # the parser has said what is wrong
        return error.code if isinstance(error.code, int) else 2
    return 0


def _parser(name: str, about: str) -> ArgumentParser:
    return ArgumentParser(prog=f"longcompress eval {name}", description=about)


def _add_draws(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--num-draws", type=int, default=1000, help="of the intervals of corpus scores; 0 for none of those"
    )


def _judge(args: Any) -> "Asker | None":
    if not args.judge_url and not args.judge_model:
        for flag in ("prompt", "key", "cache"):
            if args[f"judge_{flag}"]:
                raise ValueError(f"--judge-{flag} needs --judge-url and --judge-model, got neither")
        return None
    if not args.judge_url or not args.judge_model:
        raise ValueError(
            f"a judge needs both --judge-url and --judge-model, got {args.judge_url!r} and "
            f"{args.judge_model!r}"
        )
    from ..eval.tasks.judging import endpoint

    key = Path(args.judge_key).read_text(encoding="utf-8").strip() if args.judge_key else None
    cache = Path(args.judge_cache) if args.judge_cache else None
    return endpoint(args.judge_url, args.judge_model, key=key, cache=cache)


def _print(report: dict[str, Any]) -> None:
    rows = []
    for name, value in report["metrics"].items():
        if isinstance(value, str):
            rows.append((name, value if len(value) < 80 else value[:77] + "...", ""))
            continue
        rows.append((name, *_shown(value, report["intervals"].get(name))))
    print_table(f"{report['task']}, {report['num_examples']} examples", rows)
    for name in ("missing", "unknown", "duplicate", "unparsed"):
        if some := report[name]:
            print(f"{name}: {len(some)}: {_listed(some)}")


def _shown(value: Any, at: Mapping[str, Any] | None) -> tuple[str, str]:
    """A number and its interval."""
    around = f"{at['low']:.4f} to {at['high']:.4f}" if at and at["low"] is not None else ""
    return f"{value:.4f}" if isinstance(value, float) else str(value), around


def _listed(some: Sequence[str]) -> str:
    more = f" and {len(some) - _SHOWN} more; --json lists all" if len(some) > _SHOWN else ""
    return f"{', '.join(some[:_SHOWN])}{more}"
