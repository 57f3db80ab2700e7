"""The command `longcompress`: each function in COMMANDS is a command, its parameters are the flags.

Exit codes: 0 done; 1 a check found something wrong; 2 a wrong argument; 3 the input can't be read; 4 the
output can't be written; 130 interrupted; 143 ended by SIGTERM. No half-written file stays behind.
"""

import errno
import logging
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from .. import __version__
from .commands import ask, compress, config, doctor, events, export, info, models, plot, synthesize
from .common import QUIET, Failed, bars, complain
from .completion import completion, next_words
from .defaults import defaults_of
from .demo import demo
from .parser import Command, Group, find, parse
from .train import recipe_of, train

_ALIKE = 20  # warnings that are printed of those with the same text behind their last ": "
_QUIET, _VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # standard output may be a file too


def _in(module: str, names: str) -> dict[str, str]:
    """Command to the function of its name in a module, which is imported when one of them is run."""
    return {name: f"longcompress.{module}:{name.replace('-', '_')}" for name in names.split()}


_SHARDS = "make index verify info repack convert synthesize export-npy import-features bench"
_EVAL = _in("cli.eval", "run score compare pairs tasks")
_EVAL["merge-quality"] = "longcompress.eval.runner.merge_quality:measure"
_BENCH = {
    name: f"longcompress.eval.bench.{name}:bench_{name}"
    for name in ["kernels", "throughput", "stock", "report", "serve", "cost", "live"]
} | {"boundaries": "longcompress.annotate.measure:bench_boundaries"}
COMMANDS = Group("Hours of video with audio as a fixed number of tokens that a language model reads.", {
    "compress": compress, "ask": ask, "info": info, "events": events, "plot": plot, "export": export,
    "demo": demo, "models": models, "doctor": doctor, "config": config, "synthesize": synthesize,
    "train": train, "serve": "longcompress.cli.serve:serve", **_in("cli.annotate", "annotate"),
    "shards": Group("Encode videos once for training, and look into shards.", _in("cli.shards", _SHARDS)),
    "eval": Group("Run benchmarks, score predictions as the papers do, compare at equal budgets.", _EVAL),
    "bench": Group("Measure speed and memory, and write the tables of the figures.", _BENCH),
    "weights": Group("Read published weights.", _in("cli.weights", "apply delta show split")),
    "live": Group(
        "Play a running source into a live session; `longcompress live SOURCE --help` lists the flags.",
        _in("cli.live", "replay") | _in("cli.calibrate", "calibrate"),
        default="longcompress.cli.live:live",
    ),
    "completion": completion,
}, """
--version shows the version; -q (--quiet) only errors; -v (--verbose) also what libraries say; --debug
where an error comes from. LONGCOMPRESS_MODEL, LONGCOMPRESS_BUDGET, ... and longcompress.yaml in ~/.config are
defaults of flags.
Exit codes: 0 done, 1 a check found something wrong, 2 wrong argument, 3 input unreadable,
4 output unwritable, 130 interrupted, 143 ended by SIGTERM.""")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. `argv` without the program's name; None: the process's own."""
    typed = sys.argv[1:] if argv is None else argv
    words = [word for word in typed if word not in ("--debug", *_QUIET, *_VERBOSE)]
    quiet = QUIET.set(any(word in _QUIET for word in typed))
    try:
        with warnings.catch_warnings(), _ended_in_order():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # peft asks for it
            warnings.showwarning = partial(_warn, Counter())
            code = _run(words, any(word in _VERBOSE for word in typed))
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # after help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        complain("interrupted", "no half-written file was left")
        return 130
    except BrokenPipeError:  # whoever read our output had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Failed, ValueError, ImportError, OSError, MemoryError) as error:
        if "--debug" in typed:
            raise
        complain("error", error)
        if isinstance(error, OSError):
            return 4 if error.errno in FULL else 3
        return error.code if isinstance(error, Failed) else 2
    finally:
        QUIET.reset(quiet)


def _warn(counts: Counter[str], message: object, *_: object, **__: object) -> None:
    counts[kind := str(message).rpartition(": ")[2]] += 1
    if counts[kind] <= _ALIKE:
        end = "; more that end so are not printed" if counts[kind] == _ALIKE else ""
        complain("warning", f"{message}{end}")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM inside removes temporary files and ends child processes, as an interrupt does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:  # None: a handler that was not set from Python
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _run(words: list[str], is_verbose: bool) -> int:
    logging.basicConfig(level=logging.INFO if is_verbose else logging.WARNING)
    logging.getLogger("transformers").setLevel(logging.INFO if is_verbose else logging.ERROR)
    if not bars():  # read when transformers is imported: its bars go by it too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if words[:1] == ["--complete"]:
        print("\n".join(next_words(words[1:], COMMANDS, _instances)))
        return 0
    if words[:1] in (["--version"], ["-V"], ["version"]):
        print(f"longcompress {__version__}")
        return 0
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # else 1,024, up to 2 MB for each shape
    name, command, rest = find(["--help"] if words in ([], ["help"]) else words, COMMANDS)
    return command(**parse(name, command, rest, **_instances(command, rest))) or 0


def _instances(command: Command, rest: Sequence[str]) -> dict[str, Any]:
    """The parameters of a command whose defaults aren't those of their class."""
    return {"recipe": recipe_of(rest)} if command is train else defaults_of(command)
