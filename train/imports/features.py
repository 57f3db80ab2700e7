"""Features that other projects' scripts extracted, as shards that our training reads.

| of | files of a video |
|---|---|
| VTimeLLM | VIDEO/ID.npy (100, 768); of a frame (768,) or (1, 768) |
| LongVALE | VIDEO/ID.npy, AUDIO/ID.npy (n, 768), SPEECH/ID.npy (n, 1280), a row for each 5.12 s |
| LongVLM | LOCAL/ID.pkl (300 or 200, 1024), MEMORY/ID.pkl (25, 1024) |

Sources of the shapes: the projects' code, in the docstrings of `published`. That the features are of the
encoders that the model has can't be seen in them; that is for whoever names the model.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...compression.global_memory import Mean
from ...compression.merging import Group
from ...compression.state import Chunk, MergeState
from ...encode import segments_of_encoded
from ...encoders import AudioEncoder, BeatsEncoder, PixelEncoder, StockAudio, StockVision, VisionEncoder
from ...kernels import head_mean
from ...model import LongCompress
from ...types import Encoded, Tokens
from ..records import Record, checked
from ..shards.make import ENDLESS, Result, each, make_share, try_sample
from ..shards.remote import Place
from ..shards.sample import members_of
from .array_files import read_npy, read_pickle

LONGVLM = ("local", "memory")
ROOM_S = 30.0  # Whisper hears in blocks of so many seconds, so its features may go on behind the end


def make(
    records: Sequence[Record], out: str | Place, model: LongCompress, folders: Mapping[str, str | Path], *,
    unknown_s: float = 0.0, **options: Any,
) -> list[Result]:  # fmt: skip
    """Make the parts of some videos of their features; `shards.pack` makes shards of them.

    Args:
        records: of the videos. Files are named as the record is (KEY), or as its video.
        out, options: as for `shards.make`.
        model: which the features are for; its encoders are not run.
        folders: stream -> folder of .npy files; or "local" and "memory" -> folders of LongVLM's pickles. Of
            audio and speech a video may have none.
        unknown_s: length of videos whose record doesn't tell it; 0: they fail.
    """
    check_folders(model, folders)
    places = {name: Path(folder) for name, folder in folders.items()}

    def part(record: Record, folder: Place) -> Result:
        return try_sample(record, folder, lambda: sample_of(record, model, places, unknown_s))

    return make_share(records, out, each(part), **options)


def check_folders(model: LongCompress, folders: Mapping[str, str | Path]) -> None:
    """ValueError or FileNotFoundError unless the model can be given such features."""
    names = sorted(folders)
    takes = model.streams
    if segmented(model) is not None:
        if names != sorted(LONGVLM):
            raise ValueError(f"model {model.config.name!r} takes features in folders {LONGVLM}, got {names}")
    elif "video" not in names or set(names) - set(takes) or model.encoders["video"].patches != 1:
        raise ValueError(
            f"model {model.config.name!r} takes features of one row a frame in folders of {takes}, the "
            f"video's at least, got {names}"
        )
    for folder in folders.values():
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"no folder of features {folder}")


def segmented(model: LongCompress) -> int | None:
    """Segments of a video where the model cuts as LongVLM does; None: it doesn't."""
    config = model.config
    if config.segments.cut != "frames" or not config.media.frames or not config.video.summary_layers:
        return None
    return config.media.frames // config.segments.frames


def sample_of(
    record: Record, model: LongCompress, folders: Mapping[str, Path], unknown_s: float
) -> dict[str, bytes]:
    """Members of the sample of a video."""
    duration_s = record.duration_s or unknown_s
    if not duration_s > 0:
        raise ValueError(
            f"record {record.key!r} doesn't say how long its video is; add duration_s to it, or give a "
            "length for all such ones (unknown_s)"
        )
    if set(folders) == set(LONGVLM):
        paths = {name: _file(record, folders[name], ".pkl") for name in LONGVLM}
        for name, path in paths.items():
            if not path.is_file():
                raise FileNotFoundError(f"no {name} features {folders[name] / record.key}.pkl")
        local, memory = map(read_pickle, paths.values())
        state = longvlm_state(local, memory, model, duration_s)
    else:
        state = streams_state(record, model, folders, duration_s)
    content = checked(record, duration_s).to_json() | {"video": {"name": Path(record.video).name}}
    return members_of(state, model, content, duration_s)


def streams_state(
    record: Record, model: LongCompress, folders: Mapping[str, Path], duration_s: float
) -> MergeState:
    """The state of a session after a video with these features, an .npy file a stream."""
    streams = {}
    for name in [n for n in model.streams if n in folders]:
        path = _file(record, folders[name], ".npy")
        if name == "video" and not path.is_file():
            raise FileNotFoundError(f"no features {folders[name] / record.key}.npy")
        x = read_npy(path) if path.is_file() else np.zeros(0)
        if name != "video" and not len(x):  # of too little audio no row is made
            continue
        encoder = model.encoders[name]
        assert not isinstance(
            encoder, PixelEncoder | StockVision | StockAudio
        )  # `check_folders`: they have many patches
        try:
            streams[name] = encoded_of(x, encoder, model.config.media.frames, duration_s)
        except ValueError as error:
            raise ValueError(f"{path}: stream {name!r}: {error}") from error
    state = model.merge_state(ENDLESS)
    for segment in segments_of_encoded(model, streams):
        state.add(segment)
    return state


def encoded_of(
    array: np.ndarray, encoder: VisionEncoder | AudioEncoder | BeatsEncoder, frames: int, duration_s: float
) -> Encoded:
    """Features (N, C) as what the encoder would have given of a video. Rows of frames, `frames` of them (0:
    any number) or one, lie evenly in it, rows of audio window after window."""
    if isinstance(encoder, VisionEncoder) and array.ndim == 1:
        array = array[None]  # a frame
    if array.ndim != 2 or array.shape[1] != encoder.width or not len(array):
        raise ValueError(
            f"features must be (N, {encoder.width}), as wide as the encoder's, got {array.shape}; are they "
            "another stream's, or another encoder's?"
        )
    num = len(array)
    index = torch.arange(num, dtype=torch.float64)
    if isinstance(encoder, VisionEncoder):
        if frames and num not in (1, frames):
            raise ValueError(
                f"features must be ({frames}, {encoder.width}), got {array.shape}: {num} frames instead of "
                f"{frames}; extract them anew from {frames} frames, spread from the first to the last "
                "(`longcompress shards npy`)"
            )
        start_s, step_s = index * duration_s / num, duration_s / num
    else:
        step_s = encoder.window / encoder.rate_hz
        max_rows = math.ceil((duration_s + ROOM_S) / step_s)
        if num > max_rows:
            raise ValueError(
                f"features of {num} x {step_s:g} s are of a longer video than {duration_s:g} s, which has "
                f"{max_rows} at most; do file and record belong together?"
            )
        start_s = index.clamp_max(math.ceil(duration_s / step_s) - 1) * step_s
    end_s = (start_s + step_s).clamp_max(duration_s)
    x = torch.from_numpy(array).float()
    tokens = Tokens(x, torch.ones(num), (start_s + end_s) / 2, start_s, end_s)
    return Encoded(tokens, head_mean(x, encoder.config.metric_width))


def longvlm_state(
    local: np.ndarray, memory: np.ndarray, model: LongCompress, duration_s: float
) -> MergeState:
    """The state of a session of LongVLM after a video with these features: local (S M, C) tokens, segment
    after segment, and memory (layers + 1, C) mean class tokens by layer, of which the last E are taken.

    Where in its segment a merged token lay, and how many patches it stands for, is not in the file: all get
    the segment's time and the same share of its patches.
    """
    config, encoder = model.config, model.encoders["video"]
    assert isinstance(encoder, VisionEncoder)
    num, keep, layers = segmented(model) or 0, config.merge.min_tokens("video"), config.video.summary_layers
    want = (num * keep, encoder.width)
    if local.shape != want:
        variants = {300: "local=300", 200: "local=200, what the released script's schedule gives"}
        fits = local.ndim == 2 and len(local) in variants
        hint = f"; it fits longvlm with variant {variants[len(local)]}" if fits else ""
        raise ValueError(f"local features must be (S M, C) = {want}, got {local.shape}{hint}")
    if memory.ndim != 2 or memory.shape[1] != encoder.width or len(memory) < layers:
        raise ValueError(
            f"memory features must be (25, {encoder.width}), {layers} rows at least, got {memory.shape}; are "
            "the two folders interchanged?"
        )
    x, frames = torch.from_numpy(local).float(), config.media.frames
    metric = head_mean(x, encoder.config.metric_width)
    share = config.segments.frames * encoder.patches / keep
    state = model.merge_state(ENDLESS)
    state.num_frames["video"] = frames
    for i in range(num):
        start_s, end_s = i * duration_s / num, (i + 1) * duration_s / num
        part = slice(i * keep, (i + 1) * keep)
        times = [torch.full((keep,), s, dtype=torch.float64) for s in ((start_s + end_s) / 2, start_s, end_s)]
        tokens = Tokens(x[part], torch.full((keep,), share), *times)
        state.chunks.append(Chunk(start_s, end_s, 1, {"video": Group(tokens, metric[part])}, 1.0))
    last = torch.from_numpy(memory[-layers:]).double()
    state.memory["video"] = Mean(last * frames, frames)
    return state


def _file(record: Record, folder: Path, ending: str) -> Path:
    """The file of a record: of its key, or else of its video, which several parts share."""
    own = folder / f"{record.key}{ending}"
    return own if own.is_file() else folder / f"{Path(record.video).stem}{ending}"
