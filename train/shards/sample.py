"""Features of a video as members of a shard; any smaller budget is compressed from them; no pickle."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...compression.global_memory import Mean
from ...compression.merging import Group
from ...compression.state import Chunk, MergeState
from ...files import parse_json
from ...memory import sampling, sampling_hint
from ...model import LongCompress
from ...serialize import to_bytes
from ...types import Tokens, stream_order

FORMAT = 2
JSON = "json"
OF_TOKENS = ("size", "time_s", "start_s", "end_s", "place")
TENSORS = {
    "x": torch.bfloat16, "metric": torch.float32, "size": torch.float32, "time_s": torch.float64,
    "start_s": torch.float64, "end_s": torch.float64, "place": torch.float64, "offsets": torch.int32,
}  # fmt: skip


def members_of(
    state: MergeState, model: LongCompress, record: Mapping[str, Any], duration_s: float
) -> dict[str, bytes]:
    """Member name -> bytes of a video's sample: `json`, and `STREAM.safetensors` for each of its streams.

    A stream's tensors: x (N, C) bfloat16, metric (N, d), size (N,) float32, time_s, start_s, end_s (N,),
    place (N, 3) float64 in seat order, offsets (S + 1,) int32 of its tokens by chunk; summary (E, C) float64,
    the sum of its class tokens, where it has them. ValueError for a feature that is not finite.
    """
    chunks = [[c.start_s, c.end_s, c.num_segments, c.novelty] for c in state.chunks]
    out: dict[str, bytes] = {}
    streams = {}
    for name in state.streams:
        groups = [chunk.groups.get(name) for chunk in state.chunks]
        present = [g for g in groups if g is not None]
        tokens = Tokens.join(g.tokens for g in present)
        counts = torch.tensor([0, *(0 if g is None else len(g) for g in groups)])
        tensors = {
            "x": tokens.x.to(torch.bfloat16), "metric": torch.cat([g.metric for g in present]),
            "offsets": counts.cumsum(0).int(), **{k: getattr(tokens, k) for k in OF_TOKENS},
        }  # fmt: skip
        near = [g.near for g in present if g.near is not None]
        if len(near) == len(present):
            tensors["near"] = torch.cat(near)
        values = {key: tensors[key] for key in ("x", "metric")}
        _check_finite(values, f"stream {name!r}", "; the encoder's output is broken there")
        mean = state.memory.get(name)
        if mean is not None:
            tensors["summary"] = mean.total
        count = mean.count if mean is not None else 0
        num_frames = state.num_frames.get(name, 0)
        streams[name] = {"tokens": len(tokens), "frames": num_frames, "summaries": count}
        packed = {k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}
        out[f"{name}.safetensors"] = to_bytes(packed)
    features = {
        "format": FORMAT,
        "identity": model.identity(features=True), "encoders": model.identity(encoders=True),
        "segments": asdict(model.config.segments), "merge": asdict(model.config.merge),
        "media": sampling(model), "duration_s": duration_s,
        "chunks": chunks, "streams": streams,
    }  # fmt: skip
    out[JSON] = json.dumps(dict(record) | {"features": features}, sort_keys=True).encode()
    return out


@dataclass(frozen=True)
class Sample:
    """A sample as it is read."""

    record: dict[str, Any]  # the video and its annotations, as JSON
    features: dict[str, Any]  # how they were made: format, identity, encoders, segments, merge, streams, ...
    chunks: list[Chunk]  # the merged tokens, x in float32
    num_frames: dict[str, int]  # stream -> frames or windows
    memory: dict[str, Mean]  # stream -> state of its global tokens
    where: str  # its name in errors

    def state(self, empty: MergeState) -> MergeState:
        """The features in a state like `empty` (`LongCompress.merge_state`), to compress to any budget."""
        memory = {name: m for name, m in self.memory.items() if name in empty.global_memory.summaries}
        parts: dict[str, Any] = {"chunks": self.chunks, "num_frames": self.num_frames, "memory": memory}
        return replace(empty, duration_s=self.features["duration_s"], **parts)


def read_sample(members: Mapping[str, bytes], where: str) -> Sample:
    """What `members_of` wrote; a ValueError, which calls it `where`, if a member is missing or broken."""
    record = read_json(members, where)
    features = features_of(record, where)
    record.pop("features")
    if not isinstance(record.get("key"), str) or not record["key"]:
        raise ValueError(f"{where}: member json must have the sample's key, got {record.get('key')!r:.60}")
    chunks = features["chunks"]
    groups: list[dict[str, Group]] = [{} for _ in chunks]
    num_frames: dict[str, int] = {}
    memory: dict[str, Mean] = {}
    for name in stream_order(features["streams"]):
        stream = features["streams"][name]
        tensors = _tensors(members, name, len(chunks), where)
        tokens = Tokens(tensors["x"].float(), *(tensors[k] for k in OF_TOKENS))
        tokens.check(f"{where}: member {name}.safetensors")
        for i, (a, b) in enumerate(pairwise(tensors["offsets"].tolist())):
            if b > a:
                near = tensors["near"][a:b] if "near" in tensors else None
                groups[i][name] = Group(tokens.take(slice(a, b)), tensors["metric"][a:b], near)
        num_frames[name] = stream["frames"]
        if stream["summaries"]:
            shape = tuple(tensors["summary"].shape) if "summary" in tensors else None
            if shape is None or len(shape) != 2 or shape[1] != tokens.x.shape[1]:
                raise ValueError(f"{where}: summary of stream {name!r} must be (E, C), got {shape}")
            memory[name] = Mean(tensors["summary"], stream["summaries"])
    merged = [
        Chunk(start_s, end_s, num, of, novelty)
        for (start_s, end_s, num, novelty), of in zip(chunks, groups, strict=True)
    ]
    return Sample(record, features, merged, num_frames, memory, where)


def decode(item: Mapping[str, Any]) -> Sample:
    """A sample as webdataset hands it out, read: `webdataset.WebDataset(urls).shuffle(64).map(decode)`.

    Raises:
        ValueError: with the shard's URL and the sample's key, if a member is missing or broken; for anything
            but members as bytes.
    """
    members = {n: data for n, data in item.items() if n[:2] != "__"} if isinstance(item, Mapping) else {}
    if not members or "__key__" not in item or not all(isinstance(m, bytes) for m in members.values()):
        need = "a dict with __key__ and its members as bytes"
        hint = "map(decode) comes right after shuffle, without webdataset's own decode() or to_tuple()"
        raise ValueError(f"decode takes a sample of webdataset, {need}, got {str(item)[:60]}; {hint}")
    return read_sample(members, f"{item.get('__url__', '')}: sample {item['__key__']!r}")


def features_of(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """How the features of a sample were made; a ValueError if it has none, or they can't be read."""
    features = record.get("features")
    needed = {"format", "chunks", "streams", "identity", "segments", "duration_s"}
    if not isinstance(features, dict) or not needed <= set(features):
        raise ValueError(f"{where}: member json holds no features; make them with `longcompress shards make`")
    if features["format"] != FORMAT:
        raise ValueError(
            f"{where}: features of format {features['format']}, this version reads {FORMAT}; "
            "make them again with `longcompress shards make`"
        )
    try:
        stream_order(features["streams"])
        numbers = [features["duration_s"], *(n for chunk in features["chunks"] for n in chunk)]
        counts = [s[name] for s in features["streams"].values() for name in ("tokens", "frames", "summaries")]
        is_fine = all(type(n) is int and n >= 0 for n in counts) and all(math.isfinite(n) for n in numbers)
        is_fine = is_fine and all(len(chunk) == 4 and chunk[2] > 0 for chunk in features["chunks"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where}: features of member json can't be read: {error!r}; make it anew"
        ) from error
    if not is_fine:
        raise ValueError(f"{where}: lengths, chunks or counts of member json are no numbers; make it anew")
    return features


def read_json(members: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """The object of the `json` member; a ValueError if there is none."""
    if JSON not in members:
        raise ValueError(f"{where}: member json is missing")
    content = parse_json(members[JSON], f"{where}: member json")
    if not isinstance(content, dict):
        raise ValueError(f"{where}: member json must be an object")
    return content


def without(state: MergeState, stream: str) -> MergeState:
    """The state less one stream; chunks that had no other are left out."""
    chunks = [replace(c, groups={n: g for n, g in c.groups.items() if n != stream}) for c in state.chunks]
    memory = {name: value for name, value in state.memory.items() if name != stream}
    return replace(state, chunks=[chunk for chunk in chunks if chunk.groups], memory=memory)


@dataclass(frozen=True)
class Needs:
    """What features must have been made with, so that a model can learn from them."""

    model: str  # its name
    identity: str
    summaries: bool  # global tokens are made of the encoders' own; else features with or without them will do
    segments: dict[str, Any]
    media: dict[str, Any] | None  # how frames are sampled; None: any

    @classmethod
    def of(cls, model: LongCompress) -> "Needs":
        """A model's."""
        media = sampling(model) if sampling_hint({"media": None}, model) else None
        identity, summaries = model.identity(features=True), model.config.memory.kind == "mean"
        return cls(model.config.name, identity, summaries, asdict(model.config.segments), media)

    def check(self, features: Mapping[str, Any], where: str) -> None:
        """ValueError unless features were made by these encoders and cut into these segments."""
        name = "identity" if self.summaries or "encoders" not in features else "encoders"
        if features.get(name) != self.identity:
            hint = ", with the summaries that memory.kind mean is made of" if self.summaries else ""
            raise ValueError(
                f"{where}: features of other encoders than model {self.model!r} has; make them again{hint}"
            )
        if features.get("segments") != self.segments:
            raise ValueError(
                f"{where}: features were cut into segments by {features.get('segments')}, the model cuts by "
                f"{self.segments}; use the shard's, or make the features again"
            )
        if self.media and features.get("media", self.media) != self.media:
            hint = f"its frames are of {features['media']}, which model.change({{'media': ...}}) sets"
            raise ValueError(f"{where}: features of other frames than model {self.model!r} takes; {hint}")


def _tensors(members: Mapping[str, bytes], name: str, num_chunks: int, where: str) -> dict[str, Tensor]:
    """The checked tensors of a stream."""
    member = f"{name}.safetensors"
    if member not in members:
        raise ValueError(f"{where}: member {member} is missing")
    try:
        tensors = load(members[member])
    except SafetensorError as error:
        raise ValueError(f"{where}: member {member} is no safetensors file, or was cut: {error}") from error
    for key, dtype in TENSORS.items():
        if key not in tensors:
            raise ValueError(f"{where}: member {member} lacks the tensor {key!r}")
        if tensors[key].dtype != dtype:
            raise ValueError(f"{where}: member {member}: {key} must be {dtype}, got {tensors[key].dtype}")
    num = len(tensors["x"]) if tensors["x"].dim() == 2 else -1
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    fine = all(shapes[k] == ((num, 3) if k == "place" else (num,)) for k in OF_TOKENS)
    fine = fine and tensors["metric"].dim() == 2 and shapes["metric"][0] == num
    if not fine or shapes["offsets"] != (num_chunks + 1,):
        raise ValueError(
            f"{where}: member {member}: shapes don't fit together or its {num_chunks} chunks: {shapes}"
        )
    at = tensors["offsets"]
    if int(at[0]) != 0 or int(at[-1]) != num or bool((at.diff() < 0).any()):
        raise ValueError(f"{where}: member {member}: offsets must rise from 0 to {num}")
    metrics = {key: tensors[key] for key in ("metric", "near") if key in tensors}
    if metrics.get("near", tensors["metric"]).shape != shapes["metric"]:
        raise ValueError(
            f"{where}: member {member}: near must have the shape of metric, got {shapes['near']}"
        )
    _check_finite(metrics, f"{where}: member {member}")  # x: `Tokens.check`
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], where: str, hint: str = "") -> None:
    for name, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{where}: {name} is not finite{hint}")
