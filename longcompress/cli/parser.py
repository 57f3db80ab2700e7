"""Functions as commands: annotations, defaults and docstrings make the flags, jsonargparse reads them."""

import inspect
import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jsonargparse import ArgumentParser


def parse(
    words: Sequence[str],
    commands: Mapping[str, Callable[..., Any]],
    *,
    common: type,
    sections: Mapping[str, type],
    fixed: Sequence[str] = (),
    recipe: Any = None,
) -> tuple[str, dict[str, Any]]:
    """The name of the command in `words` and the arguments to call its function with.

    Args:
        words: the command line, not empty; -- and _ in names of flags are the same.
        commands: name -> function. Parameters before * are positional (a list: one or more), others are
            flags, a bool is a switch, and one annotated with `common` becomes that dataclass's flags.
        common: a dataclass whose field `overrides` takes section -> changed fields.
        sections: name -> config dataclass, whose fields are flags --name.field.
        fixed: of these, the ones that can't be changed.
        recipe: a dataclass, the default of a parameter `recipe`.

    Raises:
        ValueError: for words that don't fit, in one line.
        SystemExit: after --help and --version.
    """
    parser = _parser(commands, common, sections, fixed, recipe)
    try:
        found = parser.parse_args([*_spelled(words)])
    except ArgumentError as error:
        raise ValueError(
            _in_one_line(str(error), words[0] if words[0] in commands else "", commands)
        ) from error
    if recipe is not None:
        found = parser.instantiate(found)
    name: str = found["command"]
    values = found[name]
    arguments = {}
    for parameter, hint in _parameters(commands[name]).items():
        if hint is not common:
            arguments[parameter] = values.get(parameter)
            continue
        given = {f.name: values[f.name] for f in fields(common) if f.name != "overrides"}
        changes = {s: {k: v for k, v in vars(values[s]).items() if v is not None} for s in sections}
        arguments[parameter] = common(**given, overrides={s: v for s, v in changes.items() if v})
    return name, arguments


def _parser(
    commands: Mapping[str, Callable[..., Any]],
    common: type,
    sections: Mapping[str, type],
    fixed: Sequence[str],
    recipe: Any,
) -> ArgumentParser:
    parser = ArgumentParser(
        prog="longcompress", version=_own_version(), exit_on_error=False,
        description="Hours of video with audio as a fixed number of tokens that a language model reads.",
        epilog="Exit codes: 0 done, 1 doctor found something wrong, 2 wrong argument, 3 input unreadable, "
        "4 output unwritable, 130 interrupted. --debug shows where an error comes from.",
    )  # fmt: skip
    each = parser.add_subcommands(dest="command", metavar="COMMAND")
    for name, command in commands.items():
        about = (inspect.getdoc(command) or "").split("\n\n")[0]
        sub = ArgumentParser(prog=f"longcompress {name}", description=about, exit_on_error=False)
        notes, signature = _documented(command), inspect.signature(command).parameters
        for parameter, hint in _parameters(command).items():
            if hint is common:
                _add_common(sub.add_argument_group((inspect.getdoc(common) or "").split(".\n")[0]), common)
                for section, config in sections.items():
                    group = sub.add_argument_group(f"Changes to the model's config, {section}")
                    _add_section(group, section, config, fixed)
            elif parameter == "recipe":
                if recipe is not None:
                    sub.add_argument("--recipe", type=type(recipe), default=recipe, help=notes[parameter])
            elif parameter != "rest":
                _add(sub, parameter, hint, signature[parameter], notes[parameter])
        each.add_subcommand(name, sub, help=about)
    return parser


def _add(parser: Any, name: str, hint: Any, parameter: inspect.Parameter, note: str) -> None:
    """One parameter of a function as a positional, a switch or a flag."""
    flag = "--" + name.replace("_", "-")
    many = typing.get_origin(hint) is list
    if parameter.kind is not parameter.KEYWORD_ONLY:
        kind = typing.get_args(hint)[0] if many else hint
        parser.add_argument(name, type=kind, help=note, **({"nargs": "+"} if many else {}))
    elif hint is bool:
        parser.add_argument(flag, action="store_true", help=note)
    elif parameter.default is parameter.empty:
        parser.add_argument(flag, type=hint, required=True, help=note)
    else:
        parser.add_argument(flag, type=hint, default=parameter.default, help=note)


def _add_common(parser: Any, common: type) -> None:
    notes, hints = _documented(common), _hints(common)
    for one in fields(common):
        if one.name != "overrides":
            flag = "--" + one.name.replace("_", "-")
            parser.add_argument(flag, type=hints[one.name], default=one.default, help=notes[one.name])


def _add_section(parser: Any, section: str, config: type, fixed: Sequence[str]) -> None:
    notes, hints = _documented(config), _hints(config)
    for one in fields(config):
        name = f"{section}.{one.name}"
        if name not in fixed:
            parser.add_argument(f"--{name}", type=hints[one.name], default=None, help=notes[one.name])


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type."""
    return {name: hint for name, hint in _hints(function).items() if name != "return"}


def _hints(thing: Any) -> dict[str, Any]:
    """Annotations without `| None`: a flag that isn't given is None anyway, and the messages stay short."""
    hints = {}
    for name, hint in typing.get_type_hints(thing).items():
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            rest = tuple(h for h in typing.get_args(hint) if h is not type(None))
            hint = typing.Union[rest]  # noqa: UP007 - made of a tuple
        hints[name] = hint
    return hints


def _documented(thing: Any) -> dict[str, str]:
    """Name -> what the Args or Attributes of a docstring say of it."""
    lines = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", inspect.getdoc(thing) or "", re.M)
    return {name: " ".join(text.split()).replace("%", "%%") for name, text in lines}


def _spelled(words: Sequence[str]) -> list[str]:
    """The words with flags as they are declared: --rate_fps as --rate-fps, --media.rate-fps with _."""
    out: list[str] = []
    for at, word in enumerate(words):
        if word == "--":
            return [*out, *words[at:]]
        if word.startswith("--"):
            name, *value = word[2:].split("=", 1)
            name = name.replace("-", "_") if "." in name else name.replace("_", "-")
            word = "=".join(["--" + name, *value])
        out.append(word)
    return out


def _in_one_line(message: str, name: str, commands: Mapping[str, Callable[..., Any]]) -> str:
    """jsonargparse's message about command `name` ("": about all) with flags as they are typed."""
    message = " ".join(message.split())
    message = re.sub(r'Parser key "([\w.]+)":', lambda found: _flag(found[1]) + ":", message)
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("typing.", "").replace("--recipe.", "--")
    if name and message.startswith("the following arguments are required"):
        known = inspect.signature(commands[name]).parameters
        lacking = re.findall(rf"\b{name}\.(\w+)", message)
        flags = [_flag(n) if known[n].kind is known[n].KEYWORD_ONLY else n.upper() for n in lacking]
        message = f"needs {' and '.join(flags)}"
    return f"{message}; see longcompress {f'{name} ' if name else ''}--help"


def _flag(name: str) -> str:
    return "--" + (name if "." in name else name.replace("_", "-"))


def _own_version() -> str:
    try:
        return version("longcompress")
    except PackageNotFoundError:
        return "from a checkout"
