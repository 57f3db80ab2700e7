"""Files that are replaced whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write to; it replaces `path` unless something failed.

    Its name is no other process's or thread's, and its mode is that of any new file, whoever writes it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # /dev/null and pipes are written to, not replaced
        yield path
        return
    path = path.resolve()  # a link goes on pointing where it did
    stem = path.stem.encode()[:64].decode(errors="ignore")  # names of files have at most 255 bytes
    part = path.with_name(f".{stem}.{os.getpid()}-{uuid4().hex[:8]}.part{path.suffix}")
    try:
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        yield part
        os.chmod(part, mode)  # safetensors makes files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def usual_modes(folder: str | Path) -> None:
    """Give the files below a folder the mode of any new file: safetensors writes for their owner alone."""
    probe = Path(folder) / f".{uuid4().hex}"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
