"""A model asked a benchmark's questions, film by film, into a file that a killed run goes on from."""

import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from longcompress import media
from longcompress.config import to_dict
from longcompress.memory import VideoMemory
from longcompress.model import LongCompress
from longcompress.session import KINDS_OF_MEDIA, Session, media_of

from .metrics.captions import WhichMeteor
from .run_file import FORMAT, RunConfig, begin, file_hash, line_of, read_run, summary_path
from .score import lost, read_examples, task_of, told
from .tasks.files import write_json, write_lines
from .tasks.spoken import write_spoken
from .tasks.task import Example, How, Predictions, Said, Task
from .tasks.video_chatgpt import KINDS

QUESTIONS_AT_ONCE = 8  # always the same ones together: an answer must not depend on where a run was killed
JUDGED = ("magqa", "video-chatgpt")  # without a judge they have no score
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wav", ".mp3", ".flac")
PACKAGES = ("longcompress", "torch", "transformers", "av")


@dataclass(frozen=True)
class _Asking:
    """What stays the same from film to film."""

    task: Task[Any, Any]
    model: LongCompress
    header: Mapping[str, Any]
    streams: tuple[str, ...]
    how: How


def run(
    task: str,
    gold: Sequence[str | Path],
    videos: str | Path,
    model: LongCompress,
    out: str | Path,
    config: RunConfig | None = None,
    *,
    meteor: WhichMeteor = "auto",
) -> dict[str, Any]:
    """The summary of a run over all examples; the run is begun, or gone on with, in `out`.

    Args:
        task: a key of TASKS.
        gold: the benchmark's files.
        videos: the folder of its films, in which they may lie deeper.
        model: what watches and answers, greedily.
        out: JSON lines, a header first. Beside it come NAME.summary.json and the folder NAME.predictions.
        config: what it is made with.
        meteor: which METEOR the summary has.

    Returns:
        The summary: header, counts and lists of what is lost, missing or unparsed, metrics, intervals, each.

    Raises:
        ValueError: `out` was begun with something else; what can't be asked or taken in.
    """
    config, out = config or RunConfig(), Path(out)
    asked_all = read_examples(task, gold, durations=config.durations)
    how = _how(task, asked_all, config, meteor)
    films = _films(Path(videos), {one.video for one in asked_all})
    header = header_of(task, gold, asked_all, model, config)
    streams = _streams(model, config)
    names = [name for name, tower in model.towers.items() if KINDS_OF_MEDIA[tower.takes] in streams]
    model.compressor.check(header["budget"], names)
    examples = asked_all[: config.limit]
    done = begin(out, header)
    by_film: dict[str, list[Example[Any]]] = {}
    for one in examples:
        by_film.setdefault(one.video, []).append(one)
    asking = _Asking(task_of(task), model, header, streams, how)
    with out.open("ab") as file:
        for film, questions in tqdm(by_film.items(), desc=task, unit="film", disable=None):
            if all(one.id in done.lines for one in questions):
                continue
            source = films.get(film, f"no film {film!r} in {videos}")
            for line in _ask_film(asking, source, questions, done.lines):
                file.write(line_of(line))
                file.flush()
    return summarise(task, examples, out, how)


def header_of(
    task: str,
    gold: Sequence[str | Path],
    examples: Sequence[Example[Any]],
    model: LongCompress,
    config: RunConfig,
) -> dict[str, Any]:
    """All that the answers of a run depend on.

    Args:
        task: a key of TASKS.
        gold: the benchmark's files.
        examples: all of the gold, before a limit.
        model: what will answer.
        config: what the run is made with.
    """
    prompt = task_of(task).prompts[config.prompt]
    digest = hashlib.sha256()
    for one in examples:
        digest.update(line_of({"id": one.id, "prompt": prompt(one)}))
    settings = model.config
    return {
        "format": FORMAT,
        "task": task,
        "gold": [Path(path).name for path in gold],
        "gold_sha256": [file_hash(Path(path)) for path in gold],
        "durations_sha256": file_hash(Path(config.durations)) if config.durations else None,
        "prompt": config.prompt,
        "prompt_sha256": digest.hexdigest(),
        "budget": config.budget or settings.budget.tokens,
        "streams": config.streams,
        "max_new_tokens": config.max_new_tokens or settings.host.max_new_tokens,
        "limit": config.limit,
        "num_examples": len(examples[: config.limit]),
        "model": settings.name,
        "model_sha256": _model_hash(model),
        "rate_fps": settings.media.rate_fps,
        "size_px": settings.media.size_px,
        "device": model.device.type,
        "dtype": str(next(model.host.parameters()).dtype).removeprefix("torch."),
        "questions_at_once": QUESTIONS_AT_ONCE,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def summarise(task: str, examples: Sequence[Example[Any]], out: Path, how: How) -> dict[str, Any]:
    """What the run in `out` is worth; written beside it, with the predictions in the benchmark's format.

    Args:
        task: a key of TASKS.
        examples: those that were asked.
        out: the run's file, with a line for each.
        how: how its answers are read, and the METEOR.
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
        summary |= told(examples, scored) | {"each": scored.each}
    write_json(summary_path(out), summary)
    return summary


def _how(task: str, examples: Sequence[Example[Any]], config: RunConfig, meteor: WhichMeteor) -> How:
    """How answers to the prompt are read; what would fail after hours fails now."""
    one = task_of(task)
    if config.prompt not in one.prompts:
        raise ValueError(f"prompt must be one of {', '.join(one.prompts)} of {task}, got {config.prompt!r}")
    times = one.times.get(config.prompt, "seconds")
    unknown = next((e.video for e in examples if not e.duration_s or e.duration_s <= 0), None)
    if times == "hundredths" and unknown is not None:
        raise ValueError(
            f"answers to prompt {config.prompt!r} are in hundredths and need the length of {unknown!r}, "
            "which the gold doesn't have; give --durations FILE"
        )
    return How(times=times, meteor=meteor)


def _films(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Wanted films below a folder, by name without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"videos must be a folder that is there, got {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.stem not in wanted:
            continue
        if path.stem in found:
            raise ValueError(
                f"videos: {path.stem!r} is there twice, {found[path.stem]} and {path}; remove one"
            )
        found[path.stem] = path
    return found


def _streams(model: LongCompress, config: RunConfig) -> tuple[str, ...]:
    known = media_of(model)
    if config.streams == "both":
        return known
    if config.streams not in known:
        raise ValueError(
            f"streams must be of {', '.join(known)}, which the model takes in, got {config.streams}"
        )
    return (config.streams,)


def _ask_film(
    asking: _Asking, source: Path | str, examples: Sequence[Example[Any]], done: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Lines of the examples of one film that aren't done; `source` is its file, or why there is none."""
    begun = time.perf_counter()
    warned: list[str] = []
    memory = source if isinstance(source, str) else _watch(asking, source, warned)
    watch_s = time.perf_counter() - begun
    if isinstance(memory, str):
        yield from ({"id": e.id, "video": e.video, "lost": memory} for e in examples if e.id not in done)
        return
    task, header = asking.task, asking.header
    ask = task.prompts[header["prompt"]]
    for at in range(0, len(examples), QUESTIONS_AT_ONCE):
        some = examples[at : at + QUESTIONS_AT_ONCE]
        if all(one.id in done for one in some):
            continue
        begun = time.perf_counter()
        prompts = [ask(one) for one in some]
        answers = memory.ask_all(prompts, max_new_tokens=header["max_new_tokens"])
        answer_s = (time.perf_counter() - begun) / len(some)
        for one, prompt, answer in zip(some, prompts, answers, strict=True):
            if one.id in done:
                continue
            value = task.parse(answer.text, one, asking.how)
            line = {
                "id": one.id,
                "video": one.video,
                "prompt": prompt,
                "answer": answer.text,
                "value": asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
                "parsed": value is not None,
                "tokens": memory.num_tokens,
                "seconds": {"watch": round(watch_s, 3), "answer": round(answer_s, 3)},
            }
            yield line | ({"warnings": warned} if warned else {})


def _watch(asking: _Asking, film: Path, warned: list[str]) -> VideoMemory | str:
    """The memory of a film, or why it can't be read; `warned` takes what reading complains of."""
    model, streams = asking.model, asking.streams
    config = replace(model.config.media, pictures="picture" in streams, sound="sound" in streams)
    try:
        with media.read(film, config, on_warning=warned.append) as parts:
            come = [kind for kind in streams if parts.streams is None or kind in parts.streams]
            if not come:
                return f"{film} has no {' and no '.join(streams)} that could be read"
            session = Session(model, asking.header["budget"], streams=come)
            for part in parts:
                session.push(part)
    except (OSError, ValueError) as error:
        return str(error)
    session.close()
    if not session.stats()["raw_tokens"]:
        return f"{film} gave neither a picture nor a sample that could be read"
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
    """A hash of the config and of samples of all weights; `identity` leaves projectors and host out."""
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
