"""Wrong bases are told by what they are; towers alone make the same features."""

import json

import pytest
import torch
from films import Film, write

import longcompress as lc
from longcompress.published import config_of, towers_of
from longcompress.session import watch, watched

from models import published


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return published(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("name", "part", "other", "message"),
    [
        ("vtimellm", "vision", "speech", "must be a vision tower .CLIP.*, got a model of type 'whisper'"),
        ("longvlm", "vision", "host", "must be a vision tower .CLIP.*, got a model of type 'llama'"),
        ("longvale", "vision", "plain", "tokens \"class\" needs a CLIP model, got one of type 'vit'"),
        ("longvale", "sound", "speech", "must be of model_type 'beats', got 'whisper'"),
        ("longvale", "speech", "vision", "must be a Whisper model, got one of type 'clip_vision_model'"),
        ("longvale", "speech", "sound", "base .* has model type `beats`"),
        ("longvale", "host", "vision", "must be a causal language model, got a model of type 'clip_vision_"),
        ("longvale", "vision", "file", "is a file; give the folder of a transformers model"),
        ("longvale", "speech", "nowhere", "base .*nowhere': no such folder; give one, or a hub name"),
        ("longvale", "host", "nowhere", "base .*nowhere': no such folder; give one, or a hub name"),
        ("longvale", "sound", "nowhere", "base .*nowhere': no such folder or file; released files"),
        ("vtimellm", "vision", "empty", "no config.json in this folder"),
    ],
)
def test_a_wrong_tower_is_told_by_what_it_is(base, tmp_path, name, part, other, message):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"none")
    parts = base if name == "longvale" else {key: base[key] for key in ("vision", "host")}
    wrong = base.get(other, str(tmp_path / other))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lc.load(name, base=parts | {part: wrong}, device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: config_of("longvlm2"), "preset must be one of .*, got 'longvlm2'"),
        (lambda: config_of("longvale", variant={"local": 200}), "longvale must be of .'mode', 'tail'"),
        (lambda: config_of("longvlm", variant={"local": 250}), r"must be one of \[300, 200\], got 250"),
        (lambda: config_of("vtimellm", variant={"chat": "yes"}), "must be one of .False, True., got 'yes'"),
        (lambda: lc.load("longvale", variant={"tail": "cut"}), "must be one of .*, got 'cut'"),
    ],
)  # fmt: skip
def test_presets_and_variants_are_checked(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_towers_alone_make_the_features_of_the_whole(base, tmp_path):
    torch.manual_seed(1)
    whole = lc.load("longvale", base=base, device="cpu")
    alone = towers_of("longvale", base=base | {"host": "not/looked-at"}, device="cpu")
    assert alone.identity() == whole.identity() and alone.device == whole.device
    path = write(tmp_path / "film.mkv", Film())
    want = watch(whole, path, progress=False).streams
    got, _, _ = alone.compressor.settle(watched(alone, path, progress=False)[0].held(), 2048)
    assert set(got) == set(want) == {"picture", "sound", "speech"}
    assert all(torch.equal(got[name].x, want[name].x) for name in want)
    with pytest.raises(AttributeError, match="this model has towers alone"):
        watch(alone, path, progress=False).ask("what happens")
