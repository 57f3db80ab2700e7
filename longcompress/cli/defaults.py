"""Defaults of the flags about models and videos, from a file and the environment; flags come before both.

The file is LONGCOMPRESS_DEFAULTS, or longcompress.yaml in $XDG_CONFIG_HOME or ~/.config: `model: owner/name`,
`budget: 4096`. The environment comes before it: LONGCOMPRESS_MODEL, LONGCOMPRESS_BUDGET, ...
"""

import os
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..config_values import from_dict, read_values

NAMES = ("model", "device", "dtype", "config", "budget", "video_track", "audio_track", "protocols")
T = TypeVar("T")


def defaults_of(command: Any) -> dict[str, Any]:
    """Parameter of a command to options with the user's defaults, of those that have a model."""
    hints = typing.get_type_hints(command).items()
    kinds = {name: kind for name, kind in hints if isinstance(kind, type) and is_dataclass(kind)}
    return {name: with_defaults(kind) for name, kind in kinds.items() if {"model", "changes"} <= _names(kind)}


def with_defaults(kind: type[T]) -> T:
    """Options of a kind with the user's defaults.

    Raises:
        ValueError: for an unknown name in the file, or a value of another type.
    """
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    file = os.environ.get("LONGCOMPRESS_DEFAULTS") or Path(config) / "longcompress.yaml"
    is_there = Path(file).is_file() or "LONGCOMPRESS_DEFAULTS" in os.environ
    values = read_values(file) if is_there else {}
    if wrong := sorted(values.keys() - set(NAMES)):
        raise ValueError(f"{file}: defaults are {', '.join(NAMES)}, got {', '.join(map(str, wrong))}")
    texts = {name: os.environ.get(f"LONGCOMPRESS_{name.upper()}") for name in NAMES}
    typed = {name: yaml.safe_load(text) for name, text in texts.items() if text}
    names = _names(kind)
    try:
        return from_dict(kind, {name: v for name, v in (values | typed).items() if name in names})
    except ValueError as error:
        origins = [str(file)] * bool(values) + [f"LONGCOMPRESS_{name.upper()}" for name in typed]
        raise ValueError(f"defaults of {', '.join(origins)}: {error}") from error


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}
