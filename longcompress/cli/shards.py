"""`longcompress shards`: videos to shards that training reads many times, and what is in shards."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import auto_cli

from .common import bars, folder_of, reading, writing

if TYPE_CHECKING:
    from ..model import LongCompress
    from ..train.shards.make import Result

Preset = Literal["longvlm", "vtimellm", "longvale"]


def make(
    source: str,
    *,
    out: str,
    model: str | None = None,
    preset: Preset | None = None,
    base: dict[str, str] | None = None,
    variant: dict[str, str | int | bool] | None = None,
    kind: Literal["features", "media"] = "features",
    detail: dict[str, int] | None = None,
    shard: str = "0/1",
    on_error: Literal["quarantine", "stop"] = "quarantine",
    shard_mb: int = 1024,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    threads: int = 0,
    engine: Literal["here", "ray"] = "here",
    workers: int = 1,
    gpus_per_worker: float = 0,
) -> int:
    """Encode videos once. Run again it goes on; run for the last time without --shard it packs all parts.

    Args:
        source: folder of videos (NAME.json beside NAME.mp4 says what is in it) or JSONL file of records.
        out: folder of the shards.
        model: preset, folder or hub name, whose encoders make the features; tiny if neither this nor
            preset is given.
        preset: a published model instead, of which only the encoders are loaded.
        base: its encoders, --base.vision FOLDER --base.audio FILE.pt --base.speech FOLDER; else by their
            names.
        variant: of the preset, as --variant.tail released; docs/published_models.md lists them.
        kind: "features", or "media" for the files' own bytes.
        detail: tokens a segment keeps at least, by stream, '{"video": 342, "*": 25}'; else the model's.
        shard: i/N: every N-th video from the i-th on, for arrays of jobs.
        on_error: "quarantine" lists videos that can't be used and goes on; "stop" ends at the first.
        shard_mb: a shard is closed before it passes this.
        device: of the model; a GPU if there is one (of actors, where they are given some).
        dtype: of the encoders; float32 on a CPU, bfloat16 on a GPU if it isn't given.
        threads: of torch, in each process; 0: as many as torch takes.
        engine: one video after the other here, or actors of Ray (RAY_ADDRESS names a cluster).
        workers: actors, for engine ray.
        gpus_per_worker: of each actor; may be a fraction.
    """
    import torch

    from ..presets import load
    from ..train.records import read_records
    from ..train.shards import make as shards

    if threads < 0:
        raise ValueError(f"--threads must be at least 0, got {threads}")
    if threads:
        torch.set_num_threads(threads)  # actors take as many as are here
    share = _share_of(shard)
    encoders = _encoders_of(preset, base, variant)
    if model is not None and encoders is not None:
        raise ValueError(f"--model {model} and --preset {preset} both say whose features; leave one out")
    with reading():
        records = read_records(source)
    folder = folder_of(out)
    how: dict[str, Any] = {"kind": kind, "share": share, "on_error": on_error, "progress": bars()}
    loads = partial(encoders or partial(load, model or "tiny"), dtype=dtype)
    if engine == "ray":
        from ..train.shards.ray import make as make_by_ray

        how |= {"detail": detail, "device": device, "workers": workers, "gpus_per_worker": gpus_per_worker}
        done = make_by_ray(records, folder, loads, **how)
    else:
        done = shards.make(
            records, folder, _loaded(loads, device, detail) if kind == "features" else None, **how
        )
    code = _report(done, folder)
    if share[1] == 1:
        packed = shards.pack(folder, records, shard_bytes=shard_mb << 20, progress=bars())
        print(f"{folder}: {len(packed)} samples in {len(packed.shards)} shards")
    return code


def npy(
    source: str,
    *,
    out: str,
    preset: Literal["vtimellm", "longvale"],
    base: dict[str, str] | None = None,
    variant: dict[str, str | int | bool] | None = None,
    shard: str = "0/1",
    on_error: Literal["quarantine", "stop"] = "quarantine",
    device: str | None = None,
) -> int:
    """Write features as VTimeLLM's and LongVALE's own code reads them: an .npy a video and stream.

    Args:
        source: as for `make`.
        out: folder of the files; of longvale in its folders visual, audio and speech.
        preset: whose.
        base: its encoders, as for `make`.
        variant: of it, as for `make`.
        shard: as for `make`.
        on_error: as for `make`.
        device: of the encoders; a GPU if there is one.
    """
    from ..train.imports.npy import make as make_arrays
    from ..train.records import read_records

    share, encoders = _share_of(shard), _encoders_of(preset, base, variant)
    with reading():
        records = read_records(source)
    folder = folder_of(out)
    assert encoders is not None
    model = _loaded(encoders, device, None)
    done = make_arrays(records, folder, model, share=share, on_error=on_error, progress=bars())
    return _report(done, folder)


def features(
    source: str,
    *,
    out: str,
    model: str | None = None,
    preset: Preset | None = None,
    base: dict[str, str] | None = None,
    variant: dict[str, str | int | bool] | None = None,
    video: str | None = None,
    audio: str | None = None,
    speech: str | None = None,
    local: str | None = None,
    memory: str | None = None,
    unknown_s: float = 0.0,
    shard: str = "0/1",
    on_error: Literal["quarantine", "stop"] = "quarantine",
    shard_mb: int = 1024,
) -> int:
    """Make shards of features that VTimeLLM, LongVALE or LongVLM extracted; docs/released_weights.md.

    Args:
        source: JSONL file of records, as `convert` writes it.
        out: folder of the shards.
        model: folder of the model that the features are for.
        preset: as for `make`, instead of model.
        base: as for `make`.
        variant: as for `make`.
        video: folder of .npy files, 100 rows each.
        audio: folder of .npy files of LongVALE's audio; a video may have none.
        speech: folder of .npy files of LongVALE's speech; a video may have none.
        local: folder of LongVLM's pickles of merged tokens.
        memory: folder of LongVLM's pickles of class tokens.
        unknown_s: seconds that videos are taken to last whose record doesn't say it; else these fail.
        shard: as for `make`.
        on_error: as for `make`.
        shard_mb: as for `make`.
    """
    from ..train.imports import features as released_features
    from ..train.records import read_records
    from ..train.shards import make as shards

    share, encoders = _share_of(shard), _encoders_of(preset, base, variant)
    loads = encoders or model
    if loads is None or (model is not None and encoders is not None):
        raise ValueError("one of --model and --preset must say whose features they are")
    paths = {"video": video, "audio": audio, "speech": speech, "local": local, "memory": memory}
    folders = {name: folder for name, folder in paths.items() if folder is not None}
    with reading():
        records = read_records(source)
    folder = folder_of(out)
    done = released_features.make(
        records, folder, _loaded(loads, "cpu", None), folders, unknown_s=unknown_s, share=share,
        on_error=on_error, progress=bars(),
    )  # fmt: skip
    code = _report(done, folder)
    if share[1] == 1:
        packed = shards.pack(folder, records, shard_bytes=shard_mb << 20, progress=bars())
        streams = sorted({name for entry in packed.entries for name in entry.tokens})
        counts = {name: sum(name in entry.tokens for entry in packed.entries) for name in streams}
        print(f"{folder}: {len(packed)} samples in {len(packed.shards)} shards, by stream {counts}")
    return code


def _share_of(shard: str) -> tuple[int, int]:
    """(i, N) of i/N."""
    try:
        number, of = (int(part) for part in shard.split("/"))
    except ValueError:
        raise ValueError(f"--shard must be i/N such as 0/8, got {shard!r}") from None
    return number, of


def _report(done: "Sequence[Result]", folder: Path) -> int:
    """Print the results of videos; the exit code."""
    counts = {status: sum(r.status == status for r in done) for status in ("made", "exists", "failed")}
    print(f"{folder}: {counts['made']} made, {counts['exists']} there already, {counts['failed']} failed")
    for result in done:
        if result.status == "failed":
            print(f"longcompress: error: {result.key}: {result.reason}", file=sys.stderr)
    return 3 if counts["failed"] else 0


def _encoders_of(
    preset: str | None, base: dict[str, str] | None, variant: dict[str, Any] | None
) -> "Callable[..., LongCompress] | None":
    """What loads the encoders of a published model on a device; wrong words are told at once."""
    if preset is None:
        if base or variant:
            raise ValueError(f"--{'base' if base else 'variant'} is of a published model; give --preset too")
        return None
    from ..checkpoints.architectures import config_of, encoders_of

    config_of(preset, base, variant)
    return partial(encoders_of, preset, base=base, variant=variant)


def _loaded(
    which: "str | Callable[..., LongCompress]", device: str | None, detail: dict[str, int] | None
) -> "LongCompress":
    from ..presets import load

    model = load(which, device=device) if isinstance(which, str) else which(device=device)
    if detail is not None:
        model.change({"merge": {"tokens_per_segment": detail}})
    return model


def index(folder: str) -> None:
    """Read through the tars of a folder and index them.

    Args:
        folder: of tars.
    """
    from ..train.shards.index import make_index

    with reading():
        indexed = make_index(folder, progress=bars())
    print(f"{folder}: {len(indexed)} samples in {len(indexed.shards)} shards")


def verify(folder: str) -> int:
    """Check hashes, members and features against the index; exit code 1 where something is wrong.

    Args:
        folder: of indexed shards.
    """
    from ..train.shards.make import verify as wrong_in

    with reading():
        faults = wrong_in(folder, progress=bars())
    for line in faults:
        print(line)
    print(f"{folder}: {len(faults)} things wrong" if faults else f"{folder}: all as it was indexed")
    return 1 if faults else 0


def info(folder: str) -> None:
    """What indexed shards hold, as one JSON object.

    Args:
        folder: of indexed shards.
    """
    from ..train.shards.index import load_index

    with reading():
        content = load_index(folder)
    streams = sorted({name for entry in content.entries for name in entry.tokens})
    figures = {
        "samples": len(content), "shards": len(content.shards),
        "num_bytes": sum(shard.num_bytes for shard in content.shards),
        "hours": round(sum(entry.duration_s for entry in content.entries) / 3600, 3),
        "tokens": {name: sum(entry.tokens.get(name, 0) for entry in content.entries) for name in streams},
        "features": content.features,
    }  # fmt: skip
    print(json.dumps(figures))


def repack(folder: str, *, out: str, shard_mb: int = 1024) -> None:
    """The same samples in shards of another size.

    Args:
        folder: of indexed shards.
        out: another folder.
        shard_mb: a shard is closed before it passes this.
    """
    from ..train.shards.make import repack as pack_again

    with reading():
        packed = pack_again(folder, out, shard_bytes=shard_mb << 20, progress=bars())
    print(f"{out}: {len(packed)} samples in {len(packed.shards)} shards")


def bench(
    folder: str,
    *,
    model: str | None = None,
    samples: int | None = None,
    repeat: int = 0,
    workers: int = 2,
    rounds: int = 5,
    budget: int = 256,
    out: str | None = None,
) -> None:
    """Speed of reading beside a plain webdataset loader's, in one run, and memory along an epoch.

    Args:
        folder: of indexed shards.
        model: preset, folder or hub name that made the features: compressed examples are measured too.
        samples: of a run, by taking the stored ones again and again; without it, as many as are stored.
        repeat: samples, likewise, of the epoch that memory is measured along; 0: it isn't.
        workers: loader processes of each loader.
        rounds: runs of each loader; they take turns.
        budget: tokens that videos are compressed to.
        out: JSON file to write the figures to.
    """
    from ..train.bench_read import bench as run_bench
    from ..train.bench_read import table
    from ..train.shards.index import load_index

    with reading():
        content = load_index(folder)
    loaded = None if model is None else _loaded(model, "cpu", None)
    figures = run_bench(
        content, loaded, samples=samples or len(content), workers=workers, rounds=rounds, budget=budget,
        repeat=repeat,
    )  # fmt: skip
    print("\n".join(table(figures)))
    if out is not None:
        with writing(out):
            Path(out).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf8")


def convert(
    source: str,
    *,
    shape: Literal["events", "dialogues", "qa", "mmduet-caption", "mmduet-magqa", "mmduet-grounding"],
    videos: str,
    out: str,
) -> None:
    """Annotations as other projects publish them, as records that `make` reads.

    Args:
        source: JSON file.
        shape: "events" (LongVALE, ActivityNet Captions), "dialogues" (VTimeLLM, LongVALE), "qa"
            (VideoInstruct) or one of MMDuetIT's.
        videos: folder that the videos lie in, or features of them for `features`.
        out: JSONL file to write.
    """
    from ..train.data.convert import convert as converted
    from ..train.data.convert import save_records

    with reading():
        records, missing = converted(source, shape, videos)
        if not records:
            raise ValueError(f"{source}: none of {len(missing)} videos lies in {videos}")
    with writing(out):
        save_records(records, out)
    print(f"{out}: {len(records)} records, {len(missing)} videos are not in {videos}")
    for name in missing[:10]:
        print(f"longcompress: warning: no video {name}", file=sys.stderr)


def draw(
    *,
    out: str,
    videos: int = 400,
    seconds: float = 60.0,
    first: int = 5_000_000,
    model: str = "tiny",
    detail: dict[str, int] | None = None,
) -> None:
    """Draw videos whose events are all known, as feature shards to try training on.

    Args:
        out: folder of the shards.
        videos: how many.
        seconds: length of each.
        first: number of the first scene; `eval run synthetic_qa` asks about those from 10 million on.
        model: preset, folder or hub name, whose encoders make the features.
        detail: tokens a segment keeps at least, by stream; else the model's.
    """
    from ..train.tiny.shards import synthetic_shards

    for name, value in (("videos", videos), ("seconds", seconds)):
        if not value > 0:
            raise ValueError(f"--{name} must be > 0, got {value}")
    with writing(out):
        synthetic = synthetic_shards(
            _loaded(model, "cpu", detail), range(first, first + videos), seconds, out, progress=bars()
        )
    print(f"{out}: {len(synthetic)} samples in {len(synthetic.shards)} shards")


def main() -> int:
    """One of them with the flags of the command line; the exit code."""
    return auto_cli([make, npy, features, index, verify, info, repack, bench, convert, draw]) or 0
