"""Merging inside the encoders of stock models: their own features without pairs, ToMe's arithmetic with."""

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import nn

import longcompress as lc
from longcompress.config import VisionConfig
from longcompress.encoders import StockVision, stock, stock_tome
from longcompress.encoders.families import FAMILIES, num_patches, patchify
from longcompress.encoders.stock_tome import check_merging, merging
from longcompress.types import Encoded, Frames

from helpers import assert_same_memory, assert_within, normal
from stock_loaded import SIZE, random_clip, small
from stock_models import MODELS, names_of

SIZES = {"llava_onevision": 28, "gemma4": 48, "gemma4_bidirectional": 48, "gemma4_unified": 48}
WINDOWS = {"qwen2_5_vl": 4, "qwen2_5_omni": 4}  # of a frame
WITHOUT = {"lfm3_vl": "convolutions", "gemma4_unified": "no encoder"}  # a part of the reason
ABLE = [name for name in MODELS if name not in WITHOUT]


@pytest.fixture(scope="module")
def models():
    cached = {}

    def model_of(name):
        if name not in cached:
            cached.clear()
            cached[name] = MODELS[name]()[0]
        return cached[name]

    return model_of


def vision_of(model, name, pairs=0, batch_size=8, **config):
    family = FAMILIES[model.config.model_type]
    pairs *= WINDOWS.get(name, 1)
    config = VisionConfig(batch_size=batch_size, merge_per_layer=pairs, **config)
    return StockVision(model, family, config, SIZES.get(name, 32))


def clip(num, size, seed=0):
    random_ = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, size, size, 3), dtype=torch.uint8, generator=random_)
    return Frames(pixels, torch.arange(num, dtype=torch.float64), 1.0)


def encoded(encoder, frames):
    block = encoder.block
    return Encoded.join(encoder.encode(frames.cut(i, i + block)) for i in range(0, len(frames), block))


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", names_of(ABLE))
def test_off_is_the_encoder_and_nothing_else(name, models, monkeypatch):
    model = models(name)
    frames = clip(6, SIZES.get(name, 32))
    want, hooks = encoded(vision_of(model, name), frames), hooks_of(model)
    on = encoded(vision_of(model, name, 3), frames)
    assert on.tokens.x.shape == want.tokens.x.shape and not torch.equal(on.tokens.x, want.tokens.x)
    # transformers records states by hooks that it leaves where they are
    assert hooks_of(model) == hooks
    assert all(getattr(m.config, "_attn_implementation", "") != stock_tome.NAME
               for m in model.modules() if hasattr(m, "config"))  # fmt: skip
    monkeypatch.setattr(stock, "merging", None)
    monkeypatch.setattr(stock, "check_merging", None)
    off = encoded(vision_of(model, name), frames)
    assert torch.equal(off.tokens.x, want.tokens.x) and torch.equal(off.metric, want.metric)


@pytest.mark.parametrize("name", names_of(ABLE))
def test_no_pairs_give_the_encoders_own_features(name, models):
    model = models(name)
    family, size = FAMILIES[model.config.model_type], SIZES.get(name, 32)
    x = normal(4, 3, size, size, seed=2)
    with torch.no_grad():
        want = family.features(model, x)
        with merging(model, family, 0, size):
            got = family.features(model, x)
    assert_within("features", got, want, 1e-5)


@pytest.mark.parametrize("name", names_of(ABLE))
def test_every_layer_has_fewer_tokens_and_the_rest_of_the_model_all(name, models, monkeypatch):
    model = models(name)
    step = FAMILIES[model.config.model_type].frames_per_token
    encoder = vision_of(model, name, 5, step)
    lengths, real = [], stock_tome._Pass.enter

    def enter(self, layer, args, kwargs):
        lengths.append((args[0] if args else kwargs["hidden_states"]).shape[:-1].numel())
        return real(self, layer, args, kwargs)

    monkeypatch.setattr(stock_tome._Pass, "enter", enter)
    states = []
    layers = list(model.get_submodule(encoder.family.layers).children())
    last = layers[range(len(layers) + 1)[getattr(model.config, "vision_feature_layer", -1)] - 1]
    handle = last.register_forward_hook(lambda module, inputs, output: states.append(output))
    x = encoder.encode(clip(step, encoder.size_px)).tokens.x
    handle.remove()
    assert len(x) == encoder.patches
    num, parts = num_patches(model, encoder.size_px, encoder.size_px), WINDOWS.get(name, 1)
    first = lengths[0] - num  # a class token
    want, left = [], num // parts
    for _ in layers[: layers.index(last) + 1]:
        want.append(first + left * parts)
        left -= min(5, left // 2)
    assert lengths == want
    state = states[0].reshape(first + num, -1)
    assert len(state[first:].unique(dim=0)) == want[-1] - first
    assert first == 0 or not (state[0] == state[1:]).all(1).any()


@pytest.mark.parametrize("batch_size", [2, 4, 8])
@pytest.mark.parametrize("name", names_of(ABLE))
def test_blocks_are_the_whole_clip(name, batch_size, models):
    model = models(name)
    frames = clip(16, SIZES.get(name, 32))
    want = encoded(vision_of(model, name, 4, 16), frames)
    got = encoded(vision_of(model, name, 4, batch_size), frames)
    assert_within("features", got.tokens.x, want.tokens.x, 1e-5)


def without_positions(model, family):
    """The model with an encoder to which all places are one."""
    part = model.get_submodule(".".join(family.layers.split(".")[:2]))
    with torch.no_grad():
        for name, value in part.named_parameters():
            if "position" in name or "pos_emb" in name:
                value.zero_()
        for name, value in part.named_buffers():
            if "inv_freq" in name:
                value.zero_()
    return model


@pytest.mark.parametrize("name", names_of(ABLE))
def test_merging_equal_patches_changes_nothing(name, monkeypatch):
    model = MODELS[name]()[0]
    family = FAMILIES[model.config.model_type]
    without_positions(model, family)
    encoder = vision_of(model, name)
    edge = round(num_patches(model, encoder.size_px, encoder.size_px) ** 0.5)
    colours = clip(2, encoder.size_px // edge, seed=5).pixels  # two kinds of patches
    kinds = (torch.arange(edge * edge).view(edge, edge) % 7 < 2).long()
    frame = rearrange(colours[kinds], "r k h w c -> (r h) (k w) c")
    frames = Frames(frame.expand(4, -1, -1, -1), torch.arange(4).double(), 1.0)
    want = encoded(encoder, frames).tokens.x
    pairs = 2 if name in WINDOWS else 6
    for by in ("pairs", "tree"):
        encoder_by = vision_of(model, name, pairs, merge_layer_by=by)
        assert_within(by, encoded(encoder_by, frames).tokens.x, want, 2e-5)
    monkeypatch.setattr(stock_tome._Pass, "sizes", counting_only)
    with torch.no_grad(), merging(model, family, pairs * WINDOWS.get(name, 1), encoder.size_px):
        other = family.features(model, encoder.normal(frames.pixels))
    off = float((other - want[: len(other)]).norm() / want.norm())
    assert off > 1e-3  # sizes matter


def counting_only(self, key):
    """A token of any size counts as one."""
    self.num_attended += len(key) * key.shape[2]


def by_hand(model, x, num_pairs):
    """(tokens, D (1 + deepstack)) of one step of Qwen3-VL's frames x (2, 3, H, W) in float64: attention,
    matching and means written out, each token with the list of its patches."""
    visual, config = model.model.visual, model.config.vision_config
    rows, grid = patchify(x, config.patch_size, config.spatial_merge_size, 2)
    seen = {}
    handle = visual.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(x=args[0], turn=kwargs["position_embeddings"]),
        with_kwargs=True,
    )
    visual(rows, grid_thw=grid)
    handle.remove()
    state, (cos, sin) = seen["x"], (part.double() for part in seen["turn"])
    heads, members, deep = config.num_heads, [[i] for i in range(len(state))], []
    where = list(config.deepstack_visual_indexes)

    def spread(state):
        whole = torch.empty(sum(map(len, members)), state.shape[1], dtype=state.dtype)
        for row, group in zip(state, members, strict=True):
            whole[group] = row
        return whole

    def turned(v, c, s):
        half = v.shape[-1] // 2
        return v * c + torch.cat([-v[half:], v[:half]]) * s

    for index, block in enumerate(visual.blocks):
        q, k, v = block.attn.qkv(block.norm1(state)).view(len(state), 3, heads, -1).unbind(1)
        turns = [(cos[group].mean(0), sin[group].mean(0)) for group in members]
        out = torch.empty_like(v)
        for head in range(heads):
            qs = torch.stack([turned(q[i, head], *turns[i]) for i in range(len(state))])
            ks = torch.stack([turned(k[i, head], *turns[i]) for i in range(len(state))])
            scores = (qs @ ks.T) / qs.shape[1] ** 0.5
            weight = scores.exp() * torch.tensor([float(len(group)) for group in members])
            out[:, head] = (weight / weight.sum(1, keepdim=True)) @ v[:, head]
        state = state + block.attn.proj(out.flatten(1))
        state = state + block.mlp(block.norm2(state))
        if index < len(visual.blocks) - 1:
            metric = nn.functional.normalize(state, dim=1)
            alike = metric[0::2] @ metric[1::2].T
            best, partner = alike.max(1)
            into = {}
            for i in best.argsort(descending=True)[:num_pairs].tolist():
                into.setdefault(2 * int(partner[i]) + 1, []).append(2 * i)
            taken = {i for sources in into.values() for i in sources}
            new_state, new_members = [], []
            for i, row in enumerate(state):
                if i in taken:
                    continue
                parts = [i, *into.get(i, [])]
                sizes = torch.tensor([float(len(members[j])) for j in parts], dtype=state.dtype)
                new_state.append(sizes @ state[parts] / sizes.sum() if len(parts) > 1 else row)
                new_members.append([p for j in parts for p in members[j]])
            state, members = torch.stack(new_state), new_members
        if index in where:
            deep.append(visual.deepstack_merger_list[where.index(index)](spread(state)))
    return torch.cat([visual.merger(spread(state)), *deep], 1)


@pytest.mark.parametrize("num_pairs", [1, 7, 20])
def test_qwen3_vl_by_hand(num_pairs):
    model = MODELS["qwen3_vl"]()[0].double()
    model.model.visual.rotary_pos_emb.double()
    family = FAMILIES["qwen3_vl"]
    x = normal(6, 3, 32, 32, seed=7).double()
    with torch.no_grad():
        want = torch.cat([by_hand(model, pair, num_pairs) for pair in x.split(2)])
        with merging(model, family, num_pairs, 32):
            got = family.features(model, x)
    assert_within("features", got, want, 1e-5)


def test_metrics_of_states_see_all_patches(models):
    encoder = vision_of(models("qwen3_vl"), "qwen3_vl", 6, metric="states")
    e = encoder.encode(clip(8, 32))
    assert e.metric.shape == (len(e), 32) and torch.isfinite(e.metric).all()


@pytest.mark.parametrize("name", names_of(WITHOUT))
def test_encoders_that_cannot_are_refused_by_name_and_reason(name, models):
    with pytest.raises(ValueError, match=rf"merge_per_layer must be 0 for '{name}': .*{WITHOUT[name]}"):
        vision_of(models(name), name, 1)


def test_every_family_merges_or_says_why_not():
    assert all(family.layers or family.no_merging for family in FAMILIES.values())
    without = {kind for kind, family in FAMILIES.items() if family.no_merging}
    assert without == set(WITHOUT)


def test_states_of_several_layers_are_refused():
    model = MODELS["llava_next_video"]()[0]
    model.config.vision_feature_layer = [-2, -1]
    family = FAMILIES["llava_next_video"]
    with pytest.raises(
        ValueError, match=r"reads states of several layers, got vision_feature_layer \[-2, -1\]"
    ):
        check_merging(model, family, 2, normal(2, 3, 32, 32, seed=0))


def test_attention_that_does_not_ask_transformers_is_refused():
    model = MODELS["smolvlm"]()[0]
    layer = model.model.vision_model.encoder.layers[1]
    layer.self_attn = Own()
    with pytest.raises(
        ValueError, match=r"by transformers' functions, which saw 0 of 128 tokens in SmolVLMEncoderL"
    ):
        check_merging(model, FAMILIES["smolvlm"], 2, normal(2, 3, 32, 32, seed=0))
    assert model.config.vision_config._attn_implementation == "sdpa"  # also after an error


class Own(nn.Module):
    """An attention of its own."""

    def forward(self, hidden_states, **kwargs):
        return hidden_states, None


def test_an_encoder_that_changes_under_hooks_is_refused(monkeypatch):
    model = MODELS["qwen3_vl"]()[0]
    monkeypatch.setattr(stock_tome._Pass, "end", lambda self, layer, args, output: output.flip(0))
    with pytest.raises(ValueError, match=r"with hooks that merge nothing it gives other features.*off by"):
        check_merging(model, FAMILIES["qwen3_vl"], 2, normal(4, 3, 32, 32, seed=0))


def test_a_model_of_ours_merges_and_says_so_in_its_identity(tmp_path):
    model = small(lc.from_transformers(*MODELS["qwen3_vl"]()))
    parts = random_clip(model, 9.0)
    whole = lc.compress(model, parts, budget=40, progress=False)
    before = model.identity()
    model.change({"video": {"merge_per_layer": 6}})
    memory = lc.compress(model, parts, budget=40, progress=False)
    assert memory.num_tokens == 40 and model.identity() != before
    session = lc.Session(model, 40)
    for part in parts:
        for first in range(0, len(part), 3):
            session.push(part.cut(first, min(first + 3, len(part))))
    assert_same_memory(session.memory(), memory)
    path = memory.save(tmp_path / "video.lcm")
    model.change({"video": {"merge_per_layer": 0}})
    assert model.identity() == before
    with pytest.raises(ValueError, match="was made by other encoders"):
        lc.load_memory(path, model)
    assert_same_memory(lc.compress(model, parts, budget=40, progress=False), whole)


def test_a_refusal_changes_nothing():
    model = small(lc.from_transformers(*MODELS["qwen2_5_vl"]()))
    config = model.config
    for size_px, pairs in ((SIZE, 2), (40, 4)):  # four windows of 16 pixels, and windows that are cut
        with pytest.raises(
            ValueError,
            match=rf"whole windows of 16 pixels and as many pairs in each for 'qwen2_5_vl', got "
            rf"media.size_px {size_px} and merge_per_layer {pairs}",
        ):
            model.change({"video": {"merge_per_layer": pairs}, "media": {"size_px": size_px}})
        assert model.config is config and model.video.config == config.video
        assert model.video.size_px == SIZE


def test_sequences_that_cut_windows_are_refused(monkeypatch):
    model = MODELS["qwen2_5_vl"]()[0]
    family = replace(FAMILIES["qwen2_5_vl"], window=lambda model: 32)
    with pytest.raises(
        ValueError, match=r"attention over whole parts of 64 patches, got sequences that end at \[16"
    ):
        check_merging(model, family, 2, normal(2, 3, 32, 32, seed=0))
