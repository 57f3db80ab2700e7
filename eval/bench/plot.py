"""Plots of the figures of benchmarks.

For every device and model: how near the operations come to the speed of its memory (roofline), seconds
and peak memory of compressing over the length of the video, and the seconds of each stage. A plot without
figures is left out, and the reason is printed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import replacing
from ...plot import FAINT, INK
from .rows import UNCOMPRESSED, Row, grouped, number, subject_of, tokens_of

# Okabe and Ito's colours, which are told apart with any kind of colour vision; series have markers too
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "", "\\\\", "", "..", "")
DPI, WIDTH, HEIGHT = 150, 8.0, 5.0  # inches


def plot_all(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The paths of all plots that there are figures for."""
    paths = []
    for name, (suite, title, plot) in PLOTS.items():
        subjects = grouped((row for row in rows if row.suite == suite and not row.error), subject_of)
        if not subjects:
            print(f"no plot {name}: no figures of {suite}", flush=True)
        for subject, part in subjects.items():
            figure = new_figure(WIDTH, HEIGHT)
            axes = figure.add_subplot()
            if missing := plot(axes, part):
                print(f"no plot {name} for {subject}: {missing}", flush=True)
                continue
            axes.set_title(f"{title}\n{subject}", loc="left", fontsize=11, color=INK)
            slug = re.sub(r"[^a-z0-9]+", "_", subject.lower()).strip("_")
            paths.append(folder / f"{name}_{slug}.png")
            with replacing(paths[-1]) as unfinished:
                figure.savefig(unfinished, format="png", dpi=DPI)
    return paths


def roofline(axes: Any, rows: Sequence[Row]) -> str:
    """Operations by their arithmetic per byte and a second, under the speed of a copy; what is missing."""
    speeds = [row for row in rows if row.metric == "bandwidth" and row.settings.get("bytes")]
    copies = [row.value for row in speeds if row.case == "copy"]
    counted = [row for row in speeds if row.settings.get("flop")]
    if not counted or not copies:
        return f"no bandwidth of {'operations with flop and bytes' if copies else 'a copy'}"
    series = list(dict.fromkeys(row.case for row in counted))
    kinds = list(dict.fromkeys(_kind(row) for row in counted))
    intensities = [row.settings["flop"] / row.settings["bytes"] for row in counted]
    dots: dict[str, Any] = {"linestyle": "", "markersize": 8}
    for row, x in zip(counted, intensities, strict=True):
        style = {"color": COLOURS[series.index(row.case) % 8], "marker": MARKERS[kinds.index(_kind(row)) % 8]}
        _points(axes, [x], [row], scale=x, markeredgecolor="white", capsize=2, **style, **dots)
    ends, roof = [min(intensities) / 2, max(intensities) * 2], max(copies)
    for i, name in enumerate(series):
        axes.plot([], [], marker="o", color=COLOURS[i % 8], label=name, **dots)
    for i, kind in enumerate(kinds):
        axes.plot([], [], marker=MARKERS[i % 8], color="#999999", label=kind, **dots)
    label = f"memory as fast as a copy, {number(roof)} GB/s"
    axes.plot(ends, [roof * x for x in ends], color=INK, linewidth=1.5, label=label)
    _style(axes, "arithmetic per byte moved (FLOP/byte)", "achieved (GFLOP/s)", log=True)
    return ""


def compress_time(axes: Any, rows: Sequence[Row]) -> str:
    """Seconds of compressing in a fresh process over the length of the video."""
    picked = [row for row in rows if (row.case, row.metric) == ("compress", "time")]
    if not picked:
        return "no time of compressing in a fresh process"
    _lines(axes, picked)
    minutes = sorted({row.x for row in picked})
    video_s = [60 * m for m in minutes]
    axes.plot(minutes, video_s, color=INK, linestyle=":", label="as long as the video lasts")
    _style(axes, "length of the video (min)", "compressing it (s)", log=True)
    return ""


def peak_memory(axes: Any, rows: Sequence[Row]) -> str:
    """Peak memory of compressing and a first answer over the length of the video."""
    peaks = [row for row in rows if row.case == "first answer" and row.metric.startswith("memory of")]
    picked = [row for row in peaks if row.metric == "memory of the GPU"] or peaks
    if not picked:
        return "no peak of memory in a fresh process"
    _lines(axes, picked)
    _style(axes, "length of the video (min)", f"peak {picked[0].metric} (GB)", log=True)
    axes.set_ylim(min(row.low for row in picked) / 2, max(row.high for row in picked) * 2)
    return ""


def stages(axes: Any, rows: Sequence[Row]) -> str:
    """Seconds of each stage for a minute of video, one on the other."""
    times = [row for row in rows if row.metric == "time" and row.case != "compress"]
    shared = {(row.x, row.case): row.value for row in times if "tokens" not in row.settings}
    bars = grouped((row for row in times if "tokens" in row.settings), _series)
    if not bars:
        return "no time of single stages"
    base = [0.0] * len(bars)
    for i, stage in enumerate(dict.fromkeys(row.case for row in times)):
        part = []
        for (minutes, *_), own in bars.items():
            values = {row.case: row.value for row in own}
            part.append(values.get(stage, shared.get((minutes, stage), 0.0)) / minutes)
        axes.barh(range(len(bars)), part, 0.7, base, color=COLOURS[i % 8], edgecolor="white", linewidth=0.8,
                  hatch=HATCHES[i % 7], label=stage, zorder=2)  # fmt: skip
        base = [a + b for a, b in zip(base, part, strict=True)]
    axes.set_yticks(range(len(bars)), [f"{x:g} min, {tokens_of(own[0])}" for (x, *_), own in bars.items()])
    axes.invert_yaxis()
    _style(axes, "seconds for a minute of video, stages one after another", "video, tokens", log=False)
    return ""


# Name of a plot -> suite, title, and the function that draws it or returns what is missing.
PLOTS = {
    "roofline": ("kernels", "Operations under the speed of memory", roofline),
    "compress_time": ("memory", "Compressing a video in a fresh process", compress_time),
    "peak_memory": ("memory", "Peak memory until the first answer", peak_memory),
    "stages": ("stages", "Seconds of each stage", stages),
}


def _lines(axes: Any, rows: Sequence[Row]) -> None:
    """A line for each budget, over the length of the video, with the spread."""
    for i, ((name, budget), own) in enumerate(grouped(rows, lambda row: _series(row)[1:]).items()):
        label = UNCOMPRESSED if name == UNCOMPRESSED else f"budget {budget:,}"
        own = sorted(own, key=lambda row: row.x)
        style: dict[str, Any] = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "label": label}
        _points(axes, [row.x for row in own], own, capsize=3, **style)


def _points(axes: Any, xs: list[float], rows: Sequence[Row], *, scale: float = 1.0, **style: Any) -> None:
    """Values times `scale`, with their spread."""
    below = [scale * (row.value - row.low) for row in rows]
    above = [scale * (row.high - row.value) for row in rows]
    axes.errorbar(xs, [scale * row.value for row in rows], [below, above], **style)


def _kind(row: Row) -> str:
    """Provider and type of the features."""
    return ", ".join(filter(None, (row.provider, row.settings.get("dtype", ""))))


def _series(row: Row) -> tuple[float, str, int]:
    """Minutes, provider, and the budget (which says nothing where nothing is merged)."""
    return row.x, row.provider, 0 if row.provider == UNCOMPRESSED else row.settings["budget"]


def new_figure(width: float, height: float) -> Any:
    """A figure of its own, of this size in inches: no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "matplotlib>=3.8"') from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _style(axes: Any, x: str, y: str, *, log: bool) -> None:
    """Names of the axes with their units, a light grid, and a legend."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xlabel=x, ylabel=y)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axis.set_minor_formatter(NullFormatter())
    axes.grid(color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)
