"""Figures of a benchmark in the one form that all of them are kept in: CSV rows with the machine in each."""

import csv
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..files import replacing


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        suite: "kernels", "compile", "pipeline", "concurrency", ...
        what: the operation or stage.
        provider: which code did it ("triton", "torch", "step by step", ...).
        mode: "forward", "backward", "cold", "warm", ...
        metric: what is counted ("time", "bandwidth", "memory", "rate", "latency", "tokens").
        unit: of `value`, e.g. "ms", "GB/s", "MB", "frames/s".
        x_name, x: what is varied and its value, e.g. "video_min", 10.
        value: the median.
        low, high: the least and the greatest of the runs; of a single run the same as value.
        runs: how many.
        settings: everything else that was set.
    """

    suite: str
    what: str
    provider: str
    mode: str
    metric: str
    unit: str
    x_name: str
    x: float
    value: float
    low: float
    high: float
    runs: int
    settings: dict[str, Any] = field(default_factory=dict)


MACHINE = ("device", "cpu_threads", "python", "torch", "triton", "transformers", "date")
COLUMNS = (*(f.name for f in fields(Row)), *MACHINE)


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """(middle, least, greatest) of some values."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[0], ordered[-1]


@cache
def machine(device: str) -> dict[str, str]:
    """What a figure was measured with: device "cpu" or "cuda" and the versions that matter."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(torch.device(device))
    else:
        name = f"cpu {platform.machine()}"
    return {
        "device": name,
        "cpu_threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "transformers": _version("transformers"),
        "date": datetime.now(UTC).date().isoformat(),
    }


def save(path: str | Path, rows: Sequence[Row], device: str) -> None:
    """Write `rows` to a CSV file, each with the machine; rows of the same suites there are replaced."""
    new = [
        asdict(row) | {"settings": json.dumps(row.settings, sort_keys=True)} | machine(device) for row in rows
    ]
    suites = {row.suite for row in rows}
    old = [row for row in load(path) if row["suite"] not in suites] if Path(path).is_file() else []
    with replacing(path) as part, open(part, "w", newline="", encoding="utf8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(old + new)


def load(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file of `save`.

    Raises:
        ValueError: it has other columns.
    """
    with open(path, newline="", encoding="utf8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} must have the columns {', '.join(COLUMNS)}; got {reader.fieldnames}")
    return rows


def line(row: Row) -> str:
    """A row as it is printed while it is measured."""
    where = f"{row.x_name}={row.x:g}" if row.x_name else ""
    spread = f" [{row.low:.4g}, {row.high:.4g}]" if row.runs > 1 else ""
    return f"{row.what:28s} {row.provider:18s} {row.mode:9s} {where:16s} {row.value:10.4g} {row.unit}{spread}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
