"""A model that sees and hears twice: class tokens, BEATs and Whisper, with what is absent left out."""

import random
from dataclasses import replace

import pytest
import torch
from test_session import film, in_pieces, same

import longcompress as lc
from longcompress.config import ModelConfig, SoundConfig, from_dict, to_dict
from longcompress.encoders import Stream
from longcompress.eval import stages
from longcompress.hosts.prompt import lay_out
from longcompress.media import arrays
from longcompress.model import LongCompress
from longcompress.scenes import make_scene, write_film
from longcompress.session import Session, watch

from models import model as two_streams
from models import three_streams

SECONDS = 37.0
TINY = "47323b82aa76bde611229260bcfc6c2453cfd3b1eca46648f49545f30d85c3dd"  # before there was a third stream


@pytest.fixture(scope="module", params=["kept", "released"])
def model(request):
    return three_streams(request.param)


@pytest.fixture(scope="module")
def sources():
    picture, heard = film(SECONDS)
    return {
        "both": arrays(picture.pixels, 1.0, heard.samples), "pictures": arrays(picture.pixels, 1.0),
        "sound": arrays(samples=heard.samples),
    }  # fmt: skip


def wanted(model, kinds: str) -> dict[str, int]:
    """Tokens of each stream of the film."""
    names = {"both": model.streams, "pictures": ("picture",), "sound": ("sound", "speech")}[kinds]
    return {name: model.towers[name].num_tokens(SECONDS, model.config.media) for name in names}


@pytest.mark.parametrize("kinds", ["both", "pictures", "sound"])
def test_a_film_is_watched_with_what_it_has(model, sources, kinds, tmp_path):
    want = wanted(model, kinds)
    memory = watch(model, sources[kinds], progress=False)
    assert {name: len(tokens) for name, tokens in memory.streams.items()} == want
    expected = model.estimate(SECONDS, pictures=kinds != "sound", sound=kinds != "pictures")
    assert expected.stream_tokens == want and expected.tokens == memory.num_tokens == sum(want.values())
    assert memory.ask("what is seen").text == memory.ask("what is seen").text
    again = lc.open(memory.save(tmp_path / "film.lcm"), model)
    assert same(memory, again) and again.ask("what is seen") == memory.ask("what is seen")
    few = watch(model, sources[kinds], 9, progress=False)
    assert few.num_tokens == min(9, sum(want.values())) and set(few.streams) == set(want)


def test_the_streams_are_those_of_the_towers(model, sources):
    _, heard = film(SECONDS)
    memory = watch(model, sources["both"], progress=False)
    for name in ("sound", "speech"):
        stream = Stream(model.towers[name])
        x = torch.cat([e.tokens.x for e in stream.push(heard) + stream.flush()])
        torch.testing.assert_close(memory.streams[name].x, x)


@pytest.mark.parametrize("seed", range(4))
def test_cuts_and_snapshots_change_nothing(model, seed):
    parts = in_pieces(*film(SECONDS), seed)
    whole, restored = Session(model), Session(model)
    for part in film(SECONDS):
        whole.push(part)
    at = random.Random(seed).randrange(1, len(parts))
    for part in parts[:at]:
        restored.push(part)
    data = restored.snapshot()
    restored.memory()
    assert restored.snapshot() == data  # asking changes nothing
    restored = Session.restore(model, data)
    for part in parts[at:]:
        restored.push(part)
    whole.close(), restored.close()
    assert same(whole.memory(), restored.memory())


def test_a_file_without_sound_and_one_with_it(model, tmp_path):
    scene = make_scene(0, 12.0)
    loud = write_film(scene, tmp_path / "loud.mp4", size_px=32)
    memory = watch(model, loud, progress=False)
    assert set(memory.streams) == {"picture", "sound", "speech"}
    silent = Session(model, streams=["picture"])
    silent.push(film(12.0)[0])
    assert set(silent.memory().streams) == {"picture"}


@pytest.mark.parametrize("seconds", [5.12, 30.0, 60.0])
def test_a_film_in_blocks_is_laid_out_as_published(seconds):
    made = three_streams("released")
    host = replace(made.config.host, order="blocks", time=False)
    made = three_streams("released", host=host, media=replace(made.config.media, frames=100))
    _, heard = film(60.0)
    pixels = torch.zeros(round(3 * seconds), 16, 16, 3, dtype=torch.uint8)
    source = arrays(pixels, 3.0, heard.samples[: round(16000 * seconds)])
    memory = watch(made, source, progress=False)
    assert memory.duration_s == pytest.approx(seconds)
    sound, speech = {5.12: (1, 5), 30.0: (6, 5), 60.0: (12, 11)}[seconds]
    ids = lay_out(memory.film, made.host.tokenizer, made.host.settings, made.host.names).ids
    assert ids == [-1] * 100 + [-3] * sound + [-5] * speech
    expected = made.estimate(seconds)
    assert expected.prompt_tokens == expected.tokens == len(ids) and expected.marks == 0
    assert memory.ask("what is seen").text == memory.ask("what is seen").text


def test_a_film_taken_stage_by_stage_gives_the_same(model, tmp_path):
    path = write_film(make_scene(0, 12.0), tmp_path / "film.mp4", size_px=32)
    stages.check(model, path, [stages.Way(stages.OURS, 40)])  # against watch and ask


def test_saving_and_loading_keeps_the_tokens(model, sources, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir() if p.is_dir()} == {
        "vision",
        "sound",
        "speech",
        "lm",
    }
    loaded = lc.load(tmp_path / "model", device="cpu")
    assert loaded.streams == model.streams and loaded.identity() == model.identity()
    first, second = (watch(m, sources["both"], progress=False) for m in (model, loaded))
    assert same(first, second) and first.ask("what is seen") == second.ask("what is seen")


def test_a_model_may_hear_speech_alone(sources):
    made = three_streams()
    alone = LongCompress(made.config, None, None, made.host, speech=made.speech)
    assert alone.streams == ("speech",)
    assert set(watch(alone, sources["both"], progress=False).streams) == {"speech"}
    assert set(Session(alone, streams=["sound"])._streams) == {"speech"}
    with pytest.raises(ValueError, match=r"streams must be some of \('sound',\)"):
        Session(alone, streams=["picture"])


def test_late_sound_is_told_once_and_wrong_rates_are_refused(model):
    session = Session(model)
    session.push_audio(torch.zeros(16000 * 3), 16000)
    assert len(session.push_audio(torch.zeros(16000), 16000, 1.0)) == 1
    session.push_audio(torch.zeros(16000), 16000)
    assert session.memory().duration_s == 4.0
    with pytest.raises(ValueError, match="sound must come at 16000 samples a second, got 8000"):
        session.push_audio(torch.zeros(8000), 8000)


def test_the_identity_knows_what_makes_the_tokens(model):
    def identity(**changes):
        other = LongCompress(
            replace(model.config, **changes), model.vision, model.sound, model.host, speech=model.speech
        )
        return other.identity()

    speech = model.config.speech
    other = "released" if speech.tail == "kept" else "kept"
    found = {
        identity(speech=replace(speech, **c)) for c in ({}, {"tail": other}, {"pool": 128}, {"across": False})
    }
    assert len(found) == 4 and identity() == model.identity()
    assert LongCompress(model.config, model.vision, model.sound, model.host).identity() not in found


def test_identities_of_before_are_the_same():
    assert lc.load("tiny", device="cpu").identity() == TINY


def test_configs_of_before_are_read():
    values = to_dict(two_streams().config)
    del values["speech"], values["vision"]["tokens"]
    for name in ("kind", "across", "tail"):
        del values["sound"][name]
    assert from_dict(ModelConfig, values) == two_streams().config
    assert values["sound"]["pool"] == 5 and SoundConfig().base == ""


def test_a_model_without_towers_is_refused():
    made = three_streams()
    with pytest.raises(ValueError, match="a model without towers sees and hears nothing"):
        LongCompress(made.config, None, None, made.host)
