"""Parts of videos made by actors of Ray, here or on a cluster: the same unit of work, the same bytes."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from ...model import LongCompress
from ..records import Record, parse_record
from .make import PARTS, Kind, Result, make_part, records_of_share, share_lock

Loader = Callable[..., LongCompress]
"""Loads a model; takes `device`."""
NO_MODEL = "no model"
STORE_BYTES = 128 << 20  # rows are names and reasons; the videos never go through Ray


class Maker:
    """An actor: a model, loaded once, that makes one video's part at a time.

    Args:
        folder: of the parts.
        here: the caller's working directory: records name videos relative to it, and so do reasons.
        kind: of the shards.
        model: preset, folder or hub name, or what loads it on a device; None for media.
        detail: what the model's merging keeps, where that is changed.
        device: of the model.
        threads: of torch, as many as the caller has: how many there are decides the last bits of a sum.
    """

    def __init__(
        self, folder: str, here: str, kind: Kind, model: str | Loader | None,
        detail: dict[str, int] | None, device: str | None, threads: int,
    ) -> None:  # fmt: skip
        os.chdir(here)
        torch.set_num_threads(threads)
        self.folder, self.kind, self.model, self.error = Path(folder), kind, None, ""
        try:
            if model is not None:
                from ...presets import load

                self.model = load(model, device=device) if isinstance(model, str) else model(device=device)
                if detail is not None:
                    self.model.change({"merge": {"tokens_per_segment": detail}})
        except (OSError, ValueError, ImportError) as error:  # Ray would bury it in a page of its own
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The result of a batch of one record."""
        if self.error:
            return {"key": [""], "status": [NO_MODEL], "reason": [self.error]}
        (text,) = batch["record"]
        result = make_part(
            parse_record(json.loads(text), Path(), "record"), self.folder, self.model, self.kind
        )
        return {"key": [result.key], "status": [result.status], "reason": [result.reason]}


def make(
    records: Sequence[Record],
    out: str | Path,
    model: str | Loader | None,
    *,
    kind: Kind = "features",
    detail: dict[str, int] | None = None,
    device: str | None = None,
    share: tuple[int, int] = (0, 1),
    on_error: Literal["quarantine", "stop"] = "quarantine",
    workers: int = 1,
    gpus_per_worker: float = 0,
    progress: bool = True,
) -> list[Result]:
    """As `shards.make`, by actors of Ray.

    A Ray that this process runs already, or that RAY_ADDRESS names, is used; else one is started. On a
    cluster all machines must see the same files under the same names.

    Args:
        records, out, kind, share, on_error, progress: as there.
        model: preset, folder or hub name that each actor loads, or what loads it; None for media.
        detail: tokens a segment keeps at least, by stream; None: the model's.
        device: of the models; None: the actor's GPU, the CPU where gpus_per_worker is 0.
        workers: actors.
        gpus_per_worker: of each; may be a fraction.

    Raises:
        ValueError: as there; workers or gpus_per_worker can't be had.
        ImportError: Ray is not installed.
    """
    if workers < 1 or gpus_per_worker < 0:
        raise ValueError(
            f"workers must be >= 1 and gpus_per_worker >= 0, got {workers} and {gpus_per_worker}"
        )
    if kind == "features" and model is None:
        raise ValueError("kind 'features' needs a model")
    folder = Path(out) / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    own = records_of_share(records, share)
    videos = {record.key: record.video for record in own}
    words = {
        "folder": str(folder.absolute()), "here": os.getcwd(), "kind": kind, "detail": detail,
        "model": model if kind == "features" else None, "threads": torch.get_num_threads(),
        "device": device or (None if gpus_per_worker else "cpu"),
    }  # fmt: skip
    results: list[Result] = []
    if not own:
        return results
    with share_lock(folder, share), _running(workers) as ray:
        num_gpus = ray.cluster_resources().get("GPU", 0)
        if gpus_per_worker > num_gpus:  # Ray would wait for more
            raise ValueError(
                f"gpus_per_worker must be at most the cluster's GPUs, {num_gpus:g}, got {gpus_per_worker}"
            )
        rows = _rows([json.dumps(record.to_json()) for record in own], words, workers, gpus_per_worker, ray)
        for row in tqdm(rows, desc="videos", unit="video", total=len(own), disable=not progress):
            if row["status"] == NO_MODEL:
                raise ValueError(row["reason"])
            results.append(Result(row["key"], row["status"], row["reason"]))
            if results[-1].status == "failed" and on_error == "stop":
                raise ValueError(f"{videos[results[-1].key]}: {results[-1].reason}")
    return sorted(results, key=lambda result: result.key)


def _rows(
    texts: Sequence[str], words: dict[str, Any], workers: int, gpus_per_worker: float, ray: Any
) -> Iterator[dict[str, Any]]:
    """The result of each record, as the actors come to it."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    items = ray.data.from_items([{"record": text} for text in texts], override_num_blocks=len(texts))
    results = items.map_batches(
        Maker, fn_constructor_kwargs=words, batch_size=1, num_gpus=gpus_per_worker or None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(texts))),
    )  # fmt: skip
    yield from results.iter_rows()


@contextmanager
def _running(workers: int) -> Iterator[Any]:
    """The module `ray` with a Ray that runs; one that was started here ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # or it uploads the working directory
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"engine 'ray' needs Ray ({error}): pip install 'longcompress[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    else:
        cpus = max(os.cpu_count() or 1, workers + 1)  # or more actors than cores would wait for ever
        ray.init(address="local", num_cpus=cpus, object_store_memory=STORE_BYTES, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()
