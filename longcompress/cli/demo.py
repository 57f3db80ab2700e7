"""The main job on the embedded model: a video is drawn, compressed, asked, and each answer stands beside the
truth."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..events.files import write_events
from ..plot import plot_merged, plot_timeline, plot_tokens
from ..presets import load
from ..session import compress
from ..synthetic.questions import Question, ask, grade
from ..synthetic.scenes import make_scene, write_video

# what is asked: two that only the sound answers, one that only the frames do, two that need both
KINDS = ("when_heard", "when_heard", "when_seen", "binding", "first_after")


def demo(
    out: str | Path, *, minutes: float = 10.0, seed: int = 20_000_000, budget: int = 1024, model: str = "tiny"
) -> dict[str, Any]:
    """Run the whole path once and print what comes out.

    Args:
        out: folder for the video, its truth, the memory, subtitles and frames.
        minutes: length of the video.
        seed: of the video; the model's training never saw numbers from 20 million on.
        budget: tokens of the memory.
        model: what compresses.

    Returns:
        {"questions": [...], "seconds": {step: s}, "files": [...]} as printed.
    """
    from rich.console import Console

    show, out = Console(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}
    scene = make_scene(seed, 60 * minutes)
    with _timed(took, f"draw a video of {minutes:g} min"):
        video = write_video(scene, out / "video.mp4", progress=True)
    with _timed(took, "load the model"):
        loaded = load(model)
    expected = loaded.estimate(scene.duration_s, budget)
    show.print(_estimate_table(expected))
    with _timed(took, "watch (decode, see, hear, merge)"):
        memory = compress(loaded, video, budget=budget, keep_assignment=True)
    memory.save(out / "video.lcm")
    show.print(
        f"{memory.stats['raw_tokens']:,.0f} tokens became {memory.num_tokens:,} "
        f"({memory.num_tokens / memory.stats['raw_tokens']:.1%})"
    )
    asked = []
    for number, question in enumerate(_questions(scene), 1):
        with _timed(took, f"question {number}"):
            answer = memory.ask(question.text)
        asked.append((question, answer.text, grade(question, answer.text)))
    show.print(_answer_table(asked))
    with _timed(took, "list all events"):
        events = memory.events(progress=True)
    files = [video, out / "video.lcm", out / "events.srt"]
    write_events(events, out / "events.srt", "srt")
    with _timed(took, "draw the frames"):
        files += [
            Path(plot_timeline(events, scene.duration_s, out / "timeline.png")),
            Path(plot_tokens(memory, out / "tokens.png")),
            Path(plot_merged(memory, video, out / "merged.png")),
        ]
    show.print(_time_table(took))
    for file in files:
        show.print(f"wrote {file}")
    return {
        "questions": [
            {"kind": q.kind, "question": q.text, "answer": a, "truth": q.answer, "right": g["score"] >= 0.5}
            for q, a, g in asked
        ],
        "seconds": took,
        "files": [str(f) for f in files],
    }


def _questions(scene: Any) -> Iterator[Question]:
    """One question of each of KINDS, no two the same."""
    seen: set[str] = set()
    draw = np.random.default_rng(scene.seed)
    for kind in KINDS:
        for question in ask(scene.events, scene.duration_s, num=8, generator=draw, kinds={kind: 1.0}):
            if question.text not in seen:
                seen.add(question.text)
                yield question
                break


@contextmanager
def _timed(took: dict[str, float], what: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    took[what] = time.perf_counter() - begin


def _estimate_table(expected: Any) -> Any:
    from rich.table import Table

    table = Table("before decoding", "", title="What to expect")
    for name, value in (
        ("frames looked at", expected.frames),
        ("raw tokens", expected.raw_tokens),
        ("tokens kept", expected.tokens),
        ("  of frames", expected.video_tokens),
        ("  of audio", expected.audio_tokens),
        ("  global", expected.global_tokens),
        ("time marks", expected.timestamps),
        ("positions of the language model taken", f"{expected.prompt_tokens:,} of {expected.context:,}"),
        ("memory file, bytes", expected.memory_bytes),
    ):
        table.add_row(name, value if isinstance(value, str) else f"{value:,}")
    return table


def _answer_table(asked: list[tuple[Question, str, dict[str, Any]]]) -> Any:
    from rich.table import Table

    table = Table("question", "answer", "truth", "right", title="Questions")
    for question, answer, got in asked:
        table.add_row(question.text, answer, question.answer, "yes" if got["score"] >= 0.5 else "no")
    return table


def _time_table(took: dict[str, float]) -> Any:
    from rich.table import Table

    table = Table("step", "seconds", title="Where the time went")
    for what, seconds in took.items():
        table.add_row(what, f"{seconds:.2f}")
    table.add_row("all", f"{sum(took.values()):.2f}")
    return table
