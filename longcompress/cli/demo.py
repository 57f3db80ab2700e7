"""The whole path on the embedded model: a synthetic video, its memory, and answers beside the true ones."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from json import dumps
from typing import TYPE_CHECKING, Any

from .commands import write_scene
from .common import bars, folder_of, writing
from .output import estimate_rows, print_table

if TYPE_CHECKING:
    from ..memory import VideoMemory
    from ..synthetic.questions import Question
    from ..synthetic.scenes import Scene

# two questions that only the audio answers, one that only the frames do, two that need both
KINDS = ("when_heard", "when_heard", "when_seen", "binding", "first_after")
# what a stock model is asked that was never trained with merged tokens
STOCK, STOCK_KINDS, STOCK_SHARE = "tiny-vl", ("when_seen", "left", "above", "where", "letter"), 0.25


def demo(
    *, out: str, minutes: float = 10.0, seed: int = 20_000_000, budget: int = 1024, model: str = "tiny",
    json: bool = False,
) -> None:  # fmt: skip
    """Make a video, compress it, ask it, and show each answer beside the truth.

    Args:
        out: the folder of the video, its events, its memory, subtitles and images.
        minutes: length of the video.
        seed: of the video; the embedded model was trained on none from 20 million on.
        budget: tokens of the memory.
        model: a preset (tiny), a folder, or a hub name owner/model.
        json: one JSON object instead of tables.
    """
    from ..eval.tasks.synthetic_events import COUNTS, score_of
    from ..events.files import write_events
    from ..plot import plot_merged, plot_timeline, plot_tokens
    from ..presets import load
    from ..synthetic.scenes import make_scene
    from ..videos import compress

    folder = folder_of(out)
    took: dict[str, float] = {}
    with redirect_stdout(sys.stderr if json else sys.stdout), writing(folder):
        scene = make_scene(seed, 60 * minutes)
        with _timed(took, f"make a video of {minutes:g} min"):
            video, record = write_scene(scene, folder / "video.mp4")
        with _timed(took, "load the model"):
            loaded = load(model)
        expected = loaded.estimate(scene.duration_s, budget)
        print_table("Estimate before decoding", estimate_rows(expected, loaded.config.llm.max_new_tokens))
        with _timed(took, "compress (decode, encode, merge)"):
            memory = compress(loaded, video, budget=budget, progress=bars(), keep_assignment=True)
        memory.save(folder / "video.lcm")
        raw_tokens = memory.stats["raw_tokens"]
        print(f"{raw_tokens:,.0f} tokens became {memory.num_tokens:,} ({memory.num_tokens / raw_tokens:.1%})")
        answers = _answers(memory, scene, KINDS, took, "question")
        print_table("Questions", _rows(answers), ("question", "answer", "truth", "right"))
        with _timed(took, "list all events"):
            listed = memory.list_events(progress=bars())
        scores = score_of(listed, scene)
        names = [name for name in scores if name in ("F1", "F1/seen", "F1/heard")]
        parts = [(name, f"{scores[name]:.2f}") for name in names]
        parts += [(name, str(scores[name])) for name in ("num_true", "num_listed", *COUNTS)]
        print_table("List of events, IoU .5", parts)
        files = [video, record, folder / "video.lcm", folder / "events.srt"]
        write_events(listed.events, folder / "events.srt", "srt")
        with _timed(took, "plot"):
            files.append(plot_timeline(listed.events, scene.duration_s, folder / "timeline.png"))
            files.append(plot_tokens(memory, folder / "tokens.png"))
            files.append(plot_merged(memory, video, folder / "merged.png"))
        scene = make_scene(seed, 60.0, letters=True)
        files += write_scene(scene, folder / "letters.mp4")
        stock = load(STOCK)
        raw_tokens = stock.estimate(scene.duration_s).raw_tokens
        with _timed(took, f"compress for {STOCK}"):
            memory = compress(stock, files[-2], budget=round(STOCK_SHARE * raw_tokens), progress=bars())
        stock_answers = _answers(memory, scene, STOCK_KINDS, took, f"{STOCK}, question")
        title = f"{STOCK}, a Qwen3-VL trained without merging: {memory.num_tokens} of {raw_tokens} tokens"
        print_table(title, _rows(stock_answers), ("question", "answer", "truth", "right"))
        steps = [*took.items(), ("all", sum(took.values()))]
        print_table("Seconds", [(step, f"{seconds:.2f}") for step, seconds in steps])
        print("\n".join(f"wrote {file}" for file in files))
    if json:
        content = {"questions": answers, "stock_questions": stock_answers, "events": scores, "seconds": took}
        print(dumps(content | {"files": list(map(str, files))}))


def _answers(
    memory: "VideoMemory", scene: "Scene", kinds: Sequence[str], took: dict[str, float], step: str
) -> list[dict[str, Any]]:
    """What a memory says to a question of each of `kinds`, and what is true."""
    from ..synthetic.questions import grade

    answers: list[dict[str, Any]] = []
    for number, question in enumerate(_questions(scene, kinds), 1):
        with _timed(took, f"{step} {number}"):
            text = memory.ask(question.text).text
        fields = {"kind": question.kind, "question": question.text, "answer": text}
        is_right = grade(question, text)["score"] >= 0.5
        answers.append(fields | {"truth": question.answer, "right": is_right})
    return answers


def _rows(answers: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [(a["question"], a["answer"], a["truth"], "yes" if a["right"] else "no") for a in answers]


def _questions(scene: "Scene", kinds: Sequence[str]) -> Iterator["Question"]:
    """A question of each of `kinds`, all different."""
    import numpy as np

    from ..synthetic.questions import ask

    texts: set[str] = set()
    generator = np.random.default_rng(scene.seed)
    for kind in kinds:
        some = ask(scene.events, scene.duration_s, num=8, generator=generator, kinds=[kind])
        question = next((question for question in some if question.text not in texts), None)
        if question is not None:
            texts.add(question.text)
            yield question


@contextmanager
def _timed(took: dict[str, float], step: str) -> Iterator[None]:
    start_s = time.perf_counter()
    yield
    took[step] = time.perf_counter() - start_s
