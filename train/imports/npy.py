"""Features in the files that VTimeLLM's and LongVALE's own code reads: an .npy a video and stream."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

import numpy as np

from ...files import replacing
from ...model import LongCompress
from ...session import read_session
from ..records import Record
from ..shards.make import ENDLESS, MakeOptions, Result, make_share, try_part


@dataclass(frozen=True)
class Place:
    """Where a stream's arrays lie, and of what type they are."""

    folder: str
    dtype: Literal["float16", "float32"]


LAYOUTS: dict[str, dict[str, Place]] = {
    "vtimellm": {"video": Place("", "float16")},
    "longvale": {
        "video": Place("visual", "float16"), "audio": Place("audio", "float32"),
        "speech": Place("speech", "float32"),
    },
}  # fmt: skip
"""Published model -> stream -> its place; the folders are what their commands' three flags name."""


def make(
    records: Sequence[Record], out: str | Path, model: LongCompress, **options: Unpack[MakeOptions]
) -> list[Result]:
    """Write OUT/KEY.npy (vtimellm), or OUT/visual/KEY.npy, OUT/audio/KEY.npy and OUT/speech/KEY.npy
    (longvale): (tokens, C) by time. A stream that a video lacks has no file. Run again it goes on.

    Args:
        records, options: as for `shards.make`.
        out: folder.
        model: encoders of one of LAYOUTS, by its name, in the paper's mode.

    Raises:
        ValueError: as `shards.make`; the model has no such layout, or takes frames by rate.
    """
    layout = LAYOUTS.get(model.config.name)
    if layout is None:
        raise ValueError(
            f"model must be one of {', '.join(LAYOUTS)}, whose features are .npy files, got "
            f"{model.config.name!r}; make shards instead"
        )
    if not model.config.media.frames:
        raise ValueError('variant mode must be "paper": their code wants 100 frames of a video, got "ours"')
    root = Path(out)

    def part(record: Record, folder: Path) -> Result:
        marker = folder / f"{record.key}.json"
        return try_part(
            record, folder, marker, lambda: arrays_of(record, model, layout),
            lambda arrays: _write(record, root, marker, layout, arrays),
        )  # fmt: skip

    return make_share(records, root, lambda own, folder: (part(r, folder) for r in own), **options)


def arrays_of(record: Record, model: LongCompress, layout: dict[str, Place]) -> dict[str, np.ndarray]:
    """stream -> (tokens, C) of a video or the part of it that its record is of.

    Raises:
        ValueError: it can't be read, or frames of it are missing.
    """
    session = read_session(model, record.video, budget=ENDLESS, interval=record.part, progress=False)
    streams = session.state().compress().streams
    num_frames = model.config.media.frames
    frames = len(streams["video"]) if "video" in streams else num_frames
    if frames != num_frames:
        raise ValueError(
            f"{record.video} gave {frames} frames of {num_frames}, which their code needs; the others "
            "can't be decoded"
        )
    arrays = {n: tokens.x.float().cpu().numpy().astype(layout[n].dtype) for n, tokens in streams.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{record.video}: features of stream {name!r} aren't finite in {array.dtype}")
    return arrays


def _write(
    record: Record, root: Path, marker: Path, layout: dict[str, Place], arrays: dict[str, np.ndarray]
) -> None:
    """The arrays, each whole or not at all, and last what says that all are there."""
    for name, array in arrays.items():
        path = root / layout[name].folder / f"{record.key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    with replacing(marker) as part:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        part.write_text(json.dumps({"key": record.key, "streams": shapes}) + "\n")
