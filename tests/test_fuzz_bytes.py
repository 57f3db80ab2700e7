"""Damaged small files give a result or one clear error; `make fuzz-bytes` runs thousands."""

import shutil
import sys

import pytest

import fuzz_files
from fuzz_bytes import KINDS, run, seeds_of, write_case
from fuzz_files import Bases, make_bases
from models import model as make_model

SEEDS = range(1, 201)
FAILED_ONCE: dict[str, tuple[int, ...]] = {  # kind -> a seed of each fault that was mended
    "memory": (301, 349, 385, 409, 415, 439, 517, 613, 649, 691, 751, 1705, 2683, 3829),
    "shards": (333, 351, 363, 393, 573, 579, 837, 1011),
    "records": (304, 400, 460),
    "config": (329, 347, 353, 371, 407, 425, 467, 479, 485, 653, 731, 767, 809, 845, 917, 1061, 4073, 4883),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_a_result_or_one_clear_error(kind):
    assert not run(list(seeds_of(kind, SEEDS)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAILED_ONCE)
def test_seeds_that_failed_once_pass(kind):
    assert all(seed in seeds_of(kind, range(seed, seed + 1)) for seed in FAILED_ONCE[kind])
    assert not run(FAILED_ONCE[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_makes_the_same_file(kind, tmp_path, monkeypatch):
    """Of the same media: encoders of other libraries were once seen to write one frame differently."""
    seed, contents, first = next(seeds_of(kind, SEEDS)), [], make_bases()
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(fuzz_files, "write", lambda path, video: shutil.copy(first.folder / path.name, path))
    for name, bases in (("a", first), ("b", Bases(make_model(), tmp_path / "again"))):
        (tmp_path / name).mkdir()
        path = write_case(seed, bases, tmp_path / name)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        contents.append([(file.name, file.read_bytes()) for file in files if file.is_file()])
    assert contents[0] == contents[1]


def test_no_module_keeps_the_load_of_the_fuzz():
    """Else later tests of the process would load the wrong model."""
    load = make_bases().load
    assert not [name for name, module in list(sys.modules.items()) if getattr(module, "load", None) == load]
