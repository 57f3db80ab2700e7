"""One writer a file."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """ValueError if another process, or another run of this one, writes to `path`.

    The lock is the system's (flock) on NAME.lock beside it, so it ends with its process, however that ends; a
    file that a killed process left is no obstacle. The file is removed at the end.
    """
    path = Path(path)
    beside = path.with_name(f"{path.name}.lock")
    while True:
        file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            writer = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise ValueError(
                f"{path} is being written by another run{f' (process {writer})' if writer else ''}; wait for "
                "it, or give another --out"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), beside.stat()):
                break
        os.close(file)  # the one before took it away between opening and locking
    try:
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        beside.unlink(missing_ok=True)  # while it is locked: who waits for it sees that it is gone
        os.close(file)
