"""Training of the audio encoder of the small stock model that hears, on synthetic sounds."""

from functools import partial
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...encoders import StockAudio
from ...model import LongCompress
from .encoders import EncoderConfig, audio_samples, learn_scenes, scenes, score
from .omni import TOKENS_PER_S, sounds_of
from .vl import FRAME_AXIS


class AudioTask(nn.Module):
    """The audio encoder of a model, with its loss: squared distance to the words of the sounds that each
    token has, and cross entropy of its likeness to each."""

    sounds: Tensor

    def __init__(self, model: LongCompress) -> None:
        super().__init__()
        assert isinstance(model.audio, StockAudio)
        lm, self._audio = model.llm.lm, (model.audio,)
        self.encoder = lm.model.audio_tower
        self.register_buffer("sounds", sounds_of(lm, model.llm.tokenizer), persistent=False)

    def forward(self, media: Tensor, labels: Tensor) -> dict[str, Any]:
        """media (B, samples) float32; labels (B, W, sounds) share of each token that a sound fills."""
        (audio,) = self._audio
        mel = audio.extractor(
            list(media.numpy()), sampling_rate=audio.rate_hz, return_tensors="pt",
            return_attention_mask=True, padding="longest",
        )  # fmt: skip
        output = audio.features(mel.input_features, mel.attention_mask)  # (B W, D)
        share = rearrange(labels, "b w s -> (b w) s")
        length = self.sounds.square().sum(1).mean()
        target = share @ self.sounds
        target[:, FRAME_AXIS] = 2.0
        logits = 12 * output @ self.sounds.t() / length - 6  # likeness is 1 where it sounds
        loss = nn.functional.binary_cross_entropy_with_logits(logits, share)
        loss = loss + 2 * (output - target).square().sum(1).mean() / length
        return {"loss": loss, "logits": logits.view_as(labels)}


def train_audio(model: LongCompress, config: EncoderConfig, seed: int, out: Path) -> dict[str, float]:
    """Train the audio encoder of a model, from the last checkpoint in `out` on; its score on unseen audio."""
    task = AudioTask(model)
    task.requires_grad_(True)
    samples = partial(audio_samples, seconds=config.seconds, rate=TOKENS_PER_S)
    learn_scenes(task, samples, config, seed, out, warmup=50, decay=0.4, save_steps=100)
    return score(task, iter(DataLoader(scenes(samples, seed + 900), batch_size=16)), 20)
