"""Videos played as streams, each with a standing request: `eval run TASK --live`.

Arms, side by side: "live" is a live session; "recent" the same without a past; "segments" answers at each end
of a segment and "random" as often as "live" spoke, at random, both from the live context; "poll" asks the
memory every so many seconds. Each has a file of its own, which the same command resumes. Costs are CPU times
of the thread that reads, without those of making or decoding the video; of requests that stand together each
has its share.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...config_live import POLL, LiveConfig
from ...media.reader import Reading
from ...model import LongCompress
from ...session import Session
from ...session_events import Asked, Dropped, Reply, ReplyPart, Scored, SegmentClosed, SessionEvent
from ...threads import single_thread
from ...types import Audio, Frames
from ..tasks.files import json_text, lines_text, write_text
from ..tasks.played import line_of
from ..tasks.task import DEFAULT, Example, How, Task
from . import run_file
from .run import header_of
from .run_file import RunConfig
from .score import NUM_DRAWS, problems, task_of, with_intervals
from .sources import Source

ARMS = ("live", "recent", "segments", "random", "poll")
PLANNED = ("segments", "random")  # these take times from the lines of "live"


@dataclass(frozen=True)
class LiveArms:
    """What is played.

    Attributes:
        arms: of live, recent (without a past), segments (an answer at each end of a segment), random (as many
            answers at random times), poll (the memory is asked again and again).
        poll_s: seconds between questions of poll.
        together: all requests of a video stand in one session; each has a session of its own otherwise.
    """

    arms: tuple[str, ...] = ("live",)
    poll_s: float = 5.0
    together: bool = False

    def __post_init__(self) -> None:
        if not self.arms or {*self.arms} - {*ARMS} or len({*self.arms}) < len(self.arms):
            raise ValueError(f"arms must be some of {ARMS}, each once, got {self.arms}")
        if {*PLANNED} & {*self.arms} and "live" not in self.arms:
            raise ValueError(f"arms {PLANNED} take their times from live; add live, got {self.arms}")
        if self.together and {*PLANNED} & {*self.arms}:
            raise ValueError(f"arms {PLANNED} are of a session for each request; leave out --together")
        if not 0 < self.poll_s < math.inf:
            raise ValueError(f"poll_s must be > 0 seconds, got {self.poll_s}")


def run_live(
    source: Source, model: LongCompress, out: str | Path, config: RunConfig, arms: LiveArms, *,
    retry_failed: bool = False, num_draws: int = NUM_DRAWS,
) -> list[dict[str, Any]]:  # fmt: skip
    """The summary of each arm; files in `out` are resumed.

    Args:
        source, model, config, out, retry_failed, num_draws: as for `run`; a live session has no budget.
        arms: what is played.

    Raises:
        ValueError: the task can't be played, or an option has no meaning here.
    """
    out, task = Path(out), task_of(source.task)
    if task.request is None:
        raise ValueError(f"task {source.task} has no request that stands; leave out --live")
    if config.budgets or config.max_new_tokens:
        raise ValueError("live sessions have --live.past and --live.max_reply_tokens; leave out --budgets "
                         "and --max-new-tokens")  # fmt: skip
    how = How(times=config.times or task.times.get(config.prompt, "seconds"))
    live = model.config.live.for_heads(getattr(model.llm, "heads", None) is not None)
    if arms.together and live.heads_of == "last" and POLL not in live.trigger.heads:
        raise ValueError(
            "together needs scores about all requests that stand, got those of heads about the last: "
            'set live.heads_of to "all" for a model that was trained so, or leave out --together'
        )
    examples = source.examples[: config.limit]
    done: Mapping[str, Mapping[str, Any]] = {}
    outs = {
        arm: out if arm == arms.arms[0] else out.with_name(f"{out.stem}.{arm}{out.suffix}")
        for arm in arms.arms
    }
    summaries = []
    with ExitStack() as stack:
        for path in outs.values():
            stack.enter_context(run_file.alone(path))
        for arm in sorted(outs, key=ARMS.index):  # "live" before those that take times from it
            header = header_of(source, model, config, how) | {
                "arm": arm, "live": asdict(live), "poll_s": arms.poll_s if arm == "poll" else None,
                "together": arms.together,
            }  # fmt: skip
            before = run_file.open_run(outs[arm], header)
            lines: dict[str, Mapping[str, Any]] = {
                k: x for k, x in before.lines.items() if not (retry_failed and "failed" in x)
            }
            if len(lines) < len(before.lines):
                write_text(outs[arm], lines_text([before.header, *lines.values()]))
            play = _Play(task, model, live, arm, arms.poll_s, config.media, done)
            groups: dict[str, list[Example]] = {}
            for example in examples:
                groups.setdefault(example.video if arms.together else example.id, []).append(example)
            for some in tqdm(groups.values(), desc=f"{source.task} {arm}", unit="session", disable=None):
                if new := {example.id for example in some} - {*lines}:
                    played = [line for line in _lines(source, play, some) if line["id"] in new]
                    lines |= {line["id"]: line for line in played}
                    with outs[arm].open("ab") as file:
                        file.write(lines_text(played).encode())
            done = lines if arm == "live" else done
            summaries.append(_summary(task, source.task, examples, outs[arm], header, lines, how, num_draws))
    return summaries


@dataclass(frozen=True)
class _Play:
    """What stays the same from video to video; `live` are the lines of that arm."""

    task: Task
    model: LongCompress
    config: LiveConfig
    arm: str
    poll_s: float
    media: str
    live: Mapping[str, Mapping[str, Any]]

    def times_s(self, example: Example) -> list[float]:
        """When an answer is asked for, of PLANNED arms."""
        line = self.live[example.id]
        if "failed" in line:
            raise ValueError(f"arm live failed: {line['failed']}")
        if self.arm == "segments":
            return list(line["segments_s"])
        seed = list(example.id.encode())
        num, end_s = len(line["model_response_list"]), line["video_duration"]
        return sorted(np.random.default_rng(seed).uniform(0, end_s, num).tolist())


def _lines(source: Source, play: _Play, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The lines of examples that stand together: MMDuet's, and ends of segments, seconds of CPU, what was
    dropped."""
    video = examples[0].video
    known = play.model.media
    streams = known if play.media == "both" else (play.media,)
    media = replace(play.model.config.media, video="video" in streams, audio="audio" in streams)
    warnings = list[str]()
    try:
        with source.open(video, media, warnings.append) as parts:
            present = [kind for kind in streams if parts.streams is None or kind in parts.streams]
            lines = (_polled if play.arm == "poll" else _live)(play, examples, parts, present)
    except (OSError, ValueError) as error:
        return [{"id": example.id, "video": video, "failed": str(error)} for example in examples]
    after = {"warnings": warnings} if warnings else {}
    return [
        {"id": example.id, "question_id": example.id, "video": video} | line | after
        for example, line in zip(examples, lines, strict=True)
    ]


def _live(
    play: _Play, examples: Sequence[Example], parts: Reading, media: Sequence[str]
) -> list[dict[str, Any]]:
    config = replace(play.config, past=0) if play.arm == "recent" else play.config
    session = Session(play.model, media=media, patience_s=math.inf, live=config)
    assert play.task.request is not None
    events = list[SessionEvent]()
    with single_thread():
        clock = _Clock(parts)
        for example in examples:
            request = play.task.request(example)
            if play.arm in PLANNED:
                for time_s in play.times_s(example):
                    events += session.push_text(request, time_s)
            else:
                events += session.push_text(request, 0.0, reply="may")
        for part in clock:
            events += session.push(part)
            for modality in session.encoder.media:
                events += session.reach(modality, parts.reached_s.get(modality, 0.0))
        events += session.close()
    shared = {
        "segments_s": [event.end_s for event in events if isinstance(event, SegmentClosed)],
        "dropped": sum(isinstance(event, Dropped) for event in events),
        "seconds": {"cpu": round(clock.seconds() / len(examples), 3)},
    }
    scored = [event for event in events if isinstance(event, Scored) and event.request is not None]
    replies, told_s = list[tuple[float, Reply]](), dict[int | None, float]()
    for event in events:  # a reply counts from its first word, which may come later than what it has seen
        if isinstance(event, ReplyPart):
            told_s.setdefault(event.request, event.time_s)
        elif isinstance(event, Reply):
            time_s = told_s.pop(event.request, event.time_s)
            replies += [] if event.is_repeat else [(time_s, event)]
    numbers: list[int | None] = [None]  # replies that nobody asked for count where there is one request
    if len(examples) > 1:
        numbers = [event.request for event in events if isinstance(event, Asked)]
    lines = []
    for number in numbers:
        steps = [event for event in scored if number in (None, event.request)]
        answers = [(t, event.answer.text) for t, event in replies if number in (None, event.request)]
        line = line_of(
            answers, [event.time_s for event in steps], [event.scores for event in steps],
            session.encoder.end_s,
        )  # fmt: skip
        lines.append(line | {"fired_s": [event.time_s for event in steps if event.fired]} | shared)
    return lines


def _polled(
    play: _Play, examples: Sequence[Example], parts: Reading, media: Sequence[str]
) -> list[dict[str, Any]]:
    session = Session(play.model, media=media, patience_s=math.inf)
    prompts, tells = [play.task.prompts[DEFAULT](example) for example in examples], play.task.tells
    last, replies = [""] * len(examples), [list[tuple[float, str]]() for _ in examples]
    with single_thread():
        clock = _Clock(parts)
        for number, stretch in enumerate(stretches(clock, play.poll_s, media), 1):
            for part in stretch:
                session.push(part)
            now_s = min(number * play.poll_s, session.encoder.end_s)
            if not session.encoder.end_s:
                continue
            for i, prompt in enumerate(prompts):
                text = session.ask(prompt).text
                if tells(text, now_s - play.poll_s, now_s) if tells else text != last[i]:
                    replies[i].append((now_s, text))
                last[i] = text
    seconds = {"cpu": round(clock.seconds() / len(examples), 3)}
    return [line_of(answers, [], [], session.encoder.end_s) | {"seconds": seconds} for answers in replies]


class _Clock(Iterator[Frames | Audio]):
    """Parts, and the CPU seconds of this thread since then without those that they took."""

    def __init__(self, parts: Reading) -> None:
        self._parts, self._start_s, self._own_s = parts, time.thread_time(), 0.0

    def __next__(self) -> Frames | Audio:
        start_s = time.thread_time()
        try:
            return next(self._parts)
        finally:
            self._own_s += time.thread_time() - start_s

    def seconds(self) -> float:
        """See above."""
        return time.thread_time() - self._start_s - self._own_s


def stretches(
    parts: Iterator[Frames | Audio], length_s: float, media: Sequence[str]
) -> Iterator[list[Frames | Audio]]:
    """Parts cut at multiples of length_s, all of a stretch together; stretches without any are empty."""
    waiting: dict[int, list[Frames | Audio]] = {}
    end_s, number = dict.fromkeys(media, 0.0), 0
    for part in parts:
        if part.modality not in end_s:
            continue
        end_s[part.modality] = part.end_s
        while len(part):
            at = math.floor(part.start_s / length_s + 1e-9)
            stop_s = (at + 1) * length_s
            if isinstance(part, Frames):
                num = max(1, int((part.time_s < stop_s - 1e-9).sum()))
            else:
                num = max(1, min(len(part), math.ceil((stop_s - part.start_s) * part.rate_hz - 1e-3)))
            waiting.setdefault(at, []).append(part.cut(0, num))
            part = part.cut(num, len(part))
        while (number + 1) * length_s <= min(end_s.values()):
            yield waiting.pop(number, [])
            number += 1
    for at in range(number, max(waiting, default=-1) + 1):
        yield waiting.pop(at, [])


def _summary(
    task: Task, name: str, examples: Sequence[Example], out: Path, header: Mapping[str, Any],
    lines: Mapping[str, Mapping[str, Any]], how: How, num_draws: int,
) -> dict[str, Any]:  # fmt: skip
    """Scores of the predictions as the task's own reader reads them, and costs; written beside the run."""
    folder = out.with_suffix(".predictions")
    folder.mkdir(exist_ok=True)
    path = folder / "played.jsonl"
    names = ("question_id", "video", "model_response_list", "video_duration", "debug_data")
    answered = [line for line in lines.values() if "failed" not in line]
    write_text(path, lines_text({name: line[name] for name in names} for line in answered))
    failed = [dict(line) for line in lines.values() if "failed" in line]
    media_s = sum(line["video_duration"] for line in answered)
    cpu_s = sum(line["seconds"]["cpu"] for line in answered)
    summary: dict[str, Any] = {
        "task": name, "arm": header["arm"], "run": out.name, "header": dict(header),
        "predictions": [str(path)], "num_examples": len(examples), "num_answered": len(answered),
        "num_failed": len(failed), "failed": failed,
        "cost": {
            "cpu_s": round(cpu_s, 3), "media_s": round(media_s, 3),
            "real_time_factor": cpu_s / media_s if media_s else None,
            "replies": sum(len(line["model_response_list"]) for line in answered),
        },
    }  # fmt: skip
    answers = task.read_predictions([path], examples, how) if answered else None
    if answers is None or task.needs_judge:
        note = "scored by a judge: longcompress eval score with --judge-url and --judge-model"
        summary |= {"metrics": {}, "intervals": {}, "each": {}} | ({"note": note} if answers else {})
        summary |= {name: [] for name in ("missing", "unknown", "duplicate", "unparsed")}
    else:
        scored = task.score(answers)
        summary |= problems(answers) | with_intervals(examples, scored, num_draws=num_draws)
        summary |= {"each": scored.each}
    write_text(run_file.summary_path(out), json_text(summary))
    return summary
