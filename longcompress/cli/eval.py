"""`longcompress eval`: models asked a benchmark's questions, predictions scored, methods compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from json import dumps
from pathlib import Path
from typing import Any, Literal

from ..eval.runner.compare import CompareConfig, selected
from ..eval.runner.compare import compare as run_methods
from ..eval.runner.compare_table import markdown, plot, rows_of, trained_with
from ..eval.runner.live import LiveArms, run_live
from ..eval.runner.run import run as run_task
from ..eval.runner.run_file import RunConfig, summary_path
from ..eval.runner.run_file import pairs as compare_runs
from ..eval.runner.score import score_files, task_of
from ..eval.runner.sources import Source, from_files, from_scenes
from ..eval.tasks import TASKS
from ..eval.tasks.judging import endpoint
from ..eval.tasks.synthetic import Synthetic, depths_of
from ..eval.tasks.task import Asker, How, Times
from ..plot import plot_depths
from .common import ModelOptions, check_writable, folder_of, load_model, writing
from .output import print_table

_SHOWN = 5  # ids of a list that are printed


@dataclass(frozen=True)
class SourceOptions:
    """Where questions and videos come from: files, or synthetic scenes.

    Attributes:
        reference: the benchmark's files.
        videos: the folder of its videos, in which they may lie deeper.
        durations: seconds by video, JSON or CSV with id and length.
        minutes: lengths of synthetic videos, 5 15; 5 if not given.
        num_videos: synthetic videos of each length; 3 if not given.
        first_video: number of the first synthetic video; 0 if not given.
    """

    reference: list[str] = field(default_factory=list)
    videos: str | None = None
    durations: str | None = None
    minutes: list[float] = field(default_factory=list)
    num_videos: int | None = None
    first_video: int | None = None

    def open(self, task: str) -> Source:
        """Questions and videos of a task."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, [])}
        files = [name for name in ("reference", "videos", "durations") if name in values]
        synthetic = {name: value for name, value in values.items() if name not in files}
        if task_of(task).synthesize is not None:
            if files:
                raise ValueError(f"the videos of {task} are synthetic; leave out {_flags(files)}")
            return from_scenes(task, Synthetic(**synthetic))
        if synthetic:
            raise ValueError(f"{_flags(synthetic)} is for tasks with synthetic videos, {task} has files")
        if not self.reference or self.videos is None:
            raise ValueError(f"{task} needs --reference and --videos, got {_flags(files) or 'neither'}")
        return from_files(task, self.reference, self.videos, durations=self.durations)


@dataclass(frozen=True)
class JudgeOptions:
    """A language model that scores answers.

    Attributes:
        judge_url: an OpenAI-compatible endpoint, up to and without /chat/completions.
        judge_model: what the endpoint calls the judge.
        judge_prompt: a file with the judge's prompt: {question}, {reference}, {answer}.
        judge_key: a file with the endpoint's key.
        judge_cache: a file of its replies, for the next time.
    """

    judge_url: str | None = None
    judge_model: str | None = None
    judge_prompt: str | None = None
    judge_key: str | None = None
    judge_cache: str | None = None

    def asker(self) -> Asker | None:
        """The judge, None without an endpoint."""
        if not self.judge_url and not self.judge_model:
            if others := [name for name, value in asdict(self).items() if value]:
                raise ValueError(f"{_flags(others[:1])} needs --judge-url and --judge-model, got neither")
            return None
        if not self.judge_url or not self.judge_model:
            names = f"{self.judge_url!r} and {self.judge_model!r}"
            raise ValueError(f"a judge needs both --judge-url and --judge-model, got {names}")
        key = _text_of(self.judge_key)
        cache = Path(self.judge_cache) if self.judge_cache else None
        return endpoint(self.judge_url, self.judge_model, key=key and key.strip(), cache=cache)


def run(
    task: str, *, out: str, source: SourceOptions, config: RunConfig, live: bool = False, arms: LiveArms,
    retry_failed: bool = False, num_draws: int = 1000, plot: str | None = None, json: bool = False,
    options: ModelOptions,
) -> None:  # fmt: skip
    """Ask a model a benchmark's questions; the same command resumes.

    Args:
        task: a benchmark; `eval tasks` lists them and their prompts.
        out: FILE.jsonl, a header, then a line for each example; summary and predictions come beside it.
            Several budgets, or arms, have a file each: FILE.1024.jsonl.
        live: play each video as a stream in which the question stands.
        retry_failed: ask again where a video was missing or unreadable.
        num_draws: of the intervals of corpus scores; 0 for none of those.
        plot: of needle, an image of depth against length.
        json: the summaries as JSON instead of tables.
    """
    path = Path(out)
    if path.suffix != ".jsonl":
        raise ValueError(f"--out must end in .jsonl, got {path}; summary and predictions are named after it")
    check_writable(path)
    if plot:
        if task != "needle" or len(config.budgets) > 1:
            raise ValueError(f"--plot is of needle at one budget, got it with {task}; leave it out")
        check_writable(Path(plot))
    questions = source.open(task)
    model = load_model(options)
    again: Any = {"retry_failed": retry_failed, "num_draws": num_draws}
    if live:
        summaries = run_live(questions, model, path, config, arms, **again)
    elif arms != LiveArms():
        raise ValueError("--arms, --poll-s and --together are of live sessions; add --live")
    else:
        summaries = run_task(questions, model, path, config, **again)
    if plot:
        plot_depths(depths_of(questions.examples, summaries[0]["each"]["recall"]), plot)
    for summary in summaries:
        _print(summary, json)
        if json:
            continue
        for line in summary["failed"][:_SHOWN]:
            print(f"failed: {line['id']}: {line['failed']}")
        if cost := summary.get("cost"):
            factor = cost["real_time_factor"] or 0.0
            print(
                f"{summary['arm']}: {cost['replies']} replies, {factor:.4f} s of one thread a second of media"
            )
        counts = f"{summary['num_answered']} answered, {summary['num_failed']} failed"
        print(f"{counts}; all of it in {summary_path(path.with_name(summary['run']))}")


def score(
    task: str, *, reference: list[str], pred: list[str], out: str | None = None, durations: str | None = None,
    compat: Literal["paper"] | None = None, times: Times | None = None, judge: JudgeOptions, seed: int = 0,
    num_draws: int = 1000, json: bool = False,
) -> None:  # fmt: skip
    """Score predictions in a benchmark's own format, without a model.

    Args:
        task: a benchmark; `eval tasks` lists them.
        reference: the benchmark's files.
        pred: the predictions.
        out: a file for the JSON object.
        durations: seconds by video, JSON or CSV with id and length.
        compat: with the quirks of the paper's script.
        times: what numbers in answers are; by the file's format if not given.
        seed: of the intervals.
        num_draws: of the intervals of corpus scores; 0 for none of those.
        json: one JSON object instead of a table.
    """
    if out:
        check_writable(Path(out))
    prompt = _text_of(judge.judge_prompt)
    how = How(compat=compat, times=times, asker=judge.asker(), judge_prompt=prompt)
    report = score_files(task, reference, pred, how, durations=durations, seed=seed, num_draws=num_draws)
    if out:
        with writing(out):
            Path(out).write_text(dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
    _print(report, json)


def compare(
    task: str, *, out: str, source: SourceOptions, config: CompareConfig, by: str = "kind", score: str = "",
    json: bool = False, options: ModelOptions,
) -> None:  # fmt: skip
    """Compare our methods with baselines at equal token budgets; the same command resumes.

    Args:
        task: a benchmark; `eval tasks` lists them and their prompts.
        out: the folder of a run for each method and budget, and of the tables.
        by: kind of group that the table tells apart.
        score: which number of an example; the task's first if not given.
        json: the rows as JSON instead of the tables.
    """
    folder = folder_of(out)
    questions = source.open(task)
    model = load_model(options)
    how = How(times=config.times or task_of(task).times.get(config.prompt, "seconds"))
    arms = run_methods(questions, model, folder, config, how)
    examples = selected(questions.examples, config)
    rows = rows_of(folder, arms, examples, by, score)
    num_videos = len({example.video for example in examples})
    title = f"{task}: {model.config.name or options.model} at equal token budgets, {num_videos} videos"
    report = markdown(rows, title, trained_with(model))
    with writing(folder):
        (folder / "compare.jsonl").write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "compare.md").write_text(report, encoding="utf-8")
        plot(rows, folder / "compare.png", title)
    print(dumps(rows) if json else report)
    num_failed = sum(row["num_failed"] for row in rows if not row["group"])
    print(f"{num_failed} questions failed; all of it in {folder}")


def pairs(first: str, second: str, *, seed: int = 0, json: bool = False) -> None:
    """Compare two runs on the same reference with the same prompt, example by example, with 95 % intervals.

    Args:
        first: A.jsonl, a complete run.
        second: B.jsonl, another, of the same reference and prompt.
        seed: of the intervals.
        json: one JSON object instead of a table.
    """
    report = compare_runs(first, second, seed=seed)
    if json:
        print(dumps(report, ensure_ascii=False))
        return
    rows = [(name, *_shown(item["mean"], item)) for name, item in report["differences"].items()]
    title = f"{Path(first).name} minus {Path(second).name}, {report['num']} examples of both"
    print_table(title, rows)
    _print_ids(f"only in {first}", report["only_first"])
    _print_ids(f"only in {second}", report["only_second"])


def tasks(*, json: bool = False) -> None:
    """List the benchmarks: what each asks, where its data are.

    Args:
        json: one JSON object instead of a table.
    """
    listed = {}
    for name, task in TASKS.items():
        listed[name] = {"about": task.about, "where": task.where, "prompts": list(task.prompts)}
        if not json:
            print(f"{name}\n    {task.about}\n    data: {task.where}\n    prompts: {', '.join(task.prompts)}")
    if json:
        print(dumps(listed, ensure_ascii=False))


def _text_of(path: str | None) -> str | None:
    return Path(path).read_text(encoding="utf-8") if path else None


def _flags(names: Iterable[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in names)


def _print(report: dict[str, Any], json: bool) -> None:
    """A report of scores, as a line of JSON or as a table."""
    if json:
        print(dumps(report, ensure_ascii=False))
        return
    intervals = report["intervals"]
    rows = [(name, *_shown(value, intervals.get(name))) for name, value in report["metrics"].items()]
    print_table(f"{report['task']}, {report['num_examples']} examples", rows)
    for name in ("missing", "unknown", "duplicate", "unparsed"):
        _print_ids(name, report[name])


def _shown(value: Any, at: Mapping[str, Any] | None) -> tuple[str, str]:
    """A metric and its interval, as cells of a table."""
    interval = f"{at['low']:.4f} to {at['high']:.4f}" if at and at["low"] is not None else ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) < 80 else text[:77] + "...", interval


def _print_ids(what: str, ids: Sequence[str]) -> None:
    more = f" and {len(ids) - _SHOWN} more; --json lists all" if len(ids) > _SHOWN else ""
    if ids:
        print(f"{what}: {len(ids)}: {', '.join(ids[:_SHOWN])}{more}")
