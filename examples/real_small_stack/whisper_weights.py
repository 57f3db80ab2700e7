"""A Whisper of transformers, made of a model file of CTranslate2."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def whisper_folder(folder: Path, data: bytes, settings: dict, tokenizer: Path) -> None:
    """Write a folder of transformers from a model file's bytes, its config.json and a tokenizer.json."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    known = {name: value.float() for name, value in _ctranslate2(data).items()}
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
