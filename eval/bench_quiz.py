"""How well a model answers about drawn videos nobody has seen: R@1 of "when", right answers of all other
kinds.

`longcompress bench synthetic_qa --videos 100 --minutes 2 --shares '[0.05, 0.1, 0.3]'`
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..media.reader import read
from ..memory import VideoMemory
from ..model import LongCompress
from ..session import Session
from ..synthetic.questions import KINDS, ask, grade
from ..synthetic.scenes import Scene, make_scene, parts_of, write_video
from ..types import Audio, Frames
from .tasks.synthetic import QA_SEED, QUESTIONS

FIRST_SEED = QA_SEED
PUBLISHED = {"layout": "frame", "score": "cosine", "schedule": 0.5}  # the merging of LongVLM


@dataclass(frozen=True)
class Score:
    """What came out for one kind of question.

    Attributes:
        kind: of question.
        num: questions.
        score: share that is right (spans: IoU >= 0.5; names and numbers: exactly; lists: mean F1).
        low, high: 95 % interval of the score, videos drawn anew (bootstrap).
        majority: share the commonest answer alone would have right.
        unparsed: answers that no span could be read from.
    """

    kind: str
    num: int
    score: float
    low: float
    high: float
    majority: float
    unparsed: int


def evaluate(
    model: LongCompress, *, videos: int, minutes: float, shares: Sequence[float], codec: bool = False,
    kinds: Sequence[str] = KINDS, progress: bool = True, first_seed: int = FIRST_SEED, answers: str = "",
) -> dict[float, list[Score]]:  # fmt: skip
    """Share of the tokens -> scores by kind over unseen videos; each video is compressed once, for the largest
    share, and compressed for the others.

    Args:
        model: what is tried.
        videos: how many.
        minutes: length of each.
        shares: tokens kept, as shares of the raw ones.
        codec: write each video as H.264/AAC and compress the file, instead of pushing what is drawn.
        kinds: of questions.
        progress: show a bar.
        first_seed: of the videos.
        answers: file that gets a JSON line for each answer: video, number, kind, share, score, question,
            truth, answer.
    """
    from tqdm import tqdm

    got: dict[float, list[tuple[int, str, dict[str, Any], str]]] = {share: [] for share in shares}
    for number in tqdm(range(videos), desc="videos", unit="video", disable=not progress):
        scene = make_scene(first_seed + number, 60 * minutes)
        budgets = [round(share * raw_tokens(model, scene.duration_s)) for share in shares]
        made = from_file if codec else from_scene
        memories = dict(zip(shares, made(model, scene, budgets), strict=True))
        random = np.random.default_rng([7, number])
        asked = [
            question
            for kind in kinds
            for question in ask(
                scene.events, scene.duration_s, num=QUESTIONS, generator=random, kinds={kind: 1.0}
            )
        ]
        for share, memory in memories.items():
            for at in range(0, len(asked), 16):
                part = asked[at : at + 16]
                for question, answer in zip(part, memory.ask_all([q.text for q in part]), strict=True):
                    graded = grade(question, answer.text)
                    got[share].append((number, question.kind, graded, question.answer))
                    if answers:
                        line = {
                            "video": first_seed - FIRST_SEED + number,
                            "number": len(got[share]),
                            "kind": question.kind,
                        }
                        line |= {"share": share, "score": graded["score"], "question": question.text}
                        line |= {"truth": question.answer, "answer": answer.text}
                        with open(answers, "a", encoding="utf8") as file:
                            file.write(json.dumps(line) + "\n")
    return {share: [score_of(k, [g for g in of if g[1] == k]) for k in kinds] for share, of in got.items()}


def score_of(kind: str, got: list[tuple[int, str, dict[str, Any], str]]) -> Score:
    """The score of one kind, with its bootstrap interval over videos."""
    spans = kind.startswith("when") or kind == "binding"
    values = [float(g["score"] >= 0.5) if spans else float(g["score"]) for _, _, g, _ in got]
    if not values:
        return Score(kind, 0, 0.0, 0.0, 0.0, 0.0, 0)
    by_video: dict[int, list[float]] = {}
    for (number, *_), value in zip(got, values, strict=True):
        by_video.setdefault(number, []).append(value)
    sums = np.array([[sum(v), len(v)] for v in by_video.values()])
    draws = np.random.default_rng(0).integers(len(sums), size=(1000, len(sums)))
    again = sums[draws].sum(1)
    low, high = np.quantile(again[:, 0] / again[:, 1], [0.025, 0.975])
    answers = [answer for *_, answer in got]
    majority = 0.0 if spans else max(answers.count(a) for a in set(answers)) / len(answers)
    unparsed = sum(not g["parsed"] for _, _, g, _ in got)
    return Score(kind, len(values), float(np.mean(values)), float(low), float(high), majority, unparsed)


def raw_tokens(model: LongCompress, duration_s: float) -> int:
    """Tokens of so many seconds before any merging."""
    return model.estimate(duration_s, 1 << 40).raw_tokens


def from_scene(model: LongCompress, scene: Scene, budgets: Sequence[int]) -> list[VideoMemory]:
    """The memories of a scene, pushed as it is drawn, no codec between."""
    return _compressed(model, parts_of(scene, model.config.media.rate_fps), budgets)


def from_file(model: LongCompress, scene: Scene, budgets: Sequence[int]) -> list[VideoMemory]:
    """The memories of a scene's H.264/AAC file."""
    with tempfile.TemporaryDirectory() as folder:
        video = write_video(scene, Path(folder) / "video.mp4")
        with read(video, model.config.media) as parts:
            return _compressed(model, parts, budgets)


def _compressed(
    model: LongCompress, parts: Iterable[Frames | Audio], budgets: Sequence[int]
) -> list[VideoMemory]:
    session = Session(model, max(budgets))
    for part in parts:
        session.push(part)
    session.close()
    return [session.memory(budget) for budget in budgets]


def measure(
    model: str = "tiny", videos: int = 100, minutes: float = 2.0, shares: list[float] | None = None,
    codec: bool = False, merging: Literal["default", "published"] = "default", kinds: list[str] | None = None,
    out: str = "", answers: str = "", first_video: int = 0,
) -> None:  # fmt: skip
    """Print (and with --out append as JSON lines) the scores of `model`; see `evaluate`.

    Args:
        model: preset, folder or hub name.
        videos: how many.
        minutes: length of each.
        shares: of the tokens kept; none: a tenth.
        codec: write each video as H.264/AAC and compress the file.
        merging: the model's own way, or LongVLM's (frame-major, cosine, halves) at the same tokens.
        kinds: of questions; none: all.
        out: JSON lines are added to this file.
        answers: a JSON line for each answer is added to this file, for `longcompress bench pairs`.
        first_video: number of the first video, to add more of them to an earlier run's answers.
    """
    from ..presets import load

    loaded = load(model)
    if merging == "published":
        loaded.change({"merge": PUBLISHED})
    for share, scores in evaluate(
        loaded,
        videos=videos,
        minutes=minutes,
        shares=shares or [0.1],
        codec=codec,
        kinds=kinds or KINDS,
        answers=answers,
        first_seed=FIRST_SEED + first_video,
    ).items():
        of = {"model": model, "videos": videos, "minutes": minutes, "share": share}
        for score in scores:
            row = asdict(score) | of | {"codec": codec, "merging": merging}
            print(json.dumps(row), flush=True)
            if out:
                with open(out, "a") as file:
                    file.write(json.dumps(row) + "\n")


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
