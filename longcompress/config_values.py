"""Configs as plain values, from JSON and YAML; unknown keys are refused. What their numbers must be."""

import dataclasses
import math
import re
import typing
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """A config dataclass of `kind` from plain values; jsonargparse checks keys and types.

    Raises:
        ValueError: for a key that `kind` does not have, or a value of another type, with its dotted name.
    """
    from jsonargparse import ArgumentParser

    _check_sections(kind, values)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=kind)
    try:
        config: T = parser.instantiate(parser.parse_object({"config": values})).config
    except (ArgumentError, OverflowError) as error:  # a whole number that no float can be
        raise ValueError(_message(str(error), kind)) from error
    return config


def load_config(kind: type[T], path: str | Path) -> T:
    """Read a config of `kind` from a JSON or YAML file; see `read_values` and `from_dict`."""
    values = read_values(path)
    try:
        return from_dict(kind, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_values(path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"config: no file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))  # JSON is YAML too
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"config: {path} must be YAML or JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} must hold a mapping, got {type(values).__name__}")
    return values


def _check_sections(kind: type, values: Mapping[str, Any]) -> None:
    """ValueError where a section is no mapping (jsonargparse takes a text there for the name of a file), or a
    field is null, which jsonargparse lets pass."""
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if not isinstance(key, str):
            raise ValueError(f"unknown key {key!r}; {kind.__name__} has {sorted(hints)}")
        hint = hints.get(key, Any)
        if value is None and hint is not Any and type(None) not in typing.get_args(hint):
            raise ValueError(f"{key} must not be null; leave it out for its default")
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ValueError(f"{key} must be a mapping, got {value!r}")
            _check_sections(typing.cast(type, hint), value)


def _message(text: str, kind: type) -> str:
    """jsonargparse's message in one line: the key, what is needed, what was got."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(text.split())).replace("typing.", "")
    if unknown := re.search(r"does not accept option '([\w.]+)'", text):
        for section in unknown[1].split(".")[:-1]:
            kind = typing.get_type_hints(kind).get(section, kind)
        return f"unknown key {unknown[1]!r}; {kind.__name__} has {sorted(typing.get_type_hints(kind))}"
    return re.sub(r'Parser key "(?:config\.)?([\w.]+)": (?:Expected an? (.*?)\. Got value: )?', _need, text)


def _need(match: re.Match[str]) -> str:
    return f"{match[1]} must be {match[2]}, got " if match[2] else f"{match[1]}: "


def positive(config: Any, *names: str) -> None:
    """ValueError for a field that is not above 0 and finite."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be > 0, got {getattr(config, name)}")
