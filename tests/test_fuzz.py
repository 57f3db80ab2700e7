"""Made-up videos whose tracks come and go as they like; `make fuzz` runs thousands."""

import pytest

from fuzz import run


@pytest.mark.parametrize("first", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (6, 21, 36, 51))])
def test_tokens_cover_exactly_what_was_there(first):
    assert not run(range(first, first + (5 if first == 1 else 15)), 20.0 if first == 1 else 119.0)
