"""The commands and their flags, frozen in flags.txt.

`python tests/cli/test_flags.py > tests/cli/flags.txt` writes the file anew. Users see each change of it.
"""

from collections.abc import Iterator
from pathlib import Path

from longcompress.cli.main import COMMANDS
from longcompress.cli.parser import Group, find, parser_of
from longcompress.cli.train import recipe_of, train

FILE = Path(__file__).with_name("flags.txt")
RECIPES = ("align", "tiny")  # the two kinds


def commands_of(group: Group, *words: str) -> Iterator[list[str]]:
    """The words of each command."""
    if group.default is not None:
        yield [*words, "SOURCE"]
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from commands_of(command, *words, name)
        elif command is train:
            yield from ([name, recipe] for recipe in RECIPES)
        else:
            yield [*words, name]


def flags() -> str:
    """A line for each command, then one for each positional and each flag in the help."""
    lines = []
    for words in commands_of(COMMANDS):
        name, function, rest = find(words, COMMANDS)
        defaults = {"recipe": recipe_of(rest)} if function is train else {}
        parser, _ = parser_of(name, function, defaults)
        lines.append(" ".join([name, *rest]))
        for action in parser._actions:
            if "-h" not in action.option_strings and action.help != "==SUPPRESS==":
                shown = action.option_strings[0] if action.option_strings else action.dest.upper()
                lines.append(f"    {shown}{' (required)' if action.required else ''}")
    return "\n".join(lines) + "\n"


def test_flags_are_frozen():
    assert flags() == FILE.read_text()


if __name__ == "__main__":
    print(flags(), end="")
