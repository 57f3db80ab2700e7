"""Files that are replaced whole or not at all, whoever writes them, and however many at once."""

import os
import threading

import pytest

from longcompress.files import parse_json, replacing, usual_modes
from longcompress.media.reader import arrays
from longcompress.session import compress

from clips import make_clip
from models import model as make_model


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
