"""Every code block of README and docs: Python runs, commands have the flags shown.

The Python blocks of a page run in order, beside synthetic videos of the names that they use. A `text` block
right after a Python block is what that block prints. A "```python notest" block only compiles: its code needs
downloads, a GPU or the user's data.
"""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from longcompress.cli.main import main
from longcompress.synthetic.scenes import make_scene, write_video

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "longcompress/weights/**/*.md")
    for path in ROOT.glob(pattern)
)
VIDEO = re.compile(r"""["']([\w./-]+\.(?:mp4|mkv|webm))["']""")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LANGUAGES = {"python", "bash", "text", "json", "yaml", "mermaid", "bibtex"}


class Block(NamedTuple):
    """A fenced block of a page; `line` is that of its first line of text."""

    page: str
    line: int
    language: str
    notest: bool
    text: str
    follows: bool  # nothing but blank lines stand between it and the block before


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks: list[Block] = []
    lines = (ROOT / page).read_text().split("\n")
    at, last = 0, -1
    while at < len(lines):
        if not lines[at].startswith("```"):
            at += 1
            continue
        language, *words = lines[at][3:].split() or [""]
        end = next(i for i in range(at + 1, len(lines)) if lines[i].startswith("```"))
        follows = last >= 0 and not any(line.strip() for line in lines[last + 1 : at])
        text = "\n".join(lines[at + 1 : end]) + "\n"
        blocks.append(Block(page, at + 2, language, "notest" in words, text, follows))
        at, last = end + 1, end
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    (block.page, block.line + number, line)
    for block in BLOCKS
    if block.language == "bash"
    for number, line in enumerate(block.text.replace("\\\n", " ").split("\n"))
    if line.removeprefix("$ ").startswith("longcompress ")
]


def run_block(block: Block, names: dict[str, object]) -> str:
    """What a block prints; an error shows the page and the line."""
    code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON if not block.notest}))
def test_python_runs_as_printed(page, tmp_path, monkeypatch):
    blocks = blocks_of(page)
    monkeypatch.chdir(tmp_path)
    videos = {name for block in blocks if block.language == "python" for name in VIDEO.findall(block.text)}
    for number, name in enumerate(sorted(videos)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_video(make_scene(number, 25.0), name, size_px=64)
    names: dict[str, object] = {"__name__": "docs"}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language == "python" and not block.notest:
            printed = run_block(block, names)
            if after is not None and after.language == "text" and after.follows:
                assert printed == after.text, f"{page}:{after.line}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_python_compiles(block):
    compile(block.text, f"{block.page}:{block.line}", "exec")


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The help of the command that these words begin with."""
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(("page", "line", "command"), COMMANDS, ids=lambda value: str(value)[:60])
def test_commands_have_the_flags_shown(page, line, command, capsys):
    words = shlex.split(command.removeprefix("$ "), comments=True)[1:]
    if words[0].startswith("-"):
        return
    names: list[str] = []  # the command and its subcommands, as deep as help changes
    text = help_of([], capsys)
    for word in words:
        deeper = help_of([*names, word], capsys) if re.fullmatch(r"[a-z_-]+", word) else ""
        if not deeper or deeper == text:
            break
        names, text = [*names, word], deeper
    assert names, f"{page}:{line}: no command {words[0]!r}"
    if "\n  ...  " in text:  # a group that also takes what is none of its commands
        text = help_of([*names, words[len(names)]], capsys)
    known = {flag.replace("_", "-") for flag in re.findall(r"--[\w.-]+", text)}
    for word in words[len(names) :]:
        flag = word.split("=")[0].replace("_", "-")
        if flag.startswith("--") and "." not in flag:
            assert flag in known, f"{page}:{line}: longcompress {' '.join(names)} has no flag {word}"


def test_blocks_say_their_language():
    faults = [f"{b.page}:{b.line}: {b.language!r}" for b in BLOCKS if b.language not in LANGUAGES]
    assert not faults, f"name one of {sorted(LANGUAGES)} after the fence: {faults}"


@pytest.mark.parametrize("language", ["json", "yaml"])
def test_data_is_read(language):
    read = {"json": json.loads, "yaml": yaml.safe_load}[language]
    for block in BLOCKS:
        if block.language == language:
            for text in [block.text] if language == "yaml" else block.text.strip().split("\n\n"):
                read(text)


def test_links_lead_to_files():
    faults = []
    for page in PAGES:
        for target in LINK.findall((ROOT / page).read_text()):
            path = target.split("#")[0]
            if path and "://" not in path and not ((ROOT / page).parent / path).exists():
                faults.append(f"{page}: {target}")
    assert not faults, faults


def test_tables_are_those_of_the_figures(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["bench", "report", "--check", "--docs", "docs/results.md"]) == 0
