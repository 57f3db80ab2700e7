"""Frames of the figures of benchmarks: `longcompress bench plot`.

    longcompress bench plot eval/results/*.csv --out docs/figures

For every device (and model): how near the operations come to the speed of its memory (roofline), seconds and
peak memory of compressing over the length of the video, and where the seconds go. A frame there are no figures
for is left out, and that is said.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..files import replacing
from ..plot import FAINT, INK
from .bench_table import Figure, by_subject, grouped, number, read_figures
from .stages import SHARED, STAGES, WHOLE

# Okabe and Ito's colours, which are told apart with any kind of colour vision; each series has a mark as well
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#555555")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "", "\\\\", "", "..", "")
DPI, WIDTH, HEIGHT = 150, 8.0, 5.0  # inches


def draw(files: Sequence[str | Path], out: str | Path) -> list[Path]:
    """The paths of all frames that there are figures for.

    Args:
        files: CSV files of benchmarks.
        out: the folder for the frames.
    """
    folder, paths = Path(out), []
    folder.mkdir(parents=True, exist_ok=True)
    for name, (suite, title, plot) in PLOTS.items():
        subjects = by_subject(read_figures(files, suite))
        if not subjects:
            print(f"no frame {name}: no figures of {suite}", flush=True)
        for subject, figures in subjects.items():
            figure = _figure()
            axes = figure.add_subplot()
            lacking = plot(axes, figures)
            if lacking:
                print(f"no frame {name} for {subject}: {lacking}", flush=True)
                continue
            axes.set_title(f"{title}\n{subject}", loc="left", fontsize=11, color=INK)
            slug = re.sub(r"[^a-z0-9]+", "_", subject.lower()).strip("_")
            paths.append(folder / f"{name}_{slug}.png")
            with replacing(paths[-1]) as part:
                figure.savefig(part, format="png", dpi=DPI)
    return paths


def roofline(axes: Any, figures: Sequence[Figure]) -> str:
    """Operations by their arithmetic per byte and a second, under what copying reaches; what is lacking, if
    anything is."""
    speeds = [f.row for f in figures if f.row.metric == "bandwidth" and f.row.settings.get("bytes")]
    copies = [row.value for row in speeds if row.what == "copy"]
    counted = [row for row in speeds if row.settings.get("flop")]
    if not counted or not copies:
        return f"no bandwidth of {'operations with flop and bytes' if copies else 'a copy'}"
    intensity = [row.settings["flop"] / row.settings["bytes"] for row in counted]
    series = list(dict.fromkeys((row.what, row.mode) for row in counted))
    kinds = list(dict.fromkeys((row.provider, row.settings.get("dtype", "")) for row in counted))
    for row, x in zip(counted, intensity, strict=True):
        at, kind = (
            series.index((row.what, row.mode)),
            kinds.index((row.provider, row.settings.get("dtype", ""))),
        )
        y, low, high = (x * v for v in (row.value, row.low, row.high))
        style = {"color": COLOURS[at % 8], "marker": MARKS[kind % 8], "markersize": 8, "capsize": 2}
        axes.errorbar([x], [y], [[y - low], [high - y]], linestyle="", markeredgecolor="white", **style)
    ends = [min(intensity) / 2, max(intensity) * 2]
    roof = max(copies)
    axes.plot(ends, [roof * x for x in ends], color=INK, linewidth=1.5)
    empty = {"linestyle": "", "markersize": 8}
    for at, words in enumerate(series):
        axes.plot([], [], marker="o", color=COLOURS[at % 8], label=", ".join(words), **empty)
    for kind, words in enumerate(kinds):
        axes.plot(
            [], [], marker=MARKS[kind % 8], color="#999999", label=", ".join(filter(None, words)), **empty
        )
    axes.plot([], [], color=INK, label=f"memory as fast as a copy, {number(roof)} GB/s")
    _frame(axes, "arithmetic per byte moved (FLOP/byte)", "achieved (GFLOP/s)", log=True)
    return ""


def compress_time(axes: Any, figures: Sequence[Figure]) -> str:
    """Seconds of compressing in a fresh process over the length of the video."""
    picked = [f for f in figures if (f.row.what, f.row.mode, f.row.metric) == ("compress", "cold", "time")]
    if not picked:
        return "no time of compressing in a fresh process"
    _lines(axes, picked)
    minutes = sorted({f.row.x for f in picked})
    axes.plot(
        minutes, [60 * m for m in minutes], color=INK, linestyle=":", label="as long as the video lasts"
    )
    _frame(axes, "length of the video (min)", "compressing it (s)", log=True)
    return ""


def compress_memory(axes: Any, figures: Sequence[Figure]) -> str:
    """Peak memory of compressing and a first answer over the length of the video."""
    picked = [f for f in figures if (f.row.what, f.row.mode, f.row.metric) == ("ask", "cold", "memory")]
    of = "GPU" if any(f.row.settings["of"] == "GPU" for f in picked) else "process"
    picked = [f for f in picked if f.row.settings["of"] == of]
    if not picked:
        return "no peak of memory in a fresh process"
    _lines(axes, picked)
    _frame(axes, "length of the video (min)", f"peak memory of the {of} (GB)", log=True)
    low, high = min(f.row.low for f in picked), max(f.row.high for f in picked)
    axes.set_ylim(low / 2, high * 2)
    return ""


def stages(axes: Any, figures: Sequence[Figure]) -> str:
    """Seconds of each stage for a minute of video, one on the other."""
    times = [
        f.row for f in figures if f.row.metric == "time" and f.row.mode == "warm" and f.row.what in STAGES
    ]
    shared = {(row.x, row.what): row.value for row in times if row.what in SHARED}
    bars = grouped((f for f in figures if f.row in times and f.row.what not in SHARED), _method)
    if not bars:
        return "no time of single stages"
    base = [0.0] * len(bars)
    for number_of, stage in enumerate(STAGES):
        part = []
        for (minutes, *_), of in bars.items():
            own = {f.row.what: f.row.value for f in of}
            part.append(own.get(stage, shared.get((minutes, stage), 0.0)) / minutes)
        axes.barh(
            range(len(bars)), part, 0.7, base, color=COLOURS[number_of], edgecolor="white", linewidth=0.8,
            hatch=HATCHES[number_of], label=stage, zorder=2,
        )  # fmt: skip
        base = [a + b for a, b in zip(base, part, strict=True)]
    axes.set_yticks(range(len(bars)), [f"{x:g} min, {_words(of[0])}" for (x, *_), of in bars.items()])
    axes.invert_yaxis()
    _frame(axes, "seconds for a minute of video, stages one after another", "video, tokens kept", log=False)
    return ""


PLOTS: dict[str, tuple[str, str, Callable[[Any, Sequence[Figure]], str]]] = {
    "roofline": ("kernels", "How near operations come to the speed of memory", roofline),
    "compress_time": ("pipeline", "Watching a video in a fresh process", compress_time),
    "compress_memory": ("pipeline", "Peak memory until the first answer", compress_memory),
    "stages": ("pipeline", "Where the seconds go", stages),
}
"""Name of a frame -> benchmark, title, and what draws it or says what is lacking."""


def _lines(axes: Any, figures: Sequence[Figure]) -> None:
    """A line for each budget, over the length of the video, with the spread."""
    for at, own in enumerate(grouped(figures, lambda f: _method(f)[1:]).values()):
        rows = sorted((f.row for f in own), key=lambda row: row.x)
        spread = [[r.value - r.low for r in rows], [r.high - r.value for r in rows]]
        label = WHOLE if rows[0].provider == WHOLE else f"budget {rows[0].settings['budget']:,}"
        axes.errorbar(
            [r.x for r in rows], [r.value for r in rows], spread, color=COLOURS[at % 8], marker=MARKS[at % 8],
            capsize=3, label=label,
        )  # fmt: skip


def _method(figure: Figure) -> tuple[float, str, int]:
    """Minutes, who, and the budget (whose number is no matter where nothing is merged)."""
    row = figure.row
    return row.x, row.provider, 0 if row.provider == WHOLE else row.settings["budget"]


def _words(figure: Figure) -> str:
    tokens = f"{figure.row.settings['tokens']:,}"
    return f"all {tokens}" if figure.row.provider == WHOLE else tokens


def _figure() -> Any:
    """A figure of its own, of a fixed size: no window, no global state."""
    try:
        from matplotlib.figure import Figure as FrameRecord
    except ImportError as error:
        raise ImportError('frames need matplotlib: pip install "matplotlib>=3.8"') from error
    return FrameRecord(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor="white")


def _frame(axes: Any, x: str, y: str, *, log: bool) -> None:
    """Names of the axes with their units, a light grid, and what the series are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axis.set_minor_formatter(NullFormatter())
    axes.grid(color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)


def main() -> None:
    """Draws all frames and prints their paths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="CSV files of benchmarks")
    parser.add_argument("--out", default="docs/figures", help="the folder for the frames")
    given = parser.parse_args()
    for path in draw(given.files, given.out):
        print(path)


if __name__ == "__main__":
    main()
