"""What this machine has of what longcompress uses, and the command that brings the rest."""

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

# as in setup.py; a test compares them
NEEDED = {
    "torch": ">=2.9",
    "transformers": ">=5.18,<6",
    "peft": ">=0.18",
    "accelerate": ">=1.10",
    "tokenizers": ">=0.22",
    "av": ">=17.1",
    "numpy": ">=1.26",
    "scipy": ">=1.15",
    "safetensors": ">=0.5",
    "huggingface_hub": ">=1.0",
    "jsonargparse": ">=4.35",
    "pyyaml": ">=6",
    "tqdm": ">=4.66",
    "rich": ">=13",
}
EXTRAS = {
    "plot": {"matplotlib": ">=3.8"},
    "web": {"fsspec": ">=2024.6", "aiohttp": ">=3.9", "requests": ">=2.31"},
    "train": {"tensorboard": ">=2.15"},
    "ray": {"ray": ">=2.40"},
}
PYTHON = (3, 11)
CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "opus", "vorbis", "flac", "ac3")
CUDA_TORCH = "pip install --force-reinstall torch"  # the default wheel for Linux is a CUDA one


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: "ok"; "wrong": longcompress won't work without it; "note": something optional isn't there.
        found: what there is.
        remedy: a command or a sentence; "" where all is well.
    """

    name: str
    status: Literal["ok", "wrong", "note"]
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Everything that was looked at, needed things first."""
    checks: list[Check | None] = [_python(), *(_package(name, spec, None) for name, spec in NEEDED.items())]
    checks += [_decoder(), _video(), _gpu(), _triton(), _vision_trap(), _embedded()]
    for extra, packages in EXTRAS.items():
        checks += [_package(name, spec, extra) for name, spec in packages.items()]
    return [check for check in checks if check is not None]


def fits(found: str, spec: str) -> bool:
    """Whether a version such as "2.13.0+cpu" is within bounds such as ">=2.8,<3"."""
    have = _numbers(found)
    for part in spec.split(","):
        sign, bound = part[:2].rstrip("0123456789"), _numbers(part.lstrip("<>="))
        if not (have >= bound if sign == ">=" else have < bound):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; what follows a letter or a plus doesn't count."""
    release = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(n) for n in release[0].split(".")] if release else [0]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()  # 6.0 is 6
    return tuple(numbers)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package(name: str, spec: str, extra: str | None) -> Check:
    """A package by its metadata; it is not imported."""
    title = name if extra is None else f"{name} (extra {extra!r})"
    lacking: Literal["wrong", "note"] = "wrong" if extra is None else "note"
    remedy = f'pip install "{name}{spec}"'
    found = _version(name)
    if found is None:
        return Check(title, lacking, "not there", remedy)
    if not fits(found, spec):
        return Check(title, lacking, f"{found}, needed is {spec}", remedy)
    return Check(title, "ok", found)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < PYTHON:
        return Check("python", "wrong", found, f"install Python {'.'.join(map(str, PYTHON))} or newer")
    return Check("python", "ok", f"{found}, longcompress {_version('longcompress') or 'not installed'}")


def _decoder() -> Check:
    """FFmpeg as PyAV brings it, and the codecs it can decode."""
    try:
        av = importlib.import_module("av")
    except (ImportError, OSError) as error:
        return Check("decoder", "wrong", f"PyAV can't be loaded: {error}", "pip install --force-reinstall av")
    names = {"av1": {"libdav1d", "av1"}}
    missing = [c for c in CODECS if not names.get(c, {c}) & av.codecs_available]
    known = ", ".join(c for c in CODECS if c not in missing)
    found = f"FFmpeg {getattr(av, 'ffmpeg_version_info', '?')}: {known}"
    if missing:
        remedy = "pip install --force-reinstall --only-binary av av"
        return Check("decoder", "note", f"{found}; not {', '.join(missing)}", remedy)
    return Check("decoder", "ok", found)


def _video() -> Check:
    """Writes a second of video and reads it."""
    try:
        from ..media import reader as media
        from ..synthetic import scenes

        with tempfile.TemporaryDirectory() as folder:
            path = scenes.write_video(scenes.make_scene(0, 1.0), Path(folder) / "video.mp4", size_px=64)
            with media.read(path) as parts:
                kinds = {type(part).__name__ for part in parts}
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        return Check(
            "video", "wrong", f"a video can't be written and read: {error}", "repair what is wrong above"
        )
    if kinds != {"Frames", "Audio"}:
        return Check(
            "video", "wrong", f"a video with audio gave {sorted(kinds)}", "pip install --force-reinstall av"
        )
    return Check("video", "ok", "written and read, with audio")


def _gpu() -> Check:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Check("gpu", "wrong", f"torch can't be loaded: {error}", "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        kind = torch.cuda.get_device_properties(0)
        num = torch.cuda.device_count()
        memory = f"{kind.total_memory / 2**30:.0f} GiB"
        return Check(
            "gpu", "ok", f"{num} x {kind.name}, {memory}, compute capability {kind.major}.{kind.minor}"
        )
    if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        return Check("gpu", "note", f"there is one that torch {torch.__version__} doesn't see", CUDA_TORCH)
    return Check("gpu", "note", "none; the CPU is used, and large models are slow on it")


def _triton() -> Check:
    found = _version("triton") or _version("pytorch-triton")
    if found:
        return Check("triton", "ok", found)
    return Check("triton", "note", "not there; only GPUs need it, and then it comes with torch", CUDA_TORCH)


def _vision_trap() -> Check | None:
    """A torchvision that doesn't fit torch breaks transformers; none at all is fine."""
    if _version("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        return Check(
            "torchvision", "wrong", f"doesn't fit torch, and breaks transformers: {error}",
            "pip uninstall torchvision",
        )  # fmt: skip
    return Check("torchvision", "ok", f"{_version('torchvision')} (not used)")


def _embedded() -> Check:
    folder = Path(__file__).parents[1] / "weights" / "tiny"
    if (folder / "config.json").is_file():
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return Check("model tiny", "ok", f"{size / 1e6:.1f} MB in {folder}")
    return Check(
        "model tiny", "note", f"not in {folder}", "longcompress train tiny --out FOLDER makes it anew"
    )
