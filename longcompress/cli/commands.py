"""The commands about videos: each function is a command, its parameters are the flags."""

import sys
import time
from dataclasses import asdict
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import common
from .common import Failed, VideoOptions, bars, check_positive, complain, folder_of, is_memory, writing
from .endpoint import EndpointOptions, memory_for
from .output import cited, clock, memory_rows, print_table, report_of, rows_of, sentence, size_text
from .parser import documented
from .sources import STDIN, find_videos, is_done, memory_paths

if TYPE_CHECKING:
    from ..media.reader import MediaInfo
    from ..media.thumbnails import Thumbnail
    from ..synthetic.scenes import Scene

SHOWN = 12  # thumbnails of a video that is compressed to answer
FORMATS = {f".{kind}": kind for kind in ("jsonl", "srt", "vtt", "ass", "csv", "edl")}


def info(file: str, *, json: bool = False, options: VideoOptions) -> None:
    """Show what a video's header says, and the tokens and bytes that compressing it would give; of a memory
    file, how much of its video was read and is represented.

    Args:
        file: a video or a memory file (.lcm).
        json: one JSON object instead of a table.
    """
    if is_memory(file):
        from ..memory import VideoMemory

        with common.reading():
            memory = VideoMemory.load(file)
        if json:
            sizes = {name: len(tokens) for name, tokens in memory.streams.items()}
            about = {"budget": memory.budget, "tokens": memory.num_tokens, "streams": sizes}
            about |= {"text": memory.source["text"]} if "text" in memory.source else {}
            print(dumps({"memory": about | {"coverage": memory.coverage}}))
        else:
            print_table(Path(file).name, memory_rows(memory))
        return
    video = common.probe_video(file, options)
    model = common.load_model(options)
    if video.duration_s is None:
        raise Failed(3, f"{file}: its length is not known, so nothing can be estimated; compress it")
    expected = model.estimate(video.duration_s, options.budget, video=video.has_video, audio=video.has_audio)
    if json:
        print(dumps({"video": asdict(video), "estimate": asdict(expected)}))
    else:
        print_table(Path(file).name, rows_of(video, expected, model.config.llm.max_new_tokens))


def compress(
    files: list[str], *, out: str, keep_assignment: bool = False, thumbnails: int = 0,
    thumbnail_px: int = 160, overwrite: bool = False, dry_run: bool = False, json: bool = False,
    options: VideoOptions,
) -> int:  # fmt: skip
    """Decode, encode and compress videos once, each to a memory file (.lcm).

    Args:
        files: videos, folders of videos, patterns in quotes, or - for standard input.
        out: the memory file, or a folder; for several videos a folder.
        keep_assignment: store which patch went into which token, for `plot`; the file grows with the video.
        thumbnails: frames of the heaviest tokens to keep as JPEGs, for `ask --show` and `plot`.
        thumbnail_px: longer side of those.
        overwrite: compress again what an earlier run into the same folder has done.
        dry_run: only list the videos and their memory files.
        json: a JSON line for each video.
    """
    if thumbnails:
        from ..media.thumbnails import check_numbers

        check_numbers(thumbnails, thumbnail_px)
    videos, others = find_videos(files)
    if others:
        complain(
            "warning", f"{len(others)} files in folders are no videos: {', '.join(map(str, others[:9]))}"
        )
    if dry_run:
        for file, path in videos.items():
            to = out if len(videos) == 1 and is_memory(out) else str(Path(out) / path)
            print(dumps({"source": file, "out": to}) if json else f"{file} -> {to}")
        return 0
    if options.subtitles and len(videos) > 1:
        raise ValueError(f"--subtitles is a file of one video, got {len(videos)} videos")
    paths = memory_paths(videos, Path(out))
    infos: dict[str, MediaInfo] = {}
    num_failed = 0

    def fail(error: object) -> None:
        nonlocal num_failed
        if len(videos) == 1:
            raise Failed(3, str(error))
        num_failed += 1
        complain("error", error)

    # headers are read first: what can't be read is reported before hours of work
    for file in videos:
        try:
            infos |= {} if file == STDIN else {file: common.probe_video(file, options)}
        except Failed as error:
            fail(error)
    todo = {file: sys.stdin.buffer if file == STDIN else file for file in videos if file in {*infos, STDIN}}
    if todo:
        from ..videos import compress_many

        model = common.load_model(options)
        common.check_budget(model, options, list(infos.values()))
        budget = options.budget or model.config.budget.tokens
        done: set[str] = set()
        if not (overwrite or len(videos) == 1 or options.start or options.end):  # a part is made anew
            done = {file for file in infos if is_done(paths[file], file, model, budget)}
        if done:
            complain(
                "note", f"{len(done)} of {len(videos)} videos are done; --overwrite compresses them again"
            )
        todo = {file: source for file, source in todo.items() if file not in done}
        start_s = time.perf_counter()
        more = {"keep_assignment": keep_assignment, "thumbnails": thumbnails, "thumbnail_px": thumbnail_px}
        results = compress_many(model, todo.values(), **options.compressing(**more))
        for file, result in zip(todo, results, strict=True):
            if result.memory is None:
                fail(result.error)
            else:
                wall_s, path = time.perf_counter() - start_s, paths[file]
                with writing(path):
                    result.memory.save(path)
                report = report_of(result.memory, file, path, wall_s)
                print(dumps(report) if json else sentence(report), flush=True)
            start_s = time.perf_counter()
    if num_failed:
        complain("error", f"{num_failed} of {len(videos)} videos could not be read")
    return 3 if num_failed else 0


def ask(
    source: str, questions: list[str], *, max_new_tokens: int | None = None, show: str | None = None,
    json: bool = False, to: EndpointOptions, options: VideoOptions,
) -> None:  # fmt: skip
    """Answer questions about a video or a memory file, by the model or by any other (--endpoint).

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        questions: one or more, in quotes.
        max_new_tokens: longest answer; the model's own number if not given.
        show: a folder for the thumbnails nearest to the times in each answer; of the heaviest tokens where it
            names none. A memory file has them if it was compressed with --thumbnails.
        json: a JSON line for each answer.
    """
    if not all(question.strip() for question in questions):
        raise ValueError("questions must not be empty; ask something, e.g. 'What happens first?'")
    if to.endpoint:
        if show:
            raise ValueError("--show is for answers of the model, got --endpoint; leave one of them out")
        memory = memory_for(source, to, options)
        for question in questions:
            text = to.answer(to.messages(memory, question), max_new_tokens)
            print(dumps({"question": question, "text": text}) if json else text, flush=True)
        return
    folder = folder_of(show) if show else None
    memory = common.memory_of(source, options, **({"thumbnails": SHOWN} if folder else {}))
    if folder and not memory.thumbnails:
        raise Failed(3, f"{source} has no thumbnails to --show; compress the video again with --thumbnails")
    for number, question in enumerate(questions, 1):
        if not json and len(questions) > 1:
            print(f"> {question}", flush=True)
        stream = None if json else partial(print, end="", flush=True)
        answer = memory.ask(question, stream=stream, max_new_tokens=max_new_tokens)
        shown = write_thumbnails(memory.thumbnails_of(answer), folder, number) if folder else []
        if json:
            files = {"thumbnails": shown} if folder else {}
            print(dumps({"question": question, **answer.to_json(), **files}), flush=True)
            continue
        print()
        for event in answer.events:
            print(f"  {event}")
        for start_s, end_s, names in cited(answer.cites):
            print(f"  rests on {clock(start_s)} - {clock(end_s)}: {names}")
        for file in shown:
            print(f"  {file['path']}: {file['time_s']:.1f} s")


def write_thumbnails(thumbnails: "list[Thumbnail]", folder: Path, number: int) -> list[dict[str, Any]]:
    """Path and time of the JPEGs of answer `number`, in a folder."""
    from ..files import replacing

    files = []
    for thumbnail in thumbnails:
        path = folder / f"answer_{number:02d}_{thumbnail.time_s:09.2f}s.jpg"
        with writing(path), replacing(path) as part:
            part.write_bytes(thumbnail.jpeg)
        files.append({"path": str(path), "time_s": thumbnail.time_s})
    return files


def events(
    source: str, *, out: str | None = None,
    format: Literal["jsonl", "srt", "vtt", "ass", "csv", "edl"] | None = None, window_s: float | None = None,
    timecode_fps: float | None = None, json: bool = False, options: VideoOptions,
) -> None:  # fmt: skip
    """List what happens in a video or a memory file, with seconds.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        out: the file; printed if not given.
        format: of the file; the end of --out's name if not given, else jsonl.
        window_s: length of the windows that are asked about; the model's own number if not given.
        timecode_fps: frames a second that edl counts in; the video's own if not given, 25 for a memory file.
        json: JSON lines; with --out one JSON object about the file.
    """
    from ..events.files import write_events

    kind = format or (FORMATS.get(Path(out).suffix.lower()) if out else "jsonl")
    if kind is None:
        raise ValueError(f"--format is needed for --out {out}; names that end in {', '.join(FORMATS)} say it")
    if json and not out and kind != "jsonl":
        raise ValueError(f"--json prints jsonl, got --format {kind}; leave one of them out, or give --out")
    check_positive(window_s=window_s, timecode_fps=timecode_fps)
    if out:
        if Path(out).resolve() == Path(source).resolve():
            raise ValueError(f"--out must be another file than the source, got {out}")
        common.check_writable(Path(out))
    timecode = ""
    if kind == "edl" and not is_memory(source) and source != STDIN:
        video = common.probe_video(source, options)
        timecode, timecode_fps = video.timecode, timecode_fps or video.timecode_fps
        if timecode_fps is None:
            rate = "no rate" if video.rate_fps is None else f"{video.rate_fps:.3g} frames a second"
            raise ValueError(
                f"{source} has {rate}, which is none that timecodes count in; give --timecode-fps"
            )
    memory = common.memory_of(source, options)
    listed = common.events_of(memory, window_s=window_s).events
    title = Path(memory.source.get("name", source)).stem
    with writing(out or "standard output"):
        write_events(
            listed, out or sys.stdout, kind, rate_fps=timecode_fps or 25.0, title=title, timecode=timecode
        )
    if out:
        report = {"out": out, "format": kind, "events": len(listed)}
        print(dumps(report) if json else f"{out}: {len(listed)} events")


def plot(
    source: str, *, out: str, format: Literal["png", "svg", "pdf"] = "png", original: str | None = None,
    json: bool = False, options: VideoOptions,
) -> None:  # fmt: skip
    """Plot a video's events, tokens and merged patches.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        out: the folder of the images.
        format: of the images.
        original: the video of a memory file that was compressed with --keep-assignment, for merged patches.
        json: one JSON list of the paths.
    """
    from ..plot import plot_merged, plot_timeline, plot_tokens

    folder = folder_of(out)
    if original:
        common.probe_video(original, options)
    memory = common.memory_of(source, options, keep_assignment=True)
    stem = folder / Path(source).stem
    with writing(folder):
        paths = [plot_tokens(memory, f"{stem}.tokens.{format}")]
        if original or (not is_memory(source) and "video" in memory.video.assignment):
            path, protocols = f"{stem}.merged.{format}", options.protocols
            paths.append(plot_merged(memory, original or source, path, protocols=protocols))
        listed, duration_s = common.events_of(memory).events, max(memory.duration_s, 1e-3)
        paths.append(plot_timeline(listed, duration_s, f"{stem}.timeline.{format}", memory.thumbnails))
    print(dumps([str(path) for path in paths]) if json else "\n".join(map(str, paths)))


def export(
    source: str, *, out: str, for_: Literal["sglang", "vllm-image", "vllm-prompt"],
    question: str | None = None, json: bool = False, options: VideoOptions,
) -> None:  # fmt: skip
    """Write a memory of a stock video LLM as what SGLang or vLLM takes in the place of a video.

    Args:
        source: a video, which is compressed first, or a memory file (.lcm).
        out: the folder of tensors, request and README.
        for_: sglang keeps positions; vllm-image makes images of 1 x n patches; vllm-prompt is for models
            whose positions have one axis.
        question: a question in the request; others can follow.
        json: one JSON list of the paths.
    """
    from ..export import NAMES
    from ..export import export as export_memory

    folder = folder_of(out)
    memory = common.memory_of(source, options)
    with writing(folder):
        export_memory(memory, for_, folder, question)
    paths = [str(folder / name) for name in NAMES]
    print(dumps(paths) if json else "\n".join(paths))


def synthesize(
    *, out: str, seconds: float = 120.0, num: int = 3, seed: int = 0, size: int = 128, fps: float = 8.0,
    json: bool = False,
) -> None:  # fmt: skip
    """Make videos with audio whose events are known; `shards make` reads the folder as it is.

    Args:
        out: the folder; beside each video comes a record of its events.
        seconds: length of each video.
        num: number of videos.
        seed: of the first; the others follow.
        size: pixels a side, even.
        fps: frames a second.
        json: a JSON line for each video.
    """
    from ..synthetic.scenes import make_scene

    check_positive(num=num, seconds=seconds, size=size, fps=fps)
    folder = folder_of(out)
    for number in range(seed, seed + num):
        scene = make_scene(number, seconds)
        with writing(folder):
            path, record = write_scene(scene, folder / f"scene_{number:04d}.mp4", size_px=size, rate_fps=fps)
        report = {"video": str(path), "record": str(record), "seed": number, "events": len(scene.events)}
        line = f"{path}: {len(scene.events)} events, listed in {record.name}"
        print(dumps(report) if json else line, flush=True)


def write_scene(scene: "Scene", path: Path, **options: Any) -> tuple[Path, Path]:
    """The paths of a scene's video and of the record of its events beside it, which `read_records` reads."""
    from ..files import write_json
    from ..synthetic.scenes import write_video
    from ..train.records import Record
    from ..types import Event

    write_video(scene, path, progress=bars(), **options)
    listed = tuple(Event(event.start_s, event.end_s, event.name) for event in scene.events)
    meta, duration_s = {"seed": scene.seed}, scene.duration_s
    record = Record(path.stem, path.name, duration_s, listed, source="synthetic", meta=meta)
    beside = path.with_suffix(".json")
    write_json(beside, record.to_json(), indent=1)
    return path, beside


def config() -> None:
    """List the fields of the model's config that --config FILE and --SECTION.FIELD VALUE change."""
    from ..config import ModelConfig
    from ..model import CHANGEABLE

    for section, names in CHANGEABLE.items():
        notes = documented(type(getattr(ModelConfig(), section)))
        print_table(section, [(f"--{section}.{name}", notes[name].replace("%%", "%")) for name in names])


def models(name: str | None, *, budget: int = 4096, json: bool = False) -> None:
    """List the families of stock video LLMs that --model takes, or the GPU memory that one model needs.

    Args:
        name: a stock model's folder or hub name, of which the config alone is read; without it all families.
        budget: tokens of a memory.
        json: JSON instead of a table.
    """
    if name is not None:
        return _print_needs(name, budget, json)
    from ..presets import families

    known = families()
    if json:
        print(dumps([asdict(family) for family in known]))
        return
    heads = ("model_type", "class of transformers", "time", "axes", "hears", "deepstack")
    rows = []
    for f in known:
        kind, hears = f.model_class or "newer than installed", "yes" if f.hears else "no"
        rows.append((f.model_type, kind, f.time, str(f.axes), hears, str(f.deepstack)))
    print_table("stock video LLMs", rows, heads)


def _print_needs(name: str, budget: int, json: bool) -> None:
    from ..llm.backbone import family_of, read_config
    from ..llm.needs import needs_of

    check_positive(budget=budget)
    known = read_config(name)
    family_of(known, name)
    needs = needs_of(known)
    totals = {bits: needs.gpu_bytes(budget, bits) for bits in (16, 8, 4)}
    if json:
        return print(dumps(asdict(needs) | {"budget": budget, "gpu_bytes": totals}))
    parameters = f"{needs.num_parameters / 1e9:,.2f} billion, {needs.num_encoder / 1e9:,.2f} in encoders"
    rows = [
        ("parameters", parameters),
        ("cache of 1,000 positions", size_text(1000 * needs.position_bytes)),
        (f"memory file of {budget:,} tokens", size_text(budget * needs.token_bytes)),
    ]
    for bits, size in totals.items():
        fits = [f"{room} GB" for room in (8, 12, 16, 24, 40, 80, 141) if size < 0.95 * room * 1e9]
        needed = f"{size / 1e9:,.1f} GB: {fits[0] if fits else 'several GPUs'}"
        rows.append((f"GPU, weights in {bits} bits", needed))
    print_table(name, rows)


def doctor(*, json: bool = False) -> int:
    """Check what longcompress needs on this machine, and name the command that mends what is missing.

    Args:
        json: one JSON object instead of a table.
    """
    from .doctor import examine

    checks = examine()
    wrong = [check for check in checks if check.status == "wrong"]
    if json:
        print(dumps({"ok": not wrong, "checks": [asdict(check) for check in checks]}))
    else:
        rows = [(c.status, c.name, c.state + (f"\n-> {c.remedy}" if c.remedy else "")) for c in checks]
        print_table("longcompress doctor", rows)
    return 1 if wrong else 0
