"""Speech to text with times: a Whisper model and one window of audio."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from ..encoders.checks import kind_of, load_whole
from ..types import Event

MIN_STEP_S = 1.0  # of a window, whatever the model writes
MAX_NO_SPEECH = 0.6  # with MIN_LOGPROB, Whisper's own: a window without speech has no text
MIN_LOGPROB = -1.0  # mean of a token


class Transcriber:
    """A Whisper that writes what is said in a window, and when.

    Attributes:
        name: folder or hub name.
        language: that is spoken, as "en"; None: each window's is detected.
        rate_hz: of samples.
        window: samples of a window at most.
    """

    def __init__(
        self, model: WhisperForConditionalGeneration, extractor: WhisperFeatureExtractor, tokenizer: Any,
        name: str = "", language: str | None = None,
    ) -> None:  # fmt: skip
        self.model, self.extractor, self.tokenizer = model.eval(), extractor, tokenizer
        self.name, self.language = name, language
        self.rate_hz: int = extractor.sampling_rate
        self.window: int = extractor.n_samples
        self.first_time: int = model.generation_config.no_timestamps_token_id + 1

    @classmethod
    def load(cls, base: str | Path, language: str | None = None, **kwargs: Any) -> "Transcriber":
        """The Whisper in a folder or on the hub, with decoder and tokenizer.

        Args:
            base: its name.
            language: as above.
            kwargs: dtype and more of `from_pretrained`.

        Raises:
            ValueError: it is no whole Whisper, or doesn't know the language.
            OSError: a file can't be had.
        """
        known = kind_of(base)
        if known.model_type != "whisper" or "WhisperEncoder" in (known.architectures or ()):
            kind = (known.architectures or [known.model_type])[0]
            raise ValueError(f"base {str(base)!r} must be a whole Whisper that writes text, got {kind}")
        settings = GenerationConfig.from_pretrained(base)
        for field in ("no_timestamps_token_id", "is_multilingual"):
            if getattr(settings, field, None) is None:
                raise ValueError(
                    f"base {str(base)!r}: its generation_config.json must name {field}; take the file of the "
                    "published model"
                )
        languages = getattr(settings, "lang_to_id", None) or {}
        if language is not None and f"<|{language}|>" not in languages:
            names = " ".join(sorted(name.strip("<|>") for name in languages)) or "leave it out, it knows one"
            raise ValueError(f"language must be of {str(base)!r} ({names}), got {language!r}")
        extractor = WhisperFeatureExtractor.from_pretrained(base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = load_whole(WhisperForConditionalGeneration, base, "sdpa", **kwargs)
        return cls(model, extractor, tokenizer, str(base), language)

    @torch.no_grad()
    def read(self, samples: Tensor) -> tuple[list[Event], float]:
        """The texts of at most a window of (n,) samples, and the seconds that are done.

        What is done ends with a text. What the model began to write after it is left to the next window.
        """
        length_s = len(samples) / self.rate_hz
        weight = next(self.model.parameters())
        features = self.extractor(
            samples.cpu().numpy(), sampling_rate=self.rate_hz, return_tensors="pt"
        ).input_features.to(weight.device, weight.dtype)
        segments = self._segments(features)
        events = []
        for segment in segments:
            words = [token for token in segment["tokens"].tolist() if token < self.first_time]
            text = self.tokenizer.decode(words, skip_special_tokens=True).strip()
            start_s, end_s = (float(segment[name]) for name in ("start", "end"))
            if text and start_s < length_s:
                events.append(Event(round(start_s, 2), round(min(end_s, length_s), 2), text))
        done_s = length_s
        if segments and bool((segments[-1]["tokens"][-2:] >= self.first_time).all()):
            # two times end it: of the last text, and of the next, which was only begun
            done_s = min(length_s, max(float(segments[-1]["end"]), MIN_STEP_S))
        return events, done_s

    def _segments(self, features: Tensor) -> list[dict[str, Any]]:
        """transformers' segments of (1, bands, frames), each with its times and tokens."""
        settings = self.model.generation_config
        many = {"task": "transcribe", "language": self.language} if settings.is_multilingual else {}
        try:
            return self.model.generate(
                features, return_timestamps=True, return_segments=True, force_unique_generate_call=True,
                condition_on_prev_tokens=False, no_speech_threshold=MAX_NO_SPEECH,
                logprob_threshold=MIN_LOGPROB, temperature=0.0, **many,
            )["segments"][0]  # fmt: skip
        except IndexError:  # it stumbles over a window that it has left out, as one without speech
            start = torch.tensor([[self.model.config.decoder_start_token_id]], device=features.device)
            logits = self.model(features, decoder_input_ids=start).logits[0, 0]
            if float(logits.softmax(0)[self.first_time - 2]) <= MAX_NO_SPEECH:
                raise
            return []
