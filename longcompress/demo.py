"""The main job on the embedded model: a film is drawn, watched, asked, and each answer stands beside the
truth."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .event_files import write_events
from .plot import plot_merged, plot_timeline, plot_tokens
from .presets import load
from .quiz import Question, ask, grade
from .scenes import make_scene, write_film
from .session import watch

# what is asked: two that only the sound answers, one that only the pictures do, two that need both
KINDS = ("when_sound", "when_sound", "when_picture", "binding", "first_after")


def demo(
    out: str | Path, *, minutes: float = 10.0, seed: int = 20_000_000, budget: int = 1024, model: str = "tiny"
) -> dict[str, Any]:
    """Run the whole path once and print what comes out.

    Args:
        out: folder for the film, its truth, the memory, subtitles and pictures.
        minutes: length of the film.
        seed: of the film; the model's training never saw numbers from 20 million on.
        budget: tokens of the memory.
        model: what watches.

    Returns:
        {"questions": [...], "seconds": {step: s}, "files": [...]} as printed.
    """
    from rich.console import Console

    show, out = Console(), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    took: dict[str, float] = {}
    scene = make_scene(seed, 60 * minutes)
    with _timed(took, f"draw a film of {minutes:g} min"):
        film = write_film(scene, out / "film.mp4", progress=True)
    with _timed(took, "load the model"):
        watcher = load(model)
    expected = watcher.estimate(scene.duration_s, budget)
    show.print(_estimate_table(expected))
    with _timed(took, "watch (decode, see, hear, merge)"):
        memory = watch(watcher, film, budget, keep_members=True)
    memory.save(out / "film.lcm")
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
    files = [film, out / "film.lcm", out / "events.srt"]
    write_events(events, out / "events.srt", "srt")
    with _timed(took, "draw the pictures"):
        files += [
            Path(plot_timeline(events, scene.duration_s, out / "timeline.png")),
            Path(plot_tokens(memory, out / "tokens.png")),
            Path(plot_merged(memory, film, out / "merged.png")),
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
        for question in ask(scene.happenings, scene.duration_s, num=8, generator=draw, kinds={kind: 1.0}):
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
        ("pictures looked at", expected.frames),
        ("raw tokens", expected.raw_tokens),
        ("tokens kept", expected.tokens),
        ("  of pictures", expected.picture_tokens),
        ("  of sound", expected.sound_tokens),
        ("  global", expected.global_tokens),
        ("time marks", expected.marks),
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
