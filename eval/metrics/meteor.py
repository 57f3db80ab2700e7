"""METEOR 1.5 as published, by its own program: Java, and the jar that the package pycocoevalcap brings.

Without the program METEOR is not computed. There is no other METEOR here, whose numbers would be others.
"""

import contextlib
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

import numpy as np

from .intervals import FloatArray
from .words import References, Words

NOT_COMPUTED = "not computed: install Java, and `pip install pycocoevalcap`"
_OPTIONS = ("-l", "en", "-norm")  # what the captioning evaluators run it with
_MAX_LINES = 128  # sent before answers are read: both must fit a pipe


def jar() -> Path | None:
    """The program, None if pycocoevalcap is not installed."""
    package = find_spec("pycocoevalcap")
    folders = (package.submodule_search_locations or []) if package else []
    paths = (Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def is_available() -> bool:
    """True where both Java and the program are."""
    return shutil.which("java") is not None and jar() is not None


def meteor_name(*, swapped: bool = False) -> str:
    """What stands beside the numbers: the name of this METEOR, or the remedy where it is not computed."""
    if not is_available():
        return NOT_COMPUTED
    return "METEOR 1.5 (java)" + (", arguments swapped" if swapped else "")


def meteor() -> "Meteor | None":
    """The one program that all scores of this process share; None where it can't run."""
    return _program if is_available() else None


class Meteor:
    """The program, started on first use (which takes seconds) and ended by `close` or with Python.

    Called with words, it returns (METEOR of the corpus, METEOR of each item). It is not thread-safe. An item
    without words in the hypothesis or the references scores 0.
    """

    def __call__(
        self, hypotheses: Sequence[Words], references: Sequence[References]
    ) -> tuple[float, list[float]]:
        counts = self._counts(hypotheses, references)
        if not counts:
            return 0.0, []
        self._write([" ||| ".join(["EVAL", *counts])])
        scores = [float(self._read()) for _ in counts]
        return float(self._read()), scores

    def counts(self, hypotheses: Sequence[Words], references: Sequence[References]) -> FloatArray:
        """(items, numbers) what METEOR of a corpus is made of, to be summed."""
        counts = self._counts(hypotheses, references)
        rows = np.array([reply.split() for reply in counts], np.float64)
        # A caption that is one chunk in all has none, which the program sets item by item.
        is_whole = (rows[:, 20] == 1) & (rows[:, :2] == rows[:, 21:]).all(1)
        rows[is_whole, 20] = 0
        return rows

    def score(self, sums: FloatArray) -> float:
        """METEOR of a corpus, of (numbers,) summed `counts`."""
        self._write([" ||| ".join(["EVAL", " ".join(f"{number:.1f}" for number in sums.tolist())])])
        self._read()  # of the one item that the sums make
        return float(self._read())

    def _counts(self, hypotheses: Sequence[Words], references: Sequence[References]) -> list[str]:
        """What the program counts in each item; equal items are asked once."""
        lines = [
            " ||| ".join(["SCORE", *map(_plain, some), _plain(hypothesis)])
            for hypothesis, some in zip(hypotheses, references, strict=True)
        ]
        counts = dict.fromkeys(lines, "")
        different = list(counts)
        for start in range(0, len(different), _MAX_LINES):
            some = different[start : start + _MAX_LINES]
            self._write(some)
            counts |= {line: self._read() for line in some}
        return [counts[line] for line in lines]

    def close(self) -> None:
        """Ends the program; the next call starts it again."""
        if "_process" in vars(self):
            self._end()
            del self._process

    @cached_property
    def _process(self) -> Any:
        path, java = jar(), shutil.which("java")
        assert path is not None and java is not None  # see `meteor`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- open for as long as the program runs
        command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-jar", str(path)]
        command += ["-", "-", "-stdio", *_OPTIONS]
        process = subprocess.Popen(command, cwd=path.parent, stdin=PIPE, stdout=PIPE, stderr=self._errors)
        self._end = weakref.finalize(self, _stop, process, self._errors)
        return process

    def _write(self, lines: Sequence[str]) -> None:
        try:
            self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _read(self) -> str:
        line = self._process.stdout.readline().decode().strip()
        if not line:
            self._fail()
        return line

    def _fail(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-500:]
        code = self._process.poll()
        self.close()
        raise RuntimeError(f"METEOR's program stopped (exit code {code}); its last words: {words!r}")


def _plain(words: Words) -> str:
    """The words as one field of a line of the program's protocol."""
    return " ".join(" ".join(words).replace("|||", " ").split())


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError), errors, process:
        pass  # that closes its pipes, and waits for it


_program = Meteor()  # of this process, started when it is needed
