"""A longcompress model as lmms-eval asks one: videos, frames, sounds in, answers at a declared budget out.

lmms-eval imports this file (see `lmms_plugin`); nothing of ours does. Written against lmms-eval 0.7.3.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from torch import nn
from tqdm import tqdm

from ...llm import Example
from ...llm.prompt import IGNORED
from ...media import reader as media
from ...memory import VideoMemory
from ...presets import load
from ...session import Session
from ...types import Audio, CompressedVideo, Frames

# The fields of a task's generation_kwargs that transformers' generate gets unchanged.
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")
UNHEEDED = ("image_aspect_ratio", "max_length", "modalities")  # of other models' preprocessing


class LongCompressModel(lmms):
    """What `--model longcompress` makes.

    The visuals of a request are laid one behind another in time: a video lasts as long as it does, a frame a
    step of the model's frame rate. They become one memory, which is kept for following requests with the same
    visuals. A request without visuals is asked of the language model alone.

    Args:
        pretrained: preset, folder or hub name.
        budget: tokens of a memory; None: as the model's config says.
        streams: what is taken in of a video; "both": all that the model takes in.
        device: "cpu", "cuda", "cuda:1", ...; None: the GPU if there is one.
        dtype: of encoders and language model, as "bfloat16"; None: float32 on CPU, bfloat16 on a GPU.
        max_new_tokens: longest answer; None: as the task says.
        batch_size: questions about the same visuals that are answered together.
        max_batch_size: must be None.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        budget: int | None = None,
        streams: Literal["video", "audio", "both"] = "both",
        device: str | None = None,
        dtype: str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1 or max_batch_size is not None:
            raise ValueError(
                "batch_size must be a whole number, at least 1, and max_batch_size must be left out, got "
                f"{batch_size!r} and {max_batch_size!r}"
            )
        self.model = load(str(pretrained), device=device, dtype=dtype)
        known = self.model.media
        if streams != "both" and streams not in known:
            raise ValueError(f"streams must be 'both' or of {', '.join(known)}, got {streams!r}")
        self.streams = known if streams == "both" else (streams,)
        self.budget = self.model.config.budget.tokens if budget is None else int(budget)
        self.model.check_budget(self.budget)
        self.max_new_tokens = max_new_tokens
        self.batch_size = int(batch_size)
        self._memory: tuple[str, VideoMemory] | None = None

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The answer to each request, cut before the task's `until`; `input_tokens` counts the memory."""
        answers = []
        for some in self._together(requests):
            until, how = self._how(some[0].args[1])
            memory = self._memory_of(some[0])
            answered = memory.ask_all([request.args[0] for request in some], **how)
            count = TokenCounts(input_tokens=memory.num_tokens)
            answers += [GenerationResult(_cut(item.text, until), count) for item in answered]
        return answers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """(loss, whether it is the greedy answer) of each request's continuation.

        Whatever the name says, lmms-eval wants the loss and chooses the least (its issue 370): the mean cross
        entropy over the continuation's tokens and the end of the answer. Spaces around the continuation are
        left out, for answers are learned without. A bare pair would become text in 0.7.3, so it is wrapped.
        """
        bar = tqdm(requests, desc="longcompress", disable=self.rank > 0)
        return [GenerationResult(self._loss(request)) for request in bar]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported: NotImplementedError, always."""
        raise NotImplementedError(
            "longcompress answers each question alone; tasks of several rounds (generate_until_multi_round) "
            "can't be run with it, leave them out of --tasks"
        )

    def clean(self) -> None:
        """Let go of the model and of the last memory."""
        self._memory = None
        super().clean()

    def _together(self, requests: Sequence[Instance]) -> Iterator[list[Instance]]:
        """Runs of at most batch_size requests in order, with the same visuals and options."""
        bar = tqdm(requests, desc="longcompress", disable=self.rank > 0)
        if self.batch_size == 1:
            yield from ([request] for request in bar)
            return
        for _, run in groupby(bar, lambda request: (_key(self._visuals(request)), repr(request.args[1]))):
            while some := list(islice(run, self.batch_size)):
                yield some

    def _loss(self, request: Instance) -> tuple[float, bool]:
        if len(request.args) != 6:
            raise ValueError(
                "a task with metric acc_mutual_info asks for a continuation of nothing, which longcompress "
                "can't give: it answers questions; leave that metric out"
            )
        context, target, _, doc_id, task, split = request.args
        continuation = target(self.task_dict[task][split][doc_id]) if callable(target) else target
        llm = self.model.llm
        video = self._memory_of(request).video
        batch = llm.collate([Example(video, [(context, str(continuation).strip())])])
        with torch.no_grad():
            logits = llm(**{name: value.to(self.device) for name, value in batch.items()})["logits"][0]
        labels = batch["labels"][0, 1:].to(self.device)
        learned = labels != IGNORED
        predicted, labels = logits[:-1][learned].float(), labels[learned]
        loss = nn.functional.cross_entropy(predicted, labels)
        return float(loss), bool((predicted.argmax(-1) == labels).all())

    def _visuals(self, request: Instance) -> list[Any]:
        """The visuals of a request, flat, in their order."""
        *_, doc_to_visual, doc_id, task, split = request.args
        return _flat(doc_to_visual(self.task_dict[task][split][doc_id]))

    def _memory_of(self, request: Instance) -> VideoMemory:
        """The memory of a request's visuals: the last one, if they are the same."""
        visuals = self._visuals(request)
        key = _key(visuals)
        if self._memory is None or self._memory[0] != key:
            self._memory = (key, self._compressed(visuals))
        return self._memory[1]

    def _compressed(self, visuals: Sequence[Any]) -> VideoMemory:
        """The memory of visuals that lie one behind another; ValueError if none of them is taken in."""
        if not visuals:
            return VideoMemory(CompressedVideo({}, {}, self.budget), self.model)
        plain = replace(self.model.config.media, video="video" in self.streams, audio="audio" in self.streams)
        with ExitStack() as stack:
            readings = []
            for visual in visuals:
                source, part, is_video = _source(visual, plain.rate_fps)
                config = plain if is_video else replace(plain, frames=0)
                reading = stack.enter_context(media.read(source, config, part=part))
                readings.append((reading, reading.streams or {part.modality for part in source}))
            present = [name for name in self.streams if any(name in names for _, names in readings)]
            names = [str(v) if isinstance(v, str | Path) else type(v).__name__ for v in visuals]
            if not present:
                raise ValueError(
                    f"visuals have no {' and no '.join(self.streams)} that could be read: {names}"
                )
            session = Session(self.model, self.budget, media=present)
            for reading, _ in readings:
                start_s = session.encoder.end_s
                for chunk in reading:
                    session.push(_later(chunk, start_s))
        session.close()
        if not session.stats()["raw_tokens"]:
            raise ValueError(f"visuals gave neither a frame nor a sample: {names}")
        return session.memory()

    def _how(self, generation: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
        """(what ends an answer, options of generate) of a task's generation_kwargs."""
        until = generation.get("until") or []
        options = {name: generation[name] for name in SAMPLING if generation.get(name) is not None}
        options["do_sample"] = bool(options.get("do_sample")) and options.get("temperature", 1.0) > 0
        if not options["do_sample"]:  # greedy, or beams: what shapes a draw would only be warned of
            options = {k: v for k, v in options.items() if k not in ("temperature", "top_p", "top_k")}
        strange = sorted(set(generation) - {"until", "max_new_tokens", *SAMPLING, *UNHEEDED})
        if strange:
            warnings.warn(f"generation_kwargs {strange} are not heeded by longcompress", stacklevel=2)
        longest = self.max_new_tokens
        longest = generation.get("max_new_tokens") if longest is None else longest
        return [until] if isinstance(until, str) else list(until), options | {"max_new_tokens": longest}


def _flat(visuals: Any) -> list[Any]:
    """Visuals as tasks give them (one, a list, lists of lists, None) in one list."""
    if isinstance(visuals, list | tuple):
        return [item for some in visuals for item in _flat(some)]
    return [] if visuals is None else [visuals]


def _key(visuals: Sequence[Any]) -> str:
    """The same for the same visuals only."""
    digest = hashlib.sha256()
    for visual in visuals:
        if isinstance(visual, str | Path):
            about, data = f"file {visual}", b""
        elif isinstance(visual, Mapping):
            about = repr(sorted((k, v) for k, v in visual.items() if k != "array"))
            data = np.asarray(visual.get("array", ())).tobytes()
        else:
            about, data = f"frame {np.shape(visual)}", np.asarray(visual).tobytes()
        digest.update(f"{about} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def _source(visual: Any, rate_fps: float) -> tuple[Any, tuple[float, float] | None, bool]:
    """(what `media.read` takes, the part of it, whether it is a video) of one visual."""
    if isinstance(visual, str | Path):
        return visual, None, True
    if isinstance(visual, Mapping) and {"array", "sampling_rate"} <= set(visual):
        samples = np.asarray(visual["array"], np.float32)
        return media.arrays(samples=samples, rate_hz=int(visual["sampling_rate"])), None, False
    if isinstance(visual, Mapping) and ("path" in visual or "url" in visual):
        begin_s, end_s = visual.get("video_start"), visual.get("video_end")
        if (begin_s is None) != (end_s is None):
            got = f"{begin_s} and {end_s}"
            raise ValueError(f"video_start and video_end must both be given or left out, got {got}")
        part = None if begin_s is None or end_s is None else (float(begin_s), float(end_s))
        return visual.get("path") or visual["url"], part, True
    if hasattr(visual, "convert"):  # of PIL
        return media.arrays(np.array(visual.convert("RGB"))[None], rate_fps=rate_fps), None, False
    raise TypeError(
        "a visual must be the path of a video or frame, a PIL frame, or a sound as {'array', "
        f"'sampling_rate'}}, got {type(visual).__name__}"
    )


def _later(part: Frames | Audio, delay_s: float) -> Frames | Audio:
    """The same, delayed."""
    if isinstance(part, Frames):
        return replace(part, time_s=part.time_s + delay_s)
    return replace(part, start_s=part.start_s + delay_s)


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first of these in it."""
    ends = [text.index(stop) for stop in until if stop and stop in text]
    return text[: min(ends, default=len(text))].strip()
