"""Whether a model finds needles: films from minutes to hours, at all depths, with sound and without.

`longcompress bench needle --minutes '[5, 15, 60]' --films 3 --out needle.jsonl`; run again it goes on.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import replacing
from ..model import LongCompress
from ..quiz import grade
from ..scenes import parts_of
from ..session import Session
from ..types import Frames
from .locks import alone
from .metrics.bootstrap import interval
from .metrics.needles import heat_map
from .needle import DEPTHS, FIRST_SEED, KINDS, haystack

PART = 16  # questions asked together


def search(
    model: LongCompress, out: str | Path, *, minutes: Sequence[float], films: int, budgets: Sequence[int],
    sound: bool = True, progress: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each needle that was looked for; films that `out` has already are left alone.

    Args:
        model: what is tried.
        out: file of JSON lines, added to.
        minutes: lengths of the films.
        films: of each length.
        budgets: tokens of a film; it is watched once for the largest and settled for the others.
        sound: False: the model sees the pictures only.
        progress: show a bar.

    Raises:
        ValueError: another run writes to `out`; a line of it is no JSON.
    """
    with alone(out):
        return _search(model, Path(out), minutes, films, budgets, sound, progress)


def _search(
    model: LongCompress, out: Path, minutes: Sequence[float], films: int, budgets: Sequence[int], sound: bool,
    progress: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    done = _whole_films(out) if out.exists() else []
    had = {_film_of(line) for line in done}
    todo = [
        (length, number, [b for b in budgets if (length, number, sound, b) not in had])
        for length in minutes
        for number in range(films)
    ]
    todo = [one for one in todo if one[2]]
    for length, number, left in tqdm(todo, desc="films", unit="film", disable=not progress):
        lines = _film(model, length, number, left, sound)
        with open(out, "a", encoding="utf8") as file:  # a film's lines together: it is there, or it isn't
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        done += lines
    return done


def _film_of(line: dict[str, Any]) -> tuple[float, int, bool, int]:
    return line["minutes"], line["film"], line["sound"], line["budget"]


def _whole_films(out: Path) -> list[dict[str, Any]]:
    """The lines of films that are there with all needles; what a killed run left of one is cut off."""
    lines = read(out)
    counts = Counter(map(_film_of, lines))
    kept = [line for line in lines if counts[_film_of(line)] == DEPTHS * len(KINDS)]
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
    """Share found, with its interval over films, by minutes, budget, sound and kind."""
    rows = []
    for key in sorted({(x["minutes"], x["budget"], x["sound"]) for x in lines}):
        for kind in KINDS:
            mine = [x for x in lines if (x["minutes"], x["budget"], x["sound"]) == key and x["kind"] == kind]
            values = {(x["film"], x["depth"]): float(x["score"]) for x in mine}
            found = interval(values, {k: k[0] for k in values})
            minutes, budget, sound = key
            rows.append({"minutes": minutes, "budget": budget, "sound": sound, "kind": kind} | found)
    return rows


def cells(lines: Sequence[dict[str, Any]], kind: str) -> dict[tuple[float, float], float]:
    """(minutes, depth) -> share found of a kind: the heat map."""
    mine = dict(enumerate(line for line in lines if line["kind"] == kind))
    scores, minutes, depths = (
        {i: line[name] for i, line in mine.items()} for name in ("score", "minutes", "depth")
    )
    return heat_map(scores, minutes, depths)


def _film(
    model: LongCompress, minutes: float, number: int, budgets: Sequence[int], sound: bool
) -> list[dict[str, Any]]:
    scene, needles = haystack(FIRST_SEED + number, 60 * minutes)
    session = Session(model, max(budgets))
    for part in parts_of(scene, model.config.media.rate_fps):
        if sound or isinstance(part, Frames):
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
                    "minutes": minutes, "film": number, "sound": sound, "budget": budget, "kind": needle.kind,
                    "depth": needle.depth, "question": needle.question.text, "truth": needle.question.answer,
                    "answer": answer.text, "parsed": graded["parsed"], "score": graded["score"],
                })  # fmt: skip
    return lines


def measure(
    out: str = "needle.jsonl", model: str = "tiny", minutes: list[float] | None = None, films: int = 3,
    share: float = 0.1, budgets: list[int] | None = None, sound: bool = True, picture: str = "",
) -> None:  # fmt: skip
    """Look for needles and print the share found, by length, budget and kind.

    Args:
        out: file of JSON lines, one a needle; films that it has are left alone.
        model: preset, folder or hub name.
        minutes: lengths of the films; none: 5, 15.
        films: of each length; each has 20 needles.
        share: of a film's raw tokens that is kept, where no budgets are given.
        budgets: tokens of a film.
        sound: False: the model sees the pictures only.
        picture: file for the heat map, depth against length, of the largest budget.
    """
    from ..plot import plot_depths
    from ..presets import load

    loaded, lines = load(model), []
    for length in minutes or [5.0, 15.0]:
        wanted = budgets or [round(share * loaded.estimate(60 * length, 1 << 40).raw_tokens)]
        lines = search(loaded, out, minutes=[length], films=films, budgets=wanted, sound=sound)
    for row in table(lines):
        print(json.dumps(row), flush=True)
    if picture:
        most: dict[float, int] = {}
        for line in lines:
            most[line["minutes"]] = max(most.get(line["minutes"], 0), line["budget"])
        mine = [x for x in lines if x["sound"] == sound and x["budget"] == most[x["minutes"]]]
        plot_depths({kind: cells(mine, kind) for kind in KINDS}, picture)


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
