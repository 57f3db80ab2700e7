"""Benchmarks: `longcompress bench kernels`, `bench throughput` and `bench report`."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

COMMANDS = {"kernels": "bench_kernels", "throughput": "bench_throughput", "report": "bench_report"}
"""Command -> the function that it runs, in the file of the command's name."""


def main(command: str) -> int:
    """Run a command with the words of `sys.argv`; returns its exit code."""
    from jsonargparse import auto_cli

    function = getattr(import_module(f"{__name__}.{command}"), COMMANDS[command])
    return int(auto_cli(function, args=spell_flags(function, sys.argv[1:])) or 0)


def spell_flags(function: Callable[..., Any], words: list[str]) -> list[str]:
    """The words as jsonargparse reads them: `--minutes 1 10` as `--minutes=[1, 10]`, a switch as `=true`."""
    out: list[str] = []
    # a new word begins at every flag; values follow it
    for word in words:
        if word.startswith("--") or not out:
            out.append(word)
        else:
            out[-1] += f"\n{word}"
    joined: list[str] = []
    hints = get_type_hints(function)
    for flag, *values in (text.split("\n") for text in out):
        hint = hints.get(flag.removeprefix("--").replace("-", "_"))
        if hint is bool and not values:
            joined.append(f"{flag}=true")
            continue
        kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is list]
        if not kinds or not values or values[0].startswith("["):
            joined += [flag, *values]
            continue
        numbers = get_args(kinds[0])[0] in (int, float)
        joined.append(f"{flag}=[{', '.join(v if numbers else json.dumps(v) for v in values)}]")
    return joined
