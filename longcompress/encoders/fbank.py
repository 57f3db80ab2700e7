"""The mel filters of BEATs: log energies of 128 mel bands every 10 ms, as Kaldi computes them.

Written from Kaldi's definitions, with the options of BEATs (Chen et al., arXiv 2212.09058): mono at 16 kHz in
units of 16-bit samples, frames of 25 ms every 10 ms that lie whole within the audio, no dither, no energy
term. Equal to `kaldi-native-fbank`, which the tests run beside it. Letters: A windows of audio, n samples,
L frames.
"""

import math

import torch
from torch import Tensor

RATE_HZ = 16000
FRAME, STEP = 400, 160  # samples: 25 ms, 10 ms
BANDS = 128
POINTS = 512  # of the Fourier transform: the power of two above a frame
LOW_HZ, HIGH_HZ = 20.0, 8000.0
LOUDEST = 32768.0  # 1.0 in 16-bit samples
EMPHASIS = 0.97
POWER = 0.85  # of a Hann window: Povey's
FLOOR = torch.finfo(torch.float32).eps  # of a band's energy: silence is log(FLOOR) = -15.94
MEAN, STD = 15.41663, 6.55582  # of the logs over BEATs' training data (AudioSet)
FRAMES_AT_ONCE = 8192  # bounds the memory for an hour of audio


def num_frames(num_samples: int) -> int:
    """Number of frames that lie whole within `num_samples`."""
    return max(0, 1 + (num_samples - FRAME) // STEP)


def beats_filters(samples: Tensor) -> Tensor:
    """(A, L, 128) float32 input of `Beats`: `mel_filters` less its mean, over twice its deviation."""
    return (mel_filters(samples) - MEAN) / (2 * STD)


@torch.no_grad()
def mel_filters(samples: Tensor) -> Tensor:
    """(A, L, 128) float32 natural logs of the energies of the bands, lowest first, of samples (A, n) float32
    in [-1, 1], mono at 16 kHz; L = num_frames(n). Samples (n,) give (L, 128)."""
    count = num_frames(samples.shape[-1])
    if not count:
        return samples.new_zeros(*samples.shape[:-1], 0, BANDS)
    frames = samples.unfold(-1, FRAME, STEP)  # (A, L, FRAME)
    window, bands = povey(samples.device), triangles(samples.device)
    with torch.autocast(samples.device.type, enabled=False):  # a matrix product in bf16 would be off by 1e-2
        return torch.cat([_logs(part, window, bands) for part in frames.split(FRAMES_AT_ONCE, dim=-2)], -2)


def _logs(frames: Tensor, window: Tensor, bands: Tensor) -> Tensor:
    """(A, L, 128) logs of the energies of frames (A, L, FRAME)."""
    x = frames * LOUDEST
    x = x - x.mean(-1, keepdim=True)
    before = torch.cat([x[..., :1], x[..., :-1]], -1)  # the first sample follows itself
    spectrum = torch.fft.rfft((x - EMPHASIS * before) * window, POINTS)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power[..., : POINTS // 2] @ bands).clamp_min(FLOOR).log()


def povey(device: torch.device | str = "cpu") -> Tensor:
    """(FRAME,) float32: Povey's window, a symmetric Hann window to the power of 0.85."""
    angle = torch.arange(FRAME, dtype=torch.float64, device="cpu") * (2 * math.pi / (FRAME - 1))
    return (0.5 - 0.5 * angle.cos()).clamp_min(0).pow(POWER).float().to(device)


def triangles(device: torch.device | str = "cpu") -> Tensor:
    """(POINTS / 2, BANDS) float32 weight of each frequency in each band: triangles on the mel scale.

    Their feet and tips stand evenly in mel between LOW_HZ and HIGH_HZ, each rising from its neighbour's tip
    below and falling to that above. A low band narrower than the 31.25 Hz between frequencies may hold none.
    """
    feet = torch.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), BANDS + 2, dtype=torch.float64, device="cpu")
    hertz = torch.arange(POINTS // 2, dtype=torch.float64, device="cpu") * (RATE_HZ / POINTS)
    mel = 1127.0 * (1.0 + hertz / 700.0).log()[:, None]
    rise = (mel - feet[:-2]) / (feet[1:-1] - feet[:-2])
    fall = (feet[2:] - mel) / (feet[2:] - feet[1:-1])
    return torch.minimum(rise, fall).clamp_min(0).float().to(device)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)
