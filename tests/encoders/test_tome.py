"""Merging inside the vision encoder: the encoder's own features with r = 0, ToMe's arithmetic with more."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from longcompress.config import VisionConfig
from longcompress.config_values import from_dict, load_config
from longcompress.encoders import VisionEncoder, tome
from longcompress.encoders.tome import FAMILIES, check_encoder, merged_states
from longcompress.model import LongCompress
from longcompress.synthetic.scenes import frames, make_scene
from longcompress.types import Frames

import models
from assets import dinov2_small
from helpers import assert_close, assert_within, normal, save_config

SIZE, SIDE, LAYERS, HEADS = 48, 8, 4, 4
PATCHES = (SIZE // SIDE) ** 2
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "image_size": SIZE,
    "patch_size": SIDE,
}  # fmt: skip
ENCODERS = {  # how one is vision, and its tokens before the patches
    "clip": (lambda: CLIPVisionModel(CLIPVisionConfig(**SHAPE, intermediate_size=48)), 1),
    "siglip": (lambda: SiglipVisionModel(SiglipVisionConfig(**SHAPE, intermediate_size=48)), 0),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2, drop_path_rate=0.1)), 1),
    "dinov2, gated": (lambda: Dinov2Model(Dinov2Config(**SHAPE, mlp_ratio=2, use_swiglu_ffn=True)), 1),
    "registers": (
        lambda: Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=3)
        ),
        4,
    ),
    "vit": (lambda: ViTModel(ViTConfig(**SHAPE, intermediate_size=48)), 1),
}


def vision_model(name, attention="sdpa", seed=3):
    """A random encoder whose parameters are all far from what they begin as, layer scales and norms too."""
    torch.manual_seed(seed)
    vision = ENCODERS[name][0]().eval()
    with torch.no_grad():
        for parameter in vision.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    vision.set_attn_implementation(attention)
    return vision


def images(num=3, seed=0):
    """(num, SIZE, SIZE, 3) uint8: noise on patches of different colours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (num, SIZE // SIDE, SIZE // SIDE, 3), generator=generator)
    fine = torch.randint(-20, 21, (num, SIZE, SIZE, 3), generator=generator)
    wide = coarse.repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2)
    return (wide + fine).clamp(0, 255).byte()


def encoder(name, merge_per_layer, attention="sdpa", **options):
    config = VisionConfig(metric_width=8, merge_per_layer=merge_per_layer, **options)
    return VisionEncoder(vision_model(name, attention), config, SIZE)


def seen_by_mlp(vision, name, index):
    """A list that fills with what layer `index`'s MLP is given."""
    family = FAMILIES[vision.config.model_type]
    layer = vision.get_submodule(family.layers)[index]
    seen = []
    layer.get_submodule("mlp").register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    return seen


@pytest.fixture
def spied(monkeypatch):
    """Every grouping that is vision, in order."""
    groupings, real = [], tome.merged

    def spy(*arguments, **how):
        x, groups = real(*arguments, **how)
        groupings.append(groups)
        return x, groups

    monkeypatch.setattr(tome, "merged", spy)
    return groupings


# --- with r = 0, or off


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_no_pairs_give_the_encoders_own_states(name, attention):
    vision, x = vision_model(name, attention), normal(2, 3, SIZE, SIZE, seed=1)
    want = vision(pixel_values=x, output_hidden_states=True).hidden_states
    got = merged_states(vision, x, 0, range(LAYERS + 1))
    assert list(got) == list(range(len(want)))
    for index, state in got.items():
        assert_within(f"state {index}", state, want[index], 1e-5)


@pytest.mark.parametrize("layer", [0, 1, -2, -1])
@pytest.mark.parametrize("name", ENCODERS)
def test_features_with_no_pairs_are_the_stock_ones(name, layer, monkeypatch):
    real = tome.merged_states
    monkeypatch.setattr(
        "longcompress.encoders.vision.merged_states",
        lambda model, x, _, indices, **how: real(model, x, 0, indices),
    )
    options = {"layer": layer, "summary_layers": 1 if layer == 0 else 2}
    got, want = (encoder(name, r, **options).features(images()) for r in (5, 0))
    assert_within("patches", got[0], want[0], 1e-5)
    assert_within("summary", got[1], want[1], 1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_off_runs_the_encoder_and_nothing_else(name, monkeypatch):
    monkeypatch.setattr("longcompress.encoders.vision.merged_states", None)
    monkeypatch.setattr("longcompress.encoders.vision.check_encoder", None)
    eyes = encoder(name, 0, layer=-2, summary_layers=2)
    pixels, first = images(), ENCODERS[name][1]
    with torch.no_grad():
        x = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        states = eyes.encoder(pixel_values=x, output_hidden_states=True).hidden_states
        got, summary = eyes.features(pixels)
    assert torch.equal(got, states[-2][:, first:])
    pair = [s[:, 0] if first else s.mean(1) for s in states[-3:-1]]
    assert torch.equal(summary, torch.stack(pair, 1))


# --- ToMe's arithmetic


def merge_by_the_paper(states, size, groups, metric, pairs):
    """One bipartite matching in loops: (states, size, groups) of the tokens left, in the order of seats."""
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    links = []
    for i in range(0, len(unit), 2):
        scores = [float(unit[i] @ unit[j]) for j in range(1, len(unit), 2)]
        links.append((max(scores), i, 2 * int(np.argmax(scores)) + 1))
    links = sorted(links, key=lambda link: -link[0])[: min(pairs, len(unit) // 2)]
    states, size, groups = states.copy(), size.copy(), [list(g) for g in groups]
    sums, total = states * size[:, None], size.copy()
    for _, i, j in links:
        sums[j] += states[i] * size[i]
        total[j] += size[i]
        groups[j] += groups[i]
    merged_away = {i for _, i, _ in links}
    left = [k for k in range(len(size)) if k not in merged_away]
    return (sums / total[:, None])[left], total[left], [groups[k] for k in left]


def attend_by_the_paper(q, k, v, size):
    """softmax(q k / sqrt(d) + log size) v, head by head."""
    out = []
    for h in range(HEADS):
        part = slice(h * q.shape[1] // HEADS, (h + 1) * q.shape[1] // HEADS)
        scores = q[:, part] @ k[:, part].T / math.sqrt(q.shape[1] // HEADS) + np.log(size)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        out.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
    return np.concatenate(out, 1)


def encoder_by_the_paper(weights, x, pairs, first, names, activation, eps, layers):
    """(first + P, C): one frame's states x through merged layers, in float64."""
    size, groups = np.ones(len(x)), [[p] for p in range(len(x) - first)]
    for number in range(layers):

        def of(part, key="weight", number=number):
            return weights[f"{names['layer']}.{number}.{names[part]}.{key}"]

        def norm(x, part, of=of):
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)
            return x * of(part) + of(part, "bias")

        def linear(x, part, of=of):
            return x @ of(part).T + of(part, "bias")

        def scale(x, part, of=of):
            return x * of(part, "lambda1") if part in names else x

        y = norm(x, "norm1")
        q, k, v = (linear(y, part) for part in "qkv")
        x = x + scale(linear(attend_by_the_paper(q, k, v, size), "out"), "scale1")
        metric = k[first:].reshape(len(k) - first, HEADS, -1).mean(1)
        patches, left, groups = merge_by_the_paper(x[first:], size[first:], groups, metric, pairs)
        x, size = np.concatenate([x[:first], patches]), np.concatenate([size[:first], left])
        x = x + scale(linear(activation(linear(norm(x, "norm2"), "fc1")), "fc2"), "scale2")
    grid = np.zeros((sum(map(len, groups)), x.shape[1]))
    for row, members in zip(x[first:], groups, strict=True):
        grid[members] = row
    return np.concatenate([x[:first], grid])


ORACLES = {
    "clip": (
        {
            "layer": "encoder.layers", "norm1": "layer_norm1", "norm2": "layer_norm2",
            **{p: f"self_attn.{p}_proj" for p in "qkv"}, "out": "self_attn.out_proj",
            "fc1": "mlp.fc1", "fc2": "mlp.fc2",
        },
        lambda x: x / (1 + np.exp(-1.702 * x)),
    ),
    "dinov2": (
        {
            "layer": "encoder.layer", "norm1": "norm1", "norm2": "norm2",
            **{p: f"attention.{p}_proj" for p in "qkv"}, "out": "attention.o_proj",
            "scale1": "layer_scale1", "scale2": "layer_scale2", "fc1": "mlp.fc1", "fc2": "mlp.fc2",
        },
        lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("pairs", [1, 5, 15])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("name", ORACLES)
@torch.no_grad()
def test_merged_layers_are_those_of_the_paper(name, layers, pairs):
    vision, x = vision_model(name), normal(2, 3, SIZE, SIZE, seed=2)
    embeddings = vision(pixel_values=x, output_hidden_states=True).hidden_states[0]
    got = merged_states(vision, x, pairs, range(layers, layers + 1))[layers]
    weights = {k: v.double().numpy() for k, v in vision.state_dict().items()}
    names, activation = ORACLES[name]
    for t in range(2):
        want = encoder_by_the_paper(
            weights, embeddings[t].double().numpy(), pairs, 1, names, activation,
            vision.config.layer_norm_eps, layers,
        )  # fmt: skip
        assert_within(f"frame {t}", got[t], want, 1e-4)


@pytest.mark.parametrize("by_tree", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_equal_patches_merge_first_and_lose_nothing(name, by_tree):
    """Without positions, patches of one colour are one token many times: merged, it is counted as often."""
    vision = vision_model(name)
    for key, value in vision.state_dict().items():
        if "position_embedding" in key and value.is_floating_point():
            value.zero_()
    pixels = images(2)
    plain = torch.ones(PATCHES, dtype=torch.bool)
    plain[[0, 3, 8, 9, 14, 21, 28, 35]] = False
    plain = plain.view(SIZE // SIDE, SIZE // SIDE).repeat_interleave(SIDE, 0).repeat_interleave(SIDE, 1)
    pixels[:, plain] = 90
    x = pixels.permute(0, 3, 1, 2).float() / 128 - 1
    want = merged_states(vision, x, 0, range(LAYERS, LAYERS + 1))[LAYERS]
    got = merged_states(vision, x, 4, range(LAYERS, LAYERS + 1), by_tree=by_tree)[LAYERS]
    assert_close("features", got, want, 1e-5)


@pytest.mark.parametrize("pairs", [1, 7, 13])
def test_by_tree_patches_merge_as_in_wards_tree(pairs):
    x, metric = normal(3, 27, 12, seed=8), normal(3 * 26, 6, seed=9)
    got, groups = tome.merged(x, metric, pairs, None, 1, by_tree=True)
    assert torch.equal(got[:, 0], x[:, 0])
    for t, rows in enumerate(metric.view(3, 26, 6).double().numpy()):
        labels = fcluster(linkage(rows, "ward"), 26 - pairs, "maxclust")
        group = groups.group.view(3, 26)[t].numpy()
        assert len(np.unique(labels)) == len(np.unique(group)) == 26 - pairs
        assert len({*zip(labels, group, strict=True)}) == 26 - pairs
        for k in np.unique(group):
            at = np.flatnonzero(group == k)
            assert_close("mean", got[t, 1 + k - group.min()], x[t, 1 + at].mean(0), 1e-6)


@torch.no_grad()
def test_an_encoder_merges_by_the_tree():
    pixels = images(2)
    by_pairs, by_tree = (
        encoder("dinov2", 4, merge_layer_by=by).features(pixels)[0] for by in ("pairs", "tree")
    )
    want = merged_states(
        vision_model("dinov2"), encoder("dinov2", 0).normal(pixels), 4, range(3, 4), by_tree=True
    )
    assert_close("features", by_tree, want[3][:, 1:], 1e-6)
    assert not torch.equal(by_pairs, by_tree)


def test_the_best_pairs_lose_less_than_any_pairs(monkeypatch):
    pixels = images(2)
    pixels[:, SIDE : 5 * SIDE] = 90
    want = encoder("dinov2", 0).features(pixels)[0]
    eyes = encoder("dinov2", 4)
    best = (eyes.features(pixels)[0] - want).norm()
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(tome, "head_mean", lambda x, d: torch.randn(len(x), d, generator=generator))
    assert best < 0.5 * (eyes.features(pixels)[0] - want).norm()


# --- what stays apart, and what becomes shorter


@pytest.mark.parametrize("name", [name for name in ENCODERS if ENCODERS[name][1]])
@torch.no_grad()
def test_class_token_and_registers_never_merge(name):
    """All keys alike: the first seats would merge first, and the class token has the first seat."""
    vision, x, first = vision_model(name), normal(2, 3, SIZE, SIZE, seed=4), ENCODERS[name][1]
    family = FAMILIES[vision.config.model_type]
    for layer in vision.get_submodule(family.layers):
        layer.get_submodule(family.attention).k_proj.weight.zero_()
    seen = seen_by_mlp(vision, name, 0)
    vision(pixel_values=x)
    merged_states(vision, x, 8, range(1, 2))
    stock, short = seen
    assert short.shape[1] == stock.shape[1] - 8
    assert torch.equal(short[:, :first], stock[:, :first])
    assert not torch.isclose(short[:, first], stock[:, first]).all()


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_each_layer_has_fewer_tokens(name, spied):
    vision, x, first = vision_model(name), normal(3, 3, SIZE, SIZE, seed=5), ENCODERS[name][1]
    seen = [seen_by_mlp(vision, name, index) for index in range(LAYERS)]
    states = merged_states(vision, x, 5, range(1, LAYERS))
    assert [x[0].shape[1] for x in seen[:-1]] == [first + PATCHES - 5 * k for k in range(1, LAYERS)]
    assert not seen[-1], "the layer above the last one wanted was run"
    assert [s.shape for s in states.values()] == [(3, first + PATCHES, 32)] * (LAYERS - 1)
    for number, groups in enumerate(spied, 1):
        assert groups.mass.view(3, PATCHES - 5 * number).sum(1).tolist() == [PATCHES] * 3
        assert torch.equal(groups.mass, torch.bincount(groups.group).float())
        assert torch.equal(groups.group // (PATCHES - 5 * number), torch.arange(3).repeat_interleave(PATCHES))


@torch.no_grad()
def test_one_patch_is_always_left(spied):
    states = merged_states(
        vision_model("siglip"), normal(2, 3, SIZE, SIZE, seed=6), 10**6, range(LAYERS, LAYERS + 1)
    )
    assert [len(groups.mass) // 2 for groups in spied] == [18, 9, 5, 3]
    more = merged_states(vision_model("siglip"), normal(1, 3, SIZE, SIZE, seed=6), 35, range(1, 2))[1]
    assert torch.isfinite(more).all() and torch.isfinite(states[LAYERS]).all()


@torch.no_grad()
def test_a_frame_of_two_patches_comes_down_to_one(spied):
    torch.manual_seed(0)
    vision = CLIPVisionModel(CLIPVisionConfig(**SHAPE | {"image_size": 16, "patch_size": 8})).eval()
    state = merged_states(vision, normal(1, 3, 16, 16, seed=0), 2, range(LAYERS, LAYERS + 1))[LAYERS]
    assert [len(groups.mass) for groups in spied] == [2, 1]
    assert torch.equal(state[0, 1:], state[0, 1:2].expand(4, -1))


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_the_hook_on_the_keys_is_gone(name):
    vision = vision_model(name)
    merged_states(vision, normal(1, 3, SIZE, SIZE, seed=0), 3, range(LAYERS, LAYERS + 1))
    left = [n for n, part in vision.named_modules() if part._forward_hooks or part._forward_pre_hooks]
    assert not left


# --- through VisionEncoder


@pytest.mark.parametrize("name", ENCODERS)
def test_a_frame_alone_and_in_a_batch_are_the_same(name):
    eyes, pixels = encoder(name, 4, summary_layers=2), images(4)
    x, summary = eyes.features(pixels)
    for t in range(4):
        alone = eyes.features(pixels[t : t + 1])
        assert_within("patches", alone[0][0], x[t], 1e-5)
        assert_within("summary", alone[1][0], summary[t], 1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_both_attentions_give_the_same(name):
    eager, sdpa = (encoder(name, 5, attention).features(images())[0] for attention in ("eager", "sdpa"))
    assert_close("features", eager, sdpa, 1e-5)


def test_half_precision_stays_near():
    vision = vision_model("dinov2")
    config = VisionConfig(metric_width=8, merge_per_layer=4)
    want = VisionEncoder(vision, config, SIZE).features(images())[0]
    got = VisionEncoder(vision.bfloat16(), config, SIZE).features(images())[0]
    assert got.dtype == torch.bfloat16
    alike = torch.nn.functional.cosine_similarity(got.float(), want, dim=2)
    assert alike.mean() > 0.98


def test_summaries_are_of_the_merged_states():
    eyes = encoder("siglip", 5, layer=-1, summary_layers=2)
    x, summary = eyes.features(images())
    states = merged_states(eyes.encoder, eyes.normal(images()), 5, range(LAYERS + 1))
    assert torch.equal(x, states[LAYERS])
    assert_within("means", summary, torch.stack([states[LAYERS - 1].mean(1), states[LAYERS].mean(1)], 1), 0)
    eyes = encoder("registers", 5, summary_layers=2)
    x, summary = eyes.features(images())
    states = merged_states(eyes.encoder, eyes.normal(images()), 5, range(LAYERS + 1))
    assert torch.equal(x, states[LAYERS - 1][:, 4:])
    assert torch.equal(summary, torch.stack([states[k][:, 0] for k in (LAYERS - 2, LAYERS - 1)], 1))
    with pytest.raises(ValueError, match="summary_layers must be <= 2, the states up to layer 1, got 3"):
        encoder("vit", 5, layer=1, summary_layers=3)


def test_skipped_frames_take_the_merged_features_of_the_one_before():
    pixels = images(2)[[0, 0, 1, 1, 1]]
    time_s = torch.arange(5, dtype=torch.float64)
    eyes = encoder("dinov2", 4, reuse_below=0.01, summary_layers=1)
    got = eyes.encode(Frames(pixels, time_s, 1.0))
    x, summary = eyes.features(images(2))
    assert got.patches == PATCHES and got.reused == 3
    assert_within("tokens", got.tokens.x, x[[0, 0, 1, 1, 1]].flatten(0, 1), 1e-5)
    assert_within("summary", got.summary, summary[[0, 0, 1, 1, 1]], 1e-5)
    every = replace(eyes.config, reuse_below=0.0)
    eyes.config = every  # a block of 8 is filled up with the last frame
    assert_within("tokens", eyes.encode(Frames(pixels, time_s, 1.0)).tokens.x, got.tokens.x, 1e-5)


# --- refusals


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (
            "dinov3_vit",
            lambda: DINOv3ViTModel(DINOv3ViTConfig(**SHAPE, intermediate_size=48, num_register_tokens=2)),
        ),
        (
            "convnext",
            lambda: ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        ),
    ],
)
def test_other_families_are_refused(kind, make):
    with pytest.raises(
        ValueError, match=rf"CLIP, SigLIP, DINOv2 and ViT \(clip_vision_model, .*got '{kind}'"
    ):
        VisionEncoder(make(), VisionConfig(metric_width=8, merge_per_layer=1), SIZE)
    VisionEncoder(make(), VisionConfig(metric_width=8), SIZE)


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_attention_without_a_mask_is_refused(attention):
    vision = vision_model("clip")
    vision.config._attn_implementation_internal = attention
    with pytest.raises(ValueError, match=f"takes a mask, eager or sdpa, got '{attention}'"):
        VisionEncoder(vision, VisionConfig(metric_width=8, merge_per_layer=1), SIZE)


def test_a_encoder_whose_layers_do_more_is_refused():
    vision = vision_model("vit")
    vision.layers[1].register_forward_hook(lambda _, __, output: output * 1.5)
    with pytest.raises(
        ValueError, match=r"parts of this 'vit' encoder.*state 3 \(off by .*merge_per_layer 0"
    ):
        VisionEncoder(vision, VisionConfig(metric_width=8, merge_per_layer=1), SIZE)
    check_encoder(vision, normal(1, 3, SIZE, SIZE, seed=0), 1)  # below that layer all is as it should be


def test_fewer_than_no_pairs_are_refused():
    with pytest.raises(ValueError, match="merge_per_layer must be >= 0 pairs, got -1"):
        VisionConfig(merge_per_layer=-1)


# --- saved and loaded


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_the_field_is_saved_and_loaded(suffix, tmp_path):
    config = VisionConfig(base="./video", merge_per_layer=7)
    save_config(config, tmp_path / f"video{suffix}")  # JSON is YAML too
    assert load_config(VisionConfig, tmp_path / f"video{suffix}") == config
    assert from_dict(VisionConfig, {"base": "./video"}).merge_per_layer == 0
    with pytest.raises(ValueError, match=r"merge_per_layer must be int, got 0\.5"):
        from_dict(VisionConfig, {"merge_per_layer": 0.5})


def test_a_saved_model_merges_when_it_is_loaded(tmp_path):
    video = VisionConfig(base="./video", summary_layers=2, metric_width=8, batch_size=4, merge_per_layer=1)
    model = models.model(video=video)
    model.save_pretrained(tmp_path / "model", include_base=True)
    loaded = LongCompress.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.config.video.merge_per_layer == 1
    plain = replace(video, merge_per_layer=0)  # other features: memories of one don't pass for the other's
    assert loaded.identity() == model.identity() != models.model(video=plain).identity()
    pixels = images()[:, :16, :16]
    want, got = model.video.features(pixels)[0], loaded.video.features(pixels)[0]
    assert_within("features", got, want, 1e-5)
    plain = models.model().video.features(pixels)[0]
    assert not torch.allclose(want, plain, atol=1e-3)


# --- a real encoder, and the benchmark


@pytest.mark.real
def test_real_features_stay_near_and_nearer_with_fewer_pairs():
    base = dinov2_small()
    scene = make_scene(3, 20.0)
    pixels = torch.from_numpy(frames(scene, np.array([4.0, 9.0]), size_px=224))
    stock = VisionEncoder.load(VisionConfig(layer=-1, summary_layers=1), base, 224)
    want = stock.features(pixels)
    errors = []
    for r in (1, 4, 16):
        config = replace(stock.config, merge_per_layer=r)
        got = VisionEncoder(stock.encoder, config, 224, *stock.norm).features(pixels)
        errors.append(float((got[0] - want[0]).norm() / want[0].norm()))
        assert torch.nn.functional.cosine_similarity(got[1], want[1], dim=-1).min() > 0.97
    assert errors[0] < errors[1] < errors[2] < 0.3
