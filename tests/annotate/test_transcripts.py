"""What is said: windows and their borders, silence, gaps, faults of the model, annotate's text."""

import json
import random

import numpy as np
import pytest
import torch
from speech import samples_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

import longcompress as lc
from longcompress.annotate.make import Annotator, FilterConfig, annotate, finish
from longcompress.annotate.transcripts import Transcript
from longcompress.cli.main import main
from longcompress.llm.transcriber import Transcriber
from longcompress.train.records import faults, read_records
from longcompress.types import Audio, Event

import videos
from assets import obama, whisper_tiny

RATE = 16000
END, START, LANGUAGE, TASK, TRANSLATE, BEFORE, NO_SPEECH, NO_TIMES = range(256, 264)
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|translate|>",
           "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]  # fmt: skip


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A random Whisper that writes bytes and times: transformers' own class, files and all."""
    folder = tmp_path_factory.mktemp("whisper")
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *(f"<|{i * 0.02:.2f}|>" for i in range(1501))])
    tokenizer.save(str(folder / "tokenizer.json"))
    WhisperTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), unk_token=SPECIAL[0], bos_token=SPECIAL[0],
        eos_token=SPECIAL[0],
    ).save_pretrained(folder)  # fmt: skip
    ids = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END, "decoder_start_token_id": START}
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=256 + len(SPECIAL) + 1501, d_model=8, num_mel_bins=80, encoder_layers=1,
            decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=8,
            decoder_ffn_dim=8, max_target_positions=24, **ids,
        )
    )  # fmt: skip
    torch.nn.init.normal_(model.model.decoder.embed_tokens.weight, std=1.0)
    settings = GenerationConfig(max_length=24, **ids)
    settings._from_model_config = False
    settings.no_timestamps_token_id, settings.is_multilingual = NO_TIMES, True
    settings.lang_to_id, settings.task_to_id = {"<|en|>": LANGUAGE}, {"transcribe": TASK, "translate": 260}
    settings.prev_sot_token_id, settings.max_initial_timestamp_index = BEFORE, 50
    model.generation_config = settings
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


class Beeps:
    """Hears tones: its text of a whole tone is its hertz. At one that the window cuts it says that it is not
    done, as Whisper does."""

    name, language, rate_hz, window = "beeps", None, RATE, 8 * RATE

    def __init__(self):
        self.sizes = []

    def read(self, samples):
        self.sizes.append(len(samples))
        (loud,) = np.where(np.abs(samples.numpy()) > 0.02)
        events = []
        if not len(loud):
            return events, len(samples) / RATE
        for tone in np.split(loud, np.where(np.diff(loud) > RATE // 20)[0] + 1):
            first, last = int(tone[0]), int(tone[-1]) + 1
            if last > self.window - 100 and first > 0:
                return events, first / RATE
            hertz = np.abs(np.fft.rfft(samples[first:last])).argmax() * RATE / (last - first)
            events.append(Event(first / RATE, last / RATE, str(round(hertz, -2))))
        return events, len(samples) / RATE


def tones(spans, seconds):
    samples = torch.zeros(round(seconds * RATE))
    for start_s, end_s, hertz in spans:
        first, last = round(start_s * RATE), round(end_s * RATE)
        samples[first:last] = 0.3 * torch.sin(torch.arange(last - first) / RATE * hertz * 2 * torch.pi)
    return samples


def texts_of(listener, samples, sizes=()):
    transcript, at = Transcript(listener), 0
    for size in [*sizes, len(samples)]:
        part = samples[at : at + size]
        if len(part):
            transcript.push(Audio(part, at / RATE))
        at += len(part)
    return transcript.finish()


def test_every_tone_is_told_once_at_its_time_wherever_windows_end_and_pushes_were_cut():
    rng, spans, at_s = random.Random(4), [], 0.5
    while at_s < 60:
        spans.append((at_s, at_s + rng.uniform(0.3, 3.0), rng.choice((400, 700, 1200, 2000))))
        at_s = spans[-1][1] + rng.uniform(0.2, 2.0)
    samples = tones(spans, 66.0)
    whole = texts_of(Beeps(), samples)
    assert [event.text for event in whole.events] == [f"{hertz}.0" for *_, hertz in spans]
    for event, (start_s, end_s, _) in zip(whole.events, spans, strict=True):
        assert abs(event.start_s - start_s) < 0.02 and abs(event.end_s - end_s) < 0.02
    for seed in range(3):
        sizes = [random.Random(seed).randint(1, 200_000) for _ in range(9)]
        assert texts_of(Beeps(), samples, sizes).events == whole.events


def test_silence_is_not_listened_to_and_a_gap_of_an_hour_costs_no_memory():
    listener = Beeps()
    assert texts_of(listener, 5e-4 * torch.ones(40 * RATE)).events == [] and listener.sizes == []
    transcript = Transcript(listener)
    transcript.push(Audio(tones([(1, 2, 700)], 3.0), 0.0))
    transcript.push(Audio(tones([(1, 2, 400)], 3.0), 3600.0))
    assert transcript._waiting.numel() <= listener.window
    texts = transcript.finish().events
    assert [event.text for event in texts] == ["700.0", "400.0"] and abs(texts[1].start_s - 3601) < 0.02


def test_a_text_that_repeats_itself_and_an_empty_one_are_faults_with_their_places():
    class Loop(Beeps):
        def read(self, samples):
            return [Event(1.0, 2.0, "and so on " * 30), Event(2.0, 3.0, "<i></i>"), Event(3, 4, "A.")], 8.0

    cues = texts_of(Loop(), tones([(0, 8, 700)], 8.0))
    assert cues.faults == {"repeats itself": 1, "empty": 1} and [e.text for e in cues.events] == ["A."]
    assert cues.places[0].startswith("repeats itself: 1 s: and so on")


def test_a_listener_that_stands_still_comes_to_the_end():
    class Still(Beeps):
        def read(self, samples):
            return [], 0.0

    listener = Still()
    listener.window = 4
    assert texts_of(listener, torch.ones(9)).events == []


def test_a_random_whisper_writes_texts_in_their_windows_the_same_each_time(whisper):
    listener = Transcriber.load(whisper, "en", dtype=torch.float32)
    samples = 0.1 * torch.randn(40 * RATE, generator=torch.Generator().manual_seed(1))
    events, done_s = listener.read(samples[: listener.window])
    assert (listener.rate_hz, listener.window) == (RATE, 30 * RATE) and 1.0 <= done_s <= 30.0
    assert all(0 <= event.start_s <= event.end_s <= 30.0 and event.text for event in events)
    short, done_s = listener.read(samples[:RATE])
    assert done_s == 1.0 and all(event.end_s <= 1.0 for event in short)
    listener.model.generation_config.max_initial_timestamp_index = 1
    cues = texts_of(listener, samples)
    assert cues.events + [0] * sum(cues.faults.values())  # it wrote something
    assert texts_of(listener, samples, [5, 99_999]).events == cues.events


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("folder", r"no such folder; give one, or a hub name"),
        ("language", r"language must be of .* \(en\), got 'xx'"),
        ("encoder", r"must be a whole Whisper that writes text, got WhisperEncoder"),
        ("times", r"generation_config.json must name no_timestamps_token_id"),
        ("weights", r"lacks \d+ of the model's parameters"),
    ],
)
def test_a_whisper_that_can_not_write_is_named(whisper, tmp_path, change, match):
    for path in whisper.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if change == "encoder":
        content = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["WhisperEncoder"]}
        (tmp_path / "config.json").write_text(json.dumps(content))
    if change == "times":
        content = json.loads((tmp_path / "generation_config.json").read_text())
        del content["no_timestamps_token_id"]
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
    if change == "weights":
        from safetensors.torch import load_file, save_file

        values = load_file(tmp_path / "model.safetensors")
        del values["model.decoder.layers.0.fc1.weight"]
        save_file(values, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        Transcriber.load(
            tmp_path / "none" if change == "folder" else tmp_path, "xx" if change == "language" else None
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video with onsets of audio, the same with subtitles, and one without audio."""
    where = tmp_path_factory.mktemp("in")
    for name, more in (("a", {}), ("b", {}), ("c", {"audio_codec": None})):
        videos.write(where / f"{name}.mp4", videos.Video(**more))
    (where / "b.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nHello.\n")
    return where


class Words(Beeps):
    """Says a word at each second."""

    window = 30 * RATE

    def read(self, samples):
        num = len(samples) // RATE
        return [Event(float(i), i + 0.5, f"word {i}") for i in range(num)], len(samples) / RATE


def test_speech_is_the_text_of_a_record_without_subtitles_and_a_run_that_is_cut_ends_the_same(
    folder, tmp_path
):
    model, records, clips = lc.load("tiny", device="cpu"), read_records(folder), []
    listener = Words()

    def caption(clip):
        clips.append(clip)
        if len(clips) == 2:
            raise KeyboardInterrupt
        return "A dog."

    annotator = Annotator(model, caption, transcriber=listener)
    with pytest.raises(KeyboardInterrupt):
        annotate(records, tmp_path, annotator, progress=False)
    annotate(records, tmp_path, annotator, progress=False)
    report = finish(tmp_path, records)
    assert len(listener.sizes) == 0 and report["transcribed"] == 1
    first, second, third = read_records(tmp_path / "records.jsonl")
    assert first.text[0] == Event(0.998, 1.498, "word 0")  # where the first onset is
    assert len(first.text) == int(first.duration_s - 0.998)
    assert [cue.text for cue in second.text] == ["Hello."] and third.text == ()
    assert not any(map(faults, (first, second, third)))
    assert clips[0].speech.startswith("word 0 word 1")  # whoever captions reads it
    with pytest.raises(ValueError, match="was begun with transcribe beeps, got None"):
        annotate(records, tmp_path, Annotator(model, caption), progress=False)
    filters = FilterConfig(max_speech=0.2)
    annotate(records, tmp_path / "two", Annotator(model, None, filters=filters, transcriber=listener))
    assert finish(tmp_path / "two", records)["filtered"] == {"more than 0.2 of it is speech": 1}


def test_the_command_transcribes(folder, whisper, tmp_path, capsys):
    words = ["annotate", str(folder), "--out", str(tmp_path), "--captions", "none"]
    assert main([*words, "--language", "en"]) == 2
    assert "--language en is of --transcribe; give both" in capsys.readouterr().err
    assert main([*words, "--transcribe", str(whisper), "--language", "en"]) == 0
    assert "1 videos transcribed" in capsys.readouterr().out
    assert main([*words, "--transcribe", str(tmp_path / "none")]) in (2, 3)
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.real
def test_a_real_whisper_knows_where_speech_behind_silence_begins():
    """Speech that a package ships, behind silence."""
    speech = samples_of(obama())
    listener = Transcriber.load(whisper_tiny(), dtype=torch.float32)
    samples = torch.cat([torch.zeros(40 * RATE), speech])
    events = texts_of(listener, samples).events
    assert 39.5 < events[0].start_s < 41 and events[-1].end_s <= len(samples) / RATE + 0.01
