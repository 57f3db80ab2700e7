"""BEATs against its formulas written a second time; its files value by value, bad ones refused by name."""

import json
import math
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longcompress.encoders.beats import Beats, BeatsConfig, distance_buckets, released_shapes
from longcompress.encoders.fbank import beats_filters

from helpers import assert_close, assert_within, normal
from oracles_beats import CFG, SMALL, beats, layout, random_model, wide

SIZES = BeatsConfig(2 * 8, 10, 24, 2, 3, 40, 6, 4, 16, 20)  # SMALL's


class Code:
    """Pickles to a call that leaves a trace where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(entries, file) of the released sizes."""
    model = random_model(CFG)
    path = tmp_path_factory.mktemp("beats") / "BEATs_iter3_plus_AS2M.pt"
    torch.save({"cfg": CFG, "model": model}, path)
    return model, path


@pytest.fixture(scope="module")
def encoder(full):
    return Beats.from_pretrained(full[1])


@pytest.fixture(scope="module")
def mel():
    """(2, 512, 128) of sounds that change."""
    loud = torch.linspace(0.01, 0.5, 82160) * normal(2, 82160, seed=3)
    return beats_filters(loud.clamp(-1, 1))


@pytest.fixture(scope="module")
def reference(full, mel):
    """Frames -> what the formulas give for this many of the first window."""
    entries = wide(full[0])
    return {num: beats(entries, CFG, mel[0, :num].double().numpy()) for num in (512, 333, 21)}


@pytest.fixture(scope="module")
def small():
    """(entries, encoder) of small sizes."""
    model = random_model(SMALL, seed=5)
    torch.manual_seed(1)
    return model, Beats(SIZES).eval()


@pytest.fixture
def write(tmp_path):
    """Writes a file of small sizes in the released layout, with changes; returns its path."""

    def write(model=None, cfg=None, **more):
        path = tmp_path / "beats.pt"
        model = random_model(SMALL, seed=5) if model is None else model
        torch.save({"cfg": SMALL if cfg is None else cfg, "model": model} | more, path)
        return path

    return write


# --- equal to the formulas


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("num", [512, 333, 21])
def test_a_window_alone(encoder, mel, reference, num):
    got = encoder(mel[:1, :num])
    assert got.shape == (1, encoder.num_patches(num), 768) and got.dtype == torch.float32
    assert_close(f"{num} frames", got[0], reference[num], rel=1e-5)
    assert_within(f"{num} frames", got[0], reference[num], 1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_windows_together(encoder, mel, reference):
    got = encoder(mel[:, :333])
    assert_close("first", got[0], reference[333], rel=1e-5)
    assert_close("second", got[1], encoder(mel[1:, :333])[0], rel=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_padded_windows_are_windows_alone(encoder, mel, reference):
    lengths = (512, 333, 21)
    both = mel[:1].repeat(3, 1, 1)
    padding = torch.zeros(3, 512, dtype=torch.bool)
    for row, num in enumerate(lengths):
        padding[row, num:] = True
        both[row, num:] = 1e4 if row == 1 else float("nan")  # whatever lies there
    got = encoder(both, padding)
    for row, num in enumerate(lengths):
        heard = encoder.num_patches(num)
        assert_close(f"{num} frames", got[row, :heard], reference[num], rel=1e-5)
        assert not got[row, heard:].any()
        assert (~encoder.patch_padding(padding))[row].sum() == heard


@pytest.mark.slow
@torch.no_grad()
def test_bfloat16(full, mel):
    """In bfloat16 throughout, against the same rounded weights in float32."""
    rounded = mel[:1].bfloat16()
    exact = Beats.from_pretrained(full[1], dtype=torch.bfloat16)
    got = exact(rounded)
    assert got.dtype == torch.bfloat16
    assert_close("bfloat16", got, exact.float()(rounded), rel=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("num", [16, 31, 32, 160, 977])
def test_any_length_of_small_sizes(write, num):
    model = Beats.from_pretrained(write())
    x = normal(1, num, 128, seed=num)
    want = beats(wide(random_model(SMALL, seed=5)), SMALL, x[0].double().numpy())
    assert_close(f"{num} frames", model(x)[0], want, rel=1e-5)


@torch.no_grad()
def test_padding_anywhere_is_heard_by_nobody(small):
    x = normal(2, 80, 128, seed=2)
    padding = torch.zeros(2, 80, dtype=torch.bool)
    padding[0, 20:40] = True  # touches patches 1 and 2
    other = x.clone()
    other[0, 16:48] = normal(32, 128, seed=4)
    got = small[1](x, padding)
    assert torch.equal(got, small[1](other, padding)) and not got[0, 8:24].any() and got[0, :8].any()
    assert_close("no padding", got[1], small[1](x)[1], rel=1e-5)


@torch.no_grad()
def test_nothing_but_padding_is_zeros(small):
    x = normal(2, 48, 128, seed=2)
    padding = torch.ones(2, 48, dtype=torch.bool)
    padding[1, :15] = False  # not one whole patch of audio
    got = small[1](x, padding)
    assert got.shape == (2, 24, 24) and not got.any()


def test_buckets_of_distances():
    config = BeatsConfig()
    got = distance_buckets(2500, config)
    assert got.shape == (2500, 2500) and got.dtype == torch.int64
    for distance in range(2500):
        far = 80 + math.floor(math.log(max(distance, 80) / 80) / math.log(10) * 80)
        bucket = distance if distance < 80 else min(159, far)
        assert int(got[distance, 0]) == bucket, distance
        assert int(got[0, distance]) == bucket + (160 if distance else 0), distance
    assert torch.equal(got[7:1007, 7:1007], got[:1000, :1000])  # only the distance counts
    assert int(got.max()) == 319


@torch.no_grad()
def test_no_window_is_no_token(small):
    assert small[1](torch.zeros(0, 32, 128)).shape == (0, 16, 24)
    assert small[1](torch.zeros(0, 32, 128), torch.zeros(0, 32, dtype=torch.bool)).shape == (0, 16, 24)


# --- files


@pytest.mark.slow
def test_the_released_layout_has_250_entries(full):
    want = layout(CFG)
    assert released_shapes(BeatsConfig()) == want and len(want) == 250
    assert {k: tuple(v.shape) for k, v in full[0].items()} == want
    table = "self_attn.relative_attention_bias.weight"
    once = sum(math.prod(s) for k, s in want.items() if not k.endswith(table)) + 320 * 12
    assert once == 90_311_792
    assert released_shapes(SIZES) == layout(SMALL)


@pytest.mark.slow
def test_every_value_of_a_released_file_lands_where_it_belongs(full, encoder):
    entries = dict(full[0])
    homes = {
        "patch_embedding.weight": encoder.patch.weight,
        "encoder.pos_conv.0.bias": encoder.position.bias,
    }
    modules = {
        "layer_norm": encoder.patch_norm,
        "post_extract_proj": encoder.widen,
        "encoder.layer_norm": encoder.norm,
    }
    for number, layer in enumerate(encoder.layers):
        at = f"encoder.layers.{number}."
        modules |= {
            at + "self_attn.q_proj": layer.attention.query,
            at + "self_attn.k_proj": layer.attention.key,
            at + "self_attn.v_proj": layer.attention.value,
            at + "self_attn.out_proj": layer.attention.out,
            at + "self_attn.grep_linear": layer.attention.gate,
            at + "self_attn_layer_norm": layer.attention_norm,
            at + "fc1": layer.enter,
            at + "fc2": layer.leave,
            at + "final_layer_norm": layer.norm,
        }
        homes[at + "self_attn.grep_a"] = layer.attention.gate_scale
        homes[at + "self_attn.relative_attention_bias.weight"] = encoder.distances.weight
    homes |= {f"{k}.weight": m.weight for k, m in modules.items()}
    homes |= {f"{k}.bias": m.bias for k, m in modules.items()}
    for name, parameter in homes.items():
        assert torch.equal(parameter, entries.pop(name)), name
    assert set(entries) == {"encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v"}
    assert {id(p) for p in homes.values()} | {id(encoder.position.weight)} == set(
        map(id, encoder.parameters())
    )
    plain = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(768, 768, 128, groups=16), dim=2)
    plain.parametrizations.weight.original0.data = entries["encoder.pos_conv.0.weight_g"]
    plain.parametrizations.weight.original1.data = entries["encoder.pos_conv.0.weight_v"]
    assert_close("convolution", encoder.position.weight.detach(), plain.weight.detach(), rel=1e-5)


def test_sizes_come_from_the_file(write):
    assert Beats.from_pretrained(write()).config == SIZES
    assert Beats.from_pretrained(write()).training is False
    left_out = {k: v for k, v in CFG.items() if k not in ("max_distance", "encoder_layers", "deep_norm")}
    assert BeatsConfig.from_released(left_out) == BeatsConfig()
    assert BeatsConfig.from_released(CFG | {"max_distance": 1280}) == BeatsConfig(max_distance=1280)


def test_a_fine_tuned_file_loads_without_its_classifier(write):
    model = random_model(SMALL, seed=5)
    want = Beats.from_pretrained(write(model)).state_dict()
    model["predictor.weight"], model["predictor.bias"] = torch.ones(7, 24), torch.ones(7)
    path = write(model, SMALL | {"finetuned_model": True, "predictor_class": 7}, label_dict={0: "/m/09x0r"})
    got = Beats.from_pretrained(path).state_dict()
    assert set(got) == set(want) and all(torch.equal(got[k], want[k]) for k in want)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same(small, tmp_path, dtype):
    model = Beats(SIZES).to(dtype).eval()
    model.save_pretrained(tmp_path / "ears")
    assert json.loads((tmp_path / "ears" / "config.json").read_text())["model_type"] == "beats"
    again = Beats.from_pretrained(tmp_path / "ears", dtype="auto")
    x = normal(2, 40, 128, seed=1)
    assert again.config == SIZES and torch.equal(again(x), model(x)) and again(x).dtype == dtype
    assert Beats.from_pretrained(tmp_path / "ears").patch.weight.dtype == torch.float32
    assert sorted(p.name for p in (tmp_path / "ears").iterdir()) == ["config.json", "model.safetensors"]


@torch.no_grad()
def test_released_to_folder_and_back(write, tmp_path):
    model = Beats.from_pretrained(write())
    model.save_pretrained(tmp_path / "ears")
    again = Beats.from_pretrained(str(tmp_path / "ears"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_half_precision_files(write):
    model = OrderedDict((k, v.half()) for k, v in random_model(SMALL, seed=5).items())
    assert Beats.from_pretrained(write(model), dtype="auto").position.weight.dtype == torch.float16
    got = Beats.from_pretrained(write(model)).position.weight
    assert_close(
        "convolution", got.detach(), Beats.from_pretrained(write()).position.weight.detach(), rel=2e-3
    )


# --- bad files


def test_missing_and_unknown_entries_are_named(write):
    model = random_model(SMALL, seed=5)
    del model["encoder.layers.1.self_attn.grep_a"], model["layer_norm.bias"]
    named = "encoder.layers.1.self_attn.grep_a, layer_norm.bias"
    with pytest.raises(ValueError, match=rf"the 50 entries of BEATs; missing 2: {named}; unknown 0: none"):
        Beats.from_pretrained(write(model))
    model = random_model(SMALL, seed=5) | {"quantize.embed": torch.ones(2)}
    with pytest.raises(ValueError, match=r"missing 0: none; unknown 1: quantize.embed"):
        Beats.from_pretrained(write(model))
    model = random_model(SMALL, seed=5) | {"predictor.bias": torch.ones(527)}  # cfg says it isn't fine-tuned
    with pytest.raises(ValueError, match=r"unknown 1: predictor.bias"):
        Beats.from_pretrained(write(model))
    renamed = {k.replace("weight_g", "parametrizations.weight.original0"): v for k, v in model.items()}
    with pytest.raises(ValueError, match=r"missing 1: encoder.pos_conv.0.weight_g; unknown 2"):
        Beats.from_pretrained(write(renamed))
    with pytest.raises(ValueError, match=r"missing 50: .*, \.\.\.; unknown 0"):
        Beats.from_pretrained(write({}))


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.ones(23), r"\(23,\) torch.float32"),
        (torch.ones(24, dtype=torch.int64), r"\(24,\) torch.int64"),
        ([1.0], "list"),
    ],
)
def test_entries_of_another_shape_or_kind_are_named(write, value, got):
    model = random_model(SMALL, seed=5) | {"encoder.layers.0.fc2.bias": value}
    with pytest.raises(ValueError, match=rf"encoder.layers.0.fc2.bias must be \(24,\) float, got {got}"):
        Beats.from_pretrained(write(model))


def test_tables_that_differ_are_refused(write):
    model = random_model(SMALL, seed=5)
    name = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    model[name] = model[name] + 1
    with pytest.raises(ValueError, match=rf"{name} must be the same as layer 0's"):
        Beats.from_pretrained(write(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"activation_fn": "glu"},
            r"beats.pt: cfg\['activation_fn'\] must be 'gelu' as in BEATs' files, got 'glu'",
        ),
        ({"deep_norm": False}, r"cfg\['deep_norm'\] must be True"),
        ({"conv_pos": "128"}, r"cfg\['conv_pos'\] must be a whole number, got '128'"),
        ({"encoder_layers": 0}, "layers must be > 0, got 0"),
        ({"encoder_attention_heads": 5}, "heads must divide width = 24, got 5"),
        ({"num_buckets": 18}, "buckets must be a multiple of 4 and max_distance more than a quarter of it"),
        ({"max_distance": 4}, "got buckets 16, max_distance 4"),
        ({"encoder_layers": 3}, "missing 20: encoder.layers.2.fc1.bias"),
    ],
)
def test_another_architecture_is_refused(write, change, message):
    with pytest.raises(ValueError, match=message):
        Beats.from_pretrained(write(cfg=SMALL | change))


@pytest.mark.parametrize("content", [{"model": {}}, {"cfg": {}, "model": [1]}, {"state_dict": {}}, [1, 2]])
def test_another_kind_of_torch_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt must hold dicts 'cfg' and 'model' as BEATs' files do, got"):
        Beats.from_pretrained(tmp_path / "x.pt")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    page = b"<!DOCTYPE html><html>This link has expired</html>"
    for data in (b"", b"hello world\n" * 50, page, os.urandom(3000), b"PK\x03\x04"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"x.pt \(0.0 MB\) is cut off or not what torch.save writes"):
            Beats.from_pretrained(path)
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"is cut off or not what torch.save writes; fetch it again"):
        Beats.from_pretrained(path)
    np.save(tmp_path / "x.npy", np.zeros((100, 768)))
    with pytest.raises(ValueError, match=r"x.npy .* is cut off or not"):
        Beats.from_pretrained(tmp_path / "x.npy")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_is_cut_off_is_refused(tmp_path, zipped):
    path = tmp_path / "x.pt"
    model = random_model(SMALL, seed=5)
    torch.save({"cfg": SMALL, "model": model}, path, _use_new_zipfile_serialization=zipped)
    Beats.from_pretrained(path)
    data = path.read_bytes()
    for num in (1, 2, 5, 10, 20, 100, 300, 1000, 5000, len(data) // 2, len(data) - 2000, len(data) - 10):
        path.write_bytes(data[:num])
        with pytest.raises(ValueError, match=r"is cut off or not what torch.save writes; fetch it again"):
            Beats.from_pretrained(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False, None])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    path, trace = tmp_path / "x.pt", tmp_path / "trace"
    content = {"cfg": SMALL, "model": random_model(SMALL, seed=5) | {"layer_norm.bias": Code(trace)}}
    if zipped is None:
        path.write_bytes(pickle.dumps(Code(trace)))
        message = "is cut off or not what torch.save writes|asks for"
    else:
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        message = (
            r"hold tensors and plain values only, but its pickle asks for posix.mkdir; nothing of it was run"
        )
    with pytest.raises(ValueError, match=message):
        Beats.from_pretrained(path)
    assert not trace.exists()


def test_nothing_there_says_where_copies_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder or file; released files are listed at"):
        Beats.from_pretrained(tmp_path / "BEATs.pt")


def test_folders_of_other_things_are_refused(small, tmp_path):
    small[1].save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    whole, data = json.loads(config.read_text()), weights.read_bytes()
    for changed, message in (
        (whole | {"model_type": "whisper"}, "must be of model_type 'beats', got 'whisper'"),
        ([1], "must be of model_type 'beats', got None"),
        (whole | {"depth": 3}, "config.json: unknown key 'depth'"),
        (whole | {"layers": "two"}, "config.json: layers must be int, got two"),
        (whole | {"layers": 3}, r"must have the 67 entries of BEATs; missing 19: layers.2.attention"),
    ):
        config.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            Beats.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON"):
        Beats.from_pretrained(tmp_path)
    config.write_text(json.dumps(whole))
    for num in (0, 5, 100, len(data) - 1):
        weights.write_bytes(data[:num])
        with pytest.raises(ValueError, match=r"model.safetensors is cut off or no safetensors file"):
            Beats.from_pretrained(tmp_path)
    weights.write_bytes(data)
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if k != "norm.bias"} | {"more": torch.ones(1)}, weights)
    with pytest.raises(ValueError, match=r"missing 1: norm.bias; unknown 1: more"):
        Beats.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*model.safetensors; a folder of BEATs has"):
        Beats.from_pretrained(tmp_path)


def test_other_dtypes_are_refused(write):
    with pytest.raises(ValueError, match=r'dtype must be a torch.dtype or "auto", got \'half\''):
        Beats.from_pretrained(write(), dtype="half")
