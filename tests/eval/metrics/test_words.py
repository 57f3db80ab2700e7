"""Words of captions by hand (test_metrics_package.py has those of the evaluators' tokeniser), and that
reading ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics.words import ascii_only, words, words_of_each


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", ""),
        ("  \n\t ", ""),
        ("... !  ?, -- ''", ""),
        ("A dog's bone, isn't it?", "a dog 's bone is n't it"),
        ("Cannot", "can not"),
        ("CAN'T", "ca n't"),
        ("word.", "word"),
        ("one\ntwo", "one two"),
        ("Größe 日本語 naïve", "größe 日本語 naïve"),
        ("😀 smile", "😀 smile"),
    ],
)
def test_words_by_hand(text, want):
    assert " ".join(words(text)) == want


@settings(deadline=None)
@given(st.text(max_size=60))
def test_words_are_lower_case_and_without_spaces(text):
    got = words(text)
    assert all(word and word == word.lower() and not word.isspace() for word in got)
    assert words_of_each([text, text]) == {text: got}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "dog", "runs", "red", "over"]), max_size=12))
def test_plain_words_are_themselves(some):
    assert words(" ".join(some)) == some


@pytest.mark.parametrize(
    "piece", ["a", "a-", "a.", "'", "-", ".", "<a ", "http://", "n't", "1.", "1:", "a'", "@", "a@"]
)
def test_long_texts_are_read_in_linear_time(piece):
    # Quadratic time would be minutes. Twice the text has as many words, or twice as many (less its ends).
    short, long = len(words(piece * 10_000)), len(words(piece * 20_000))
    assert abs(long - short) <= 1 or abs(long - 2 * short) <= 1


def test_ascii_only():
    assert ascii_only("café 日本") == "caf    "
