"""Memories by content and settings: files on disk, the last used ones in RAM, both bounded."""

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..memory import VideoMemory
from ..model import LongCompress
from .limits import GB, Limits

log = logging.getLogger(__name__)


def key_of(model: LongCompress) -> str:
    """A hash of encoders and settings of a model: of all of it that decides a memory."""
    return f"{model.identity()}{model.settings()}"


def memory_key(model: str, contents: list[tuple[str, str]], *settings: Any) -> str:
    """A hash of all that decides a memory: `key_of` the model, (kind, hash) of the media, budget and part."""
    return hashlib.sha256(json.dumps([model, contents, *settings]).encode()).hexdigest()


class Memories:
    """Several threads may use it. Of files, those unused for the longest time are removed."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.folder = limits, limits.path / "memories"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._loaded: OrderedDict[str, VideoMemory] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, model: LongCompress) -> VideoMemory | None:
        """The memory of a key, or None. A damaged file is removed."""
        with self._lock:
            memory = self._loaded.get(key)
        if memory is not None and memory.model is not model:
            memory = None
        path = self._path(key)
        try:
            if path.exists():
                os.utime(path)
                memory = memory or VideoMemory.load(path, model)
        except (ValueError, FileNotFoundError) as error:
            log.warning("memory removed: %s", error)
            with self._lock:
                path.unlink(missing_ok=True)
        if memory is not None:
            self._keep(key, memory)
        return memory

    def find(self, key: str) -> VideoMemory | None:
        """The memory of a key to look into, of whatever model, or None."""
        with self._lock:
            memory = self._loaded.get(key)
        try:
            return memory or VideoMemory.load(self._path(key))
        except (ValueError, FileNotFoundError):
            return None

    def put(self, key: str, memory: VideoMemory) -> None:
        """Keep a memory; where the disk is full, in RAM alone."""
        self._keep(key, memory)
        try:
            memory.save(self._path(key))
        except OSError as error:
            log.error("memory is in RAM alone: %s", error)
        with self._lock:
            files = self._files()
            num_bytes = sum(size for _, size, _ in files)
            for _, size, path in files[:-1]:
                if num_bytes > self.limits.memories_gb * GB:
                    path.unlink(missing_ok=True)
                    num_bytes -= size

    def latest(self) -> list[str]:
        """The keys of the files that were used last, the newest first: as many as stay in RAM."""
        return [path.stem for _, _, path in self._files()[: -self.limits.loaded - 1 : -1]]

    def restore(self, key: str, memory: VideoMemory) -> None:
        """Keep a memory in RAM where there is room, as the one that was used before all others."""
        with self._lock:
            if key not in self._loaded and len(self._loaded) < self.limits.loaded:
                self._loaded[key] = memory
                self._loaded.move_to_end(key, last=False)

    def _keep(self, key: str, memory: VideoMemory) -> None:
        with self._lock:
            self._loaded[key] = memory
            self._loaded.move_to_end(key)
            while len(self._loaded) > self.limits.loaded:
                self._loaded.popitem(last=False)

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time of the last use, bytes, path) of each file, by time."""
        files = []
        for path in self.folder.glob("[!.]*.lcm"):
            with suppress(FileNotFoundError):  # another server of the folder has removed it
                info = path.stat()
                files.append((info.st_mtime, info.st_size, path))
        return sorted(files)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.lcm"
