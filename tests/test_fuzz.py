"""Made-up videos whose tracks come and go as they like; `make fuzz` runs thousands."""

import pytest

from fuzz import run

FAILED_ONCE = range(12, 13)  # a header that began after the first frame


@pytest.mark.parametrize("first", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (21, 41, 61))])
def test_tokens_cover_exactly_what_was_there(first):
    assert not run(range(first, first + (5 if first == 1 else 20)), 20.0 if first == 1 else 110.0)


@pytest.mark.slow
def test_seeds_that_failed_once_pass():
    assert not run(FAILED_ONCE, 200.0)
