"""What a comparison found: rows, a table in Markdown, a frame of the score against the tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longcompress.files import replacing
from longcompress.model import LongCompress

from ..bench.plot import COLOURS, MARKS
from ..metrics.bootstrap import difference, interval, interval_of
from ..metrics.intervals import mean
from ..tasks.task import Example
from .compare import ALL, OURS, Arm
from .run_file import read_run

ABOUT = {
    "full": "uncompressed",
    "frames": "whole frames, evenly spread",
    "pool": "average pooling",
    "random": "drawn at random",
    "evs": "what changed most (EVS)",
    "tome": "ToMe, frame by frame",
    "longvlm": "LongVLM: frame-major, cosine, halves",
    "kmeans": "k-means, segment by segment",
    "even": "ours, even over time",
    "novelty": "ours, by novelty",
    "no-memory": "ours, even, no global tokens",
    "no-audio": "ours, even, no audio",
}
OUR_COLOURS = ("#000000", "#a6611a", "#777777", "#bbbbbb")  # of OURS
BASE = "even"  # what others are held against


def rows_of(
    folder: Path, arms: Sequence[Arm], examples: Sequence[Example[Any]], by: str, score: str = ""
) -> list[dict[str, Any]]:
    """A row for each arm and group of examples ("" for all).

    Args:
        folder: with a run for each arm.
        arms: what was compared.
        examples: those that were asked.
        by: kind of group to tell apart; "": none.
        score: which of the numbers of a line; "": its first.

    Returns:
        way, tokens (as asked for), group, num_tokens (mean of a video's), mean, low, high, num, num_videos,
        num_lost; kept (share of the uncompressed score, with its interval) and ours_more (our score, evenly
        spent, less this one at the same tokens, example by example).

    Raises:
        ValueError: a line has no such number.
    """
    videos = {one.id: one.video for one in examples}
    groups = {"": set(videos)}
    for one in examples:
        for kind, name in one.groups:
            if kind == by:
                groups.setdefault(name, set()).add(one.id)
    found = {arm: _scores(folder / arm.file, score) for arm in arms}
    whole = found.get(Arm("full", ALL), ({}, {}, 0))[0]
    out = []
    for arm in arms:
        values, sizes, num_lost = found[arm]
        base = found.get(Arm(BASE, arm.tokens), ({}, {}, 0))[0]
        for group, ids in groups.items():
            mine = {key: value for key, value in values.items() if key in ids}
            row: dict[str, Any] = {"method": arm.method, "tokens": arm.tokens, "group": group}
            row["num_tokens"] = mean([sizes[video] for video in sorted({videos[key] for key in mine})])
            row |= interval(mine, videos) | {"num_lost": num_lost}
            row["kept"] = _ratio(mine, whole, videos) if arm.method != "full" and whole else None
            both = [key for key in mine if key in base] if arm.method != BASE else []
            more = difference({k: base[k] for k in both}, {k: mine[k] for k in both}, videos)
            row["ours_more"] = {name: more[name] for name in ("mean", "low", "high")} if both else None
            out.append(row)
    return out


def _scores(path: Path, score: str) -> tuple[dict[str, float], dict[str, int], int]:
    """(score by example, tokens by video, videos' questions that are lost) of a run."""
    run = read_run(path)
    if run is None:
        raise ValueError(f"{path} has no header; begin the comparison again")
    values = {}
    for key, line in run.answered.items():
        if not line["score"] or (score and score not in line["score"]):
            raise ValueError(
                f"{path}: {key!r} has no score {score or 'of its own'}, it has {line['score']}; compare "
                "a task that scores each example"
            )
        values[key] = float(line["score"][score or next(iter(line["score"]))])
    return values, {line["video"]: line["tokens"] for line in run.answered.values()}, len(run.lost)


def _ratio(
    mine: Mapping[str, float], whole: Mapping[str, float], videos: Mapping[str, str]
) -> dict[str, Any] | None:
    """Sum of mine over sum of the whole, of the same examples, videos drawn anew."""
    sums: dict[str, list[float]] = {}
    for key in mine:
        if key in whole:
            pair = sums.setdefault(videos[key], [0.0, 0.0])
            pair[0] += mine[key]
            pair[1] += whole[key]

    def share(names: Sequence[list[float]]) -> float:
        below = sum(b for _, b in names)
        return sum(a for a, _ in names) / below if below else 0.0

    if not sum(b for _, b in sums.values()):
        return None
    got = interval_of(share, list(sums.values()))
    return {"mean": got["value"], "low": got["low"], "high": got["high"]}


def trained_with(model: LongCompress) -> str:
    """What is known of the ways that the tokens of its training were chosen in, in a sentence."""
    path = (model.folder or Path()) / "training.json"
    mixes = json.loads(path.read_text())["recipe"].get("mixes", []) if path.is_file() else []
    methods = {method: w for mix in mixes for method, w in mix.get("methods", {}).items()}
    if not methods:
        return (
            "It is not known which ways this model was trained with; one that was trained with one way alone "
            "favours it."
        )
    told = ", ".join(f"{method} {w:g}" for method, w in methods.items())
    return f"The model was trained with ways drawn at random for each step, with these weights: {told}."


def markdown(rows: Sequence[Mapping[str, Any]], title: str, note: str) -> str:
    """Tables: the score of each way at each number of tokens, group by group, and what ours is more."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    tokens = [t for t in dict.fromkeys(row["tokens"] for row in rows) if t != ALL]
    methods = [w for w in dict.fromkeys(row["method"] for row in rows) if w != "full"]
    methods = [*(w for w in methods if w in OURS), *(w for w in methods if w not in OURS)]
    at = {(row["method"], row["tokens"], row["group"]): row for row in rows}
    parts = [f"# {title}", note]
    head = ["method", *(_size(t, [at[w, t, groups[0]]["num_tokens"] for w in methods]) for t in tokens)]
    for group in groups:
        parts.append(f"## {group or 'All questions'}")
        whole = at.get(("full", ALL, group))
        if whole is not None and whole["mean"] is None:
            parts.append("Uncompressed: no question could be answered.")
        elif whole is not None:
            parts.append(
                f"Uncompressed, {whole['num_tokens']:.0f} tokens: {_shown(whole)}, n {whole['num']}."
            )
        parts.append(_table(head, [
            [ABOUT[w], *(_shown(at[w, t, group]) for t in tokens)] for w in methods
        ]))  # fmt: skip
    parts.append("## Ours (even) less each way, all questions, example by example")
    parts.append("Bold where the 95 % interval (videos drawn anew) leaves 0 out.")
    parts.append(_table(head, [
        [ABOUT[w], *(_gained(at[w, t, ""]["ours_more"]) for t in tokens)] for w in methods if w != BASE
    ]))  # fmt: skip
    if ("full", ALL, "") in at:
        parts.append("## Share of the uncompressed score that is kept, all questions")
        parts.append(
            _table(head, [[ABOUT[w], *(_shown(at[w, t, ""]["kept"]) for t in tokens)] for w in methods])
        )
    return "\n\n".join(parts) + "\n"


def _size(tokens: str, nums: Sequence[float | None]) -> str:
    """A number of tokens as asked for, and as the first way that answered had them."""
    known = [num for num in nums if num is not None]
    return f"{tokens} ({known[0]:.0f} tokens)" if known else tokens


def _shown(of: Mapping[str, Any] | None) -> str:
    if of is None or of["mean"] is None:
        return "-"
    around = f" ({of['low']:.2f} to {of['high']:.2f})" if of["low"] is not None else ""
    return f"{of['mean']:.3f}{around}"


def _gained(of: Mapping[str, Any] | None) -> str:
    if of is None or of["mean"] is None:
        return "-"
    text = f"{of['mean']:+.3f} ({of['low']:+.3f} to {of['high']:+.3f})" if of["low"] is not None else "-"
    sure = of["low"] is not None and (of["low"] > 0 or of["high"] < 0)
    return f"**{text}**" if sure else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """A frame of the score against the tokens of a video, a panel for each group; .png, .svg or .pdf."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure = Figure(figsize=(1 + 4.2 * len(groups), 4.8), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    methods = [w for w in dict.fromkeys(row["method"] for row in rows) if w != "full"]
    for axes, group in zip(panels, groups, strict=True):
        mine = [row for row in rows if row["group"] == group and row["mean"] is not None]
        for i, method in enumerate(methods):
            some = sorted((r for r in mine if r["method"] == method), key=lambda r: float(r["num_tokens"]))
            colour = OUR_COLOURS[OURS.index(method)] if method in OURS else COLOURS[i % len(COLOURS)]
            style: dict[str, Any] = {"color": colour, "marker": MARKS[i % len(MARKS)], "markersize": 5}
            style |= {
                "linewidth": 2.4 if method == BASE else 1.2,
                "linestyle": "-" if method in OURS else "--",
            }
            axes.plot(
                [r["num_tokens"] for r in some], [r["mean"] for r in some], label=ABOUT[method], **style
            )
        for whole in (r for r in mine if r["method"] == "full"):
            axes.axhline(whole["mean"], color="#777777", linewidth=1, linestyle=":")
            text = f"uncompressed, {whole['num_tokens']:.0f} tokens"
            place: Any = ("axes fraction", "data")
            left = (0.02, whole["mean"])
            axes.annotate(text, left, xycoords=place, va="bottom", fontsize=8, color="#555555")
        axes.set(xscale="log", xlabel="tokens of a video", title=group or "all questions", ylim=(0, 1.02))
        most = {r["tokens"]: max(q["num_tokens"] for q in mine if q["tokens"] == r["tokens"]) for r in mine}
        ticks = sorted({n for tokens, n in most.items() if tokens != ALL})
        axes.set_xticks(ticks, [f"{n:.0f}" for n in ticks])
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.6)
    panels[0].set_ylabel("score")
    figure.suptitle(title, fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=130)
    return path
