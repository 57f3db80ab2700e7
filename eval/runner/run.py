"""A model asked questions, video by video, into files that a killed run resumes."""

import hashlib
import json
import platform
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tqdm import tqdm

from ...config import MediaConfig
from ...media.reader import Reading
from ...memory import VideoMemory
from ...model import LongCompress, spread
from ...session import Session
from ..bench.rows import version_of
from ..metrics.meteor import meteor_name
from ..tasks.files import json_text, lines_text, write_text
from ..tasks.task import Answers, Example, How, Prediction, Task, groups_of, prediction_of
from . import run_file
from .run_file import RunConfig, alone
from .score import NUM_DRAWS, problems, task_of, with_intervals
from .sources import Source

PACKAGES = ("longcompress", "torch", "transformers", "av")
ENDLESS = 1 << 40  # tokens
QUESTIONS_AT_ONCE = 8  # always the same questions: no answer may depend on where a run was killed


class Encoded(NamedTuple):
    """A video at one budget: its memory or why there is none, seconds it took, warnings of reading it."""

    memory: VideoMemory | str
    seconds: float
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Questioner:
    """What stays the same from video to video: the task's name, examples and prompt, how answers are read.

    max_new_tokens is the longest answer; None: as the model's config says.
    """

    name: str
    examples: Sequence[Example]
    prompt: str
    max_new_tokens: int | None
    how: How

    @property
    def task(self) -> Task:
        """The task of that name."""
        return task_of(self.name)

    def lines(
        self, video: Encoded, examples: Sequence[Example], done: Container[str]
    ) -> Iterator[dict[str, Any]]:
        """Lines of the examples of a video that aren't done."""
        if isinstance(memory := video.memory, str):
            yield from (
                {"id": e.id, "video": e.video, "failed": memory} for e in examples if e.id not in done
            )
            return
        ask = self.task.prompt(self.prompt)
        for at in range(0, len(examples), QUESTIONS_AT_ONCE):
            some = examples[at : at + QUESTIONS_AT_ONCE]
            if all(example.id in done for example in some):
                continue
            start_s = time.perf_counter()
            prompts = [ask(example) for example in some]
            answers = self.answers(memory, prompts)
            answer_s = (time.perf_counter() - start_s) / len(some)
            for example, prompt, answer in zip(some, prompts, answers, strict=True):
                if example.id in done:
                    continue
                value = self.task.parse(answer, example, self.how)
                yield {
                    "id": example.id,
                    "video": example.video,
                    "prompt": prompt,
                    "answer": answer,
                    "value": asdict(value) if is_dataclass(value) and not isinstance(value, type) else value,
                    "parsed": value is not None,
                    "score": self.score(example, Prediction(answer, value)),
                    "tokens": memory.num_tokens,
                    "seconds": {"encode": round(video.seconds, 3), "answer": round(answer_s, 3)},
                } | ({"warnings": list(video.warnings)} if video.warnings else {})

    def answers(self, memory: VideoMemory, prompts: Sequence[str]) -> list[str]:
        """The words of an answer to each prompt."""
        if self.task.answer is not None:
            return [self.task.answer(memory, self.max_new_tokens)] * len(prompts)
        return [a.text for a in memory.ask_all(prompts, max_new_tokens=self.max_new_tokens)]

    def score(self, example: Example, prediction: Prediction) -> dict[str, float] | None:
        """The main numbers of one example; None where only a corpus, or a judge, has a score."""
        if self.task.needs_judge:
            return None
        each = self.task.score(Answers([example], {example.id: prediction}, self.how)).each
        return {name: values[example.id] for name, values in each.items() if example.id in values} or None


Encode: TypeAlias = Callable[[str, Sequence[str]], Iterator[tuple[str, Encoded]]]  # a video, names of runs
Runs: TypeAlias = Mapping[str, tuple[Path, Mapping[str, Any]]]  # files and headers, by name
# A video's name and media to what makes its memory for a run of that name.
Read: TypeAlias = Callable[[str, Reading], Callable[[str], VideoMemory]]


def run(
    source: Source, model: LongCompress, out: str | Path, config: RunConfig | None = None, *,
    retry_failed: bool = False, num_draws: int = NUM_DRAWS,
) -> list[dict[str, Any]]:  # fmt: skip
    """The summary of a run over all examples for each budget; runs in `out` are resumed.

    Args:
        source, model, config: questions and videos, who answers them, greedily, and how.
        out: JSON lines, a header first. NAME.summary.json and the folder NAME.predictions come beside it.
            Each of several budgets has a file of its own: NAME.4096.jsonl, NAME.10pc.jsonl.
        retry_failed: ask again where a video was missing or unreadable; the new line replaces the old line.
        num_draws: of the intervals of corpus scores.

    Returns:
        Summaries: header, counts, lists of failed, missing or unparsed examples, metrics, intervals, each.
    """
    config, out = config or RunConfig(), Path(out)
    how = _how(source, config)
    budgets = config.budgets or (str(model.config.budget.tokens),)
    header = header_of(source, model, config, how) | {"budgets": list(budgets)}
    known = model.media
    if config.media != "both" and config.media not in known:
        raise ValueError(f"media must be of {', '.join(known)}, which the model takes in, got {config.media}")
    streams = known if config.media == "both" else (config.media,)
    names = [name for name, encoder in model.encoders.items() if encoder.modality in streams]
    for budget in budgets:
        if not budget.endswith("%"):
            model.check_budget(int(budget), names)
    outs = dict.fromkeys(budgets, out)
    if len(budgets) > 1:  # run.jsonl has run.10pc.jsonl
        outs = {n: out.with_name(f"{out.stem}.{n.replace('%', 'pc')}{out.suffix}") for n in budgets}
    runs = {budget: (path, header | {"budget": budget}) for budget, path in outs.items()}
    examples = source.examples[: config.limit]
    questioner = Questioner(source.task, examples, config.prompt, header["max_new_tokens"], how)
    media = replace(model.config.media, video="video" in streams, audio="audio" in streams)
    encode = partial(encoded, source, media, partial(_read, model, streams, budgets))
    run_all(questioner, runs, encode, retry_failed)
    return [summarise(questioner, path, num_draws=num_draws) for path in outs.values()]


def run_all(questioner: Questioner, runs: Runs, encode: Encode, retry_failed: bool = False) -> None:
    """Ask all examples in several runs that encode each video once, by `encode(video, names of runs)`."""
    with ExitStack() as stack:
        for out, _ in runs.values():
            stack.enter_context(alone(out))
        before = {name: run_file.open_run(*run).lines for name, run in runs.items()}
        done = {
            name: {key: line for key, line in lines.items() if not (retry_failed and "failed" in line)}
            for name, lines in before.items()
        }
        videos: dict[str, list[Example]] = {}
        for example in questioner.examples:
            videos.setdefault(example.video, []).append(example)
        # A video at a time: encoded once, asked by every run that lacks a line of it.
        for video, questions in tqdm(videos.items(), desc=questioner.name, unit="video", disable=None):
            names = [name for name in runs if any(e.id not in done[name] for e in questions)]
            for name, result in encode(video, names) if names else ():
                again, out = {}, runs[name][0]
                with out.open("ab") as file:
                    for line in questioner.lines(result, questions, done[name]):
                        if line["id"] in before[name]:
                            again[line["id"]] = line
                            continue
                        file.write(lines_text([line]).encode())  # at once: what is asked is not asked again
                        file.flush()
                if any(before[name][key] != line for key, line in again.items()):
                    run = run_file.open_run(*runs[name])
                    lines = [run.header, *(run.lines | again).values()]
                    write_text(out, lines_text(lines))


def encoded(
    source: Source, media: MediaConfig, read: Read, video: str, names: Sequence[str]
) -> Iterator[tuple[str, Encoded]]:
    """A video in some runs: `read` encodes it once, and what it returns makes the memory of each run."""
    start_s, warnings = time.perf_counter(), list[str]()
    try:
        with source.open(video, media, warnings.append) as parts:
            memory_of = read(video, parts)
    except (OSError, ValueError) as error:
        yield from ((name, Encoded(str(error), 0.0)) for name in names)
        return
    seconds = time.perf_counter() - start_s
    for name in names:
        try:
            memory: VideoMemory | str = memory_of(name)
        except ValueError as error:  # the budget may be too small for a short video
            memory = str(error)
        yield name, Encoded(memory, seconds, warnings)


def _read(
    model: LongCompress, streams: Sequence[str], budgets: Sequence[str], video: str, parts: Reading
) -> Callable[[str], VideoMemory]:
    """A video at any of the budgets, all of one session with the largest."""
    present = [kind for kind in streams if parts.streams is None or kind in parts.streams]
    if not present:
        raise ValueError(f"{parts.name} has no {' and no '.join(streams)} that could be read")
    num_raw = 0
    if any(budget.endswith("%") for budget in budgets):
        if parts.duration_s is None:
            raise ValueError("a budget in percent needs the video's length, which its file does not say")
        num_raw = model.estimate(parts.duration_s, ENDLESS).raw_tokens
    tokens = {budget: run_file.num_tokens(budget, num_raw) for budget in budgets}
    session = Session(model, max(tokens.values()), media=present)
    deque(session.run(parts), maxlen=0)
    session.close()
    if not session.stats()["raw_tokens"]:
        raise ValueError(f"{parts.name} gave neither a frame nor a sample that could be read")
    return lambda name: session.memory(tokens[name])


def header_of(source: Source, model: LongCompress, config: RunConfig, how: How) -> dict[str, Any]:
    """All that the lines of a run depend on, but the budget."""
    task, settings = task_of(source.task), model.config
    prompt = task.prompt(config.prompt)
    return {
        "format": run_file.FORMAT,
        "task": source.task,
        **source.pins,
        "prompt": config.prompt,
        "prompt_sha256": run_file.lines_hash({"id": e.id, "prompt": prompt(e)} for e in source.examples),
        "times": how.times,
        "meteor": meteor_name() if task.uses_meteor else None,
        "media": config.media,
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
        "versions": {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES},
    }


def summarise(questioner: Questioner, out: Path, *, num_draws: int = NUM_DRAWS) -> dict[str, Any]:
    """The scores of the run in `out`; written beside it, with the predictions in the benchmark's format."""
    file = run_file.read_run(out)
    assert file is not None
    task, examples, how = questioner.task, questioner.examples, questioner.how
    lines = [(example, file.answered[example.id]) for example in examples if example.id in file.answered]
    by_id = {e.id: prediction_of(line["answer"], e, how, task.parse) for e, line in lines}
    answers = Answers(examples, by_id, how)
    folder = out.with_suffix(".predictions")
    folder.mkdir(exist_ok=True)
    summary: dict[str, Any] = {
        "task": questioner.name,
        "run": out.name,
        "run_sha256": run_file.file_hash(out),
        "header": file.header,
        "predictions": list(map(str, task.write_predictions(folder, answers))),
        "num_examples": len(examples),
        "num_answered": len(by_id),
        "num_failed": len(file.failed),
        "failed": [{name: line[name] for name in ("id", "video", "failed")} for line in file.failed],
    }
    summary |= problems(answers)
    summary["groups"] = {
        f"{kind}/{name}": ids
        for kind, members in groups_of(examples).items()
        for name, ids in members.items()
    }
    if task.needs_judge:
        note = "scored by a judge: longcompress eval score with --judge-url and --judge-model"
        summary |= {"metrics": {}, "intervals": {}, "each": {}, "note": note}
    else:
        scored = task.score(answers)
        summary |= with_intervals(examples, scored, num_draws=num_draws) | {"each": scored.each}
    write_text(run_file.summary_path(out), json_text(summary))
    return summary


def _how(source: Source, config: RunConfig) -> How:
    """How answers to the prompt are read; what would fail after hours fails now."""
    times = config.times or task_of(source.task).times.get(config.prompt, "seconds")
    unknown = next((e.video for e in source.examples if not e.duration_s or e.duration_s <= 0), None)
    if times == "hundredths" and unknown is not None:
        raise ValueError(
            f"answers to prompt {config.prompt!r} are in hundredths and need the length of {unknown!r}, "
            "which the reference doesn't have; give --durations FILE"
        )
    return How(times=times)


def _model_hash(model: LongCompress) -> str:
    """A hash of the config and of samples of all weights; `identity` omits projectors and language model."""
    digest = hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(spread(value).double().cpu().numpy().tobytes())
    return digest.hexdigest()
