"""Parts of videos made by actors of Ray, here or on a cluster: the same unit of work, the same bytes."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...model import LongCompress
from ..records import Record
from .make import Kind, Parts, Result, make_part, make_share

Loader = Callable[..., LongCompress]
"""Loads a model; takes `device`."""
STORE_BYTES = 128 << 20  # records and reasons; the videos never go through Ray


class Maker:
    """An actor: a model, loaded once, that makes one video's part at a time.

    `here` is the caller's working directory, which records and reasons name videos relative to. There are as
    many `threads` as the caller has: their number decides the last bits of a sum. The rest is as for `make`.
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

    def make(self, record: Record) -> Result | str:
        """The result of a record, or why there is no model."""
        return self.error or make_part(record, self.folder, self.model, self.kind)


def make(
    records: Sequence[Record], out: str | Path, model: str | Loader | None, *, kind: Kind = "features",
    detail: dict[str, int] | None = None, device: str | None = None, workers: int = 1,
    gpus_per_worker: float = 0, **options: Any,
) -> list[Result]:  # fmt: skip
    """As `shards.make`, by actors of Ray.

    A Ray that this process runs already, or that RAY_ADDRESS names, is used; else one is started. On a
    cluster all machines must see the same files under the same names.

    Args:
        records, out, kind, options: as there.
        model: preset, folder or hub name that each actor loads, or what loads it; None for media.
        detail: tokens a segment keeps, by stream; None: the model's.
        device: of the models; None: the actor's GPU, the CPU where gpus_per_worker is 0.
        workers, gpus_per_worker: number of actors, and the GPUs of each, which may be a fraction.
    """
    if workers < 1 or gpus_per_worker < 0:
        got = f"{workers} and {gpus_per_worker}"
        raise ValueError(f"workers must be >= 1 and gpus_per_worker >= 0, got {got}")
    if kind == "features" and model is None:
        raise ValueError("kind 'features' needs a model")

    def parts(own: Sequence[Record], folder: Path) -> Parts:
        arguments = {
            "folder": str(folder.absolute()), "here": os.getcwd(), "kind": kind, "detail": detail,
            "model": model if kind == "features" else None, "threads": torch.get_num_threads(),
            "device": device or (None if gpus_per_worker else "cpu"),
        }  # fmt: skip
        with _running(workers) as ray:
            num_gpus = ray.cluster_resources().get("GPU", 0)
            if gpus_per_worker > num_gpus:  # Ray would wait for more
                raise ValueError(
                    f"gpus_per_worker must be at most the cluster's GPUs, {num_gpus:g}, got {gpus_per_worker}"
                )
            lasting = {"max_restarts": -1, "max_task_retries": -1}  # one that is killed begins anew
            maker = ray.remote(num_cpus=1, num_gpus=gpus_per_worker, **lasting)(Maker)
            actors = [maker.remote(**arguments) for _ in range(min(workers, len(own)))]
            pool = ray.util.ActorPool(actors)
            for result in pool.map_unordered(lambda actor, record: actor.make.remote(record), own):
                if isinstance(result, str):
                    raise ValueError(result)
                yield result

    return make_share(records, out, parts, **options)


@contextmanager
def _running(workers: int) -> Iterator[Any]:
    """The module `ray` with a Ray that runs; one that was started here ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # or it uploads the working directory
    try:
        import ray
        import ray.util
    except ImportError as error:
        raise ImportError(f"engine 'ray' needs Ray ({error}): pip install 'longcompress[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS") or "local", "log_to_driver": False}
    if options["address"] == "local":
        # with fewer cores than actors the last ones would wait for ever
        cpus = max(os.cpu_count() or 1, workers + 1)
        options |= {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    with ray.init(logging_level="ERROR", **options):
        yield ray
