"""BEATs, an audio encoder, and its released weights.

Plain torch, written from the paper (Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", arXiv
2212.09058). The user fetches the weights, which are public (MIT). Patches of 16 frames x 16 bands of the mel
filters (`beats_filters`) become tokens, a convolution adds their positions, and transformer layers follow.
Letters: A windows of audio, L frames of 10 ms, P patches, C channels.
"""

import json
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from einops import rearrange, repeat
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ..config import from_dict
from ..files import replacing
from .beats_layers import BeatsConfig, BeatsLayer, distance_buckets
from .fbank import BANDS

KIND = "beats"  # model_type in the config.json of a folder that `save_pretrained` writes
CLASSES = 527  # of the classifier that fine-tuned files bring
LISTED = 12  # names that an error lists at most
WHERE = (
    "released files are listed at github.com/microsoft/unilm (beats); BEATs_iter3_plus_AS20K.pt also lies in "
    "checkpoints/ of LongVALE's data set on Hugging Face"
)
BROKEN = (  # errors of torch.load for bytes that are no whole file of plain tensors
    RuntimeError, ValueError, LookupError, EOFError, OSError, AssertionError, TypeError, AttributeError,
    struct.error, pickle.UnpicklingError,
)  # fmt: skip
MODULES = {"layer_norm": "patch_norm", "post_extract_proj": "widen", "encoder.layer_norm": "norm"}
LAYER_MODULES = {
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value", "self_attn.out_proj": "attention.out",
    "self_attn.grep_linear": "attention.gate", "self_attn_layer_norm": "attention_norm",
    "fc1": "enter", "fc2": "leave", "final_layer_norm": "norm",
}  # fmt: skip
"""Modules with weight and bias, of the whole and of layer i (`encoder.layers.i.`): released name -> ours."""
POSITION = "encoder.pos_conv.0"  # released as direction, `weight_v`, and length, `weight_g`, of its weight
TABLE = "encoder.layers.{}.self_attn.relative_attention_bias.weight"  # one tensor, listed by every layer


class Beats(nn.Module):
    """The encoder, without the classifier that some released files have on top."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        side, width, kernel = config.patch_size, config.width, config.position_kernel
        self.patch = nn.Conv2d(1, config.patch_width, side, side, bias=False)
        self.patch_norm = nn.LayerNorm(config.patch_width)
        self.widen = nn.Linear(config.patch_width, width)
        self.position = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.position_groups)
        self.norm = nn.LayerNorm(width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.layers = nn.ModuleList(BeatsLayer(config) for _ in range(config.layers))

    def num_patches(self, num_frames: int) -> int:
        """Tokens of a window of `num_frames`; frames behind the last whole patch don't count."""
        return (num_frames // self.config.patch_size) * (BANDS // self.config.patch_size)

    def patch_padding(self, padding: Tensor) -> Tensor:
        """(A, P) bool, True at the tokens that hold a frame of padding (A, L) bool."""
        side = self.config.patch_size
        padding = padding[:, : padding.shape[1] // side * side]
        columns = rearrange(padding, "a (t side) -> a t side", side=side).any(2)
        return repeat(columns, "a t -> a (t bands)", bands=BANDS // side)

    def forward(self, mel: Tensor, padding: Tensor | None = None) -> Tensor:
        """(A, P, C) tokens in the dtype of the weights, by time, and within it from low bands to high.

        Padding doesn't change the tokens of a window; tokens that hold padding are zero. The released code
        masks two frames a token in their order, which follows neither time nor bands.

        Args:
            mel: (A, L, 128) float, from `beats_filters`; at least one patch long.
            padding: (A, L) bool, True at frames that aren't audio; None: all are.
        """
        weight = self.patch.weight
        x = self.patch(mel.to(weight.device, weight.dtype)[:, None])
        x = self.widen(self.patch_norm(rearrange(x, "a c t bands -> a (t bands) c")))  # (A, P, C)
        masked = None if padding is None else self.patch_padding(padding.to(weight.device))
        if masked is not None:
            x = x.masked_fill(masked[..., None], 0)
        position = self.position(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        x = self.norm(x + functional.gelu(position))
        bias = self.distances(distance_buckets(x.shape[1], self.config, x.device)).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, bias, masked)
        return x if masked is None else x.masked_fill(masked[..., None], 0)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, for `from_pretrained`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "model.safetensors") as part:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, part, {"format": "pt"})
        with replacing(folder / "config.json") as part:
            part.write_text(json.dumps({"model_type": KIND} | asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls, base: str | Path, *, dtype: torch.dtype | Literal["auto"] = torch.float32
    ) -> Self:
        """The encoder of a local folder that `save_pretrained` wrote, or of a released .pt file.

        Code in a file's pickle is never run. With dtype "auto" parameters keep the dtype of the file.
        """
        if isinstance(dtype, str) and dtype != "auto":
            raise ValueError(f'dtype must be a torch.dtype or "auto", got {dtype!r}')
        path = Path(base)
        if path.is_dir():
            config, state = read_folder(path)
        elif path.is_file():
            config, state = read_released(path)
        else:
            raise FileNotFoundError(f"base {str(base)!r}: no such folder or file; {WHERE}")
        to = state["patch.weight"].dtype if dtype == "auto" else dtype
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict({k: v.to(to) for k, v in state.items()}, assign=True)
        return model.eval()


def read_folder(folder: Path) -> tuple[BeatsConfig, dict[str, Tensor]]:
    """The sizes and the parameters, by name, in a folder that `Beats.save_pretrained` wrote."""
    config_path, path = folder / "config.json", folder / "model.safetensors"
    for file in (config_path, path):
        if not file.is_file():
            raise FileNotFoundError(
                f"base: no file {file}; a folder of BEATs has {config_path.name} and {path.name}, else give "
                "the released .pt file itself"
            )
    try:
        values = json.loads(config_path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"base: {config_path} is no JSON: {error}") from error
    kind = values.pop("model_type", None) if isinstance(values, dict) else None
    if kind != KIND:
        raise ValueError(f"base: {config_path} must be of model_type {KIND!r}, got {kind!r}")
    try:
        config = from_dict(BeatsConfig, values)
    except ValueError as error:
        raise ValueError(f"base: {config_path}: {error}") from error
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"base: {path} is cut off or no safetensors file ({error}); save it anew") from error
    check_entries(path, state, own_shapes(config))
    return config, state


def read_released(path: Path) -> tuple[BeatsConfig, dict[str, Tensor]]:
    """The sizes and the parameters, by our names, in a released file."""
    values = read_plain(path)
    if not isinstance(values, dict) or not all(isinstance(values.get(k), dict) for k in ("cfg", "model")):
        got = sorted(map(str, values))[:LISTED] if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"base: {path} must hold dicts 'cfg' and 'model' as BEATs' files do, got {got}; {WHERE}"
        )
    cfg, state = values["cfg"], values["model"]
    try:
        config = BeatsConfig.from_released(cfg)
    except ValueError as error:
        raise ValueError(f"base: {path}: {error}") from error
    classes = cfg.get("predictor_class", CLASSES) if cfg.get("finetuned_model") else 0
    check_entries(path, state, released_shapes(config, classes))
    own = {ours: state[theirs] for theirs, ours in released_names(config).items()}
    table = own["distances.weight"] = state[TABLE.format(0)]
    for name in map(TABLE.format, range(config.layers)):
        if not torch.equal(state[name], table):
            raise ValueError(f"base: {path}: {name} must be the same as layer 0's, got other values")
    # Weight norm over the kernel's positions, fused in float64.
    length, direction = state[f"{POSITION}.weight_g"], state[f"{POSITION}.weight_v"]
    wide = direction.double()
    fused = length * wide / wide.square().sum((0, 1), keepdim=True).sqrt()
    own["position.weight"] = fused.to(direction.dtype)
    return config, own


def read_plain(path: Path) -> Any:
    """The contents of a file of tensors and plain values, written by torch.save; else ValueError."""
    with path.open("rb") as file:
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except BROKEN as error:
            if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
                raise ValueError(
                    f"base: {path} must hold tensors and plain values only, but its pickle asks for "
                    f"{code[1]}; nothing of it was run. {WHERE}"
                ) from error
            size_mb = path.stat().st_size / 1e6
            raise ValueError(
                f"base: {path} ({size_mb:.1f} MB) is cut off or not what torch.save writes; fetch it again "
                f"(a BEATs file has about 361 MB); {WHERE}"
            ) from error


def released_names(config: BeatsConfig) -> dict[str, str]:
    """Released name -> our name, of all entries that are parameters of ours unchanged."""
    names = {"patch_embedding.weight": "patch.weight", f"{POSITION}.bias": "position.bias"}
    modules = dict(MODULES)
    for i in range(config.layers):
        layer = f"layers.{i}"
        modules |= {f"encoder.{layer}.{theirs}": f"{layer}.{ours}" for theirs, ours in LAYER_MODULES.items()}
        names[f"encoder.{layer}.self_attn.grep_a"] = f"{layer}.attention.gate_scale"
    for theirs, ours in modules.items():
        names |= {f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")}
    return names


def own_shapes(config: BeatsConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of our parameters by name."""
    with torch.device("meta"):
        return {k: tuple(v.shape) for k, v in Beats(config).state_dict().items()}


def released_shapes(config: BeatsConfig, classes: int = 0) -> dict[str, tuple[int, ...]]:
    """Shapes of a released file's entries by name (250 of them, 252 with a classifier)."""
    own = own_shapes(config)
    shapes = {theirs: own[ours] for theirs, ours in released_names(config).items()}
    shapes |= {TABLE.format(i): own["distances.weight"] for i in range(config.layers)}
    shapes[f"{POSITION}.weight_v"] = own["position.weight"]
    shapes[f"{POSITION}.weight_g"] = (1, 1, config.position_kernel)
    if classes:
        shapes |= {"predictor.weight": (classes, config.width), "predictor.bias": (classes,)}
    return shapes


def check_entries(path: Path, state: Mapping[str, Any], want: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError unless `state` has exactly these entries, float tensors of these shapes."""
    missing, extra = sorted(set(want) - set(state)), sorted(set(map(str, state)) - set(want))
    if missing or extra:
        raise ValueError(
            f"base: {path} must have the {len(want)} entries of BEATs; missing {len(missing)}: "
            f"{listed(missing)}; unknown {len(extra)}: {listed(extra)}"
        )
    for name, shape in want.items():
        value = state[name]
        if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
            got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"base: {path}: {name} must be {shape} float, got {got}")


def listed(names: list[str]) -> str:
    """The first names, for an error."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "") or "none"
