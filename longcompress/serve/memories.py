"""Memories by content and settings: files on disk, the last used ones in RAM, both bounded."""

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ..memory import VideoMemory
from ..model import LongCompress
from .limits import GB, Limits

log = logging.getLogger(__name__)


def key_of(model: LongCompress, contents: list[tuple[str, str]], *settings: Any) -> str:
    """A hash of all that decides a memory: encoders, their settings, (kind, hash) of the media, budget and
    part."""
    parts = [model.identity(), model.settings(), contents, *settings]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


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
            if (memory := self._loaded.get(key)) is not None and memory.model is model:
                self._loaded.move_to_end(key)
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
        return memory if memory is None or memory.model is model else None

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
            files = sorted((p.stat().st_mtime, p.stat().st_size, p) for p in self.folder.glob("[!.]*.lcm"))
            num_bytes = sum(size for _, size, _ in files)
            for _, size, path in files[:-1]:
                if num_bytes > self.limits.memories_gb * GB:
                    path.unlink(missing_ok=True)
                    num_bytes -= size

    def _keep(self, key: str, memory: VideoMemory) -> None:
        with self._lock:
            self._loaded[key] = memory
            self._loaded.move_to_end(key)
            while len(self._loaded) > self.limits.loaded:
                self._loaded.popitem(last=False)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.lcm"
