"""Files that are replaced whole or not at all, whoever writes them, and however many at once."""

import multiprocessing
import os
import re
import threading

import pytest

import longcompress as lc
from longcompress.files import parse_json, replacing, usual_modes
from longcompress.media.reader import arrays
from longcompress.videos import compress

import ranks
from clips import make_clip
from models import model as make_model
from videos import Video, write


@pytest.mark.parametrize("text", ["{", b"\xff", "[" * 100_000, "1" * 5000])
def test_what_is_no_json_is_named(text):
    with pytest.raises(ValueError, match="here is no JSON: "):
        parse_json(text, "here")


@pytest.fixture
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_modes_are_those_of_any_new_file(open_umask, tmp_path):
    model = make_model()
    frame, sound = make_clip(6.0)
    memory = compress(model, arrays(frame.pixels, 1.0, sound.samples), budget=20, progress=False)
    memory.save(tmp_path / "x.lcm")
    model.save_pretrained(tmp_path / "model", include_base=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}


def test_many_may_write_one_file_at_once(tmp_path):
    path, errors = tmp_path / "same.bin", []

    def write(number):
        try:
            for _ in range(100):
                with replacing(path) as part:
                    part.write_bytes(bytes([number]) * 5000)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(path.read_bytes())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["same.bin"]


def test_names_may_be_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("é" * 125 + ".lcm")
    with replacing(path) as part:
        part.write_bytes(b"x")
    assert path.read_bytes() == b"x"


def test_no_name_leaves_a_pattern_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(re, "compile", None)
    with replacing(tmp_path / "[x]*.lcm") as part:
        part.write_bytes(b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["[x]*.lcm"]


def test_what_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "x") as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_usual_modes_leave_links_alone(open_umask, tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "b").symlink_to("nowhere")
    usual_modes(tmp_path)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def saved_often(path, number):
    """Write a file a hundred times, as a process of its own."""
    for _ in range(100):
        with replacing(path) as part:
            part.write_bytes(bytes([number]) * 5000)


def test_two_processes_may_write_one_file_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=saved_often, args=(tmp_path / "same.bin", k)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(set((tmp_path / "same.bin").read_bytes())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["same.bin"]


@pytest.mark.slow
def test_two_processes_may_compress_one_folder_at_once(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.mkv", "b.mkv"):
        write(tmp_path / "in" / name, Video(stamps=range(0, 8000, 40), audio_s=8.0))
    words = ["longcompress", "compress", tmp_path / "in", "--out", tmp_path / "out", "--budget", "64"]
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    with ranks.started(*words, out=logs[0]) as first, ranks.started(*words, out=logs[1]) as second:
        first.join()
        second.join()
        assert (first.exitcode, second.exitcode) == (0, 0)
    model = lc.load("tiny", device="cpu")
    memories = [lc.load_memory(path, model) for path in sorted((tmp_path / "out").iterdir())]
    assert [memory.num_tokens for memory in memories] == [64, 64]
