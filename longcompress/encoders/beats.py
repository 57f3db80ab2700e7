"""BEATs, an audio encoder, and its released weights.

Plain torch, written from the paper (Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", arXiv
2212.09058) and what it is built from: gated relative position bias (WavLM, arXiv 2110.13900), bucketed
distances (T5, arXiv 1910.10683), deep norm (arXiv 2203.00555). The user fetches the weights, which are public
(MIT). Patches of 16 frames x 16 bands of the mel filters (`beats_filters`) become tokens, a convolution adds
their positions, and transformer layers follow. Letters: A windows of audio, L frames of 10 ms, P patches, C
channels.
"""

import math
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from einops import rearrange, reduce, repeat
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from ..config_values import from_dict, positive
from ..files import parse_json, replacing, write_json
from .fbank import BANDS

GATES, GATE_TERMS = 2, 4  # numbers of a gate, and terms that each is the sum of
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


@dataclass(frozen=True)
class BeatsConfig:
    """Sizes of a BEATs encoder; the defaults are those of the released iter3+ files."""

    patch_size: int = 16  # frames, and bands; patches don't overlap
    patch_width: int = 512  # channels of a patch before it is widened
    width: int = 768  # channels of a token
    layers: int = 12
    heads: int = 12
    hidden_width: int = 3072  # inside the MLP
    position_kernel: int = 128  # tokens in the kernel of the position convolution
    position_groups: int = 16  # of its channels
    buckets: int = 320  # of distances, in both directions together
    max_distance: int = 800  # in tokens; larger distances share a bucket

    def __post_init__(self) -> None:
        positive(self, *self.__dataclass_fields__)
        for name in ("heads", "position_groups"):
            if self.width % getattr(self, name):
                raise ValueError(f"{name} must divide width = {self.width}, got {getattr(self, name)}")
        if self.buckets % 4 or self.max_distance <= self.buckets // 4:
            need = "buckets must be a multiple of 4 and max_distance more than a quarter of it"
            raise ValueError(f"{need}, got buckets {self.buckets}, max_distance {self.max_distance}")

    @classmethod
    def from_released(cls, cfg: Mapping[str, Any]) -> Self:
        """The sizes in the `cfg` of a released file; the others are those of the iter3+ files."""
        for name, want in RELEASED_KIND.items():
            if cfg.get(name, want) != want:
                raise ValueError(f"cfg[{name!r}] must be {want!r} as in BEATs' files, got {cfg[name]!r}")
        for name in RELEASED_SIZES:
            if name in cfg and type(cfg[name]) is not int:
                raise ValueError(f"cfg[{name!r}] must be a whole number, got {cfg[name]!r}")
        return cls(**{own: cfg[name] for name, own in RELEASED_SIZES.items() if name in cfg})


RELEASED_SIZES = {
    "input_patch_size": "patch_size", "embed_dim": "patch_width", "encoder_embed_dim": "width",
    "encoder_layers": "layers", "encoder_attention_heads": "heads", "encoder_ffn_embed_dim": "hidden_width",
    "conv_pos": "position_kernel", "conv_pos_groups": "position_groups", "num_buckets": "buckets",
    "max_distance": "max_distance",
}  # fmt: skip
"""Entry of a released file's `cfg` -> field."""
RELEASED_KIND = {
    "activation_fn": "gelu", "conv_bias": False, "layer_norm_first": False, "deep_norm": True,
    "relative_position_embedding": True, "gru_rel_pos": True,
}  # fmt: skip
"""Entries of `cfg` that name the architecture; entries about training don't matter."""


def distance_buckets(num: int, config: BeatsConfig, device: torch.device | str = "cpu") -> Tensor:
    """(P, P) int64 bucket of the distance from each token (row) to each token (column), P = num.

    Half of the buckets are for tokens before, half for tokens behind. In each half, the first buckets hold
    one distance, and the others are even in the logarithm of the distance, up to max_distance.
    """
    index = torch.arange(num, device=device)
    distance = index[None, :] - index[:, None]
    half, near = config.buckets // 2, config.buckets // 4
    far = (distance.abs().clamp_min(near).float() / near).log() / math.log(config.max_distance / near)
    far = near + (far * (half - near)).long()
    bucket = torch.where(distance.abs() < near, distance.abs(), far.clamp_max(half - 1))
    return bucket + half * (distance > 0)


class BeatsAttention(nn.Module):
    """Attention whose bias by distance each query scales for itself, head by head."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.heads, width = config.heads, config.width
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.gate = nn.Linear(width // self.heads, GATES * GATE_TERMS)
        self.gate_scale = nn.Parameter(torch.ones(1, config.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        """(A, P, C) from x (A, P, C), the bias (heads, P, P) by distance, query by key, and padding (A, P)
        bool, tokens that nobody attends to, or None."""
        query, key, value = (
            rearrange(part(x), "a p (h d) -> a h p d", h=self.heads)
            for part in (self.query, self.key, self.value)
        )  # (A, heads, P, C / heads)
        mask = self.scaling(query) * bias  # (A, heads, P, P)
        if padding is not None:  # not -inf: a window of nothing but padding stays finite
            mask = mask.masked_fill(padding[:, None, None], torch.finfo(mask.dtype).min)
        x = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(rearrange(x, "a h p d -> a p (h d)"))

    def scaling(self, query: Tensor) -> Tensor:
        """(A, heads, P, 1) factor of the bias for each query (A, heads, P, C / heads)."""
        gates = reduce(self.gate(query), "a h p (gates terms) -> a h p gates", "sum", gates=GATES)
        first, second = gates.sigmoid().split(1, 3)
        return first * (second * self.gate_scale - 1) + 2


class BeatsLayer(nn.Module):
    """A transformer layer with its norms last and, by deep norm, a larger weight of the residual."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.residual = (2 * config.layers) ** 0.25
        self.attention = BeatsAttention(config)
        self.attention_norm = nn.LayerNorm(config.width)
        self.enter = nn.Linear(config.width, config.hidden_width)
        self.leave = nn.Linear(config.hidden_width, config.width)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
        """(A, P, C); arguments as in `BeatsAttention`."""
        x = self.attention_norm(self.residual * x + self.attention(x, bias, padding))
        return self.norm(self.residual * x + self.leave(functional.gelu(self.enter(x))))


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
        write_json(folder / "config.json", {"model_type": KIND} | asdict(self.config), indent=2)

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
    values = parse_json(config_path.read_bytes(), f"base: {config_path}")
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
    try:
        values = read_plain(path)
    except ValueError as error:
        raise ValueError(f"base: {error} (a BEATs file has about 361 MB; {WHERE})") from error
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


def read_plain(path: Path, **options: Any) -> Any:
    """The contents of a file of tensors and plain values, written by torch.save; else ValueError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, **options)
    except BROKEN as error:
        fault = (
            f"({path.stat().st_size / 1e6:.1f} MB) is cut off or not what torch.save writes; fetch it again"
        )
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            what = "must hold tensors and plain values only, but its pickle asks for"
            fault = f"{what} {code[1]}; nothing of it was run"
        raise ValueError(f"{path} {fault}") from error


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
