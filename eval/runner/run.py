"""A model asked questions, video by video, into a file that a killed run goes on from."""

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from longcompress.config import to_dict
from longcompress.memory import VideoMemory
from longcompress.model import LongCompress
from longcompress.session import KINDS_OF_MEDIA, Session, media_of

from ..metrics.captions import WhichMeteor
from ..metrics.captions import meteor as meteor_of
from ..tasks.files import write_json, write_lines
from ..tasks.spoken import write_spoken
from ..tasks.synthetic import Drawn
from ..tasks.task import Example, How, Predictions, Said
from ..tasks.video_chatgpt import KINDS
from .ask import QUESTIONS_AT_ONCE, QuestionSampling, answered, by_video, unread
from .locks import alone
from .run_file import FORMAT, RunConfig, begin, file_hash, line_of, read_run, replace_lines, summary_path
from .score import NUM_DRAWS, lost, task_of, told
from .sources import Source, from_files, from_scenes

JUDGED = ("magqa", "video-chatgpt")  # without a judge they have no score
CAPTIONED = ("activitynet-dense", "youcook2", "longvale-dvc", "longvale-sc", "avsd")  # scored with METEOR
PACKAGES = ("longcompress", "torch", "transformers", "av")


def run(
    task: str,
    gold: Sequence[str | Path],
    videos: str | Path,
    model: LongCompress,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    meteor: WhichMeteor = "auto",
    retry_failed: bool = False,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """The summary of a run over all examples of a benchmark; see `run_on`.

    Args:
        task: a key of TASKS.
        gold: the benchmark's files.
        videos: the folder of its videos, in which they may lie deeper.
        model: what compresses and answers, greedily.
        out: JSON lines, a header first.
        config: what it is made with.
        meteor: which METEOR lines and summary have.
        retry_failed: ask again where a video was missing or could not be read.
        num_draws: of the intervals of corpus scores.

    Raises:
        ValueError: `out` was begun with something else; what can't be asked or taken in.
    """
    config = config or RunConfig()
    source = from_files(task, gold, videos, durations=config.durations)
    return run_on(source, model, out, config, meteor=meteor, retry_failed=retry_failed, num_draws=num_draws)


def run_drawn(
    task: str,
    drawn: Drawn,
    model: LongCompress,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """The summary of a run over drawn videos; see `run_on`.

    Args:
        task: a key of TASKS whose videos are drawn: "needle", "synthetic QA".
        drawn: which videos.
        model: what compresses and answers, greedily.
        out: JSON lines, a header first.
        config: what it is made with; streams "frame" shows videos without their audio.
        num_draws: of the intervals of corpus scores.
    """
    return run_on(from_scenes(task, drawn), model, out, config, num_draws=num_draws)


def run_on(
    source: Source,
    model: LongCompress,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    meteor: WhichMeteor = "auto",
    retry_failed: bool = False,
    num_draws: int = NUM_DRAWS,
) -> dict[str, Any]:
    """The summary of a run over all examples; the run is begun, or gone on with, in `out`.

    Args:
        source: what is asked about, and the videos.
        model: what compresses and answers, greedily.
        out: JSON lines, a header first. Beside it come NAME.summary.json and the folder NAME.predictions.
        config: what it is made with.
        meteor: which METEOR lines and summary have.
        retry_failed: ask again where a video was missing or could not be read; what comes of it takes the place
            of the line that was there.
        num_draws: of the intervals of corpus scores.

    Returns:
        The summary: header, counts and lists of what is lost, missing or unparsed, metrics, intervals, each.

    Raises:
        ValueError: `out` was begun with something else, or another run writes to it; what can't be asked or
            taken in.
    """
    config, out = config or RunConfig(), Path(out)
    how = _how(source, config, meteor)
    header = header_of(source, model, config, how)
    streams = _streams(model, config)
    names = [name for name, encoder in model.encoders.items() if KINDS_OF_MEDIA[encoder.takes] in streams]
    model.compressor.check(header["budget"], names)
    examples = source.examples[: config.limit]
    task = task_of(source.task)
    question_sampling = QuestionSampling(
        task, config.prompt, header["max_new_tokens"], how, source.task in JUDGED
    )
    with alone(out):
        there = begin(out, header).lines
        done = {key: line for key, line in there.items() if not (retry_failed and "lost" in line)}
        for video, questions in tqdm(
            by_video(examples).items(), desc=source.task, unit="video", disable=None
        ):
            if all(one.id in done for one in questions):
                continue
            again: dict[str, dict[str, Any]] = {}
            with out.open("ab") as file:
                for line in _ask_video(
                    source, model, header, streams, question_sampling, video, questions, done
                ):
                    if line["id"] in there:
                        again[line["id"]] = line
                        continue
                    file.write(line_of(line))
                    file.flush()
            if any(there[key] != line for key, line in again.items()):
                replace_lines(out, again)
        return summarise(source.task, examples, out, how, num_draws=num_draws)


def header_of(source: Source, model: LongCompress, config: RunConfig, how: How) -> dict[str, Any]:
    """All that the lines of a run depend on."""
    prompt = task_of(source.task).prompts[config.prompt]
    digest = hashlib.sha256()
    for one in source.examples:
        digest.update(line_of({"id": one.id, "prompt": prompt(one)}))
    settings = model.config
    return {
        "format": FORMAT,
        "task": source.task,
        **source.pins,
        "prompt": config.prompt,
        "prompt_sha256": digest.hexdigest(),
        "times": how.times,
        "meteor": meteor_of(how.meteor).name if source.task in CAPTIONED else None,
        "budget": config.budget or settings.budget.tokens,
        "streams": config.streams,
        "max_new_tokens": config.max_new_tokens or settings.llm.max_new_tokens,
        "limit": config.limit,
        "num_examples": len(source.examples[: config.limit]),
        "model": settings.name,
        "model_sha256": _model_hash(model),
        "rate_fps": settings.media.rate_fps,
        "size_px": settings.media.size_px,
        "device": model.device.type,
        "dtype": str(next(model.llm.parameters()).dtype).removeprefix("torch."),
        "questions_at_once": QUESTIONS_AT_ONCE,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def summarise(
    task: str, examples: Sequence[Example[Any]], out: Path, how: How, *, num_draws: int = NUM_DRAWS
) -> dict[str, Any]:
    """What the run in `out` is worth; written beside it, with the predictions in the benchmark's format.

    Args:
        task: a key of TASKS.
        examples: those that were asked.
        out: the run's file, with a line for each.
        how: how its answers are read, and the METEOR.
        num_draws: of the intervals of corpus scores.
    """
    found = read_run(out)
    assert found is not None
    one = task_of(task)
    said = {
        key.id: Said(text, one.parse(text, key, how))
        for key in examples
        if key.id in found.answered
        for text in [found.lines[key.id]["answer"]]
    }
    summary: dict[str, Any] = {
        "task": task,
        "run": out.name,
        "run_sha256": file_hash(out),
        "header": found.header,
        "predictions": [str(path) for path in _write_predictions(task, out, examples, said, how)],
        "num_examples": len(examples),
        "num_answered": len(said),
        "num_lost": len(found.lost),
        "lost": [{name: line[name] for name in ("id", "video", "lost")} for line in found.lost.values()],
    }
    summary |= lost(examples, Predictions(said))
    if task in JUDGED:
        note = "scored by a judge: longcompress eval score with --judge-url and --judge-model"
        summary |= {"metrics": {}, "intervals": {}, "each": {}, "note": note}
    else:
        scored = one.score(examples, said, how)
        summary |= told(examples, scored, num_draws=num_draws) | {"each": scored.each}
    write_json(summary_path(out), summary)
    return summary


def _how(source: Source, config: RunConfig, meteor: WhichMeteor) -> How:
    """How answers to the prompt are read; what would fail after hours fails now."""
    one = task_of(source.task)
    if config.prompt not in one.prompts:
        raise ValueError(
            f"prompt must be one of {', '.join(one.prompts)} of {source.task}, got {config.prompt!r}"
        )
    times = config.times or one.times.get(config.prompt, "seconds")
    unknown = next((e.video for e in source.examples if not e.duration_s or e.duration_s <= 0), None)
    if times == "hundredths" and unknown is not None:
        raise ValueError(
            f"answers to prompt {config.prompt!r} are in hundredths and need the length of {unknown!r}, "
            "which the gold doesn't have; give --durations FILE"
        )
    return How(times=times, meteor=meteor)


def _streams(model: LongCompress, config: RunConfig) -> tuple[str, ...]:
    known = media_of(model)
    if config.streams == "both":
        return known
    if config.streams not in known:
        raise ValueError(
            f"streams must be of {', '.join(known)}, which the model takes in, got {config.streams}"
        )
    return (config.streams,)


def _ask_video(
    source: Source, model: LongCompress, header: Mapping[str, Any], streams: tuple[str, ...], question_sampling: QuestionSampling,
    video: str, examples: Sequence[Example[Any]], done: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Lines of the examples of one video that aren't done."""
    begun = time.perf_counter()
    warned: list[str] = []
    memory = _compress(source, model, header["budget"], streams, video, warned)
    compress_s = time.perf_counter() - begun
    if isinstance(memory, str):
        yield from unread(examples, done, memory)
    else:
        yield from answered(question_sampling, memory, examples, done, compress_s, warned)


def _compress(
    source: Source, model: LongCompress, budget: int, streams: tuple[str, ...], video: str, warned: list[str]
) -> VideoMemory | str:
    """The memory of a video, or why it can't be read; `warned` takes what reading complains of."""
    config = replace(model.config.media, video="video" in streams, audio="audio" in streams)
    try:
        with source.open(video, config, warned.append) as parts:
            come = [kind for kind in streams if parts.streams is None or kind in parts.streams]
            if not come:
                return f"{parts.name} has no {' and no '.join(streams)} that could be read"
            session = Session(model, budget, streams=come)
            for part in parts:
                session.push(part)
            name = parts.name
    except (OSError, ValueError) as error:
        return str(error)
    session.close()
    if not session.stats()["raw_tokens"]:
        return f"{name} gave neither a frame nor a sample that could be read"
    return session.memory()


def _write_predictions(
    task: str, out: Path, examples: Sequence[Example[Any]], said: Mapping[str, Said[Any]], how: How
) -> list[Path]:
    """Files that `eval score` reads: the benchmark's own format, or our lines where that is in hundredths."""
    folder = out.with_suffix(".predictions")
    folder.mkdir(exist_ok=True)
    one = task_of(task)
    if task == "video-chatgpt":
        kinds = {kind for example in examples for name, kind in example.groups if name == "file"}
        paths = [folder / f"{kind}_pred.json" for kind in KINDS if kind in kinds]
    else:
        paths = [folder / "predictions.json"]
    if getattr(one.write_predictions, "func", None) is write_spoken and how.times != "hundredths":
        paths = [folder / "predictions.jsonl"]
        write_lines(paths[0], [{"id": key, "answer": some.text} for key, some in said.items()])
        return paths
    for path in paths:
        one.write_predictions(path, examples, said)
    return paths


def _model_hash(model: LongCompress) -> str:
    """A hash of the config and of samples of all weights; `identity` leaves projectors and language model out."""
    digest = hashlib.sha256(json.dumps(to_dict(model.config), sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        at = torch.linspace(0, max(0, len(flat) - 1), min(64, len(flat))).long().to(flat.device)
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(flat[at].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
