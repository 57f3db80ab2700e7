"""Check what longcompress needs on this machine, and name the command that mends what is missing."""

import importlib
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

# as in setup.py; a test compares them
NEEDED = [
    "torch>=2.9", "transformers>=5.18,<6", "peft>=0.18", "accelerate>=1.10", "tokenizers>=0.22", "av>=17.1",
    "numpy>=1.26", "einops>=0.8", "scipy>=1.15", "safetensors>=0.8", "huggingface_hub>=1.0",
    "webdataset>=1.0", "jsonargparse>=4.49", "packaging>=20", "pyyaml>=6", "pysubs2>=1.7", "tqdm>=4.66",
    "rich>=13",
]  # fmt: skip
EXTRAS = {
    "plot": ["matplotlib>=3.8"],
    "web": ["fsspec>=2024.6", "aiohttp>=3.9", "requests>=2.31"],
    "train": ["tensorboard>=2.15"],
    "ray": ["ray>=2.40"],
}
PYTHON = (3, 11)
CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "opus", "vorbis", "flac", "ac3")
CUDA_TORCH = "pip install --force-reinstall torch"  # the default wheel for Linux is a CUDA one


Status = Literal["ok", "wrong", "note"]  # "wrong": longcompress doesn't work; "note": an optional part


@dataclass(frozen=True)
class Check:
    """Result of one check: what is here, and a command that mends what is missing."""

    name: str
    status: Status
    state: str
    remedy: str = ""


def examine() -> list[Check]:
    """Results of all checks, required things first."""
    checks = [_python(), *(_package(spec) for spec in NEEDED)]
    for name, check, package in (
        ("decoder", _decoder, "av"),
        ("video", _video, "av"),
        ("gpu", _gpu, "torch"),
        ("training attention", _attention, "torch"),
    ):
        try:
            checks.append(Check(name, *check()))
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            remedy = f"pip install --force-reinstall {package}"
            checks.append(Check(name, "wrong", f"{package} can't be used: {error}", remedy))
    checks += [_triton(), *_torchvision(), _embedded()]
    return checks + [_package(spec, extra) for extra, specs in EXTRAS.items() for spec in specs]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(spec: str, extra: str = "") -> Check:
    """A package by its metadata, without importing it."""
    needed = Requirement(spec)
    installed = _version(needed.name)
    title = f"{needed.name} (extra {extra!r})" if extra else needed.name
    if installed is not None and needed.specifier.contains(installed, prereleases=True):
        return Check(title, "ok", installed)
    state = "not installed" if installed is None else f"{installed}, needed is {needed.specifier}"
    return Check(title, "note" if extra else "wrong", state, f'pip install "{spec}"')


def _python() -> Check:
    state = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < PYTHON:
        return Check("python", "wrong", state, f"install Python {'.'.join(map(str, PYTHON))} or newer")
    return Check("python", "ok", f"{state}, longcompress {_version('longcompress') or 'not installed'}")


def _decoder() -> tuple[Status, str, str]:
    """FFmpeg as PyAV brings it, and the codecs it can decode."""
    av: Any = importlib.import_module("av")
    known = av.codecs_available | ({"av1"} if "libdav1d" in av.codecs_available else set())
    state = f"FFmpeg {av.ffmpeg_version_info}: {', '.join(codec for codec in CODECS if codec in known)}"
    if missing := ", ".join(sorted(set(CODECS) - known)):
        return "note", f"{state}; not {missing}", "pip install --force-reinstall --only-binary av av"
    return "ok", state, ""


def _video() -> tuple[Status, str, str]:
    """Writes a second of video and reads it."""
    from ..media import read
    from ..synthetic.scenes import make_scene, write_video

    with tempfile.TemporaryDirectory() as folder:
        path = write_video(make_scene(0, 1.0), Path(folder) / "video.mp4", size_px=64)
        with read(path) as parts:
            kinds = {part.modality for part in parts}
    if kinds != {"video", "audio"}:
        raise ValueError(f"of a video with audio only {sorted(kinds)} came back")
    return "ok", "written and read, with audio", ""


def _gpu() -> tuple[Status, str, str]:
    import torch

    if torch.cuda.is_available():
        gpu, num = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        state = f"{num} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}"
        return "ok", state, ""
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        return "note", f"there is one that torch {torch.__version__} doesn't see", CUDA_TORCH
    return "note", "none; the CPU is used, and large models are slow on it", ""


def _triton() -> Check:
    state = _version("triton") or _version("pytorch-triton")
    if state:
        return Check("triton", "ok", state)
    return Check("triton", "note", "not installed; only GPUs need it, and it comes with torch", CUDA_TORCH)


def _attention() -> tuple[Status, str, str]:
    """What the attention of rows with several questions or samples is in training."""
    import torch

    from ..llm.attention import backend_for

    device = "cuda" if torch.cuda.is_available() else "cpu"
    half, single = (backend_for(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    state = f"{half} in bfloat16, {single} in float32"
    if device == "cpu" or half == "flash":
        return "ok", state, ""
    return "note", f"{state}; flash_attn is not installed", "pip install --no-build-isolation flash-attn"


def _torchvision() -> list[Check]:
    """A torchvision that doesn't fit torch breaks transformers. Without torchvision there is no check."""
    installed = _version("torchvision")
    if installed is None:
        return []
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        state = f"doesn't fit torch, and breaks transformers: it can't be loaded: {error}"
        return [Check("torchvision", "wrong", state, "pip uninstall torchvision")]
    return [Check("torchvision", "ok", f"{installed} (not used)")]


def _embedded() -> Check:
    folder = Path(__file__).parents[1] / "weights" / "tiny"
    if (folder / "config.json").is_file():
        return Check("model tiny", "ok", str(folder))
    return Check("model tiny", "note", f"not in {folder}", "longcompress train tiny --out FOLDER")
