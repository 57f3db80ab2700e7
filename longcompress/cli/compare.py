"""`longcompress eval compare`: the same tokens, other ways."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path

from jsonargparse import ArgumentParser

from .common import Common, check_writable, load_model, writing


def compare(words: Sequence[str]) -> None:
    """Score against tokens, of our ways and of simpler ones; the same words again go on where it stopped."""
    from ..eval.runner.compare import NAMES, CompareConfig, compare, kept
    from ..eval.runner.compare_table import ABOUT, draw, markdown, rows_of, trained_with
    from ..eval.runner.sources import from_files, from_scenes
    from ..eval.tasks import TASKS
    from ..eval.tasks.synthetic import Drawn
    from ..eval.tasks.task import How

    methods = "; ".join(f"{name}: {ABOUT[name]}" for name in NAMES)
    parser = ArgumentParser(
        prog="longcompress eval compare",
        description=f"One model at equal tokens that were chosen in other ways. Ways are {methods}.",
    )
    parser.add_argument("task", metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--model", required=True, help="a preset (tiny), a folder, or a hub name owner/model")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="gets a run for each way and number")
    parser.add_argument("--gold", nargs="+", metavar="FILE", help="the benchmark's files")
    parser.add_argument("--videos", metavar="FOLDER", help="its videos, or folders of them")
    parser.add_argument(
        "--durations", metavar="FILE", help="seconds by video, JSON or CSV with id and length"
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[5.0], help="lengths of drawn videos")
    parser.add_argument("--num-videos", type=int, default=100, help="drawn videos of each length")
    parser.add_argument("--first-video", type=int, default=0, help="number of the first drawn video")
    default = CompareConfig()
    parser.add_argument("--tokens", nargs="+", default=list(default.tokens), help="numbers, or shares: 10%%")
    parser.add_argument(
        "--methods", nargs="+", default=list(default.methods), metavar="WAY", help="some of the ways"
    )
    parser.add_argument("--prompt", default="default", help="`eval tasks` lists each benchmark's")
    parser.add_argument("--limit", type=int, help="only so many examples, the first")
    parser.add_argument("--max-new-tokens", type=int, help="longest answer; the model's own number")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="KIND=NAME", help="examples of these groups: kind=binding"
    )
    parser.add_argument("--by", default="kind", help="kind of group that the table tells apart")
    parser.add_argument("--score", default="", help="which number of an example; the task's first")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument("--device", help="cpu, cuda, ...; the GPU if there is one")
    parser.add_argument("--json", action="store_true", help="the rows as JSON instead of the tables")
    given = parser.parse_args(list(words))
    folder = Path(given.out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_writable(folder / "compare.jsonl")
    model = load_model(Common(model=given.model, device=given.device))
    if given.gold or given.videos:
        if not given.gold or not given.videos:
            raise ValueError(f"--gold and --videos go together, got {given.gold} and {given.videos}")
        source = from_files(given.task, given.gold, given.videos, durations=given.durations)
    else:
        drawn = Drawn(tuple(given.minutes), given.num_videos, given.first_video)
        source = from_scenes(given.task, drawn)
    only: dict[str, list[str]] = {}
    for one in given.only:
        kind, found, name = one.partition("=")
        if not found:
            raise ValueError(f"--only must be KIND=NAME, got {one!r}")
        only.setdefault(kind, []).append(name)
    config = CompareConfig(
        tokens=tuple(given.tokens), methods=tuple(given.methods), prompt=given.prompt, limit=given.limit,
        max_new_tokens=given.max_new_tokens, only=only, seed=given.seed,
    )  # fmt: skip
    task = TASKS[given.task]
    arms = compare(source, model, folder, config, How(times=task.times.get(given.prompt, "seconds")))
    rows = rows_of(folder, arms, kept(source.examples, config), given.by, given.score)
    num_videos = len({one.video for one in kept(source.examples, config)})
    title = f"{given.task}: {model.config.name or given.model} at equal tokens, {num_videos} videos"
    report = markdown(rows, title, trained_with(model))
    with writing(folder):
        (folder / "compare.jsonl").write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "compare.md").write_text(report, encoding="utf-8")
        draw(rows, folder / "compare.png", title)
    print(dumps(rows) if given.json else report)
    lost = sum(row["num_lost"] for row in rows if not row["group"])
    print(f"{lost} questions lost; all of it in {folder}")
