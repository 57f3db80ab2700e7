"""The encoders on real weights: DINOv2-small and Whisper tiny.en."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from longcompress.config import AudioConfig, VisionConfig
from longcompress.encoders import AudioEncoder, VisionEncoder
from longcompress.synthetic.scenes import frames, make_scene
from longcompress.types import Audio, Frames

from assets import dinov2_small, whisper_tiny

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def eyes():
    return VisionEncoder.load(VisionConfig(layer=-3, summary_layers=2, batch_size=2), dinov2_small(), 224)


@pytest.fixture(scope="module")
def ears():
    return AudioEncoder.load(AudioConfig(pool=50), whisper_tiny())


def test_dinov2_gives_patches_of_the_layer_asked_for(eyes):
    scene = make_scene(3, 20.0)
    time_s = np.array([4.0, 9.0])
    pixels = torch.from_numpy(frames(scene, time_s, size_px=224))
    got = eyes.encode(Frames(pixels, torch.from_numpy(time_s), 1.0))
    assert got.tokens.x.shape == (2 * 256, 384) and got.patches == 256 and got.metric.shape == (512, 64)
    assert got.summary.shape == (2, 2, 384)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        states = eyes.encoder(pixel_values=x, output_hidden_states=True).hidden_states
    torch.testing.assert_close(got.tokens.x, states[-3][:, 1:].flatten(0, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.summary[:, 1], states[-3][:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.summary[:, 0], states[-4][:, 0], rtol=1e-4, atol=1e-4)


def test_dinov2_sees_that_an_object_came(eyes):
    scene = make_scene(3, 20.0)
    plain = torch.from_numpy(frames(replace(scene, events=()), np.array([4.0]), size_px=224))
    both = plain.repeat(2, 1, 1, 1)
    both[1, 60:120, 60:120] = torch.tensor([220, 30, 30], dtype=torch.uint8)
    got = eyes.encode(Frames(both, torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0))
    moved = (got.tokens.x[256:] - got.tokens.x[:256]).norm(dim=1).view(16, 16)
    assert float(moved[5:8, 5:8].mean()) > 1.5 * float(moved[12:, 12:].mean())


def test_whisper_tokens_are_means_of_its_positions(ears):
    generator = torch.Generator().manual_seed(0)
    samples = 0.1 * torch.randn(16000 * 7, generator=generator)
    got = ears.encode(Audio(samples, 30.0))
    assert got.tokens.x.shape == (7, 384) and got.metric.shape == (7, 64)
    assert got.tokens.start_s.tolist() == [30.0 + k for k in range(7)]
    mel = ears.extractor(samples.numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        want = ears.encoder(mel).last_hidden_state[0].unflatten(0, (-1, 50)).mean(1)[:7]
    torch.testing.assert_close(got.tokens.x, want)


def test_whisper_hears_when_a_tone_begins(ears):
    samples = torch.zeros(16000 * 10)
    time_s = torch.arange(16000 * 4) / 16000
    samples[16000 * 4 : 16000 * 8] = 0.3 * torch.sin(2 * torch.pi * 440 * time_s)
    x = ears.encode(Audio(samples, 0.0)).tokens.x
    jump = (x[1:] - x[:-1]).norm(dim=1)
    assert {3, 7} <= set(jump.topk(4).indices.tolist())
