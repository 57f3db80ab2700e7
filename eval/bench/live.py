"""A live session at work: `longcompress bench live`.

    longcompress bench live --out eval/results/live.csv --seconds 120
    longcompress bench live --hours 10

Times are CPU times of the thread that reads, so other work on the machine does not count. "heads": two heads,
newly initialised where the model has none (they cost the same). "poll": the model is asked about a request
after each step. Nothing is said, but for the questions whose first token is timed.

`--hours 10` instead plays so many hours of a frame a second whose features are known already, and gives the
slope of this process's memory behind the first fifth, and the time of a step in the first and last tenth.
"""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...config_live import LiveConfig, TriggerConfig
from ...llm.heads import SPREAD, ScoreHeads
from ...presets import load
from ...session import Session
from ...session_events import Scored
from ...synthetic.scenes import audio, frames, make_scene
from ...threads import single_thread
from ...types import Audio, Encoded, Frames
from .rows import Recorder, Row
from .timer import resident_mb

REQUEST, QUESTION = "Tell me when the red ball appears.", "What is seen?"
WARM_UP = 0.2  # of the hours, in which memory may grow
EVERY = 10  # steps between questions


def bench_live(
    out: str | None = None, model: str = "tiny", seconds: float = 120.0, hours: float = 0.0,
    near_s: float = 20.0, past: int = 1024,
) -> int:  # fmt: skip
    """Time the steps of a live session, or its hours; exit code 1 if that failed.

    Args:
        out: CSV file of the figures; its rows of the same groups are replaced.
        model: preset, folder or hub name.
        seconds: of media, at the model's rate with audio.
        hours: of media without audio, of known features; 0 for none.
        near_s: as live.near_s.
        past: as live.past.
    """
    suite = "live hours" if hours else "live"
    recorder = Recorder(out, "cpu", [suite])
    settings = {"model": model, "near_s": near_s, "past": past}
    for score in ("heads",) if hours else ("heads", "poll"):
        length = hours or seconds
        row = Row(suite, score, x_name="hours" if hours else "seconds", x=length, settings=settings)
        recorder.run(row, _hours if hours else _steps, LiveConfig(near_s=near_s, past=past), model)
    return int(recorder.num_failed > 0)


def _session(model: Any, score: str, live: LiveConfig, media: list[str] | None = None) -> Session:
    """A session in which nothing fires."""
    if score == "heads" and model.llm.heads is None:
        torch.manual_seed(0)
        width = model.llm.lm.get_input_embeddings().weight.shape[1]
        model.llm.heads = ScoreHeads(width, SPREAD)
    name = "relevance" if score == "heads" else "poll"
    session = Session(model, media=media, live=replace(live, trigger=TriggerConfig("single", 1.0, (name,))))
    session.push_text(REQUEST, reply="may")
    return session


@torch.no_grad()
def _steps(row: Row, live: LiveConfig, name: str) -> Iterator[Row]:
    model = load(name, device="cpu")
    live = replace(live, max_reply_tokens=1, poll_yes="", poll_no="No")
    session, media, scene = _session(model, row.case, live), model.config.media, make_scene(0, row.x)
    times = np.arange(0, row.x, 1 / media.rate_fps)
    pixels, took, first = frames(scene, times, size_px=media.size_px), [], []
    with single_thread():
        start_s = time.thread_time()
        for number, time_s in enumerate(times):
            step_s = 1 / media.rate_fps
            heard = torch.from_numpy(audio(scene, float(time_s), float(time_s) + step_s))
            begin_s = time.thread_time()
            shown = torch.tensor([time_s], dtype=torch.float64)
            session.push(Frames(torch.from_numpy(pixels[number : number + 1]), shown, step_s))
            events = session.push(Audio(heard, float(time_s), media.rate_hz))
            if any(isinstance(event, Scored) for event in events):
                took.append(time.thread_time() - begin_s)
            if number % EVERY == EVERY - 1:
                begin_s = time.thread_time()
                session.push_text(QUESTION)
                first.append(time.thread_time() - begin_s)
        all_s = time.thread_time() - start_s - sum(first)
    yield row.figure([all_s / row.x], "real time factor, one thread", "")
    yield row.figure([len(took) / sum(took)], "steps", "1/s")
    yield row.figure([1e3 * x for x in took], "a step, median", "ms")
    yield row.figure([1e3 * float(np.quantile(took, 0.99))], "frame to score, p99", "ms")
    yield row.figure([1e3 * x for x in first], "question to first token", "ms")
    yield row.figure([session.stats()["cache_tokens"]], "tokens in the context", "")


@torch.no_grad()
def _hours(row: Row, live: LiveConfig, name: str) -> Iterator[Row]:
    model = load(name, device="cpu")
    model.change({"media": {"rate_fps": 1.0}})
    session = _session(model, row.case, live, ["video"])
    size_px, num = model.config.media.size_px, math.floor(row.x * 3600)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (60, size_px, size_px, 3), dtype=torch.uint8, generator=generator)
    _know(session, pixels)
    took, memory = np.zeros(num), []
    with single_thread():
        for second in range(num):
            shown = torch.tensor([float(second)], dtype=torch.float64)
            begin_s = time.thread_time()
            session.push(Frames(pixels[second % 60, None], shown, 1.0))
            took[second] = time.thread_time() - begin_s
            if second % 20 == 0:
                memory.append((second / 3600, resident_mb(None)))
    behind = [point for point in memory if point[0] > WARM_UP * row.x]
    hours, held = zip(*behind, strict=True)
    tenth = max(1, num // 10)
    yield row.figure([float(np.polyfit(hours, held, 1)[0])], "slope of memory", "MB/hour of media")
    yield row.figure([held[-1]], "memory", "MB")
    for name, part in {"first": took[tenth : 2 * tenth], "last": took[-tenth:]}.items():
        yield row.figure([1e3 * statistics.fmean(part)], f"a step, mean of the {name} tenth", "ms")
    yield row.figure([float(took.sum())], "all", "s")
    yield row.figure([len(session.snapshot())], "snapshot", "bytes")


def _know(session: Session, pixels: torch.Tensor) -> None:
    """Features of these frames are computed once, and shown again in turn."""
    stream: Any = session.encoder._streams["video"].encoder
    known: list[Encoded] = []
    for image in pixels:
        known.append(stream.encode(Frames(image[None], torch.zeros(1, dtype=torch.float64), 1.0)))
    shown = 0

    def encode(part: Frames) -> Encoded:
        nonlocal shown
        old, shown = known[shown % len(known)], shown + 1
        return replace(old, tokens=old.tokens.later(float(part.time_s[0])))

    object.__setattr__(stream, "encode", encode)
