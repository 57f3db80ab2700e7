"""Files that are replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write to; it replaces `path` unless something failed."""
    path = Path(path)
    if path.exists() and not path.is_file():  # /dev/null and pipes are written to, not replaced
        yield path
        return
    path = path.resolve()  # a link goes on pointing where it did
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
