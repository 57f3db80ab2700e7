"""The command `longcompress`: each function of COMMANDS is one command, its arguments are the flags.

Exit codes: 0 done; 1 `doctor` found something wrong; 2 a wrong argument; 3 what was to be read could not be;
4 what was to be written could not be; 130 interrupted. Nothing half-written is left behind.
"""

import errno
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any, Literal

from ..config import MediaConfig, MergeConfig, SegmentConfig, VisionConfig
from .common import (
    Common,
    Failed,
    bars,
    check_writable,
    compress_video,
    folder_of,
    is_memory,
    load_model,
    probe_video,
    remember,
    targets_of,
    writing,
)
from .output import cited, clock, print_table, report_of, rows_of, sentence
from .parser import parse
from .train import train, with_recipe

SECTIONS = {"media": MediaConfig, "video": VisionConfig, "segments": SegmentConfig, "merge": MergeConfig}
FIXED = (  # the encoders compress these
    *("media.size_px", "media.rate_hz", "media.video", "media.audio"),
    *(f"video.{f.name}" for f in fields(VisionConfig) if f.name != "reuse_below"),
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # standard output may be a file too
KINDS = {f".{kind}": kind for kind in ("jsonl", "srt", "vtt", "ass", "csv", "edl")}


def info(file: str, common: Common, *, json: bool = False) -> None:
    """What a video's header says and what compressing it would come to, before anything is decoded.

    Args:
        file: a video.
        json: one JSON object instead of a table.
    """
    video = probe_video(file, common)
    model = load_model(common)
    if video.duration_s is None:
        raise Failed(3, f"{file}: its length is not known, so nothing can be estimated; compress it")
    expected = model.estimate(video.duration_s, common.budget, video=video.has_video, audio=video.has_audio)
    if json:
        print(dumps({"video": asdict(video), "estimate": asdict(expected)}))
        return
    print_table(Path(file).name, rows_of(video, expected, model.config.llm.max_new_tokens))


def compress(
    files: list[str], common: Common, *, out: str, keep_assignment: bool = False, json: bool = False
) -> int:
    """Decode, encode and compress videos once, each to a memory file (.lcm).

    Args:
        files: one video or several.
        out: the memory file, or a folder; for several videos a folder.
        keep_assignment: remember which patch went where, for `plot`; the file grows with the video.
        json: a JSON line for each video.
    """
    targets = targets_of(files, Path(out))
    failures: list[Failed] = []
    model = None
    for file, target in zip(files, targets, strict=True):
        try:
            video = probe_video(file, common)
            model = model or load_model(common)
            begin = time.perf_counter()
            memory = compress_video(model, file, video, common, keep_assignment=keep_assignment)
            wall_s = time.perf_counter() - begin
            with writing(target):
                memory.save(target)
        except Failed as error:
            if len(files) == 1 or error.code != 3:
                raise
            failures.append(error)
            _complain("error", error)
            continue
        report = report_of(memory, file, target, wall_s)
        print(dumps(report) if json else sentence(report), flush=True)
    if failures:
        _complain("error", f"{len(failures)} of {len(files)} videos could not be read")
    return failures[0].code if failures else 0


def ask(
    source: str,
    questions: list[str],
    common: Common,
    *,
    max_new_tokens: int | None = None,
    json: bool = False,
) -> None:
    """Answer questions about a video or a memory file.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        questions: one or more, in quotes.
        max_new_tokens: longest answer; the model's own number if not given.
        json: a JSON line for each answer.
    """
    if not all(q.strip() for q in questions):
        raise ValueError("questions must not be empty; ask something, e.g. 'What happens first?'")
    memory = remember(source, common)
    for question in questions:
        if json:
            answer = memory.ask(question, max_new_tokens=max_new_tokens)
            print(dumps({"question": question, **answer.to_json()}), flush=True)
            continue
        if len(questions) > 1:
            print(f"> {question}", flush=True)
        answer = memory.ask(question, stream=_stream, max_new_tokens=max_new_tokens)
        print()
        for event in answer.events:
            print(f"  {event}")
        for start_s, end_s, names in cited(answer.cites):
            print(f"  rests on {clock(start_s)} - {clock(end_s)}: {names}")


def events(
    source: str,
    common: Common,
    *,
    format: Literal["jsonl", "srt", "vtt", "ass", "csv", "edl"] | None = None,
    out: str | None = None,
    window_s: float | None = None,
    timecode_fps: float | None = None,
    json: bool = False,
) -> None:
    """List what happens in a video or a memory file, with seconds.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        format: how; by the name of --out if not given, else jsonl.
        out: the file; printed if not given.
        window_s: seconds that are asked about at once; the model's own number if not given.
        timecode_fps: frames a second that edl counts in; the video's own if not given, 25 for a memory file.
        json: JSON lines; with --out one JSON object that says what was written.
    """
    from ..events.files import write_events

    kind = format or (KINDS.get(Path(out).suffix.lower()) if out else "jsonl")
    if kind is None:
        raise ValueError(f"--format is needed for --out {out}; names that end in {', '.join(KINDS)} say it")
    if json and not out and kind != "jsonl":
        raise ValueError(f"--json prints jsonl, got --format {kind}; leave one of them out, or give --out")
    for name, value in (("window-s", window_s), ("timecode-fps", timecode_fps)):
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be > 0, got {value}")
    if out:
        if Path(out).resolve() == Path(source).resolve():
            raise ValueError(f"--out must be another file than the source, got {out}")
        check_writable(Path(out))
    memory = remember(source, common)
    found = memory.events(window_s=window_s, progress=bars())
    title = Path(memory.source.get("name", source)).stem
    if kind == "edl" and timecode_fps is None and not is_memory(source):
        timecode_fps = probe_video(source, common).rate_fps
    with writing(out or "standard output"):
        write_events(found, out or sys.stdout, kind, rate_fps=timecode_fps or 25.0, title=title)
    if out:
        report = {"out": out, "format": kind, "events": len(found)}
        print(dumps(report) if json else f"{out}: {len(found)} events")


def plot(
    source: str,
    common: Common,
    *,
    out: str,
    format: Literal["png", "svg", "pdf"] = "png",
    original: str | None = None,
    json: bool = False,
) -> None:
    """Draw a video's events, tokens and merged patches.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        out: the folder for the frames.
        format: of the frames.
        original: the video of a memory file that was compressed with --keep-assignment, to draw merged
            patches.
        json: one JSON list of the paths.
    """
    from .. import plot as draw

    folder = folder_of(out)
    if original:
        probe_video(original, common)
    memory = remember(source, common, keep_assignment=True)
    stem = folder / Path(source).stem
    paths = [Path(f"{stem}.tokens.{format}")]
    with writing(folder):
        draw.plot_tokens(memory, paths[0])
        if original or (not is_memory(source) and "video" in memory.video.assignment):
            path = Path(f"{stem}.merged.{format}")
            paths.append(draw.plot_merged(memory, original or source, path, protocols=common.allowed))
        found = memory.events(progress=bars())
        path = Path(f"{stem}.timeline.{format}")
        paths.append(draw.plot_timeline(found, max(memory.duration_s, 1e-3), path))
    print(dumps([str(p) for p in paths]) if json else "\n".join(map(str, paths)))


def synthesize(
    *,
    out: str,
    seconds: float = 120.0,
    num: int = 3,
    seed: int = 0,
    size: int = 128,
    fps: float = 8.0,
    json: bool = False,
) -> None:
    """Make sample videos with audio, and beside each a file of what truly happens in it.

    Args:
        out: the folder for them.
        seconds: length of each.
        num: how many.
        seed: of the first; the others follow.
        size: pixels a side, even.
        fps: frames a second.
        json: a JSON line for each video.
    """
    from ..synthetic.scenes import make_scene, write_video

    for name, value in (("num", num), ("seconds", seconds), ("size", size), ("fps", fps)):
        if not value > 0:
            raise ValueError(f"--{name} must be > 0, got {value}")
    folder = folder_of(out)
    for one in range(seed, seed + num):
        scene = make_scene(one, seconds)
        with writing(folder):
            path = folder / f"scene_{one:04d}.mp4"
            write_video(scene, path, size_px=size, rate_fps=fps, progress=bars())
        truth = path.with_suffix(".truth.json")
        report = {"video": str(path), "truth": str(truth), "seed": one, "events": len(scene.events)}
        line = f"{path}: {report['events']} events, told in {truth.name}"
        print(dumps(report) if json else line, flush=True)


def demo(
    *,
    out: str,
    minutes: float = 10.0,
    seed: int = 20_000_000,
    budget: int = 1024,
    model: str = "tiny",
    json: bool = False,
) -> None:
    """Draw a video, compress it, ask it, and show each answer beside the truth.

    Args:
        out: the folder for the video, its memory, subtitles and frames.
        minutes: length of the video.
        seed: of the video; the embedded model's training never saw numbers from 20 million on.
        budget: tokens of the memory.
        model: a preset (tiny), a folder, or a hub name owner/model.
        json: one JSON object instead of tables.
    """
    from .demo import demo as run

    folder = folder_of(out)
    with redirect_stdout(sys.stderr if json else sys.stdout), writing(folder):
        report = run(folder, minutes=minutes, seed=seed, budget=budget, model=model)
    if json:
        print(dumps(report))


def doctor(*, json: bool = False) -> int:
    """Look at what this machine has of what longcompress uses, and name the commands that bring the rest.

    Args:
        json: one JSON object instead of a table.
    """
    from .doctor import examine

    checks = examine()
    wrong = [c for c in checks if c.status == "wrong"]
    if json:
        print(dumps({"ok": not wrong, "checks": [asdict(c) for c in checks]}))
    else:
        rows = [(c.status, c.name, c.found + (f"\n-> {c.remedy}" if c.remedy else "")) for c in checks]
        print_table("longcompress doctor", rows)
    return 1 if wrong else 0


def bench(
    what: Literal["kernels", "throughput", "report", "quality"],
    rest: list[str],
) -> int:
    """Measure speed, memory or answers, or show figures; `longcompress bench kernels --help` has more.

    Args:
        what: which.
        rest: flags of that benchmark.
    """
    from ..eval.bench import COMMANDS as BENCHES
    from ..eval.bench import main as run_bench

    if what in BENCHES:
        return _hand_over(f"bench {what}", partial(run_bench, what), rest)
    from ..eval.runner import merge_quality

    return _hand_over(f"bench {what}", merge_quality.main, rest)


def shards(
    what: Literal["make", "index", "verify", "info", "repack", "bench", "convert", "draw", "npy", "features"],
    rest: list[str],
) -> int:
    """Encode videos once for training, or look into shards; `longcompress shards make --help` has more.

    Args:
        what: which.
        rest: its arguments.
    """
    from .shards import main as hand

    return _hand_over("shards", hand, [what, *rest])


def weights(what: Literal["delta", "apply"], rest: list[str]) -> int:
    """Read what other projects released; `longcompress weights apply --help` has more.

    Args:
        what: which.
        rest: its arguments.
    """
    from .weights import main as hand

    return _hand_over("weights", hand, [what, *rest])


def evaluate(what: Literal["score", "tasks", "run", "pairs", "compare"], rest: list[str]) -> int:
    """Run benchmarks, score predictions as the papers do, compare; `longcompress eval run --help` has more.

    Args:
        what: which.
        rest: its arguments.
    """
    from .eval import main as hand

    return hand([what, *rest])


def _hand_over(name: str, command: Callable[[], Any], rest: list[str]) -> int:
    """Run a command that reads its own flags."""
    spelled = [re.sub(r"^--[\w-]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in rest]
    before, sys.argv = sys.argv, [f"longcompress {name}", *spelled]
    try:
        return command() or 0
    except SystemExit as error:  # it has said what is wrong
        return error.code if isinstance(error.code, int) else 2
    finally:
        sys.argv = before


COMMANDS: dict[str, Callable[..., int | None]] = {
    "info": info, "compress": compress, "ask": ask, "events": events, "plot": plot, "synthesize": synthesize,
    "demo": demo, "doctor": doctor, "train": train, "shards": shards, "bench": bench,
    "eval": evaluate, "weights": weights,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. `argv` without the program's name; None: the process's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # peft asks for it
            warnings.showwarning = lambda message, *_, **__: _complain("warning", message)
            code = _run(words)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        _complain("interrupted", "nothing half-written was left")
        return 130
    except BrokenPipeError:  # whoever read our output had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Failed, ValueError, ImportError, OSError) as error:
        if debug:
            raise
        _complain("error", error)
        if isinstance(error, Failed):
            return error.code
        if isinstance(error, OSError):
            return 4 if error.errno in FULL else 3
        return 2


def _run(words: list[str]) -> int:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not bars():  # read when transformers is imported: its bars go by it too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    words = words or ["--help"]
    if words[:1] in (["bench"], ["eval"], ["shards"], ["weights"]) and len(words) > 2:  # the rest is its own
        words, rest = words[:2], words[2:]
    else:
        rest = []
    recipe: Any = None
    if words[:1] == ["train"]:
        words, recipe = with_recipe(words)
    name, arguments = parse(words, COMMANDS, common=Common, sections=SECTIONS, fixed=FIXED, recipe=recipe)
    if name in ("bench", "shards", "eval", "weights"):
        arguments["rest"] = rest
    return COMMANDS[name](**arguments) or 0


def _stream(text: str) -> None:
    print(text, end="", flush=True)


def _complain(kind: str, what: object) -> None:
    print(f"longcompress: {kind}: {' '.join(str(what).split())}", file=sys.stderr, flush=True)
