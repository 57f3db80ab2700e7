"""The tables of a Markdown file from the figures of benchmarks: `longcompress bench table`.

    longcompress bench table eval/results/*.csv --readme README.md

What stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` becomes the table of these figures, NAME
being kernels, compile, pipeline or concurrency. With --check nothing is written, and the exit code is 1 where
a table is not what the figures give.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..files import replacing
from .bench_rows import MACHINE, Row, load
from .stages import SHARED, STAGES, WHOLE

K = TypeVar("K")

MARKER = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:(\w+) -->)", re.S)
BEGINS = re.compile(r"<!-- /?bench:")


@dataclass(frozen=True)
class Figure:
    """A row and what it was measured with, as read from a file."""

    row: Row
    machine: Mapping[str, str]


def read_figures(paths: Iterable[str | Path], suite: str | None = None) -> list[Figure]:
    """The figures of some files of `bench_rows.save`, of one suite or of all."""
    return [_figure(one) for path in paths for one in load(path) if suite in (None, one["suite"])]


def _figure(given: Mapping[str, str]) -> Figure:
    values: dict[str, Any] = {f.name: given[f.name] for f in fields(Row)}
    values |= {name: float(values[name]) for name in ("x", "value", "low", "high")}
    values |= {"runs": int(values["runs"]), "settings": json.loads(values["settings"])}
    return Figure(Row(**values), {name: given[name] for name in MACHINE})


def by_subject(figures: Iterable[Figure]) -> dict[str, list[Figure]]:
    """The figures of each device, and model where there is one, by what they are called."""

    def subject(figure: Figure) -> str:
        told, device = figure.row.settings, figure.machine["device"]
        return f"{told['model']} in {told['dtype']} on {device}" if "model" in told else device

    return grouped(figures, subject)


def grouped(figures: Iterable[Figure], key: Callable[[Figure], K]) -> dict[K, list[Figure]]:
    """The figures of each key, in the order in which keys come."""
    groups: dict[K, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(key(figure), []).append(figure)
    return groups


def kernels(figures: Sequence[Figure]) -> str:
    """Operations, one a row; providers, one a column; bandwidth of the provider that comes first."""
    times = [f for f in figures if f.row.metric == "time"]
    speeds = {(_operation(f), f.row.provider): f.row.value for f in figures if f.row.metric == "bandwidth"}
    copies = [speed for ((what, *_), _), speed in speeds.items() if what == "copy"]
    providers = list(dict.fromkeys(f.row.provider for f in times))
    rows = []
    for operation, of in grouped(times, _operation).items():
        what, mode, dtype, x = operation
        patches = {f.row.provider: _patch(f.row) for f in of}
        speed = speeds.get((operation, of[0].row.provider))
        share = f"{speed / max(copies):.0%}" if speed and copies else ""
        row = [f"{what}, {mode}", dtype, f"{x:g}", *(patches.get(p, "") for p in providers)]
        rows.append([*row, number(speed) if speed else "", share])
    columns = [f"{provider}, {times[0].row.unit}" for provider in providers]
    head = ["operation", "type", times[0].row.x_name, *columns, "GB/s of the first", "of a copy"]
    return _table(head, rows)


def pipeline(figures: Sequence[Figure]) -> str:
    """A table of the stages and one of the whole as users run it, a video and a budget a row."""
    shared = {
        (f.row.x, f.row.what): f.row for f in figures if f.row.metric == "time" and f.row.what in SHARED
    }
    stages, whole = [], []
    for (minutes, provider, _), of in grouped(
        (f for f in figures if f.row.what not in SHARED), _video
    ).items():
        found = {(f.row.what, f.row.mode, f.row.metric): f.row for f in of}  # a GPU's memory comes last
        tokens = f"{of[0].row.settings['tokens']:,}"
        at = [f"{minutes:g} min", f"all {tokens}" if provider == WHOLE else tokens]
        own = {stage: found.get((stage, "warm", "time")) for stage in STAGES}
        stages.append([*at, *(_patch(own[stage] or shared.get((minutes, stage))) for stage in STAGES)])
        cold = [
            ("start", "time"),
            ("load", "time"),
            ("compress", "time"),
            ("compress", "speed"),
            ("ask", "time"),
        ]
        patches = [_patch(found.get((what, "cold", metric))) for what, metric in cold]
        last = [
            _patch(found.get(("ask", mode, metric)))
            for mode, metric in (("warm", "time"), ("cold", "memory"))
        ]
        whole.append([*at, *patches, *last])
    new_tokens = figures[0].row.settings["new_tokens"]
    of_gpu = any(f.row.settings.get("of") == "GPU" for f in figures)
    head = ["video", "tokens", *STAGES[:-1], f"{new_tokens} new tokens"]
    spans = ["start", "load", "compress", "times real time", "first answer", "second answer"]
    peak = f"peak of the {'GPU' if of_gpu else 'process'}, GB"
    return (
        f"Seconds of each stage alone:\n\n{_table(head, stages)}\n\n"
        f"Seconds in a fresh process, and of a second question:\n\n"
        f"{_table(['film', 'tokens', *spans, peak], whole)}"
    )


def concurrency(figures: Sequence[Figure]) -> str:
    """Ways of serving, one a row for every number of clips."""
    rows = []
    for (clips, provider), of in grouped(figures, lambda f: (f.row.x, f.row.provider)).items():
        found = {(f.row.what, f.row.mode, f.row.metric): f.row for f in of}
        kinds = [("all", "rate"), ("p50", "latency"), ("p95", "latency"), ("all", "memory")]
        whole = [_patch(found.get(("watch and ask", *kind))) for kind in kinds]
        halves = [_patch(found.get((what, "all", "rate"))) for what in ("compress", "ask")]
        rows.append([f"{clips:g}", provider, whole[0], *halves, *whole[1:]])
    told = figures[0].row.settings
    head = ["clips", "method", "requests/s", "compressed/s", "answered/s", "p50, s", "p95, s", "peak, GB"]
    return f"Clips of {told['seconds']:g} s, {told['budget']:,} tokens each:\n\n{_table(head, rows)}"


def compile_report(figures: Sequence[Figure]) -> str:
    """Kernels in their forms, one a row, the chips side by side: registers and bytes of shared memory."""
    chips = sorted({f.row.mode for f in figures})
    rows = []
    for name, of in grouped(figures, lambda f: f.row.what).items():
        found = {f.row.mode: f.row for f in of}
        told = [found[chip].settings for chip in chips]
        patches = [f"{found[c].value:g}, {found[c].settings['shared_bytes']:,}" for c in chips]
        stack = max(one["stack_bytes"] for one in told)
        cores = "yes" if all(one["tensor_cores"] for one in told) else ""
        wide = "yes" if all(one["wide_reads"] for one in told) else ""
        rows.append([name, str(told[0]["warps"]), *patches, str(stack), cores, wide])
    spans = [f"{chip}: registers, shared bytes" for chip in chips]
    return _table(["kernel", "warps", *spans, "stack, bytes", "tensor cores", "16-byte reads"], rows)


TABLES = {
    "kernels": kernels, "compile": compile_report, "pipeline": pipeline, "concurrency": concurrency
}  # fmt: skip


def written(text: str, paths: Sequence[str | Path]) -> str:
    """`text` with the tables of these files between its markers.

    Raises:
        ValueError: there are no markers, one has no end or another name, or there are no figures for it.
    """

    def table(found: re.Match[str]) -> str:
        name, end = found[2], found[5]
        if name not in TABLES or end != name:
            raise ValueError(f"markers must be <!-- bench:NAME --> and <!-- /bench:NAME -->, NAME of "
                             f"{', '.join(TABLES)}, got {name} and /{end}")  # fmt: skip
        figures = read_figures(paths, name)
        if not figures:
            raise ValueError(f"no figures of {name} in {', '.join(map(str, paths))}; run bench {name} --out")
        tables = [
            f"{_measured_with(subject, own)}\n\n{TABLES[name](own)}"
            for subject, own in by_subject(figures).items()
        ]
        between = "\n\n"
        return f"{found[1]}{between.join(tables)}\n{found[4]}"

    if len(BEGINS.findall(text)) != 2 * len(MARKER.findall(text)) or not MARKER.search(text):
        raise ValueError("the file must have <!-- bench:NAME --> with a <!-- /bench:NAME --> for each")
    return MARKER.sub(table, text)


def number(value: float) -> str:
    """Three digits, whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def _patch(row: Row | None) -> str:
    """The median and, of several runs, the least and the greatest; empty where there is none."""
    if row is None:
        return ""
    value, low, high = map(number, (row.value, row.low, row.high))
    return f"{value} ({low} to {high})" if low != high else value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; columns with nothing in them are left out."""
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [[head[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _measured_with(subject: str, figures: Sequence[Figure]) -> str:
    """A line that says what it was measured with, and what the figures in brackets are."""
    said = {name: ", ".join(sorted({f.machine[name] for f in figures} - {""})) for name in MACHINE}
    versions = [
        f"{name} {said[name]}" for name in ("python", "torch", "triton", "transformers") if said[name]
    ]
    runs = sorted({f.row.runs for f in figures if f.row.runs > 1})
    spread = f"; medians of {' or '.join(map(str, runs))} runs (least to greatest)" if runs else ""
    return f"{subject}, {said['cpu_threads']} CPU threads, {', '.join(versions)}; {said['date']}{spread}."


def _operation(figure: Figure) -> tuple[str, str, str, float]:
    row = figure.row
    return row.what, row.mode, row.settings.get("dtype", ""), row.x


def _video(figure: Figure) -> tuple[float, str, int]:
    return figure.row.x, figure.row.provider, figure.row.settings["budget"]


def main() -> int:
    """Writes the tables, or checks them; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="CSV files of benchmarks")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="the file with the markers")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where tables differ")
    given = parser.parse_args()
    before = given.readme.read_text(encoding="utf8")
    after = written(before, given.files)
    names = [found[2] for found in MARKER.finditer(before)]
    if given.check:
        pairs = zip(MARKER.finditer(before), MARKER.finditer(after), strict=True)
        stale = [one[2] for one, other in pairs if one[3] != other[3]]
        if stale:
            words = f"longcompress bench table {' '.join(given.files)} --readme {given.readme}"
            print(
                f"{given.readme}: the tables of {', '.join(stale)} are not those of the figures; run {words}"
            )
            return 1
        print(f"{given.readme}: the tables of {', '.join(names)} are those of the figures")
        return 0
    with replacing(given.readme) as part:
        part.write_text(after, encoding="utf8")
    print(f"{given.readme}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
