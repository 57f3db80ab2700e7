"""The words of this project: video, frame, audio, encoder, compress; no pronoun or participle is a name.

`python tests/test_vocabulary.py [path ...]` prints the faults of the tracked files below these paths.
"""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Refused everywhere: as a part of any name, flag, key or file name, and as a word of any text.
REFUSED = {
    "film": ("films", "filmed"),
    "picture": ("pictures", "pictured"),
    "tower": ("towers",),
    "host": ("hosts", "hosted", "hosting"),
    "watch": ("watches", "watched", "watching", "watcher"),
    "settle": ("settles", "settled", "settling"),
    "happening": ("happenings",),
    "quiz": ("quizzes",),
    "bank": ("banks",),
    "asking": (),
}
FORMS = {form: word for word, others in REFUSED.items() for form in (word, *others)}

# Refused as a whole name: of a variable, function, class, module, parameter, field, flag or key.
NO_NAMES = frozenset(
    {
        *("one", "ones", "there", "least", "most", "way", "ways", "fresh", "gold"),
        *("told", "said", "found", "gone", "lost", "made", "given", "kept", "wanted", "drawn"),
        *("look", "draw", "begin", "predict"),
    }
)

# (file, words, text that the line contains, why). At most 40, and each must still excuse a line.
ALLOWED: list[tuple[str, str, str, str]] = [
    ("tests/test_vocabulary.py", "*", "", "this list"),
    ("eval/tasks/choice.py", "watch", "Carefully watch this video", "a prompt of MLVU, quoted"),
    ("*", "bank", "filter bank", "the field's word for mel filters"),
    ("longcompress/checkpoints/llava.py", "tower", "vision_tower", "a name in released files"),
    ("tests/checkpoints/test_mmduet.py", "tower", "tower", "likewise"),
    ("tests/golden/mmduet/*", "*", "", "files and numbers of another project, as it writes them"),
    ("tests/*", "name given", "@given(", "hypothesis's decorator"),
    ("tests/*", "name given", "from hypothesis import", "hypothesis's decorator"),
    ("longcompress/encoders/families.py", "tower", "model.vision_tower.", "transformers' name of modules"),
    ("longcompress/encoders/families.py", "tower", "model.video_tower.", "transformers' name of modules"),
    ("train/tiny/omni_audio.py", "tower", "model.audio_tower", "transformers' name of modules"),
    ("*serve/*", "host", '"host"', "the header of HTTP"),
    ("tests/page/*", "host", "--host-resolver-rules", "a flag of Chromium"),
    ("tests/events/test_events.py", "name draw", "draw", "the argument that hypothesis names so"),
]

# Packages whose own names are no names of ours: torch.ones, ImageDraw.Draw.
OTHERS = {"torch", "np", "tl", "ImageDraw"}

NAME = re.compile(r"[A-Za-z]+")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z_-]*)")
KEY = re.compile(r"^\s*(?:- )?([A-Za-z_][\w-]*)\s*[:=](?:\s|$)")


class Fault(NamedTuple):
    """A word that this project does not use, and where it stands."""

    path: str
    line: int
    word: str
    text: str


def tracked(root: Path, paths: list[str]) -> list[str]:
    """The files of the repository below these paths (all without any), links left out."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--", *paths]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (root / name).is_file() and not (root / name).is_symlink()]


def refused_words(text: str) -> Iterator[str]:
    """Every refused word in a name or a text, in its first form: `film_hosts` has two."""
    for word in NAME.findall(text):
        for part in PART.findall(word):
            if part.lower() in FORMS:
                yield FORMS[part.lower()]


def refused_name(name: str) -> Iterator[str]:
    """The name itself where it is a pronoun, a participle or an adjective."""
    if name.strip("_").lower() in NO_NAMES:
        yield f"name {name.strip('_').lower()}"


def words_of_python(source: str) -> Iterator[tuple[int, str]]:
    """(line, refused word) of Python source: names, record keys, flags, texts and comments."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        for name in _names(node):
            yield from ((line, word) for word in (*refused_words(name), *refused_name(name)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # The lines of a text, so that a docstring's fault is shown where it stands.
            for number, text in enumerate(node.value.split("\n")):
                flags = [word for flag in FLAG.findall(text) for word in refused_name(flag)]
                yield from ((line + number, word) for word in (*refused_words(text), *flags))
        for key in _keys(node):
            yield from ((line, word) for word in refused_name(key))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], word) for word in refused_words(token.string))


def _names(node: ast.AST) -> list[str]:
    """The names that a node of the tree holds."""
    match node:
        case ast.Attribute(value=ast.Name(id=package)) if package in OTHERS:
            names = []
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.MatchStar(name=name):
            names = [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            names = [name]
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.keyword(arg=name):
            names = [name]
        case ast.alias(name=name, asname=asname):
            names = [*name.split("."), asname]
        case ast.ImportFrom(module=module):
            names = (module or "").split(".")
        case ast.Global(names=several) | ast.Nonlocal(names=several):
            names = several
        case _:
            names = []
    return [name for name in names if name]


def _keys(node: ast.AST) -> list[str]:
    """The constant keys of a dict literal or a subscript: fields of a record."""
    keys = (
        node.keys if isinstance(node, ast.Dict) else [node.slice] if isinstance(node, ast.Subscript) else []
    )
    return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def words_of_json(text: str) -> Iterator[tuple[int, str]]:
    """(0, refused word) of every key and text of a JSON file."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from (*refused_words(key), *refused_name(key), *walk(inner))
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)
        elif isinstance(value, str):
            yield from refused_words(value)

    return ((0, word) for word in walk(json.loads(text)))


def words_of_text(text: str, keys: bool) -> Iterator[tuple[int, str]]:
    """(line, refused word) of docs, and with `keys` of YAML, TOML and Makefiles, whose keys are names too."""
    for number, line in enumerate(text.split("\n"), 1):
        names = FLAG.findall(line) + (KEY.findall(line) if keys else [])
        yield from ((number, word) for word in refused_words(line))
        yield from ((number, word) for name in names for word in refused_name(name))


def words_of_file(path: str, text: str) -> Iterator[tuple[int, str]]:
    """(line, refused word) of a file; line 0 stands for its name."""
    yield from ((0, word) for word in refused_words(path))
    yield from ((0, word) for part in path.split("/") for word in refused_name(part.split(".")[0]))
    if path.endswith(".py"):
        yield from words_of_python(text)
    elif path.endswith(".json"):
        yield from words_of_json(text)
    elif path.endswith(".jsonl"):
        for number, line in enumerate(text.splitlines(), 1):
            yield from ((number, word) for _, word in words_of_json(line))
    else:
        yield from words_of_text(text, keys=not path.endswith((".md", ".txt")))


def faults(root: Path, paths: list[str]) -> tuple[list[Fault], set[tuple[str, str, str, str]]]:
    """The faults of the tracked files below these paths, and the entries of ALLOWED that excused a line."""
    result, used = [], set()
    for path in tracked(root, paths):
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = ""  # weights and figures: the name alone
        lines = ["", *text.split("\n")]
        for line, word in words_of_file(path, text):
            shown = lines[line] if 0 < line < len(lines) else ""
            excuses = [entry for entry in ALLOWED if _excuses(entry, path, word, shown)]
            used.update(excuses[:1])
            if not excuses:
                result.append(Fault(path, line, word, shown.strip()))
    return result, used


def _excuses(entry: tuple[str, str, str, str], path: str, word: str, line: str) -> bool:
    """Whether an entry of ALLOWED covers this word on this line of this file."""
    pattern, words, text, _ = entry
    return fnmatch(path, pattern) and (words == "*" or word in words.split(", ")) and text in line


def report(refused: list[Fault]) -> str:
    """Faults by file with counts, then by word."""
    by_file: dict[str, list[Fault]] = defaultdict(list)
    for fault in refused:
        by_file[fault.path].append(fault)
    parts = []
    for path, group in sorted(by_file.items(), key=lambda item: -len(item[1])):
        counts = Counter(fault.word for fault in group)
        parts.append(f"{path}: {len(group)} ({', '.join(f'{w} {n}' for w, n in counts.most_common())})")
        parts += [f"    {fault.line}: {fault.word}: {fault.text[:90]}" for fault in group]
    total = Counter(fault.word for fault in refused)
    parts.append(
        f"{len(refused)} faults in {len(by_file)} files: "
        + ", ".join(f"{w} {n}" for w, n in total.most_common())
    )
    return "\n".join(parts)


@pytest.fixture(scope="module")
def everywhere():
    return faults(ROOT, [])


def test_words_are_those_of_the_vocabulary(everywhere):
    assert not everywhere[0], report(everywhere[0])


def test_the_list_of_exceptions_is_short_and_in_use(everywhere):
    _, used = everywhere
    assert len(ALLOWED) <= 40
    assert not [entry for entry in ALLOWED if entry not in used], "these excuse nothing any more"
    assert all(reason for *_, reason in ALLOWED)


if __name__ == "__main__":
    print(report(faults(Path.cwd(), sys.argv[1:])[0]))
