"""Completion of commands and flags in a shell."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from .parser import Command, Group, imported, parser_of

_BASH = """\
_longcompress() {
    local words; words="$(longcompress --complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)"
    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -o bashdefault -F _longcompress longcompress"""
_SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": "complete -c longcompress -a '(longcompress --complete (commandline -opc)[2..-1] 2>/dev/null)'",
}


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print what completes commands and flags: eval "$(longcompress completion bash)".

    Args:
        shell: bash, zsh or fish.
    """
    print(_SCRIPTS[shell])


def next_words(
    words: Sequence[str], group: Group, instances: Callable[[Command, Sequence[str]], dict[str, Any]]
) -> list[str]:
    """What may follow `words`: the commands of a group, or the flags of a command; `instances` are those that
    `parser_of` takes."""
    command = imported(group.commands[words[0]]) if words and words[0] in group.commands else None
    if command is None and words and group.default is not None:
        command = imported(group.default)
    if command is None:
        return list(group.commands)
    if isinstance(command, Group):
        return next_words(words[1:], command, instances)
    parser, _ = parser_of("longcompress", command, instances(command, words[1:]))
    return [flag for flag in parser._option_string_actions if flag[:2] == "--" and "changes." not in flag]
