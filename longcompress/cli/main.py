"""The command `longcompress`: each function in COMMANDS is a command, its parameters are the flags.

Exit codes: 0 done; 1 a check found something wrong; 2 a wrong argument; 3 the input can't be read; 4 the
output can't be written; 130 interrupted. No half-written file stays behind.
"""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from .. import __version__
from .commands import ask, compress, config, doctor, events, info, plot, synthesize
from .common import Failed, bars, complain
from .demo import demo
from .eval import compare, pairs, run, score, tasks
from .parser import Group, find, parse
from .shards import bench, convert, export_npy, import_features, index, make, repack, synthetic, verify
from .shards import info as shards_info
from .train import recipe_of, train
from .weights import apply, delta

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # standard output may be a file too
BENCH = "longcompress.eval.bench"
SHARDS = Group("Encode videos once for training, and look into shards.", {
    "make": make, "index": index, "verify": verify, "info": shards_info, "repack": repack, "bench": bench,
    "convert": convert, "synthesize": synthetic, "export-npy": export_npy,
    "import-features": import_features,
})  # fmt: skip
EVAL = Group("Run benchmarks, score predictions as the papers do, compare at equal budgets.", {
    "run": run, "score": score, "compare": compare, "pairs": pairs, "tasks": tasks,
    "merge-quality": "longcompress.eval.runner.merge_quality:measure",
})  # fmt: skip
BENCHES = Group("Measure speed and memory, and write the tables of the figures.", {
    "kernels": f"{BENCH}.kernels:bench_kernels", "throughput": f"{BENCH}.throughput:bench_throughput",
    "report": f"{BENCH}.report:bench_report",
})  # fmt: skip
WEIGHTS = Group("Read weights that other projects published.", {"apply": apply, "delta": delta})
COMMANDS = Group("Hours of video with audio as a fixed number of tokens that a language model reads.", {
    "compress": compress, "ask": ask, "info": info, "events": events, "plot": plot, "demo": demo,
    "doctor": doctor, "config": config, "synthesize": synthesize, "train": train, "shards": SHARDS,
    "eval": EVAL, "bench": BENCHES, "weights": WEIGHTS,
}, """
--version shows the version; --debug shows where an error comes from.
Exit codes: 0 done, 1 a check found something wrong, 2 wrong argument, 3 input unreadable,
4 output unwritable, 130 interrupted.""")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. `argv` without the program's name; None: the process's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # peft asks for it
            warnings.showwarning = lambda message, *_, **__: complain("warning", message)
            code = _run(words)
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
    except (Failed, ValueError, ImportError, OSError) as error:
        if debug:
            raise
        complain("error", error)
        if isinstance(error, Failed):
            return error.code
        if isinstance(error, OSError):
            return 4 if error.errno in FULL else 3
        return 2


def _run(words: list[str]) -> int:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not bars():  # read when transformers is imported: its bars go by it too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if words[:1] == ["--version"]:
        print(f"longcompress {__version__}")
        return 0
    name, command, rest = find(words or ["--help"], COMMANDS)
    defaults = {"recipe": recipe_of(rest)} if command is train else {}
    return command(**parse(name, command, rest, **defaults)) or 0
