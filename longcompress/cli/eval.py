"""`longcompress eval ...`: predictions scored as the benchmarks' papers do, and models asked for them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from jsonargparse import ArgumentParser

from .common import check_writable, writing
from .compare import compare
from .output import print_table

if TYPE_CHECKING:
    from ..eval.runner.sources import Source
    from ..eval.tasks.task import Asker

_SHOWN = 5  # ids of a list that are printed


def score(words: Sequence[str]) -> None:
    """Score predictions in a benchmark's own format, without a model."""
    from ..eval.metrics.captions import WhichMeteor
    from ..eval.runner.score import score_files
    from ..eval.tasks import TASKS
    from ..eval.tasks.task import How, Times

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
    parser.add_argument(
        "--durations", metavar="FILE", help="seconds by video, JSON or CSV with id and length"
    )
    parser.add_argument("--meteor", choices=list(get_args(WhichMeteor)), default="auto", help="which METEOR")
    parser.add_argument(
        "--judge-url", help="an OpenAI-compatible endpoint, up to and without /chat/completions"
    )
    parser.add_argument("--judge-model", help="what the endpoint calls the judge")
    parser.add_argument("--judge-prompt", metavar="FILE", help="what to ask it: {question}, {gold}, {answer}")
    parser.add_argument("--judge-key", metavar="FILE", help="a file with the endpoint's key")
    parser.add_argument("--judge-cache", metavar="FILE", help="its replies, kept for the next time")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    _add_draws(parser)
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
    report = score_files(
        given.task,
        given.gold,
        given.pred,
        how,
        durations=given.durations,
        seed=given.seed,
        num_draws=given.num_draws,
    )
    text = dumps(report, ensure_ascii=False)
    if given.out:
        with writing(given.out):
            Path(given.out).write_text(text + "\n", encoding="utf-8")
    print(text if given.json else "", end="\n" if given.json else "")
    if not given.json:
        _print(report)


def run(words: Sequence[str]) -> None:
    """Ask a model a benchmark's questions; the same words again go on where a killed run stopped."""
    from ..eval.metrics.captions import WhichMeteor
    from ..eval.runner.run import run_on
    from ..eval.runner.run_file import RunConfig, summary_path
    from ..eval.tasks import TASKS
    from ..eval.tasks.synthetic import heat_of
    from ..eval.tasks.task import Times
    from ..plot import plot_depths
    from .common import Common, load_model

    parser = _parser("run", "Ask a model a benchmark's questions; called again, it goes on where it stopped.")
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--gold", nargs="+", metavar="FILE", help="the benchmark's files")
    parser.add_argument("--videos", metavar="FOLDER", help="its videos, or folders of them")
    parser.add_argument(
        "--minutes", nargs="+", type=float, help="of needle and synthetic QA, lengths of the videos: 5 15"
    )
    parser.add_argument(
        "--num-videos", type=int, help="of needle and synthetic QA, how many of each length: 3"
    )
    parser.add_argument("--video", metavar="FILE", help="of needle, its heat map, depth against length")
    parser.add_argument(
        "--first-video", type=int, help="of needle and synthetic QA, the first one's number: 0"
    )
    parser.add_argument("--model", required=True, help="a preset (tiny), a folder, or a hub name owner/model")
    parser.add_argument("--budget", type=int, help="tokens that stand for a video; the model's own number")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="a header, a line an example")
    parser.add_argument("--prompt", default="default", help="`eval tasks` lists each benchmark's")
    parser.add_argument("--limit", type=int, help="only so many examples, the first of the gold")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; the model's own number")
    parser.add_argument(
        "--streams", choices=["video", "audio", "both"], default="both", help="what is taken in"
    )
    parser.add_argument(
        "--times", choices=list(get_args(Times)), help="what numbers in answers are; as the prompt asks"
    )
    parser.add_argument(
        "--retry-lost", action="store_true", help="ask again where a video was missing or unreadable"
    )
    parser.add_argument(
        "--durations", metavar="FILE", help="seconds by video, JSON or CSV with id and length"
    )
    parser.add_argument("--rate-fps", type=float, help="frames looked at a second; the model's own number")
    parser.add_argument("--device", help="cpu, cuda, ...; the GPU if there is one")
    parser.add_argument("--meteor", choices=list(get_args(WhichMeteor)), default="auto", help="which METEOR")
    _add_draws(parser)
    parser.add_argument("--json", action="store_true", help="the summary as JSON instead of a table")
    given = parser.parse_args(list(words))
    out = Path(given.out)
    if out.suffix != ".jsonl":
        raise ValueError(f"--out must end in .jsonl, got {out}; summary and predictions are named after it")
    check_writable(out)
    if given.frame:
        if given.task != "needle":
            raise ValueError(f"--frame is of needle, got it with {given.task}; leave it out")
        check_writable(Path(given.frame))
    names = ("budget", "streams", "prompt", "max_new_tokens", "limit", "times")
    durations = Path(given.durations) if given.durations else None
    config = RunConfig(**{name: given[name] for name in names}, durations=durations)
    source = _source(given)
    model = load_model(Common(model=given.model, device=given.device, rate_fps=given.rate_fps))
    options = {name: given[name] for name in ("meteor", "retry_failed", "num_draws")}
    summary = run_on(source, model, out, config, **options)
    if given.frame:
        plot_depths(heat_of(source.examples, summary["each"]["found"]), given.frame)
    if given.json:
        print(dumps(summary, ensure_ascii=False))
        return
    _print(summary)
    for one in summary["lost"][:_SHOWN]:
        print(f"lost: {one['id']}: {one['lost']}")
    print(f"{summary['num_answered']} answered, {summary['num_lost']} lost; all of it in {summary_path(out)}")


def pairs(words: Sequence[str]) -> None:
    """Compare two runs on the same gold with the same prompt, example by example."""
    from ..eval.runner.run_file import pairs as compare

    parser = _parser("pairs", "What the first run is worth more than the second, with 95 % intervals.")
    parser.add_argument("first", metavar="A.jsonl", help="a run that came to its end")
    parser.add_argument("second", metavar="B.jsonl", help="another, of the same gold and prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args(list(words))
    report = compare(given.first, given.second, seed=given.seed)
    if given.json:
        print(dumps(report, ensure_ascii=False))
        return
    rows = [(name, *_shown(one["mean"], one)) for name, one in report["differences"].items()]
    title = f"{Path(given.first).name} minus {Path(given.second).name}, {report['num']} examples of both"
    print_table(title, rows)
    for name in ("first", "second"):
        if some := report[f"only_{name}"]:
            print(f"only in {given[name]}: {len(some)}: {_listed(some)}")


def tasks(words: Sequence[str]) -> None:
    """List the benchmarks: what each asks, where its data are."""
    from ..eval.tasks import TASKS

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


def _source(given: Any) -> "Source":
    """Where questions and videos come from: files, or what is drawn."""
    from ..eval.runner.score import task_of
    from ..eval.runner.sources import from_files, from_scenes
    from ..eval.tasks.synthetic import Drawn

    drawn = {
        name: given[name] for name in ("minutes", "num_videos", "first_video") if given[name] is not None
    }
    files = {name: given[name] for name in ("gold", "videos", "durations") if given[name] is not None}
    if task_of(given.task).draw is not None:
        if files:
            raise ValueError(f"the videos of {given.task} are drawn; leave out {_flags(files)}")
        return from_scenes(given.task, Drawn(**drawn))
    if drawn:
        raise ValueError(f"{_flags(drawn)} is for tasks whose videos are drawn, {given.task} has files")
    if not given.gold or not given.videos:
        raise ValueError(f"{given.task} needs --gold and --videos, got {_flags(files) or 'neither'}")
    return from_files(given.task, given.gold, given.videos, durations=given.durations)


def _flags(names: Iterable[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in names)


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
    from ..eval.tasks.judging import endpoint

    key = Path(given.judge_key).read_text(encoding="utf-8").strip() if given.judge_key else None
    cache = Path(given.judge_cache) if given.judge_cache else None
    return endpoint(given.judge_url, given.judge_model, key=key, cache=cache)


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
