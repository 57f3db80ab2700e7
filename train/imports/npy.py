"""Features in the files that VTimeLLM's and LongVALE's own code reads: an .npy a video and stream."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import replacing
from ...model import LongCompress
from ...videos import read_session
from ..records import Record
from ..shards.make import ENDLESS, Result, each, make_share, try_part

Layout = dict[str, tuple[str, str]]
LAYOUTS: dict[str, Layout] = {
    "vtimellm": {"video": ("", "float16")},
    "longvale": {"video": ("visual", "float16")} | {name: (name, "float32") for name in ("audio", "speech")},
}
"""Published model -> stream -> (folder of its arrays, their type); the folders are what their commands' three
flags name."""


def make(records: Sequence[Record], out: str | Path, model: LongCompress, **options: Any) -> list[Result]:
    """Write OUT/KEY.npy (vtimellm), or OUT/visual/KEY.npy, OUT/audio/KEY.npy and OUT/speech/KEY.npy
    (longvale): (tokens, C) by time. A stream that a video lacks has no file. Run again it goes on.

    The model has the encoders of one of LAYOUTS, by its name, in the paper's mode; the rest is as for
    `shards.make`.
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

        def write(arrays: dict[str, np.ndarray]) -> None:
            for name, array in arrays.items():
                path = root / layout[name][0] / f"{record.key}.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            with replacing(marker) as temporary:  # last what says that all arrays are there
                temporary.write_text(json.dumps({"key": record.key, "streams": shapes}) + "\n")

        return try_part(record, folder, marker, lambda: arrays_of(record, model, layout), write)

    return make_share(records, root, each(part), **options)


def arrays_of(record: Record, model: LongCompress, layout: Layout) -> dict[str, np.ndarray]:
    """stream -> (tokens, C) of a video or the part of it that its record is of."""
    session = read_session(model, record.video, budget=ENDLESS, interval=record.part, progress=False)
    streams = session.state().compress().streams
    num_frames = model.config.media.frames
    if "video" in streams and len(streams["video"]) != num_frames:
        raise ValueError(
            f"{record.video} gave {len(streams['video'])} frames of {num_frames}, which their code needs; "
            "the others can't be decoded"
        )
    arrays = {n: tokens.x.float().cpu().numpy().astype(layout[n][1]) for n, tokens in streams.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{record.video}: features of stream {name!r} aren't finite in {array.dtype}")
    return arrays
