"""`longcompress eval compare`: baselines at equal token budgets."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path

from jsonargparse import ArgumentParser

from .common import Common, check_writable, load_model, writing


def compare(words: Sequence[str]) -> None:
    """Score against tokens, of our methods and of baselines; the same command resumes."""
    from ..eval.runner.compare import NAMES, CompareConfig, compare, selected
    from ..eval.runner.compare_table import ABOUT, markdown, plot, rows_of, trained_with
    from ..eval.tasks import TASKS
    from ..eval.tasks.task import How
    from .sources import add_source, source_of

    methods = "; ".join(f"{name}: {ABOUT[name]}" for name in NAMES)
    parser = ArgumentParser(
        prog="longcompress eval compare",
        description=f"One model at equal token budgets, by several methods. Methods are {methods}.",
    )
    default = CompareConfig()
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--model", required=True, help="a preset (tiny), a folder, or a hub name owner/model")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="gets a run for each method and budget"
    )
    add_source(parser)
    parser.add_argument(
        "--budgets", nargs="+", default=list(default.budgets), help="tokens, or shares of a video's: 10%%"
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(default.methods), metavar="METHOD", help="some of the methods"
    )
    parser.add_argument("--prompt", default="default", help="`eval tasks` lists each benchmark's")
    parser.add_argument("--limit", type=int, help="only the first examples, this many")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; the model's own number")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KIND=NAME", help="examples of these groups: kind=binding"
    )
    parser.add_argument("--by", default="kind", help="kind of group that the table tells apart")
    parser.add_argument("--score", default="", help="which number of an example; the task's first")
    parser.add_argument("--seed", type=int, default=0, help="of random methods")
    parser.add_argument("--device", help="cpu, cuda, ...; the GPU if there is one")
    parser.add_argument("--json", action="store_true", help="the rows as JSON instead of the tables")
    args = parser.parse_args(list(words))
    folder = Path(args.out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / "compare.jsonl")
    model = load_model(Common(model=args.model, device=args.device))
    source = source_of(args)
    only: dict[str, list[str]] = {}
    for text in args.only:
        kind, equals, name = text.partition("=")
        if not equals:
            raise ValueError(f"--only must be KIND=NAME, got {text!r}")
        only.setdefault(kind, []).append(name)
    config = CompareConfig(
        budgets=tuple(args.budgets), methods=tuple(args.methods), prompt=args.prompt, limit=args.limit,
        max_new_tokens=args.max_new_tokens, only=only, seed=args.seed,
    )  # fmt: skip
    how = How(times=TASKS[args.task].times.get(args.prompt, "seconds"))
    arms = compare(source, model, folder, config, how)
    examples = selected(source.examples, config)
    rows = rows_of(folder, arms, examples, args.by, args.score)
    num_videos = len({example.video for example in examples})
    title = f"{args.task}: {model.config.name or args.model} at equal token budgets, {num_videos} videos"
    report = markdown(rows, title, trained_with(model))
    with writing(folder):
        (folder / "compare.jsonl").write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "compare.md").write_text(report, encoding="utf-8")
        plot(rows, folder / "compare.png", title)
    print(dumps(rows) if args.json else report)
    num_failed = sum(row["num_failed"] for row in rows if not row["group"])
    print(f"{num_failed} questions failed; all of it in {folder}")
