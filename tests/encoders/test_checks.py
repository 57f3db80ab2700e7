"""The error for a wrong base says what it is; encoders alone make the same features."""

import json

import pytest
import torch

import longcompress as lc
from longcompress.checkpoints.architectures import config_of, encoders_of
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.videos import compress, read_session

from models import published
from videos import Video, write


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return published(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("name", "part", "other", "message"),
    [
        ("vtimellm", "video", "speech", "must be a vision encoder .CLIP.*, got a model of type 'whisper'"),
        ("longvlm", "video", "llm", "must be a vision encoder .CLIP.*, got a model of type 'llama'"),
        ("longvale", "video", "plain", "tokens \"class\" needs a CLIP model, got one of type 'vit'"),
        ("longvale", "audio", "speech", "must be of model_type 'beats', got 'whisper'"),
        ("longvale", "speech", "video", "must be a Whisper model, got one of type 'clip_vision_model'"),
        ("longvale", "speech", "audio", "base .* has model type `beats`"),
        ("longvale", "llm", "video", "must be a causal language model, got a model of type 'clip_vision_"),
        ("longvale", "video", "file", "is a file; give the folder of a transformers model"),
        ("longvale", "speech", "nowhere", "base .*nowhere': no such folder; give one, or a hub name"),
        ("longvale", "llm", "nowhere", "base .*nowhere': no such folder; give one, or a hub name"),
        ("longvale", "audio", "nowhere", "base .*nowhere': no such folder or file; released files"),
        ("vtimellm", "video", "empty", "no config.json in this folder"),
    ],
)
def test_the_error_for_a_wrong_encoder_says_what_it_is(base, tmp_path, name, part, other, message):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"none")
    parts = base if name == "longvale" else {key: base[key] for key in ("video", "llm")}
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


def test_encoders_alone_make_the_features_of_the_whole(base, tmp_path):
    torch.manual_seed(1)
    whole = lc.load("longvale", base=base, device="cpu")
    alone = encoders_of("longvale", base=base | {"llm": "not/looked-at"}, device="cpu")
    assert alone.identity() == whole.identity() and alone.device == whole.device
    path = write(tmp_path / "video.mkv", Video())
    want = compress(whole, path, progress=False).streams
    got = read_session(alone, path, budget=2048, progress=False).state().compress(2048).streams
    assert set(got) == set(want) == {"video", "audio", "speech"}
    assert all(torch.equal(got[name].x, want[name].x) for name in want)
    with pytest.raises(ValueError, match="memory has no model to answer with"):
        compress(alone, path, progress=False).ask("what happens")


def full(*args, **kwargs):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 8 GiB")


def test_a_full_device_is_told_with_what_needs_less(monkeypatch):
    model = lc.load("tiny", device="cpu")
    parts = list(parts_of(make_scene(1, 20.0), 1.0))
    memory = compress(model, parts, budget=50, progress=False)
    monkeypatch.setattr(model.llm.lm, "forward", full)
    need = "no memory left on the device for reading the video: .*allocate 2.00 GiB.; lower the budget"
    with pytest.raises(MemoryError, match=need):
        memory.ask("How often does the red ball appear?")
    monkeypatch.setattr(model.video, "features", full)
    with pytest.raises(MemoryError, match=r"for encoding a block: .*; lower video.batch_size, media.size_px"):
        compress(model, parts, budget=50, progress=False)
