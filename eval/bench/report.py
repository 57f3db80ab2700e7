"""Tables and plots of the figures of benchmarks: `longcompress bench report`.

    longcompress bench report --out docs/figures --docs docs/results.md

Between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` of a Markdown file stands the table of a suite.
With --check nothing is written, and the exit code is 1 where a table isn't that of the figures.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ..tasks.files import write_text
from .plot import plot_all
from .rows import MACHINE, Row, grouped, load_rows, number, subject_of, tokens_of

MARKER = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:(\w+) -->)", re.S)
Text = Callable[[Row], str]
ANY_MARKER = re.compile(r"<!-- /?bench:")


def bench_report(
    out: str = "docs/figures", files: list[str] | None = None, docs: list[str] | None = None,
    check: bool = False,
) -> int:  # fmt: skip
    """Write OUT/report.md with all tables, and the plots beside it.

    Args:
        out: folder of the report.
        files: CSV files of benchmarks; eval/results/*.csv if not given.
        docs: Markdown files whose tables are written anew.
        check: write nothing; the exit code is 1 where the tables in `docs` aren't those of the figures.
    """
    paths = files or sorted(map(str, Path("eval/results").glob("*.csv")))
    rows = [row for path in paths for row in load_rows(path)]
    stale = False
    for page in map(Path, docs or []):
        before = page.read_text(encoding="utf8")
        after = with_tables(before, rows)
        state = "are those of the figures" if after == before else "differ from the figures"
        stale |= after != before
        if not check:
            write_text(page, after)
        print(f"{page}: its tables {state if check else 'are written'}")
    if check:
        return int(stale)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(f"## {name}\n\n{tables(name, rows)}" for name in grouped(rows, lambda r: r.suite))
    plots = plot_all(rows, folder)
    images = "".join(f"\n![{path.stem}]({path.name})\n" for path in plots)
    write_text(folder / "report.md", f"# Benchmarks\n\n{text}\n{images}")
    print(folder / "report.md", *plots, sep="\n")
    return 0


def with_tables(text: str, rows: Sequence[Row]) -> str:
    """`text` with the tables of these rows between its markers; ValueError for wrong ones or no figures."""

    def table(match: re.Match[str]) -> str:
        name, end = match[2], match[5]
        if name not in TABLES or end != name:
            needed = f"<!-- bench:NAME --> and <!-- /bench:NAME -->, NAME of {', '.join(TABLES)}"
            raise ValueError(f"markers must be {needed}, got {name} and /{end}")
        return f"{match[1]}{tables(name, rows)}\n{match[4]}"

    if len(ANY_MARKER.findall(text)) != 2 * len(MARKER.findall(text)) or not MARKER.search(text):
        raise ValueError("the file must have <!-- bench:NAME --> with a <!-- /bench:NAME --> for each")
    return MARKER.sub(table, text)


def tables(suite: str, rows: Sequence[Row]) -> str:
    """The tables of a suite in Markdown, one for each device and model, with its machine."""
    own = [row for row in rows if row.suite == suite]
    if not own:
        raise ValueError(f"there are no figures of {suite}; measure them with longcompress bench")
    return "\n\n".join(
        f"{measured_with(subject, part)}\n\n{pivot(*TABLES[suite], part)}"
        for subject, part in grouped(own, subject_of).items()
    )


def pivot(heads: Sequence[str], column: Text, rows: Sequence[Row]) -> str:
    """Markdown: a line for each combination of texts of the left columns, a column for each quantity."""
    columns = list(dict.fromkeys(column(row) for row in rows if not row.error))
    failed = ["failed"] if any(row.error for row in rows) else []
    lines = []
    for left, part in grouped(rows, lambda row: tuple(HEADS[name](row) for name in heads)).items():
        patches = {column(row): patch(row) for row in part if not row.error}
        errors = [f"{row.provider}: {row.error}".replace("|", "/") for row in part if row.error]
        patches["failed"] = "; ".join(errors)
        lines.append([*left, *(patches.get(name, "") for name in columns + failed)])
    return markdown_table([*heads, *columns, *failed], lines)


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def patch(row: Row) -> str:
    """The median and, of several runs, the minimum and maximum; of a compiled kernel all its report."""
    if row.suite == "compile":
        about = row.settings
        flags = {"tensor cores": about["tensor_cores"], "16-byte reads": about["wide_reads"]}
        sizes = [f"{row.value:g}", f"{about['shared_bytes']:,}", str(about["stack_bytes"])]
        return ", ".join([*sizes, *(name for name, on in flags.items() if on)])
    value, low, high = map(number, (row.value, row.low, row.high))
    return f"{value} ({low} to {high})" if low != high else value


def quantity(row: Row) -> str:
    """Case, metric and unit, without the metric where that is the time."""
    return f"{row.case}, {row.unit}" if row.metric == "time" else f"{row.case}, {row.metric}, {row.unit}"


# Head of a left column -> its text.
HEADS: dict[str, Text] = {
    "video": lambda r: f"{r.x:g} min",
    "tokens": tokens_of,
    "type": lambda r: r.settings.get("dtype", ""),
    "size": lambda r: f"{r.x:g} {r.x_name}",
    "provider": lambda r: r.provider,
    **dict.fromkeys(("operation", "kernel", "reading", "case"), lambda r: r.case),
    **dict.fromkeys(("warps", "clips"), lambda r: f"{r.x:g}"),
}
# Suite -> the left columns, and the head of each other column.
TABLES: dict[str, tuple[tuple[str, ...], Text]] = {
    "kernels": (("operation", "type", "size"), lambda r: f"{r.provider}, {r.unit}"),
    "compile": (("kernel", "warps"), lambda r: f"{r.provider}: registers, shared bytes, stack bytes"),
    "stages": (("video", "tokens"), quantity),
    "memory": (("video", "tokens"), quantity),
    "requests": (("clips", "provider"), quantity),
    "media": (("video", "reading"), lambda r: f"{r.metric}, {r.unit}"),
    "features": (("video", "case", "provider"), lambda r: f"{r.metric}, {r.unit}"),
}


def measured_with(subject: str, rows: Sequence[Row]) -> str:
    """A line with the machine, the versions, the date and the number of runs."""
    values = {name: ", ".join(sorted({row.machine[name] for row in rows} - {""})) for name in MACHINE}
    names = [n for n in ("python", "torch", "triton", "transformers") if values[n]]
    versions = ", ".join(f"{name} {values[name]}" for name in names)
    runs = sorted({row.runs for row in rows if row.runs > 1})
    spread = f"; medians of {' or '.join(map(str, runs))} runs (minimum to maximum)" if runs else ""
    return f"{subject}, {values['cpu_threads']} CPU threads, {versions}; {values['date']}{spread}."
