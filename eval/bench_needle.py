"""Whether a model finds needles: videos from minutes to hours, at all depths, with audio and without.

`longcompress bench needle --minutes '[5, 15, 60]' --videos 3 --out needle.jsonl`; run again it goes on.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import replacing
from ..model import LongCompress
from ..session import Session
from ..synthetic.needles import DEPTHS, FIRST_SEED, KINDS, haystack
from ..synthetic.questions import grade
from ..synthetic.scenes import parts_of
from ..types import Frames
from .metrics.bootstrap import interval
from .metrics.needles import heat_map
from .runner.locks import alone

PART = 16  # questions asked together


def search(
    model: LongCompress, out: str | Path, *, minutes: Sequence[float], videos: int, budgets: Sequence[int],
    audio: bool = True, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each needle that was looked for; videos that `out` has already are left alone.

    Args:
        model: what is tried.
        out: file of JSON lines, added to.
        minutes: lengths of the videos.
        videos: of each length.
        budgets: tokens of a video; it is compressed once for the largest and compressed for the others.
        audio: False: the model sees the frames only.
        progress: show a bar.

    Raises:
        ValueError: another run writes to `out`; a line of it is no JSON.
    """
    with alone(out):
        return _search(model, Path(out), minutes, videos, budgets, audio, progress)


def _search(
    model: LongCompress, out: Path, minutes: Sequence[float], videos: int, budgets: Sequence[int], audio: bool,
    progress: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    done = _whole_videos(out) if out.exists() else []
    had = {_video_of(line) for line in done}
    todo = [
        (length, number, [b for b in budgets if (length, number, audio, b) not in had])
        for length in minutes
        for number in range(videos)
    ]
    todo = [one for one in todo if one[2]]
    for length, number, left in tqdm(todo, desc="videos", unit="video", disable=not progress):
        lines = _video(model, length, number, left, audio)
        with open(out, "a", encoding="utf8") as file:  # a video's lines together: it is there, or it isn't
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        done += lines
    return done


def _video_of(line: dict[str, Any]) -> tuple[float, int, bool, int]:
    return line["minutes"], line["video"], line["audio"], line["budget"]


def _whole_videos(out: Path) -> list[dict[str, Any]]:
    """The lines of videos that are there with all needles; what a killed run left of one is cut off."""
    lines = read(out)
    counts = Counter(map(_video_of, lines))
    kept = [line for line in lines if counts[_video_of(line)] == DEPTHS * len(KINDS)]
    if not out.read_text(encoding="utf8").endswith("\n") or len(kept) < len(lines):
        with replacing(out) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf8")
    return kept


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a file; a last one that was cut is left out.

    Raises:
        ValueError: another line is no JSON.
    """
    lines = Path(path).read_text(encoding="utf8").split("\n")
    out = []
    for at, line in enumerate(lines):
        if not line:
            continue
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError as error:
            if at == len(lines) - 1:
                break
            raise ValueError(f"{path}, line {at + 1} is no JSON: {error}") from error
    return out


def table(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share found, with its interval over videos, by minutes, budget, audio and kind."""
    rows = []
    for key in sorted({(x["minutes"], x["budget"], x["audio"]) for x in lines}):
        for kind in KINDS:
            mine = [x for x in lines if (x["minutes"], x["budget"], x["audio"]) == key and x["kind"] == kind]
            values = {(x["video"], x["depth"]): float(x["score"]) for x in mine}
            found = interval(values, {k: k[0] for k in values})
            minutes, budget, audio = key
            rows.append({"minutes": minutes, "budget": budget, "audio": audio, "kind": kind} | found)
    return rows


def patches(lines: Sequence[dict[str, Any]], kind: str) -> dict[tuple[float, float], float]:
    """(minutes, depth) -> share found of a kind: the heat map."""
    mine = dict(enumerate(line for line in lines if line["kind"] == kind))
    scores, minutes, depths = (
        {i: line[name] for i, line in mine.items()} for name in ("score", "minutes", "depth")
    )
    return heat_map(scores, minutes, depths)


def _video(
    model: LongCompress, minutes: float, number: int, budgets: Sequence[int], audio: bool
) -> list[dict[str, Any]]:
    scene, needles = haystack(FIRST_SEED + number, 60 * minutes)
    session = Session(model, max(budgets))
    for part in parts_of(scene, model.config.media.rate_fps):
        if audio or isinstance(part, Frames):
            session.push(part)
    session.close()
    lines = []
    for budget in budgets:
        memory = session.memory(budget)
        for at in range(0, len(needles), PART):
            some = needles[at : at + PART]
            for needle, answer in zip(some, memory.ask_all([n.question.text for n in some]), strict=True):
                graded = grade(needle.question, answer.text)
                lines.append({
                    "minutes": minutes, "video": number, "audio": audio, "budget": budget, "kind": needle.kind,
                    "depth": needle.depth, "question": needle.question.text, "truth": needle.question.answer,
                    "answer": answer.text, "parsed": graded["parsed"], "score": graded["score"],
                })  # fmt: skip
    return lines


def measure(
    out: str = "needle.jsonl", model: str = "tiny", minutes: list[float] | None = None, videos: int = 3,
    share: float = 0.1, budgets: list[int] | None = None, audio: bool = True, frame: str = "",
) -> None:  # fmt: skip
    """Look for needles and print the share found, by length, budget and kind.

    Args:
        out: file of JSON lines, one a needle; videos that it has are left alone.
        model: preset, folder or hub name.
        minutes: lengths of the videos; none: 5, 15.
        videos: of each length; each has 20 needles.
        share: of a video's raw tokens that is kept, where no budgets are given.
        budgets: tokens of a video.
        audio: False: the model sees the frames only.
        frame: file for the heat map, depth against length, of the largest budget.
    """
    from ..plot import plot_depths
    from ..presets import load

    loaded, lines = load(model), []
    for length in minutes or [5.0, 15.0]:
        wanted = budgets or [round(share * loaded.estimate(60 * length, 1 << 40).raw_tokens)]
        lines = search(loaded, out, minutes=[length], videos=videos, budgets=wanted, audio=audio)
    for row in table(lines):
        print(json.dumps(row), flush=True)
    if frame:
        most: dict[float, int] = {}
        for line in lines:
            most[line["minutes"]] = max(most.get(line["minutes"], 0), line["budget"])
        mine = [x for x in lines if x["audio"] == audio and x["budget"] == most[x["minutes"]]]
        plot_depths({kind: patches(mine, kind) for kind in KINDS}, frame)


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
