"""Where `eval run` and `eval compare` get questions and videos from."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

if TYPE_CHECKING:
    from ..eval.runner.sources import Source


def add_source(parser: ArgumentParser) -> None:
    """The flags of `source_of`."""
    parser.add_argument("--reference", nargs="+", metavar="FILE", help="the benchmark's files")
    parser.add_argument("--videos", metavar="FOLDER", help="its videos, or folders of them")
    parser.add_argument(
        "--durations", metavar="FILE", help="seconds by video, JSON or CSV with id and length"
    )
    parser.add_argument("--minutes", nargs="+", type=float, help="of synthetic videos, their lengths: 5 15")
    parser.add_argument("--num-videos", type=int, help="synthetic ones of each length: 3")
    parser.add_argument("--first-video", type=int, help="number of the first synthetic one: 0")


def source_of(args: Any) -> "Source":
    """Where questions and videos come from: files, or synthetic scenes."""
    from ..eval.runner.score import task_of
    from ..eval.runner.sources import from_files, from_scenes
    from ..eval.tasks.synthetic import Synthetic

    names = ("minutes", "num_videos", "first_video")
    synthetic = {name: args[name] for name in names if args[name] is not None}
    files = {name: args[name] for name in ("reference", "videos", "durations") if args[name] is not None}
    if task_of(args.task).synthesize is not None:
        if files:
            raise ValueError(f"the videos of {args.task} are synthetic; leave out {_flags(files)}")
        return from_scenes(args.task, Synthetic(**synthetic))
    if synthetic:
        raise ValueError(f"{_flags(synthetic)} is for tasks with synthetic videos, {args.task} has files")
    if not args.reference or not args.videos:
        raise ValueError(f"{args.task} needs --reference and --videos, got {_flags(files) or 'neither'}")
    return from_files(args.task, args.reference, args.videos, durations=args.durations)


def _flags(names: Iterable[str]) -> str:
    return " and ".join(f"--{name.replace('_', '-')}" for name in names)
