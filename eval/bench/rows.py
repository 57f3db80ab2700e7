"""Figures of benchmarks in one form: CSV rows with the machine in each, written as they are measured."""

import csv
import json
import math
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...files import replacing

K = TypeVar("K")
OURS, UNCOMPRESSED = "longcompress", "uncompressed"  # providers
MACHINE = ("device", "cpu_threads", "python", "torch", "triton", "transformers", "date")


@dataclass(frozen=True)
class Row:
    """One figure, or with no value the case that is to be measured.

    Attributes:
        suite: the group of cases: "kernels", "compile", "stages", "memory", "requests", "media", "features".
        case: the operation or stage.
        provider: the implementation ("triton", "torch", "step by step", ...).
        metric: the measured quantity ("time", "bandwidth", "memory", "rate", ...).
        unit: of `value`, e.g. "ms", "GB/s".
        x_name, x: the varied setting and its value, e.g. "minutes", 10.
        value: the median of the runs; nan for a case that failed.
        low, high: the minimum and the maximum of the runs.
        runs: the number of runs.
        error: why the case failed, or "".
        settings: everything else that was set.
        machine: device, versions and date, as `machine_info` gives them.
    """

    suite: str
    case: str
    provider: str = ""
    metric: str = ""
    unit: str = ""
    x_name: str = ""
    x: float = 0.0
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    runs: int = 0
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict, compare=False)

    def figure(self, values: Iterable[float], metric: str = "time", unit: str = "s", **changes: Any) -> "Row":
        """The case with the median, minimum and maximum of its runs."""
        runs = sorted(values)
        return replace(self, metric=metric, unit=unit, value=runs[len(runs) // 2], low=runs[0],
                       high=runs[-1], runs=len(runs), **changes)  # fmt: skip

    def failed(self, error: str, **changes: Any) -> "Row":
        """The case without a figure."""
        return replace(self, error=" ".join(error.split())[:600], **changes)

    def __str__(self) -> str:
        where = f"{self.x_name}={self.x:g}" if self.x_name else ""
        start = f"{self.case:26s} {self.provider:18s} {where:14s}"
        if self.error:
            return f"{start} FAILED: {self.error}"
        spread = f" [{self.low:.4g}, {self.high:.4g}]" if self.runs > 1 else ""
        return f"{start} {self.value:10.4g} {self.unit}{spread}"


COLUMNS = (*(f.name for f in fields(Row) if f.name != "machine"), *MACHINE)


class Recorder:
    """Prints rows and writes them to a CSV file as they come; it replaces older rows of the same suites."""

    def __init__(self, out: str | Path | None, device: str, suites: Sequence[str]) -> None:
        self.out, self.device, self.num_failed = out, device, 0
        if out:
            Path(out).parent.mkdir(parents=True, exist_ok=True)
        before = load_rows(out) if out and Path(out).is_file() else []
        self.rows = [row for row in before if row.suite not in suites]

    def add(self, row: Row) -> None:
        """Print a row, and replace the file by one that has it too."""
        self.rows.append(replace(row, machine=machine_info(self.device)))
        self.num_failed += bool(row.error)
        print(row, flush=True)
        if self.out:
            save_rows(self.out, self.rows)

    @contextmanager
    def attempt(self, case: Row) -> Iterator[None]:
        """A failure becomes a row of the case, and the program goes on."""
        try:
            yield
        # any failure, of a compiler or a driver too, must leave the other cases their figures
        except Exception as error:
            self.add(case.failed(f"{type(error).__name__}: {error}"))

    def run(self, case: Row, measure: Callable[..., Iterable[Row]], *arguments: Any) -> None:
        """Add the rows of `measure(case, *arguments)`, or of its failure."""
        print(f"-- {case.suite}: {case.case} {case.provider}", file=sys.stderr, flush=True)
        with self.attempt(case):
            for row in measure(case, *arguments):
                self.add(row)


def save_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows to a CSV file, which is replaced whole."""
    with replacing(path) as part, open(part, "w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            values = asdict(row) | {"settings": json.dumps(row.settings, sort_keys=True)}
            writer.writerow(values | values.pop("machine"))


def load_rows(path: str | Path) -> list[Row]:
    """The rows of a CSV file of `save_rows`; ValueError for other columns."""
    with open(path, newline="", encoding="utf8") as file:
        reader = csv.DictReader(file)
        lines: list[dict[str, Any]] = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; got {reader.fieldnames}")
    for line in lines:
        line |= {name: float(line[name]) for name in ("x", "value", "low", "high")}
        line |= {"runs": int(line["runs"]), "settings": json.loads(line["settings"])}
        line["machine"] = {name: line.pop(name) for name in MACHINE}
    return [Row(**line) for line in lines]


def number(value: float) -> str:
    """Three digits, whole from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def tokens_of(row: Row) -> str:
    """Number of tokens of a row's memory; "" for stages that have none."""
    tokens = row.settings.get("tokens")
    text = "" if tokens is None else f"{tokens:,}"
    return f"all {text}" if row.provider == UNCOMPRESSED else text


def subject_of(row: Row) -> str:
    """A row's device, and model where there is one."""
    about, device = row.settings, row.machine["device"]
    return f"{about['model']} in {about['dtype']} on {device}" if "model" in about else device


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """The rows of each key, in the order in which keys come."""
    groups: dict[K, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def machine_info(device: str) -> dict[str, str]:
    """Name of the device, versions of the packages that matter, and the date: MACHINE."""
    on_gpu = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name(torch.device(device)) if on_gpu else f"cpu {platform.machine()}",
        "cpu_threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version_of("triton") or "",
        "transformers": version_of("transformers") or "",
        "date": datetime.now(UTC).date().isoformat(),
    }


def version_of(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
