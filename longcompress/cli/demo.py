"""The whole path on the embedded model: a synthetic video, its memory, and answers beside the true ones."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from json import dumps
from typing import TYPE_CHECKING

from .commands import write_scene
from .common import bars, folder_of, writing
from .output import estimate_rows, print_table

if TYPE_CHECKING:
    from ..synthetic.questions import Question
    from ..synthetic.scenes import Scene

# two questions that only the audio answers, one that only the frames do, two that need both
KINDS = ("when_heard", "when_heard", "when_seen", "binding", "first_after")


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
    from ..session import compress
    from ..synthetic.questions import grade
    from ..synthetic.scenes import make_scene

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
        answers = []
        for number, question in enumerate(_questions(scene), 1):
            with _timed(took, f"question {number}"):
                text = memory.ask(question.text).text
            is_right = grade(question, text)["score"] >= 0.5
            fields = {"kind": question.kind, "question": question.text, "answer": text}
            answers.append(fields | {"truth": question.answer, "right": is_right})
        rows = [(a["question"], a["answer"], a["truth"], "yes" if a["right"] else "no") for a in answers]
        print_table("Questions", rows, ("question", "answer", "truth", "right"))
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
        steps = [*took.items(), ("all", sum(took.values()))]
        print_table("Seconds", [(step, f"{seconds:.2f}") for step, seconds in steps])
        print("\n".join(f"wrote {file}" for file in files))
    if json:
        print(
            dumps({"questions": answers, "events": scores, "seconds": took, "files": list(map(str, files))})
        )


def _questions(scene: "Scene") -> Iterator["Question"]:
    """A question of each of KINDS, all different."""
    import numpy as np

    from ..synthetic.questions import ask

    texts: set[str] = set()
    generator = np.random.default_rng(scene.seed)
    for kind in KINDS:
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
