"""Made-up videos whose tracks come and go as they like; `make fuzz` runs thousands."""

import pytest

from fuzz import run

# a 33-bit clock that restarts at 0; late packets of a track that ended long before, and of sparse frames
FAILED_ONCE = (946, 1005, 1220, 1250)


@pytest.mark.slow
@pytest.mark.parametrize("seed", FAILED_ONCE)
def test_seeds_that_failed_once_pass(seed):
    assert not run(range(seed, seed + 1), 1200.0)


@pytest.mark.parametrize("first", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (6, 21, 36, 51))])
def test_tokens_cover_exactly_what_was_there(first):
    assert not run(range(first, first + (5 if first == 1 else 15)), 20.0 if first == 1 else 119.0)
