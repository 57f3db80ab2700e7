"""BEATs' formulas once more, slowly: float64 numpy over the entries of a released file, with loops for what
the encoder does at once. Also random weights of the released layout."""

import math
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

CFG = {  # of BEATs_iter3_plus_AS2M.pt
    "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12, "activation_fn": "gelu", "dropout": 0.0, "attention_dropout": 0.0,
    "activation_dropout": 0.0, "encoder_layerdrop": 0.05, "dropout_input": 0.0, "layer_norm_first": False,
    "conv_bias": False, "conv_pos": 128, "conv_pos_groups": 16, "relative_position_embedding": True,
    "num_buckets": 320, "max_distance": 800, "gru_rel_pos": True, "deep_norm": True, "input_patch_size": 16,
    "layer_wise_gradient_decay_ratio": 0.6, "embed_dim": 512, "finetuned_model": False,
}  # fmt: skip
SMALL = CFG | {
    "encoder_layers": 2, "encoder_embed_dim": 24, "encoder_ffn_embed_dim": 40, "encoder_attention_heads": 3,
    "conv_pos": 6, "conv_pos_groups": 4, "num_buckets": 16, "max_distance": 20, "embed_dim": 10,
}  # fmt: skip


def layout(cfg: Mapping) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every entry, written down from the table of the released file."""
    wide, narrow, inner = cfg["encoder_embed_dim"], cfg["embed_dim"], cfg["encoder_ffn_embed_dim"]
    heads, side = cfg["encoder_attention_heads"], cfg["input_patch_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "post_extract_proj.weight": (wide, narrow), "post_extract_proj.bias": (wide,),
        "patch_embedding.weight": (narrow, 1, side, side),
        "encoder.pos_conv.0.bias": (wide,), "encoder.pos_conv.0.weight_g": (1, 1, cfg["conv_pos"]),
        "encoder.pos_conv.0.weight_v": (wide, wide // cfg["conv_pos_groups"], cfg["conv_pos"]),
    }  # fmt: skip
    for number in range(cfg["encoder_layers"]):
        at = f"encoder.layers.{number}."
        shapes[at + "self_attn.grep_a"] = (1, heads, 1, 1)
        shapes[at + "self_attn.relative_attention_bias.weight"] = (cfg["num_buckets"], heads)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[at + f"self_attn.{name}.weight"] = (wide, wide)
            shapes[at + f"self_attn.{name}.bias"] = (wide,)
        shapes[at + "self_attn.grep_linear.weight"] = (8, wide // heads)
        shapes[at + "self_attn.grep_linear.bias"] = (8,)
        shapes[at + "fc1.weight"], shapes[at + "fc1.bias"] = (inner, wide), (inner,)
        shapes[at + "fc2.weight"], shapes[at + "fc2.bias"] = (wide, inner), (wide,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[at + name + ".weight"] = shapes[at + name + ".bias"] = (wide,)
    shapes |= {f"encoder.layer_norm.{leaf}": (wide,) for leaf in ("weight", "bias")}
    return shapes | {f"layer_norm.{leaf}": (narrow,) for leaf in ("weight", "bias")}


def random_model(cfg: Mapping, seed: int = 0) -> OrderedDict[str, Tensor]:
    """Weights in the released layout, of sizes that leave no part of the formulas without a say."""
    random = torch.Generator().manual_seed(seed)
    model = OrderedDict()
    table = None
    for name, shape in layout(cfg).items():
        value = torch.randn(shape, generator=random)
        if name.endswith("relative_attention_bias.weight"):
            table = value if table is None else table
            value = table
        elif name.endswith("norm.weight"):
            value = 1 + 0.2 * value
        elif name.endswith("weight_g"):
            value = 1 + 0.5 * value.abs()
        elif name.endswith(".bias"):
            value = 0.2 * value
        elif not name.endswith("grep_a"):
            value = value * (0.5 if "grep" in name else 1.2) / math.sqrt(math.prod(shape[1:]))
        model[name] = value
    return model


def beats(w: Mapping[str, np.ndarray], cfg: Mapping, clip_cache: np.ndarray) -> np.ndarray:
    """(P, C) float64 tokens of one window (L, 128); w: the entries of a released file, float64."""
    side = cfg["input_patch_size"]
    tokens = []
    for time in range(len(clip_cache) // side):  # by time, then from low bands to high
        for band in range(clip_cache.shape[1] // side):
            patch = clip_cache[time * side : (time + 1) * side, band * side : (band + 1) * side]
            tokens.append((w["patch_embedding.weight"][:, 0] * patch).sum((1, 2)))
    x = norm(np.array(tokens), w, "layer_norm")
    x = linear(x, w, "post_extract_proj")
    x = norm(x + gelu(positions(x, w, cfg)), w, "encoder.layer_norm")
    bias = distance_bias(len(x), w["encoder.layers.0.self_attn.relative_attention_bias.weight"], cfg)
    alpha = (2 * cfg["encoder_layers"]) ** 0.25
    for number in range(cfg["encoder_layers"]):
        at = f"encoder.layers.{number}."
        x = norm(alpha * x + attention(x, bias, w, at + "self_attn.", cfg), w, at + "self_attn_layer_norm")
        inner = linear(gelu(linear(x, w, at + "fc1")), w, at + "fc2")
        x = norm(alpha * x + inner, w, at + "final_layer_norm")
    return x


def positions(x: np.ndarray, w: Mapping, cfg: Mapping) -> np.ndarray:
    """(P, C) what the convolution adds: output p sees tokens p - K/2 to p + K/2 - 1."""
    size, groups = cfg["conv_pos"], cfg["conv_pos_groups"]
    direction, length = w["encoder.pos_conv.0.weight_v"], w["encoder.pos_conv.0.weight_g"]
    out = np.tile(w["encoder.pos_conv.0.bias"], (len(x), 1))
    each = x.shape[1] // groups
    for tap in range(size):
        kernel = direction[:, :, tap]
        kernel = kernel * length[0, 0, tap] / math.sqrt((kernel**2).sum())
        shift = tap - size // 2
        rows = np.arange(max(0, -shift), min(len(x), len(x) - shift))
        for group in range(groups):
            of = slice(group * each, (group + 1) * each)
            out[rows, of] += x[rows + shift, of] @ kernel[of].T
    return out


def distance_bias(num: int, table: np.ndarray, cfg: Mapping) -> np.ndarray:
    """(heads, P, P) bias of query (row) and key (column)."""
    half = cfg["num_buckets"] // 2
    near = half // 2
    bias = np.empty((table.shape[1], num, num))
    for distance in range(1 - num, num):  # key - query
        far = abs(distance)
        bucket = far
        if far >= near:
            more = math.log(far / near) / math.log(cfg["max_distance"] / near) * (half - near)
            bucket = min(half - 1, near + math.floor(more))
        bucket += half if distance > 0 else 0
        rows = np.arange(max(0, -distance), min(num, num - distance))
        for head in range(table.shape[1]):
            bias[head, rows, rows + distance] = table[bucket, head]
    return bias


def wide(model: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The entries of a released file in float64."""
    return {name: value.double().numpy() for name, value in model.items()}


def attention(x: np.ndarray, bias: np.ndarray, w: Mapping, at: str, cfg: Mapping) -> np.ndarray:
    heads = cfg["encoder_attention_heads"]
    query, key, value = (linear(x, w, at + name) for name in ("q_proj", "k_proj", "v_proj"))
    each = x.shape[1] // heads
    out = np.empty_like(x)
    for head in range(heads):
        of = slice(head * each, (head + 1) * each)
        numbers = linear(query[:, of], w, at + "grep_linear")  # (P, 8), of the query before it is scaled
        first, second = sigmoid(numbers[:, :4].sum(1)), sigmoid(numbers[:, 4:].sum(1))
        gate = first * (second * w[at + "grep_a"][0, head, 0, 0] - 1) + 2
        scores = query[:, of] @ key[:, of].T / math.sqrt(each) + gate[:, None] * bias[head]
        scores = np.exp(scores - scores.max(1, keepdims=True))
        out[:, of] = scores / scores.sum(1, keepdims=True) @ value[:, of]
    return linear(out, w, at + "out_proj")


def linear(x: np.ndarray, w: Mapping, name: str) -> np.ndarray:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def norm(x: np.ndarray, w: Mapping, name: str) -> np.ndarray:
    middle = x - x.mean(1, keepdims=True)
    return (
        middle / np.sqrt((middle**2).mean(1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]
    )


def gelu(x: np.ndarray) -> np.ndarray:
    """Exact, not by tanh; numpy has no erf."""
    return x * 0.5 * (1 + torch.from_numpy(x / math.sqrt(2)).erf().numpy())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
