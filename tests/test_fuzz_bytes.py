"""Damaged small files give a result or one clear error; `make fuzz-bytes` runs thousands."""

import pytest

from fuzz_bytes import KINDS, make_bases, run, seeds_of, write_case

SEEDS = range(1, 301)
FAILED_ONCE: dict[str, tuple[int, ...]] = {}  # kind -> seeds that failed once


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_a_result_or_one_clear_error(kind):
    assert not run([*seeds_of(kind, SEEDS), *FAILED_ONCE.get(kind, ())])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_makes_the_same_file(kind, tmp_path):
    seed = next(seeds_of(kind, SEEDS))
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = write_case(seed, make_bases(), tmp_path / name)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        contents.append([(file.name, file.read_bytes()) for file in files if file.is_file()])
    assert contents[0] == contents[1]
