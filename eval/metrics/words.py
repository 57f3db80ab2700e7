"""Captions to words, as the captioning evaluators do it."""

import re
from collections.abc import Iterable, Sequence

Words = Sequence[str]
References = Sequence[Words]  # the captions that are right for one item, at least one

# What the evaluators throw away after tokenising. Brackets are in their list in capitals only, so that
# "-lrb-" stays: so do "?!" and "!!".
_DROPPED = frozenset(["''", '"', "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_QUOTES = str.maketrans({"\u2018": "`", "\u2019": "'", "\u201b": "'", "\u201c": "``", "\u201d": "''",
    "\u2013": "--", "\u2014": "--", "\u2026": "...", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4",
    "\u00a0": " ", "\u00ad": ""})  # fmt: skip
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CURRENCY = {"\u00a3": "#", "\u20ac": "$", "\u00a2": "cents"}

# Abbreviations that keep their full stop: always, and only before a number.
_ABBREVIATED = (
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|mr|mrs|ms|messrs|drs?|"
    "profs?|sens?|reps?|govs?|attys?|supt|det|rev|col|gen|lt|cmdr|adm|capt|sgt|cpl|maj|pvt|jr|sr|bros|"
    "ph|etc|al|seq|vs|st|ave|blvd|rd|hwy|mt|ft|inc|cos?|corp|ltd|bldg|dept|est|univ|assn|intl|natl|cf"
)
_BEFORE_NUMBER = "nos?|figs?|pp?|vols?|sec|chap?"
_IN_TWO = {
    "cannot": ["can", "not"], "gonna": ["gon", "na"], "wanna": ["wan", "na"], "gotta": ["got", "ta"],
    "gimme": ["gim", "me"], "lemme": ["lem", "me"], "'tis": ["'t", "is"], "'twas": ["'t", "was"],
    "d'ye": ["d'", "ye"], "more'n": ["more", "'n"],
}  # fmt: skip
_SIGN = r"(?:(?<![\w)])[-+])"
_CLITIC = r"'(?:ll|re|ve|[smd])(?![^\W_])"

_TOKEN = re.compile(
    rf"""
      (?P<link>(?:https?://|www\.)[^\s"<>|(){{}}]*[^\s"<>|(){{}}.!?,;:'-]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
    | (?P<tag></?[a-z!][^<>]*>|-[lr][rcs]b-)
    | (?P<two>(?<![\w-])(?:{"|".join(_IN_TWO)})(?![\w-]))
    | (?P<clitic>{_CLITIC})
    | (?P<short>'(?:[0-9]0s|em|cause|til|round|n')(?!\w))
    | (?P<abbreviation>(?<![\w'])(?:(?:[a-z]\.)+[a-z](?![\w.])|(?:[a-z]\.){{2,}}|[a-z]\.(?!\w{{2}})
        |(?:ph\.d|{_ABBREVIATED})\.(?!\w)|(?:{_BEFORE_NUMBER})\.(?=\s*[0-9])))
    | (?P<number>{_SIGN}?[0-9]*(?:[.,][0-9]+)+(?:-\w+|e-?[0-9]+)*
        |(?:{_SIGN}|(?<=:[0-9]{{2}})-)?[0-9]+(?:[:/][0-9]+)+
        |{_SIGN}[0-9]+(?![\w-]))
    | (?P<negated>\w+(?:-\w+)*?(?=n't(?!\w))) | (?P<negation>n't(?!\w))
    | (?P<word>(?:[#@](?=[^\W\d_]))?[^\W_]
        (?:\w|[.](?=[^\W\d_]{{2}})(?<=[^\W\d_].)|[-/&](?=[^\W_])(?![0-9]+[:/][0-9])
        |(?<=[^\W\d_])'(?!(?:ll|re|ve|[smd])(?![^\W_]))(?=[^\W\d_]))*)
    | (?P<repeated>\.\.+|-+|[?!]+|``|'') | (?P<other>\S)
    """,
    re.VERBOSE | re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The words of a caption, lower-cased and without punctuation.

    Written after what the Penn Treebank tokeniser of the captioning evaluators gives: "don't" is `do n't`,
    "dog's" `dog 's`, "cannot" `can not`; hyphens and slashes stay within words; brackets become `-lrb-`; dots
    stay in initials and known abbreviations; typographic quotes, dashes and fractions become plain; then
    quotes, full stops, commas, colons, semicolons, dashes, single "?" and "!" go. Letters of every script are
    letters. A text of nothing but spaces or punctuation has no words.
    """
    out: list[str] = []
    for match in _TOKEN.finditer(text.translate(_QUOTES)):
        token = match[0].lower()
        out += _IN_TWO.get(token) or [_BRACKETS.get(token) or _CURRENCY.get(token) or token]
    return [token for token in out if token not in _DROPPED and token.strip("-")]


def words_of_each(texts: Iterable[str]) -> dict[str, list[str]]:
    """The `words` by text."""
    return {text: words(text) for text in set(texts)}


def ascii_only(text: str) -> str:
    """Each character beyond ASCII as a space, as the dense-caption evaluators read texts."""
    return "".join(c if ord(c) < 128 else " " for c in text)
