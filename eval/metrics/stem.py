"""English words to their stems, by the Snowball project's definition of its English stemmer ("Porter 2").

METEOR calls two words a stem match if these stems agree. The version of the definition is that of METEOR 1.5.
"""

import re
from functools import lru_cache

_VOWELS = "aeiouy"
_WHOLE = {
    "skis": "ski", "skies": "sky", "dying": "die", "lying": "lie", "tying": "tie", "idly": "idl",
    "gently": "gentl", "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    **{word: word for word in ("sky", "news", "howe", "atlas", "cosmos", "bias", "andes")},
}  # fmt: skip
_WHOLE_AFTER_S = {"inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"}
_REGION = re.compile(r"[aeiouy][^aeiouy]")
_SPECIAL_REGION = re.compile("gener|commun|arsen")
_SHORT_END = re.compile(r"(?:^[aeiouy][^aeiouy]|[^aeiouy][aeiouy][^aeiouywxY])$")
_DOUBLE_END = re.compile(r"(?:bb|dd|ff|gg|mm|nn|pp|rr|tt)$")

# Ending in the first region, and what takes its place; the longest that fits decides.
_STEP_2 = {
    "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize",
    "ization": "ize", "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al",
    "alli": "al", "fulness": "ful", "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive",
    "biliti": "ble", "bli": "ble", "ogi": "og", "fulli": "ful", "lessli": "less", "li": "",
}  # fmt: skip
_STEP_3 = {
    "tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic",
    "ful": "", "ness": "", "ative": "",
}  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti",
    "ous", "ive", "ize", "ion",
)  # fmt: skip


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """The stem of a lower-case word; what is not English letters goes through the same rules."""
    if len(word) <= 2:
        return word
    if word in _WHOLE:
        return _WHOLE[word]
    word = _mark_consonant_y(word.removeprefix("'"))
    first, second = _regions(word)
    word = _plural(word)
    if word not in _WHOLE_AFTER_S:
        word = _past(word, first)
        if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
            word = word[:-1] + "i"
        word = _step_2(word, first)
        word = _step_3(word, first, second)
        word = _step_4(word, second)
        word = _step_5(word, first, second)
    return word.replace("Y", "y")


def _mark_consonant_y(word: str) -> str:
    """Y where a y is a consonant: at the start and after a vowel."""
    letters = list(word)
    for i, letter in enumerate(letters):
        if letter == "y" and (i == 0 or letters[i - 1] in _VOWELS):
            letters[i] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Where the two regions start: each after the first consonant that follows a vowel, one in the other."""
    special = _SPECIAL_REGION.match(word)
    found = special or _REGION.search(word)
    first = found.end() if found else len(word)
    again = _REGION.search(word, first)
    return first, again.end() if again else len(word)


def _longest(word: str, endings: tuple[str, ...] | dict[str, str]) -> str:
    """The longest of the endings that the word has, or ""."""
    return max((end for end in endings if word.endswith(end)), key=len, default="")


def _plural(word: str) -> str:
    word = word[: len(word) - len(_longest(word, ("'", "'s", "'s'")))]
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and _has_vowel(word[:-2]):
        return word[:-1]
    return word


def _past(word: str, first: int) -> str:
    end = _longest(word, ("eed", "eedly", "ed", "edly", "ing", "ingly"))
    rest = word[: len(word) - len(end)]
    if end in ("eed", "eedly"):
        return rest + "ee" if len(rest) >= first else word
    if not end or not _has_vowel(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _DOUBLE_END.search(rest):
        return rest[:-1]
    return rest + "e" if len(rest) <= first and _SHORT_END.search(rest) else rest


def _step_2(word: str, first: int) -> str:
    end = _longest(word, _STEP_2)
    rest = word[: len(word) - len(end)]
    if not end or len(rest) < first:
        return word
    if (end == "ogi" and not rest.endswith("l")) or (end == "li" and rest[-1:] not in tuple("cdeghkmnrt")):
        return word
    return rest + _STEP_2[end]


def _step_3(word: str, first: int, second: int) -> str:
    end = _longest(word, _STEP_3)
    rest = word[: len(word) - len(end)]
    if not end or len(rest) < (second if end == "ative" else first):
        return word
    return rest + _STEP_3[end]


def _step_4(word: str, second: int) -> str:
    end = _longest(word, _STEP_4)
    rest = word[: len(word) - len(end)]
    if not end or len(rest) < second or (end == "ion" and not rest.endswith(("s", "t"))):
        return word
    return rest


def _step_5(word: str, first: int, second: int) -> str:
    rest = word[:-1]
    if word.endswith("e"):
        gone = len(rest) >= second or (len(rest) >= first and not _SHORT_END.search(rest))
        return rest if gone else word
    return rest if word.endswith("ll") and len(rest) >= second else word


def _has_vowel(letters: str) -> bool:
    return any(letter in _VOWELS for letter in letters)
