"""A model that sees and hears twice: class tokens, BEATs and Whisper, with what is absent left out."""

import random
from dataclasses import replace

import pytest
import torch

import longcompress as lc
from longcompress.encoders import Stream
from longcompress.eval.bench import stages
from longcompress.llm.prompt import lay_out
from longcompress.media.reader import arrays
from longcompress.model import LongCompress
from longcompress.session import Session
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.videos import compress

from clips import make_clip, random_parts
from helpers import assert_same_memory
from models import three_streams

pytestmark = pytest.mark.slow

SECONDS = 37.0


@pytest.fixture(scope="module", params=["kept", "released"])
def model(request):
    return three_streams(request.param)


@pytest.fixture(scope="module")
def sources():
    frame, heard = make_clip(SECONDS)
    return {
        "both": arrays(frame.pixels, 1.0, heard.samples), "frames": arrays(frame.pixels, 1.0),
        "audio": arrays(samples=heard.samples),
    }  # fmt: skip


def counts(model, kinds: str) -> dict[str, int]:
    """Tokens of each stream of the video."""
    names = {"both": model.streams, "frames": ("video",), "audio": ("audio", "speech")}[kinds]
    return {name: model.encoders[name].num_tokens(SECONDS, model.config.media) for name in names}


@pytest.mark.parametrize("kinds", ["both", "frames", "audio"])
def test_a_video_is_compressed_with_what_it_has(model, sources, kinds, tmp_path):
    want = counts(model, kinds)
    memory = compress(model, sources[kinds], progress=False)
    assert {name: len(tokens) for name, tokens in memory.streams.items()} == want
    expected = model.estimate(SECONDS, video=kinds != "audio", audio=kinds != "frames")
    assert expected.stream_tokens == want and expected.tokens == memory.num_tokens == sum(want.values())
    assert memory.ask("what is seen").text == memory.ask("what is seen").text
    again = lc.load_memory(memory.save(tmp_path / "video.lcm"), model)
    assert_same_memory(again, memory)
    assert again.ask("what is seen") == memory.ask("what is seen")
    few = compress(model, sources[kinds], budget=9, progress=False)
    assert few.num_tokens == min(9, sum(want.values())) and set(few.streams) == set(want)


def test_the_streams_are_those_of_the_encoders(model, sources):
    _, heard = make_clip(SECONDS)
    memory = compress(model, sources["both"], progress=False)
    for name in ("audio", "speech"):
        stream = Stream(model.encoders[name])
        x = torch.cat([e.tokens.x for e in stream.push(heard) + stream.flush()])
        torch.testing.assert_close(memory.streams[name].x, x)


@pytest.mark.parametrize("seed", range(4))
def test_cuts_and_snapshots_change_nothing(model, seed):
    parts = random_parts(*make_clip(SECONDS), seed)
    whole, restored = Session(model), Session(model)
    for part in make_clip(SECONDS):
        whole.push(part)
    at = random.Random(seed).randrange(1, len(parts))
    for part in parts[:at]:
        restored.push(part)
    data = restored.snapshot()
    restored.memory()
    assert restored.snapshot() == data  # a memory changes nothing
    restored = Session.restore(model, data)
    for part in parts[at:]:
        restored.push(part)
    whole.close(), restored.close()
    assert_same_memory(restored.memory(), whole.memory())


def test_a_file_without_audio_and_one_with_it(model, tmp_path):
    scene = make_scene(0, 12.0)
    loud = write_video(scene, tmp_path / "loud.mp4", size_px=32)
    memory = compress(model, loud, progress=False)
    assert set(memory.streams) == {"video", "audio", "speech"}
    silent = Session(model, media=["video"])
    silent.push(make_clip(12.0)[0])
    assert set(silent.memory().streams) == {"video"}


@pytest.mark.parametrize("seconds", [5.12, 30.0, 60.0])
def test_a_video_in_blocks_is_laid_out_as_published(seconds):
    model = three_streams("released")
    llm = replace(model.config.llm, order="blocks", time=False)
    model = three_streams("released", llm=llm, media=replace(model.config.media, frames=100))
    _, heard = make_clip(60.0)
    pixels = torch.zeros(round(3 * seconds), 16, 16, 3, dtype=torch.uint8)
    source = arrays(pixels, 3.0, heard.samples[: round(16000 * seconds)])
    memory = compress(model, source, progress=False)
    assert memory.duration_s == pytest.approx(seconds)
    audio, speech = {5.12: (1, 5), 30.0: (6, 5), 60.0: (12, 11)}[seconds]
    ids = lay_out(memory.video, model.llm.tokenizer, model.llm.settings, model.llm.names).ids
    assert ids == [-1] * 100 + [-3] * audio + [-5] * speech
    expected = model.estimate(seconds)
    assert expected.prompt_tokens == expected.tokens == len(ids) and expected.timestamps == 0
    assert memory.ask("what is seen").text == memory.ask("what is seen").text


def test_a_video_taken_stage_by_stage_gives_the_same(model, tmp_path):
    path = write_video(make_scene(0, 12.0), tmp_path / "video.mp4", size_px=32)
    memory = stages.merge(model, *stages.segments_of(model, *stages.decode(model, path)), 40)
    stages.check(model, path, (stages.OURS, 40), memory)  # against compress and ask


def test_saving_and_loading_keeps_the_tokens(model, sources, tmp_path):
    model.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir() if p.is_dir()} == {
        "video",
        "audio",
        "speech",
        "lm",
    }
    loaded = lc.load(tmp_path / "model", device="cpu")
    assert loaded.streams == model.streams and loaded.identity() == model.identity()
    first, second = (compress(m, sources["both"], progress=False) for m in (model, loaded))
    assert_same_memory(second, first)
    assert first.ask("what is seen") == second.ask("what is seen")


def test_a_model_may_hear_speech_alone(sources):
    model = three_streams()
    alone = LongCompress(model.config, None, None, model.llm, speech=model.speech)
    assert alone.streams == ("speech",)
    assert set(compress(alone, sources["both"], progress=False).streams) == {"speech"}
    assert Session(alone, media=["audio"]).encoder.streams == ("speech",)
    with pytest.raises(ValueError, match=r"media must be some of \('audio',\)"):
        Session(alone, media=["video"])


def test_late_audio_is_reported_once_and_wrong_rates_are_refused(model):
    session = Session(model)
    session.push_audio(torch.zeros(16000 * 3), 16000)
    assert len(session.push_audio(torch.zeros(16000), 16000, 1.0)) == 1
    session.push_audio(torch.zeros(16000), 16000)
    assert session.memory().duration_s == 4.0
    with pytest.raises(ValueError, match="audio must come at 16000 samples a second, got 8000"):
        session.push_audio(torch.zeros(8000), 8000)


def test_the_identity_knows_what_makes_the_tokens(model):
    def identity(**changes):
        other = LongCompress(
            replace(model.config, **changes), model.video, model.audio, model.llm, speech=model.speech
        )
        return other.identity()

    speech = model.config.speech
    other = "released" if speech.tail == "kept" else "kept"
    identities = {
        identity(speech=replace(speech, **c))
        for c in ({}, {"tail": other}, {"pool": 128}, {"pool_across": False})
    }
    assert len(identities) == 4 and identity() == model.identity()
    assert LongCompress(model.config, model.video, model.audio, model.llm).identity() not in identities


def test_a_model_without_encoders_is_refused():
    model = three_streams()
    with pytest.raises(ValueError, match="a model without encoders reads no media"):
        LongCompress(model.config, None, None, model.llm)
