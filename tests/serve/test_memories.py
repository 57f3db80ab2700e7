"""Memory files of a server: bounded, whole or not at all."""

import os

import pytest
import torch

import longcompress as lc
from longcompress.media import arrays
from longcompress.serve.limits import GB, Limits
from longcompress.serve.memories import Memories, key_of, memory_key


@pytest.fixture(scope="module")
def memory():
    pixels = torch.randint(0, 255, (3, 64, 64, 3), dtype=torch.uint8)
    return lc.compress(lc.load("tiny", device="cpu"), arrays(pixels), budget=16, progress=False)


def names(tmp_path):
    return sorted(path.stem for path in tmp_path.rglob("*.lcm"))


def test_the_longest_unused_files_are_removed(tmp_path, memory):
    size = memory.save(tmp_path / "x").stat().st_size
    (tmp_path / "x").unlink()
    memories = Memories(Limits(folder=str(tmp_path), memories_gb=2.5 * size / GB, loaded=1))
    part = tmp_path / "memories" / ".d.part.lcm"  # another thread is writing it
    part.write_bytes(bytes(3 * size))
    for second, key in enumerate("abc"):
        memories.put(key, memory)
        os.utime(tmp_path / "memories" / f"{key}.lcm", (second, second))
        if key == "b":
            assert memories.get("a", memory.model) is not None  # used now: b is the oldest
    assert names(tmp_path) == [".d.part", "a", "c"]
    assert memories.get("b", memory.model) is None
    assert len(memories._loaded) == 1


def test_a_damaged_file_is_removed(tmp_path, memory):
    Memories(Limits(folder=str(tmp_path))).put("a", memory)
    path = tmp_path / "memories" / "a.lcm"
    path.write_bytes(path.read_bytes()[:-3])
    assert Memories(Limits(folder=str(tmp_path))).get("a", memory.model) is None
    assert names(tmp_path) == []


def test_a_full_disk_leaves_the_memory_in_ram(tmp_path, memory, monkeypatch):
    memories = Memories(Limits(folder=str(tmp_path)))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lc.VideoMemory, "save", full)
    memories.put("a", memory)
    assert memories.get("a", memory.model) is memory and names(tmp_path) == []


def test_the_model_that_asks_gets_its_own_memory(tmp_path, memory):
    """A model of equal settings loads the file, and reads no video again."""
    memories, twin = Memories(Limits(folder=str(tmp_path))), memory.model.twin({})
    memories.put("a", memory)
    assert memories.get("a", memory.model) is memory
    other = memories.get("a", twin)
    assert other.model is twin and torch.equal(other.streams["video"].x, memory.streams["video"].x)
    assert memories.get("a", twin) is other


def test_the_files_used_last_are_restored_where_there_is_room(tmp_path, memory):
    memories = Memories(Limits(folder=str(tmp_path), loaded=2))
    for second, key in enumerate("abc"):
        memories.put(key, memory)
        os.utime(tmp_path / "memories" / f"{key}.lcm", (second, second))
    again = Memories(memories.limits)
    assert again.latest() == ["c", "b"]
    again.put("d", memory)
    again.restore("c", memory)  # used before "d", which was there first
    again.restore("b", memory)
    assert list(again._loaded) == ["c", "d"]


def test_keys_differ_by_all_that_decides_a_memory(memory):
    model = memory.model
    part = [("video", "a")], 8, 0.0, 9.0
    base = memory_key(key_of(model), *part)
    others = [
        memory_key(key_of(model), [("video", "b")], 8, 0.0, 9.0),
        memory_key(key_of(model), [("audio", "a")], 8, 0.0, 9.0),
        memory_key(key_of(model), [("video", "a")], 9, 0.0, 9.0),
        memory_key(key_of(model), [("video", "a")], 8, 1.0, 9.0),
        memory_key(key_of(model.twin({"media": {"rate_fps": 2}})), *part),
    ]
    assert len({base, *others}) == 6
    assert memory_key(key_of(model.twin({"media": {"max_pixels": 9}})), *part) == base
