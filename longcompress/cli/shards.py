"""`longcompress shards`: videos to shards that training reads many times, and what is in shards."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..checkpoints.architectures import config_of, encoders_of
from ..model import LongCompress
from ..presets import load
from ..train import bench_read
from ..train.data import convert as annotations
from ..train.imports import features, npy
from ..train.records import Record, read_records
from ..train.shards import make as shards
from ..train.shards.index import Index, load_index, make_index
from ..train.shards.remote import Place, place_of
from ..train.tiny.shards import synthetic_shards
from ..types import stream_order
from .common import Failed, bars, check_positive, complain, folder_of, reading, writing


@dataclass(frozen=True)
class EncoderOptions:
    """Whose encoders make the features.

    Attributes:
        model: preset, folder or hub name.
        preset: a published model instead, of which only the encoders are loaded.
        base: its encoders, --base.video FOLDER --base.audio FILE.pt --base.speech FOLDER; else from the hub.
        variant: of the preset, as --variant.tail released; docs/models.md lists them.
    """

    model: str | None = None
    preset: Literal["longvlm", "vtimellm", "longvale"] | None = None
    base: dict[str, str] | None = None
    variant: dict[str, str | int | bool] | None = None

    def loader(self, default: str | None = None) -> Callable[..., LongCompress]:
        """The function that loads it, with device and dtype still to be given; wrong names fail at once."""
        if self.model is not None and self.preset is not None:
            both = f"--model {self.model} and --preset {self.preset}"
            raise ValueError(f"{both} both say whose features; leave one out")
        if self.preset is not None:
            config_of(self.preset, self.base, self.variant)
            return partial(encoders_of, self.preset, base=self.base, variant=self.variant)
        if self.base or self.variant:
            flag = "base" if self.base else "variant"
            raise ValueError(f"--{flag} is of a published model; give --preset too")
        name = self.model or default
        if name is None:
            raise ValueError("one of --model and --preset must say whose features they are")
        return partial(load, name)


@dataclass(frozen=True)
class JobOptions:
    """A part of a long job.

    Attributes:
        shard: i/N: every N-th video from the i-th on, for arrays of jobs.
        on_error: "quarantine" lists videos that can't be used and goes on; "stop" ends at the first.
    """

    shard: str = "0/1"
    on_error: Literal["quarantine", "stop"] = "quarantine"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"-?\d+/-?\d+", self.shard):
            raise ValueError(f"--shard must be i/N such as 0/8, got {self.shard!r}")

    def options(self) -> dict[str, Any]:
        """What every function that makes parts takes."""
        number, of = map(int, self.shard.split("/"))
        return {"share": (number, of), "on_error": self.on_error, "progress": bars()}

    def finish(
        self, results: Sequence[shards.Result], folder: Place, records: Sequence[Record], shard_mb: int
    ) -> int:
        """Report the results and pack all parts, unless some of the job may be missing; the exit code."""
        code = _report(results, folder)
        if int(self.shard.split("/")[1]) == 1:
            try:
                packed = shards.pack(folder, records, shard_bytes=shard_mb << 20, progress=bars())
            except ValueError as error:  # of the videos: an argument would have failed before them
                raise Failed(3, str(error)) from error
            _print_index(folder, packed)
        return code


def make(
    source: str, *, out: str, encoders: EncoderOptions, kind: Literal["features", "media"] = "features",
    tokens_per_segment: dict[str, int] | None = None, device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None, job: JobOptions, shard_mb: int = 1024,
    threads: int = 0, engine: Literal["here", "ray"] = "here", workers: int = 1, gpus_per_worker: float = 0,
    protocols: tuple[str, ...] = ("file",),
) -> int:  # fmt: skip
    """Encode videos once. Run again it goes on; run for the last time without --shard it packs all parts.

    Args:
        source: folder of videos (NAME.json beside NAME.mp4 is its record) or JSONL file of records, here
            or in a bucket: s3://BUCKET/NAME.
        out: folder of the shards, or a bucket: s3://BUCKET/NAME.
        kind: "features", or "media" for the files' own bytes.
        tokens_per_segment: tokens a segment keeps at least, by stream, '{"video": 342, "*": 25}'; else the
            model's.
        device: of the model; a GPU if there is one (of actors, where they are given some).
        dtype: of the encoders; float32 on a CPU, bfloat16 on a GPU if it isn't given.
        shard_mb: a shard is closed before it passes this.
        threads: of torch, in each process; 0: as many as torch takes.
        engine: one video after the other here, or actors of Ray (RAY_ADDRESS names a cluster).
        workers: actors, for engine ray.
        gpus_per_worker: of each actor; may be a fraction.
        protocols: where videos may come from: file s3 hf; that of the source may.
    """
    if threads < 0:
        raise ValueError(f"--threads must be at least 0, got {threads}")
    if threads:
        torch.set_num_threads(threads)  # actors take as many as are here
    loader = partial(encoders.loader("tiny"), dtype=dtype)
    records, folder = _records_of(source), _place_of(out)
    allowed = with_protocol(protocols, source)
    if engine == "ray":
        from ..train.shards.ray import make as make_by_ray  # an extra

        results = make_by_ray(
            records, folder, loader, kind=kind, detail=tokens_per_segment, device=device, workers=workers,
            gpus_per_worker=gpus_per_worker, part=partial(shards.make_part, protocols=allowed),
            **job.options(),
        )  # fmt: skip
    else:
        model = _load(loader, device, tokens_per_segment) if kind == "features" else None
        results = shards.make(records, folder, model, kind=kind, protocols=allowed, **job.options())
    return job.finish(results, folder, records, shard_mb)


def export_npy(
    source: str, *, out: str, encoders: EncoderOptions, job: JobOptions, device: str | None = None
) -> int:
    """Write features as VTimeLLM's and LongVALE's own code reads them: a .npy file a video and stream.

    Args:
        source: as for `make`.
        out: folder of the files; of longvale in its folders visual, audio and speech.
        device: of the encoders; a GPU if there is one.
    """
    if encoders.preset not in ("vtimellm", "longvale"):
        raise ValueError(f"--preset must be vtimellm or longvale, got {encoders.preset}")
    loader = encoders.loader()
    records, folder = _records_of(source), folder_of(out)
    return _report(npy.make(records, folder, loader(device=device), **job.options()), folder)


def import_features(
    source: str, *, out: str, encoders: EncoderOptions, video: str | None = None, audio: str | None = None,
    speech: str | None = None, local: str | None = None, memory: str | None = None,
    default_duration_s: float = 0.0, job: JobOptions, shard_mb: int = 1024,
) -> int:  # fmt: skip
    """Make shards of features that VTimeLLM, LongVALE or LongVLM extracted; see docs/checkpoints.md.

    Args:
        source: JSONL file of records, as `convert` writes it.
        out: folder of the shards, or a bucket: s3://BUCKET/NAME.
        video: folder of .npy files, 100 rows each.
        audio: folder of .npy files of LongVALE's audio; a video may have none.
        speech: folder of .npy files of LongVALE's speech; a video may have none.
        local: folder of LongVLM's pickles of merged tokens.
        memory: folder of LongVLM's pickles of class tokens.
        default_duration_s: seconds of the videos whose record has no length; 0: these fail.
        shard_mb: as for `make`.
    """
    loader = encoders.loader()
    paths = {"video": video, "audio": audio, "speech": speech, "local": local, "memory": memory}
    folders = {name: path for name, path in paths.items() if path is not None}
    records, folder = _records_of(source), _place_of(out)
    model, unknown_s = loader(device="cpu"), default_duration_s
    results = features.make(records, folder, model, folders, unknown_s=unknown_s, **job.options())
    return job.finish(results, folder, records, shard_mb)


def index(folder: str) -> None:
    """Read through the tars of a folder and index them.

    Args:
        folder: of tars.
    """
    with reading():
        _print_index(folder, make_index(folder, progress=bars()))


def verify(folder: str) -> int:
    """Check hashes, members and features against the index; exit code 1 where something is wrong.

    Args:
        folder: of indexed shards.
    """
    with reading():
        faults = shards.verify(folder, progress=bars())
    for line in faults:
        print(line)
    print(f"{folder}: {len(faults)} things wrong" if faults else f"{folder}: all as it was indexed")
    return 1 if faults else 0


def info(folder: str) -> None:
    """Show the samples, hours and tokens of indexed shards, as one JSON object.

    Args:
        folder: of indexed shards.
    """
    content = _index_of(folder)
    tokens: Counter[str] = Counter()
    for entry in content.entries:
        tokens.update(entry.tokens)
    figures = {
        "samples": len(content), "shards": len(content.shards),
        "num_bytes": sum(shard.num_bytes for shard in content.shards),
        "hours": round(sum(entry.duration_s for entry in content.entries) / 3600, 3),
        "tokens": {name: tokens[name] for name in stream_order(tokens)}, "features": content.features,
    }  # fmt: skip
    print(json.dumps(figures))


def repack(folder: str, *, out: str, shard_mb: int = 1024) -> None:
    """Write the same samples in shards of another size.

    Args:
        folder: of indexed shards.
        out: another folder, or a bucket: s3://BUCKET/NAME.
        shard_mb: a shard is closed before it passes this.
    """
    with reading():
        _print_index(out, shards.repack(folder, out, shard_bytes=shard_mb << 20, progress=bars()))


def bench(
    folder: str, *, out: str | None = None, model: str | None = None, samples: int | None = None,
    repeat: int = 0, workers: int = 2, rounds: int = 5, budget: int = 256,
) -> None:  # fmt: skip
    """Measure reading beside a plain webdataset loader, in one run, and memory along an epoch.

    Args:
        folder: of indexed shards.
        out: JSON file to write the figures to.
        model: preset, folder or hub name that made the features: compressed examples are measured too.
        samples: of a run, by taking the stored ones again and again; without it, all that are stored.
        repeat: samples, likewise, of the epoch that memory is measured along; 0: it isn't.
        workers: loader processes of each loader.
        rounds: runs of each loader; they take turns.
        budget: tokens that videos are compressed to.
    """
    content = _index_of(folder)
    loaded = None if model is None else load(model, device="cpu")
    sizes = {"samples": samples or len(content), "budget": budget, "repeat": repeat}
    figures = bench_read.bench(content, loaded, workers=workers, rounds=rounds, **sizes)
    print("\n".join(bench_read.table(figures)))
    if out is not None:
        with writing(out):
            Path(out).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf8")


def convert(
    source: str,
    *,
    out: str,
    format: Literal[
        "events", "dialogues", "qa", "llava", "mmduet-caption", "mmduet-magqa", "mmduet-grounding"
    ],
    videos: str,
) -> None:
    """Convert annotations that other projects published to records that `make` reads.

    Args:
        source: JSON file; of llava also JSONL, or YAML that names such files.
        out: JSONL file to write.
        format: "events" (LongVALE, ActivityNet Captions), "dialogues" (VTimeLLM, LongVALE), "qa"
            (VideoInstruct), "llava" (LLaVA-Video and other lmms-style lists) or one of MMDuetIT's.
        videos: folder that the videos lie in, or features of them for `import-features`.
    """
    with reading():
        records, missing = annotations.convert(source, format, videos)
        if not records:
            raise ValueError(f"{source}: none of {len(missing)} videos lies in {videos}")
    with writing(out):
        annotations.save_records(records, out)
    print(f"{out}: {len(records)} records, {len(missing)} videos are not in {videos}")
    for name in missing[:10]:
        complain("warning", f"no video {name}")


def synthesize(
    *, out: str, num: int = 400, seconds: float = 60.0, seed: int = 5_000_000, model: str = "tiny",
    tokens_per_segment: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """Make feature shards of synthetic videos whose events are all known, to try training on.

    Args:
        out: folder of the shards.
        num: number of videos.
        seconds: length of each.
        seed: of the first; `eval run synthetic_qa` asks about those from 10 million on.
        model: preset, folder or hub name, whose encoders make the features.
        tokens_per_segment: as for `make`.
    """
    check_positive(num=num, seconds=seconds)
    with writing(out):
        encoders = _load(partial(load, model), "cpu", tokens_per_segment)
        content = synthetic_shards(encoders, range(seed, seed + num), seconds, out, progress=bars())
    _print_index(out, content)


def with_protocol(protocols: Sequence[str], source: str) -> tuple[str, ...]:
    """These, and that of the source that the user named."""
    protocol, is_url, _ = source.partition("://")
    return tuple(dict.fromkeys([*protocols, *([protocol] if is_url else [])]))


def _records_of(source: str) -> list[Record]:
    with reading():
        return read_records(place_of(source))


def _index_of(folder: str) -> Index:
    with reading():
        return load_index(folder)


def _load(
    load: Callable[..., LongCompress], device: str | None, tokens_per_segment: dict[str, int] | None
) -> LongCompress:
    model = load(device=device)
    if tokens_per_segment is not None:
        model.change({"merge": {"tokens_per_segment": tokens_per_segment}})
    return model


def _place_of(out: str) -> Place:
    """A folder, made if it isn't there, or a bucket."""
    return place_of(out) if "://" in out else folder_of(out)


def _print_index(folder: str | Place, content: Index) -> None:
    counts = Counter(name for entry in content.entries for name in entry.tokens)
    by_stream = {name: counts[name] for name in stream_order(counts)}
    more = f", by stream {by_stream}" if by_stream else ""
    print(f"{folder}: {len(content)} samples in {len(content.shards)} shards{more}")


def _report(results: Sequence[shards.Result], folder: Place) -> int:
    """Print the results of videos; the exit code."""
    counts = {status: sum(r.status == status for r in results) for status in ("made", "exists", "failed")}
    print("{}: {made} made, {exists} there already, {failed} failed".format(folder, **counts))
    for result in results:
        if result.status == "failed":
            complain("error", f"{result.key}: {result.reason}")
    return 3 if counts["failed"] else 0
