"""The whole model: the hash of what gives its tokens their meaning."""

import copy
from dataclasses import replace

import pytest
import torch

import longcompress.model as model_file
from longcompress.model import LongCompress

import models


@pytest.fixture
def hashes(monkeypatch):
    """A list with an entry for each time that weights are hashed."""
    calls = []

    def digest(*args):
        calls.append(args)
        return real(*args)

    real = model_file._digest
    monkeypatch.setattr(model_file, "_digest", digest)
    return calls


def test_weights_are_hashed_once(hashes):
    model = models.model()
    first = model.identity()
    assert model.identity() == first and len(hashes) == 1
    assert copy.deepcopy(model).identity() == first


def test_a_weight_that_changes_in_place_changes_the_identity(hashes):
    model = models.model()
    first = model.identity()
    with torch.no_grad():
        next(model.video.parameters()).add_(1)
    second = model.identity()
    assert second != first and len(hashes) == 2
    with torch.no_grad():  # projectors and language model don't change the tokens
        next(model.llm.project.parameters()).add_(1)
    assert model.identity() == second and len(hashes) == 2


def test_a_loaded_weight_changes_the_identity():
    model, other = models.model(), models.model()
    with torch.no_grad():
        next(other.audio.parameters()).mul_(2)
    first = model.identity()
    model.load_state_dict(other.state_dict())
    assert model.identity() == other.identity() != first


@pytest.mark.parametrize("num", [0, 1, 63, (1 << 24) + 1, 32000 * 4096])
def test_weights_of_any_size_are_hashed(num):
    weight = torch.zeros(num, dtype=torch.int8)
    assert model_file._digest("", [("a", weight)]) == model_file._digest("", [("a", weight.clone())])
    if num:
        weight[-1] = 1
        assert model_file._digest("", [("a", weight)]) != model_file._digest("", [("a", weight * 0)])


def test_config_that_tokens_depend_on_changes_the_identity():
    model = models.model()
    first = model.identity()
    model.change({"media": {"rate_fps": 2.0}})
    assert model.identity() == first
    assert models.model(audio=replace(model.config.audio, pool=10)).identity() != first


def test_encoders_alone_are_estimated_without_a_prompt():
    whole = models.model()
    alone = LongCompress(whole.config, whole.video, whole.audio, None)
    got, want = alone.estimate(60.0, 64), whole.estimate(60.0, 64)
    assert (got.raw_tokens, got.tokens, got.stream_tokens) == (
        want.raw_tokens,
        want.tokens,
        want.stream_tokens,
    )
    assert got.context is None and got.fits is None


@pytest.mark.parametrize(
    "name, place",
    [("model.safetensors",) * 2, ("lm/model.safetensors", "lm"), ("video/model.safetensors", "video")],
)
def test_weights_that_were_cut_are_named(tmp_path, name, place):
    models.model().save_pretrained(tmp_path, include_base=True)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"weights in {tmp_path / place} are cut or damaged"):
        LongCompress.from_pretrained(tmp_path)


def test_own_weights_of_another_shape_are_named(tmp_path):
    models.model().save_pretrained(tmp_path, include_base=True)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"max_offset_s": 16', '"max_offset_s": 17'))
    with pytest.raises(
        ValueError, match=r"missing \[\], unknown \[\], of another shape \['llm.time.table'\]"
    ):
        LongCompress.from_pretrained(tmp_path)
