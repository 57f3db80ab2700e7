"""The filter bank of BEATs against kaldi-native-fbank."""

import math

import kaldi_native_fbank
import numpy as np
import pytest
import torch
from torch import Tensor

from longcompress.encoders.fbank import (
    BANDS,
    FLOOR,
    FRAME,
    MEAN,
    STD,
    STEP,
    beats_filters,
    mel_filters,
    num_frames,
)

from helpers import assert_within, normal


def kaldi(samples: Tensor) -> Tensor:
    """(L, 128) of samples (n,) as Kaldi gives it with the options of BEATs."""
    options = kaldi_native_fbank.FbankOptions()
    frames = options.frame_opts
    frames.samp_freq, frames.frame_length_ms, frames.frame_shift_ms = 16000, 25, 10
    frames.dither, frames.window_type, frames.snip_edges = 0, "povey", True
    options.mel_opts.num_bins, options.mel_opts.low_freq, options.mel_opts.high_freq = BANDS, 20, 0
    options.use_energy = False
    filters = kaldi_native_fbank.OnlineFbank(options)
    filters.accept_waveform(16000, (samples * 32768).tolist())
    filters.input_finished()
    return torch.from_numpy(
        np.array([filters.get_frame(i) for i in range(filters.num_frames_ready)]).reshape(-1, BANDS)
    )


def tones(num: int, *hertz: float) -> Tensor:
    time_s = torch.arange(num, dtype=torch.float64) / 16000
    return (
        torch.stack([(0.6 / len(hertz)) * torch.sin(2 * math.pi * f * time_s) for f in hertz]).sum(0).float()
    )


def click(num: int) -> Tensor:
    samples = torch.zeros(num)
    samples[num // 3] = 1.0
    return samples


SOUNDS = {
    "noise": 0.1 * normal(82160, seed=1),
    "loud": normal(30000, seed=2).clamp(-1, 1),
    "quiet": 1e-3 * normal(30001, seed=3),
    "silence": torch.zeros(16000),
    "click": click(12345),
    "begins": torch.cat([torch.zeros(4000), 0.2 * normal(5000, seed=4)]),
    "16 bit": (0.3 * normal(20000, seed=5)).clamp(-1, 1).mul(32767).round() / 32768,
}


@pytest.mark.parametrize("name", SOUNDS)
def test_it_is_kaldis(name):
    assert_within(name, mel_filters(SOUNDS[name]), kaldi(SOUNDS[name]), 1e-3)


@pytest.mark.parametrize("hertz", [(440,), (100, 1000, 3000), (3000,), (7500,)])
def test_tones_are_kaldis_where_float32_can_tell(hertz):
    """70 dB under the loudest band of a frame both are rounding: there Kaldi itself is off by up to 1 from
    float64."""
    audio = tones(40000, *hertz)
    got, want = mel_filters(audio), kaldi(audio)
    heard = want > want.amax(1, keepdim=True) - math.log(1e7)
    assert 0.03 < heard.float().mean() < 1
    assert_within("heard", got[heard], want[heard], 1e-3)
    below = got[~heard] < want.amax(1, keepdim=True).expand_as(want)[~heard] - math.log(0.9e7)
    assert below.all()


@pytest.mark.parametrize("num", [400, 401, 559, 560, 561, 719, 720, 4321, 82159, 82160, 82161])
def test_any_length(num):
    audio = SOUNDS["noise"].repeat(2)[:num]
    got = mel_filters(audio)
    assert got.shape == (num_frames(num), BANDS)
    assert_within(f"{num} samples", got, kaldi(audio), 1e-3)


@pytest.mark.parametrize("num", [0, 1, 160, 399])
def test_less_than_a_frame_is_no_frame(num):
    assert num_frames(num) == 0 == len(kaldi(torch.zeros(num)))
    assert mel_filters(torch.zeros(num)).shape == (0, BANDS)
    assert beats_filters(torch.zeros(3, num)).shape == (3, 0, BANDS)


def test_5_12_seconds_are_510_frames_and_512_want_240_samples_more():
    assert num_frames(81920) == 510 and num_frames(82160) == 512
    assert num_frames(511 * STEP + FRAME - 1) == 511


def test_windows_together_are_windows_alone():
    both = torch.stack([SOUNDS["noise"][:30000], SOUNDS["loud"]])
    got = mel_filters(both)
    for k in range(2):
        assert_within(f"window {k}", got[k], mel_filters(both[k]), 1e-5)


def test_long_audio_in_parts_is_audio_at_once(monkeypatch):
    whole = mel_filters(SOUNDS["noise"])
    monkeypatch.setattr("longcompress.encoders.fbank.FRAMES_AT_ONCE", 100)
    assert_within("parts", mel_filters(SOUNDS["noise"][None])[0], whole, 1e-5)


def test_beats_cache_is_normalised():
    got = beats_filters(SOUNDS["noise"])
    assert_within("normalised", got, (kaldi(SOUNDS["noise"]) - 15.41663) / (2 * 6.55582), 1e-4)
    assert got.dtype == torch.float32
    silence = (math.log(FLOOR) - MEAN) / (2 * STD)
    assert_within("silence", beats_filters(torch.zeros(800)), torch.full((3, BANDS), silence), 1e-5)


def test_samples_are_left_as_they_are():
    samples = SOUNDS["noise"][:5000].clone()
    mel_filters(samples)
    assert torch.equal(samples, SOUNDS["noise"][:5000])


def test_autocast_changes_nothing():
    want = mel_filters(SOUNDS["loud"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mel_filters(SOUNDS["loud"]), want)
