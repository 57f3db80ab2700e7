"""Functions as commands: signature, annotations and docstring become flags, which jsonargparse reads.

A parameter before `*` without a default is positional; `| None` lets it be left out. All others are flags.
A bool is a bare flag, a list takes `a b c`, `for_` is `--for`. A dataclass stands for its fields: `--lr 1
--engine.workers 2`.
"""

import ast
import inspect
import re
import types
import typing
from argparse import SUPPRESS, ArgumentError, HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import ArgumentParser

from ..config_values import from_dict

Command = Callable[..., int | None]


@dataclass(frozen=True)
class Group:
    """Commands under a name."""

    about: str  # a line of help
    commands: Mapping[str, "Command | str | Group"]  # a "module:function" is imported when it is run
    epilog: str = ""  # the last lines of its help
    default: "Command | str | None" = None  # what words that are none of `commands` go to


def find(words: Sequence[str], group: Group, name: str = "longcompress") -> tuple[str, Command, list[str]]:
    """The full name of the command that `words` begin with, its function, and the other words."""
    if words[:1] in (["--help"], ["-h"]):
        print(overview(group, name))
        raise SystemExit(0)
    command = group.commands.get(words[0]) if words else None
    if command is None and words and group.default is not None:
        default = imported(group.default)
        assert not isinstance(default, Group)
        return name, default, list(words)
    if command is None:
        fault = f"no command {words[0]!r}" if words else "a command is missing"
        raise ValueError(f"{fault}; {name} has {', '.join(group.commands)}")
    name, command, rest = f"{name} {words[0]}", imported(command), list(words[1:])
    return find(rest, command, name) if isinstance(command, Group) else (name, command, rest)


def imported(command: "Command | str | Group") -> "Command | Group":
    """The command itself, where it was named."""
    return resolve_name(command) if isinstance(command, str) else command


def overview(group: Group, name: str) -> str:
    """The help of a group: a line for each command."""
    lines = [f"usage: {name} COMMAND ...", "", group.about, ""]
    for key, command in group.commands.items():
        about = command.about if isinstance(command, Group) else _about(command)
        lines.append(f"  {key:16} {about}")
    if group.default is not None:
        lines.append(f"  {'...':16} {_about(group.default)}")
    return "\n".join([*lines, "", f"`{name} COMMAND --help` lists the flags of a command.{group.epilog}"])


def parse(name: str, function: Command, words: Sequence[str], **instances: Any) -> dict[str, Any]:
    """The arguments to call a command's function with; ValueError in one line for words that don't fit.

    Args:
        name: of the command, for messages.
        function: its parameters are the flags.
        words: after the name; `-` and `_` in names of flags are the same.
        instances: parameter to a dataclass whose values are the defaults; of others, `kind()` is.
    """
    parser, defaults = parser_of(name, function, instances)
    try:
        values = parser.parse_args(_spelled(words, parser))
    except ArgumentError as error:
        raise ValueError(f"{_in_one_line(str(error), parser)}; see {name} --help") from error
    return {
        key: from_dict(type(defaults[key]), _tree(defaults[key], values))
        if key in defaults
        else values[key.rstrip("_")]
        for key in _hints(function)
    }


def parser_of(
    name: str, function: Command, instances: Mapping[str, Any]
) -> tuple[ArgumentParser, dict[str, Any]]:
    """The parser of a command, and the default of each parameter that is a dataclass."""
    about = _about(function)
    parser = ArgumentParser(name, description=about, exit_on_error=False, formatter_class=HelpFormatter)
    notes, hints = documented(function), _hints(function)
    defaults: dict[str, Any] = {}
    usage = [name]
    for key, parameter in inspect.signature(function).parameters.items():
        hint, item = hints[key], _item(hints[key])
        is_required = parameter.default is parameter.empty
        if key in instances or is_dataclass(hint):
            defaults[key] = instances.get(key) or hint()
            _add_fields(parser, defaults[key])
        elif is_required and parameter.kind is not parameter.KEYWORD_ONLY:
            is_optional = "None" in str(parameter.annotation)
            options: Any = {"nargs": "+" if item else "?"} if item or is_optional else {}
            parser.add_argument(key, type=item or hint, help=notes[key], metavar=key.upper(), **options)
            usage.append(f"[{key.upper()}]" if is_optional else f"{key.upper()}{' ...' if item else ''}")
        elif hint is bool and parameter.default is False:
            parser.add_argument(_flag(key), action="store_true", help=notes[key])
        else:
            default = None if is_required else parameter.default
            _add(parser, key, hint, default, notes[key], required=is_required)
            usage += [f"{_flag(key)} {key.rstrip('_').upper()}"] if is_required else []
    parser.usage = " ".join([*usage, "[options]"])
    return parser, defaults


def _add(parser: Any, key: str, hint: Any, default: Any, note: str, required: bool = False) -> None:
    """A flag; a bool takes `true` or `false`, or nothing, which is true."""
    default = list(default) if isinstance(default, tuple) else default
    options: dict[str, Any] = {"type": hint, "default": default, "required": required}
    if item := _item(hint):
        options |= {"type": item, "nargs": "*"}
    elif hint is bool:
        options |= {"nargs": "?", "const": True}
    if note is not SUPPRESS and default not in (None, "", []) and not isinstance(default, dict):
        shown = " ".join(map(str, default)) if isinstance(default, list) else default
        note = f"{note.rstrip('.')} [{str(shown).replace('%', '%%')}]"
    if typing.get_origin(hint) is not typing.Literal and hint is not bool:
        options["metavar"] = {int: "INT", float: "FLOAT"}.get(item or hint, key.rpartition(".")[2].upper())
    parser.add_argument(_flag(key), help=note, **options)


def _add_fields(parser: Any, default: Any, prefix: str = "", hidden: bool = False) -> None:
    """The fields of a dataclass as flags. `hidden` ones have no default and are not in the help."""
    notes, hints = documented(type(default)), _hints(type(default))
    for field in fields(default):
        value, key = getattr(default, field.name), prefix + field.name
        if kind := field.metadata.get("fields_of"):
            _add_fields(parser, kind(), f"{key}.", hidden=True)
        elif is_dataclass(value):
            _add_fields(parser, value, f"{key}.", hidden)
        elif not is_dataclass(_item(hints[field.name])):  # those only a file can say
            note = SUPPRESS if hidden else notes.get(field.name, "")
            _add(parser, key, hints[field.name], None if hidden else value, note)


def _tree(default: Any, values: Any) -> dict[str, Any]:
    """The values of the flags by field, those of a dataclass in a dict of their own."""
    tree, hints = asdict(default), _hints(type(default))
    for field in fields(default):
        if field.metadata.get("fields_of"):
            tree[field.name] = _present(values[field.name].as_dict())
        elif is_dataclass(getattr(default, field.name)):
            tree[field.name] = _tree(getattr(default, field.name), values[field.name])
        elif not is_dataclass(_item(hints[field.name])):
            tree[field.name] = values[field.name]
    return tree


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """What is neither None nor empty, at any depth."""
    deep = {key: _present(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in deep.items() if value is not None and value != {}}


def _item(hint: Any) -> Any:
    """The type of a list's or tuple's items; None for anything else."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (list, tuple) else None


def _hints(thing: Any) -> dict[str, Any]:
    """Annotations without `| None`: a flag that isn't there is None anyway, and the messages stay short."""
    hints = typing.get_type_hints(thing)
    hints.pop("return", None)
    for name, hint in hints.items():
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            rest = tuple(part for part in typing.get_args(hint) if part is not type(None))
            hints[name] = typing.Union[rest]  # noqa: UP007 - made of a tuple
    return hints


def _about(thing: Any) -> str:
    """The first line of a docstring; of a "module:function" without importing what the module needs."""
    if not isinstance(thing, str):
        return (inspect.getdoc(thing) or "").split("\n")[0]
    module, _, name = thing.partition(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, thing
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return _about(imported(thing))


def documented(thing: Any) -> dict[str, str]:
    """Name to what the Args or Attributes of a docstring, and of a dataclass's bases, say of it."""
    docs = [inspect.getdoc(part) or "" for part in reversed(getattr(thing, "__mro__", [thing]))]
    items = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", "\n".join(docs), re.M)
    texts = {names: " ".join(text.split()).replace("%", "%%") for names, text in items}
    return {name: text for names, text in texts.items() for name in names.split(", ")}


def _flag(key: str) -> str:
    return "--" + (key if "." in key else key.rstrip("_").replace("_", "-"))


def _spelled(words: Sequence[str], parser: ArgumentParser) -> list[str]:
    """The words with flags as they are declared: --rate_fps as --rate-fps, --media.rate-fps with _."""
    known = parser._option_string_actions
    out: list[str] = []
    for at, word in enumerate(words):
        if word == "--":
            return [*out, *words[at:]]
        if word.startswith("--"):
            name, *value = word[2:].split("=", 1)
            head, dot, tail = name.partition(".")
            dotted = name.replace("-", "_")
            names = [f"--changes.{dotted}", f"--{dotted}", f"--{head.replace('_', '-')}{dot}{tail}"]
            name = next((n for n in names if dot and n in known), names[2])
            word = "=".join([name, *value])
        out.append(word)
    return out


def _in_one_line(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message, with flags as they are typed and what was needed."""
    message = re.sub(r"<class '(\w+)'>", r"\1", " ".join(message.split())).replace("typing.", "")
    message = re.sub(r"Literal\[(.*?)\]", lambda match: "one of " + match[1].replace("'", ""), message)
    if "are required" in message or "is required" in message:
        usage = re.sub(r"(--\S+) \S+", r"\1", parser.usage or "")
        needed = re.findall(r"(?<= )(?:--[\w-]+|[A-Z_]+)(?= |$)", usage)
        return f"needs {' and '.join(needed)}"
    if unknown := re.match(r"unrecognized arguments: (.*)", message):
        flags = [flag.replace("changes.", "") for flag in parser._option_string_actions]
        near = get_close_matches(unknown[1].split()[0], flags, 1)
        return f"{message}{f'; did you mean {near[0]}?' if near else ''}".replace("changes.", "")
    return re.sub(
        r'Parser key "(?:changes\.)?([\w.]+)"(?: element \d+)?: (?:Expected an? (.*?)\. Got value: )?',
        lambda match: _flag(match[1]) + (f" must be {match[2]}, got " if match[2] else ": "), message,
    )  # fmt: skip
