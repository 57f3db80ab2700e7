"""The results of a comparison: rows, tables in Markdown, a plot of the score against the tokens."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import replacing
from ...model import LongCompress
from ..bench.plot import COLOURS, MARKERS, new_figure
from ..bench.report import markdown_table
from ..metrics.bootstrap import by_video, interval, quantiles, ratio_draws
from ..metrics.intervals import mean
from ..tasks.task import Example, groups_of
from .compare import ALL, MEMORIES, OURS, SHOWN, WHOLE, Arm
from .run_file import read_run

ABOUT = {
    "full": "uncompressed",
    "stock": "as its own processor samples, uncompressed",
    "frames": "uniform frame sampling",
    "pool": "average pooling",
    "random": "random pruning",
    "evs": "largest change (EVS)",
    "tome": "ToMe, frame by frame",
    "longvlm": "LongVLM: frame-major, cosine, halves",
    "kmeans": "k-means, segment by segment",
    "ours": "ours",
    "even": "ours, even over time",
    "novelty": "ours, by novelty",
    "rounds": "ours, in rounds of a quarter, even",
    "no-memory": "ours, no global tokens",
    "no-audio": "ours, no audio",
} | {name: "ours, {} row, {} place".format(*name.split("-")) for name in SHOWN}
ABOUT |= {name: f"ours, global tokens {name.removeprefix('memory-')}" for name in MEMORIES}
OUR_COLOURS = ("#000000", "#a6611a", "#777777", "#bbbbbb", "#5e3c99", "#d8b365")  # of OURS
BASE = "ours"  # what others are compared with


def rows_of(
    folder: Path, arms: Sequence[Arm], examples: Sequence[Example], by: str, score: str = ""
) -> list[dict[str, Any]]:
    """A row for each arm and group of examples ("" for all).

    `folder` has a run for each arm. `by` is the kind of group to tell apart, "" none; `score` which of the
    numbers of a line, "" its first.

    Returns:
        method, budget, group, num_tokens (mean of a video's), mean, low, high, num, num_videos, num_failed;
        relative (over the uncompressed score, with its interval) and gain (our score minus this score at the
        same budget, example by example).
    """
    videos = {example.id: example.video for example in examples}
    groups = {"": list(videos)} | groups_of(examples).get(by, {})
    scores = {arm: _scores(folder / f"{arm.name}.jsonl", score) for arm in arms}
    values_of = {arm: values for arm, (values, _, _) in scores.items()}
    whole = values_of.get(Arm("full", ALL))
    out = []
    for arm in arms:
        values, sizes, num_failed = scores[arm]
        base = values_of.get(Arm(BASE, arm.budget), {}) if arm.method != BASE else {}
        for group, ids in groups.items():
            ours = {key: values[key] for key in ids if key in values}
            row: dict[str, Any] = {"method": arm.method, "budget": arm.budget, "group": group}
            row["num_tokens"] = mean([sizes[video] for video in sorted({videos[key] for key in ours})])
            row |= interval(ours, videos) | {"num_failed": num_failed}
            del row["share_above"]
            row["relative"] = _ratio(ours, whole, videos) if arm.method != "full" and whole else None
            gain = interval({key: base[key] - ours[key] for key in ours if key in base}, videos)
            row["gain"] = {name: gain[name] for name in ("mean", "low", "high")} if gain["num"] else None
            out.append(row)
    return out


def _scores(path: Path, score: str) -> tuple[dict[str, float], dict[str, int], int]:
    """(score by example, tokens by video, number of failed examples) of a run."""
    run = read_run(path)
    assert run is not None
    values = {}
    for key, line in run.answered.items():
        scores = line["score"] or {}
        if (name := score or next(iter(scores), "of its own")) not in scores:
            why = f"{key!r} has no score {name}, it has {line['score']}"
            raise ValueError(f"{path}: {why}; compare a task that scores each example")
        values[key] = float(scores[name])
    return values, {line["video"]: line["tokens"] for line in run.answered.values()}, len(run.failed)


def _ratio(
    ours: Mapping[str, float], whole: Mapping[str, float], videos: Mapping[str, str]
) -> dict[str, Any] | None:
    """Sum of ours over sum of the whole, of the same examples, with its interval over videos."""
    both = [key for key in ours if key in whole]
    _, sums, _ = by_video([{key: side[key] for key in both} for side in (ours, whole)], videos)
    top, bottom = sums.T
    if not bottom.sum():
        return None
    draws = ratio_draws(top, bottom, num_draws=1000, seed=0)
    return {"mean": float(top.sum() / bottom.sum()), **quantiles(draws)}


def trained_with(model: LongCompress) -> str:
    """Which methods the model was trained with, in a sentence."""
    path = (model.folder or Path()) / "training.json"
    mixes = json.loads(path.read_text())["recipe"].get("mixes", []) if path.is_file() else []
    weights = {method: w for mix in mixes for method, w in mix.get("methods", {}).items()}
    if not weights:
        unknown = "It is not known which methods this model was trained with."
        return f"{unknown} A model trained with one method favours it."
    if set(weights) == {"full"}:
        return "The model was trained without merging."
    listed = ", ".join(f"{method} {w:g}" for method, w in weights.items())
    return f"The model was trained with methods sampled at random for each step, with weights: {listed}."


def markdown(rows: Sequence[Mapping[str, Any]], title: str, note: str) -> str:
    """Tables: the score of each method at each budget, group by group, and the gain of ours."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    budgets = [n for n in dict.fromkeys(row["budget"] for row in rows) if n != ALL]
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m not in WHOLE]
    methods.sort(key=lambda method: method not in (*OURS, *SHOWN, *MEMORIES))
    at = {(row["method"], row["budget"], row["group"]): row for row in rows}
    heads = ["method"]
    for n in budgets:  # with the tokens of the first method that answered
        sizes = [at[m, n, groups[0]]["num_tokens"] for m in methods]
        heads.append(next((f"{n} ({size:.0f} tokens)" for size in sizes if size is not None), n))

    def table(show: Callable[[Mapping[str, Any]], str], group: str = "", without: str = "") -> str:
        shown = [method for method in methods if method != without]
        lines = [[ABOUT[method], *(show(at[method, n, group]) for n in budgets)] for method in shown]
        return markdown_table(heads, lines)

    parts = [f"# {title}", note]
    for group in groups:
        parts.append(f"## {group or 'All questions'}")
        for name in WHOLE:
            whole, about = at.get((name, ALL, group)), ABOUT[name].capitalize()
            if whole is not None and whole["mean"] is None:
                parts.append(f"{about}: no question could be answered.")
            elif whole is not None:
                tokens = f"{whole['num_tokens']:.0f} tokens"
                parts.append(f"{about}, {tokens}: {_shown(whole)}, n {whole['num']}.")
        parts.append(table(_shown, group))
    parts += [
        "## Ours minus each method, all questions, example by example",
        "Bold where the 95 % interval (bootstrap over videos) excludes 0.",
        table(lambda row: _gain(row["gain"]), without=BASE),
    ]
    if ("full", ALL, "") in at:
        parts.append("## Share of the uncompressed score, all questions")
        parts.append(table(lambda row: _shown(row["relative"])))
    return "\n\n".join(parts) + "\n"


def _shown(row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    interval = f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else ""
    return f"{row['mean']:.3f}{interval}"


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None or row["low"] is None:
        return "-"
    text = f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    return f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text


def plot(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> Path:
    """A plot of the score against the tokens of a video, a panel for each group; .png, .svg or .pdf."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    figure = new_figure(1 + 4.2 * len(groups), 4.8)
    panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    methods = [m for m in dict.fromkeys(row["method"] for row in rows) if m not in WHOLE]
    for axes, group in zip(panels, groups, strict=True):
        ours = [row for row in rows if row["group"] == group and row["mean"] is not None]
        for i, method in enumerate(methods):
            some = sorted((r for r in ours if r["method"] == method), key=lambda r: float(r["num_tokens"]))
            style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": "--", "linewidth": 1.2}
            if method in OURS:
                style |= {"color": OUR_COLOURS[OURS.index(method)], "linestyle": "-"}
            style |= {"linewidth": 2.4} if method == BASE else {}
            style |= {"marker": MARKERS[i % len(MARKERS)], "markersize": 5, "label": ABOUT[method]}
            axes.plot([r["num_tokens"] for r in some], [r["mean"] for r in some], **style)
        for whole in (r for r in ours if r["method"] in WHOLE):
            axes.axhline(whole["mean"], color="#777777", linewidth=1, linestyle=":")
            text = f"{ABOUT[whole['method']]}, {whole['num_tokens']:.0f} tokens"
            left = (0.02, whole["mean"])
            place: Any = ("axes fraction", "data")
            axes.annotate(text, left, xycoords=place, va="bottom", fontsize=8, color="#555555")
        axes.set(xscale="log", xlabel="tokens of a video", title=group or "all questions", ylim=(0, 1.02))
        budgets = {row["budget"] for row in ours} - {ALL}
        ticks = sorted({max(r["num_tokens"] for r in ours if r["budget"] == n) for n in budgets})
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
