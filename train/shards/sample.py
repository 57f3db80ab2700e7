"""Features of a video as members of a shard: a hold that smaller budgets are compressed from; no pickle."""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...compression.state import Group, Hold, Mean, Piece
from ...config import to_dict
from ...model import LongCompress
from ...types import Tokens

FORMAT = 1
JSON = "json"
TENSORS = {
    "x": torch.bfloat16, "metric": torch.float32, "size": torch.float32, "time_s": torch.float64,
    "start_s": torch.float64, "end_s": torch.float64, "offsets": torch.int32,
}  # fmt: skip


def members_of(
    hold: Hold, model: LongCompress, record: Mapping[str, Any], duration_s: float
) -> dict[str, bytes]:
    """Member name -> bytes of a video's sample: `json`, and `STREAM.safetensors` for each of its streams.

    A stream's tensors: x (N, C) bfloat16, metric (N, d), size (N,) float32, time_s, start_s, end_s (N,)
    float64 in seat order, offsets (S + 1,) int32 of its tokens by piece; summary (E, C) float64, the sum
    of its class tokens, where it has them.

    Args:
        hold: what a session kept, at the detail wanted.
        model: that made it.
        record: the video and what is said of it, as JSON.
        duration_s: length of what was compressed.

    Raises:
        ValueError: a feature is not finite.
    """
    pieces = [[p.start_s, p.end_s, p.count, p.novelty] for p in hold.pieces]
    told: dict[str, Any] = {
        "format": FORMAT, "identity": model.identity(), "segments": to_dict(model.config.segments),
        "merge": to_dict(model.config.merge), "duration_s": duration_s, "pieces": pieces, "streams": {},
    }  # fmt: skip
    out = {}
    for name in hold.streams():
        groups = [p.groups.get(name) for p in hold.pieces]
        there = [g for g in groups if g is not None]
        tokens = Tokens.join(g.tokens for g in there)
        counts = torch.tensor([0, *(0 if g is None else len(g) for g in groups)])
        tensors = {
            "x": tokens.x.to(torch.bfloat16), "metric": torch.cat([g.metric for g in there]),
            "size": tokens.size, "time_s": tokens.time_s, "start_s": tokens.start_s, "end_s": tokens.end_s,
            "offsets": counts.cumsum(0).int(),
        }  # fmt: skip
        for tensor_name in ("x", "metric"):
            if not bool(torch.isfinite(tensors[tensor_name]).all()):
                raise ValueError(
                    f"stream {name!r}: {tensor_name} is not finite; the encoder's output is broken there"
                )
        count = 0
        mean = hold.memory.get(name)
        if isinstance(mean, Mean):
            tensors["summary"], count = mean.total, mean.count
        told["streams"][name] = {
            "tokens": len(tokens),
            "frames": hold.seen.get(name, 0),
            "summaries": count,
        }
        out[f"{name}.safetensors"] = save(
            {k: v.detach().cpu().contiguous() for k, v in sorted(tensors.items())}
        )
    out[JSON] = json.dumps(dict(record) | {"features": told}, sort_keys=True).encode()
    return out


def hold_of(members: Mapping[str, bytes], where: str, device: torch.device | str = "cpu") -> Hold:
    """The hold that `members_of` wrote, x in float32.

    Args:
        members: of one sample.
        where: what errors call it.
        device: of the tensors.

    Raises:
        ValueError: a member is missing or cut, of another type or shape, or not finite.
    """
    told = features_of(members, where)
    pieces = told["pieces"]
    groups: list[dict[str, Group]] = [{} for _ in pieces]
    hold = Hold()
    for name, stream in sorted(told["streams"].items()):
        tensors = {k: v.to(device) for k, v in _tensors(members, name, len(pieces), where).items()}
        at = tensors["offsets"].tolist()
        tokens = Tokens(
            tensors["x"].float(), tensors["size"], tensors["time_s"], tensors["start_s"], tensors["end_s"]
        )
        for i, (a, b) in enumerate(pairwise(at)):
            if b > a:
                groups[i][name] = Group(tokens.take(slice(a, b)), tensors["metric"][a:b])
        hold.seen[name] = stream["frames"]
        if stream["summaries"]:
            hold.memory[name] = Mean(tensors["summary"], stream["summaries"])
    hold.pieces = [
        Piece(start_s, end_s, count, of, novelty)
        for (start_s, end_s, count, novelty), of in zip(pieces, groups, strict=True)
    ]
    return hold


def features_of(members: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """What the `json` member says of the features.

    Raises:
        ValueError: there is no such member, it is no JSON, has no features, or is of a newer format.
    """
    if JSON not in members:
        raise ValueError(f"{where}: member json is missing")
    try:
        told = json.loads(members[JSON]).get("features")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{where}: member json is no JSON object: {error}") from error
    if not isinstance(told, dict) or not {"format", "pieces", "streams", "identity", "segments"} <= set(told):
        raise ValueError(f"{where}: member json holds no features; make them with `longcompress shards make`")
    if told["format"] > FORMAT:
        raise ValueError(
            f"{where}: features of format {told['format']}, this version reads up to {FORMAT}; upgrade"
        )
    return told


def check_model(told: Mapping[str, Any], model: LongCompress, where: str) -> None:
    """ValueError unless features were made by these encoders and cut into these segments."""
    if told["identity"] != model.identity():
        raise ValueError(
            f"{where}: features of other encoders than model {model.config.name!r} has; make them anew"
        )
    want = to_dict(model.config.segments)
    if told["segments"] != want:
        raise ValueError(
            f"{where}: features were cut into segments by {told['segments']}, the model cuts by {want}; "
            "use the shard's, or make features anew"
        )


def _tensors(members: Mapping[str, bytes], name: str, num_pieces: int, where: str) -> dict[str, Tensor]:
    """The checked tensors of a stream."""
    member = f"{name}.safetensors"
    if member not in members:
        raise ValueError(f"{where}: member {member} is missing")
    try:
        tensors = load(members[member])
    except SafetensorError as error:
        raise ValueError(f"{where}: member {member} is no safetensors file, or was cut: {error}") from error
    for tensor_name, dtype in TENSORS.items():
        if tensor_name not in tensors:
            raise ValueError(f"{where}: member {member} lacks the tensor {tensor_name!r}")
        if tensors[tensor_name].dtype != dtype:
            raise ValueError(
                f"{where}: member {member}: {tensor_name} must be {dtype}, got {tensors[tensor_name].dtype}"
            )
    num = tensors["x"].shape[0]
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    fine = all(shapes[k] == (num,) for k in ("size", "time_s", "start_s", "end_s"))
    fine = fine and tensors["x"].dim() == tensors["metric"].dim() == 2 and shapes["metric"][0] == num
    if not fine or shapes["offsets"] != (num_pieces + 1,):
        raise ValueError(
            f"{where}: member {member}: shapes don't fit together or its {num_pieces} pieces: {shapes}"
        )
    at = tensors["offsets"]
    if int(at[0]) != 0 or int(at[-1]) != num or bool((at.diff() < 0).any()):
        raise ValueError(f"{where}: member {member}: offsets must rise from 0 to {num}")
    for tensor_name in ("x", "metric"):
        if not bool(torch.isfinite(tensors[tensor_name]).all()):
            raise ValueError(f"{where}: member {member}: {tensor_name} is not finite")
    return tensors
