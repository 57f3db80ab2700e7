"""Files that are replaced whole or not at all, and JSON that may be anybody's."""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import Any
from uuid import uuid4


@contextmanager
def replacing(path: str | Path, *, sweeping: bool = True) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, to write to; it replaces `path` unless something failed.

    Its name is no other process's or thread's, and its mode is that of any new file, whoever writes it. What
    a killed process left of `path` is removed, which lists the folder: not for each of a hundred thousand
    files. Without `sweeping`, call `sweep` once for all.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # /dev/null and pipes are written to, not replaced
        yield path
        return
    path = path.resolve()  # a link goes on pointing where it did
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} into; make it first")
    stem = path.stem.encode()[:64].decode(errors="ignore")  # names of files have at most 255 bytes
    mine = f".{stem}.{node()[:32]}-"
    if sweeping:
        sweep(path.parent, mine)
    part = path.with_name(f"{mine}{os.getpid()}-{uuid4().hex[:8]}.part{path.suffix}")
    try:
        part.touch()
        mode = stat.S_IMODE(part.stat().st_mode)
        yield part
        os.chmod(part, mode)  # safetensors makes files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, start: str = ".") -> None:
    """Remove what killed processes of this machine left half-written in a folder, of names that start so."""
    # not by a glob: Python keeps the last 512 patterns that it compiled, and there is a start for each file
    for name in [name for name in os.listdir(folder) if name.startswith(start)]:
        match = re.search(rf"\.{re.escape(node()[:32])}-(\d+)-[0-9a-f]{{8}}\.part[^/]*$", name)
        if match and not is_alive(int(match[1])):
            (folder / name).unlink(missing_ok=True)


def write_json(path: str | Path, value: Any, **options: Any) -> None:
    """Write JSON and a line break, whole or not at all; options are those of json.dumps."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, **options) + "\n", encoding="utf8")


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; a ValueError that names `where` if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # of its signs, its bytes, a huge number, or its depth
        raise ValueError(f"{where} is no JSON: {error}") from error


def is_hub_name(name: str | Path) -> bool:
    """Whether a name can be one of the hub, owner/model, and is no path by its form."""
    return isinstance(name, str) and not name.startswith((".", "/")) and name.count("/") == 1


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def usual_modes(folder: str | Path) -> None:
    """Give the files below a folder the mode of any new file: safetensors writes for their owner alone."""
    probe = Path(folder) / f".{uuid4().hex}"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
