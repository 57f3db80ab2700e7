"""Several channels become one without gain or clipping; tracks are chosen by number or language."""

from fractions import Fraction

import av
import numpy as np
import pytest

from longcompress.config import MediaConfig
from longcompress.media import probe, read

RATE = 48000


def write(path, channels, layout, sample_format="s16", tracks=1, languages=()):
    """A WAV or Matroska file of these channels (C, n), float."""
    codec = "pcm_f32le" if sample_format == "flt" else "pcm_s16le"
    with av.open(str(path), "w") as container:
        streams = []
        for k in range(tracks):
            stream = container.add_stream(codec, rate=RATE, layout=layout)
            if languages:
                stream.metadata["language"] = languages[k]
            streams.append(stream)
        for k, stream in enumerate(streams):
            values = channels * (1 if k == 0 else 0.25)
            if sample_format == "s16":
                values = np.round(values * 32767).astype(np.int16)
            packed = np.ascontiguousarray(values.T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(packed, format=sample_format, layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def samples_of(path, **options):
    warned = []
    with read(path, MediaConfig(video=False, **options), on_warning=warned.append) as parts:
        samples = np.concatenate([part.samples.numpy() for part in parts])
    return samples, [text for text in warned if "no video" not in text]


def tone(volume=0.95, seconds=3.0, hz=440):
    return volume * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


@pytest.mark.parametrize(("layout", "num"), [("stereo", 2), ("3.0", 3), ("quad", 4), ("5.1", 6), ("7.1", 8)])
def test_equal_channels_are_their_mono_file(tmp_path, layout, num):
    mono, _ = samples_of(write(tmp_path / "mono.wav", tone()[None], "mono"))
    several, warned = samples_of(write(tmp_path / "several.wav", np.stack([tone()] * num), layout))
    np.testing.assert_allclose(several, mono, atol=1e-3)
    assert np.abs(several).max() < 0.96 and not warned


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    left, right = tone(0.9), tone(0.5, hz=700)
    mono, _ = samples_of(write(tmp_path / "mono.wav", ((left + right) / 2)[None], "mono"))
    stereo, _ = samples_of(write(tmp_path / "stereo.wav", np.stack([left, right]), "stereo"))
    np.testing.assert_allclose(stereo, mono, atol=1e-3)


def test_channels_that_cancel_each_other_are_told_and_the_first_can_be_read(tmp_path):
    path = write(tmp_path / "anti.wav", np.stack([tone(0.5), -tone(0.5)]), "stereo")
    samples, warned = samples_of(path)
    assert np.abs(samples).max() < 1e-3
    assert len(warned) == 1 and "channels that cancel each other" in warned[0]
    samples, warned = samples_of(path, channels="first")
    assert np.abs(samples).max() > 0.45 and not warned


def test_samples_that_are_no_numbers_are_silence_and_told(tmp_path):
    wave = tone(0.5)
    wave[1000:1010] = np.nan
    samples, warned = samples_of(write(tmp_path / "nan.wav", wave[None], "mono", "flt"))
    assert np.isfinite(samples).all() and "samples that are no numbers" in warned[0]


@pytest.mark.parametrize(("choice", "volume"), [("0", 0.8), ("1", 0.2), ("deu", 0.2), ("eng", 0.8)])
def test_a_track_is_chosen_by_number_or_language(tmp_path, choice, volume):
    path = write(tmp_path / "two.mkv", tone(0.8)[None], "mono", tracks=2, languages=("eng", "deu"))
    samples, _ = samples_of(path, audio_track=choice)
    assert np.abs(samples).max() == pytest.approx(volume, abs=0.01)
    tracks = probe(path, config=MediaConfig(audio_track=choice)).tracks
    assert [(t.kind, t.number, t.language, t.is_read) for t in tracks] == [
        ("audio", 0, "eng", volume == 0.8), ("audio", 1, "deu", volume == 0.2),
    ]  # fmt: skip


def test_a_track_that_is_not_there_is_an_error(tmp_path):
    path = write(tmp_path / "two.mkv", tone(0.8)[None], "mono", tracks=2, languages=("eng", "deu"))
    with pytest.raises(
        ValueError, match=r"audio_track 'fra' is none of the audio tracks 0 \(eng\), 1 \(deu\)"
    ):
        samples_of(path, audio_track="fra")
