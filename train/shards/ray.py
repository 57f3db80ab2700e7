"""Parts of videos made by actors of Ray, here or on a cluster: the same unit of work, the same bytes."""

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from platform import node
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from ...model import LongCompress
from ..records import Record
from .make import Kind, Parts, Result, make_part, make_share, note_failure
from .remote import Place, place_of, sizes_in

Loader = Callable[..., LongCompress]
"""Loads a model; takes `device`."""
Part = Callable[[Record, Any, Any, Kind], Result]
"""Makes one video's part with what `Loader` loaded, as `make_part` does."""
STORE_BYTES = 128 << 20  # records and reasons; the videos never go through Ray
TRIES = 3  # a video that ended so many workers is taken for the cause
READY_S = 600.0  # no worker at all for so long, and the work ends
REACH_S = 5.0  # a cluster whose head doesn't answer is not there


class Maker:
    """An actor: a model, loaded once, that makes one video's part at a time.

    `here` is the caller's working directory, which records and reasons name videos relative to. There are as
    many `threads` as the caller has: their number decides the last bits of a sum. `seen` are files that the
    caller sees. The rest is as for `make`.
    """

    def __init__(
        self, folder: str, here: str, kind: Kind, model: str | Loader | None, detail: dict[str, int] | None,
        device: str | None, threads: int, seen: Sequence[str], part: Part,
    ) -> None:  # fmt: skip
        self.folder, self.here, self.kind, self.loader, self.detail = (
            place_of(folder),
            here,
            kind,
            model,
            detail,
        )
        self.device, self.threads, self.seen, self.part = device, threads, seen, part
        self.model: Any = None

    def start(self) -> Exception | None:
        """Load the model; the error if that failed. Ray would bury one of `__init__` in a page of its own."""
        try:
            for path in (self.here, *self.seen):
                if not os.path.exists(path):
                    raise FileNotFoundError(
                        f"a worker of Ray on {node()} doesn't see {path}; all machines must see the same "
                        "files under the same names"
                    )
            os.chdir(self.here)
            torch.set_num_threads(self.threads)
            if isinstance(self.loader, str):
                from ...presets import load

                self.model = load(self.loader, device=self.device)
            elif self.loader is not None:
                self.model = self.loader(device=self.device)
            if self.model is not None and self.detail is not None:
                self.model.change({"merge": {"tokens_per_segment": self.detail}})
        except (OSError, ValueError, ImportError) as error:
            return error
        return None

    def make(self, record: Record) -> Result | Exception:
        """The result of a record, or what is wrong with more than its video, such as a full disk."""
        try:
            return self.part(record, self.folder, self.model, self.kind)
        except (OSError, ValueError) as error:
            return error


def make(
    records: Sequence[Record], out: str | Place, model: str | Loader | None, *, kind: Kind = "features",
    detail: dict[str, int] | None = None, device: str | None = None, workers: int = 1,
    gpus_per_worker: float = 0, part: Part = make_part, **options: Any,
) -> list[Result]:  # fmt: skip
    """As `shards.make`, by actors of Ray.

    A Ray that this process runs already, or that RAY_ADDRESS names, is used; else one is started. On a
    cluster all machines must see the same files under the same names. An actor that is killed is replaced,
    and its video begun anew; a video that ended `TRIES` actors has failed.

    Args:
        records, out, kind, options: as there.
        model: preset, folder or hub name that each actor loads, or what loads it; None for media.
        detail: tokens a segment keeps, by stream; None: the model's.
        device: of the models; None: the actor's GPU, the CPU where gpus_per_worker is 0.
        workers, gpus_per_worker: number of actors, and the GPUs of each, which may be a fraction.
        part: makes a video's part.

    Raises:
        OSError: also for a cluster that isn't there, or workers that don't come up or don't see the files.
    """
    if workers < 1 or gpus_per_worker < 0:
        got = f"{workers} and {gpus_per_worker}"
        raise ValueError(f"workers must be >= 1 and gpus_per_worker >= 0, got {got}")
    if kind == "features" and model is None:
        raise ValueError("kind 'features' needs a model")

    def parts(own: Sequence[Record], folder: Place) -> Parts:
        sizes = sizes_in(folder)
        exist = {record.key for record in own if f"{record.key}.tar" in sizes}
        yield from (Result(key, "exists") for key in exist)  # no worker is started for these
        own = [record for record in own if record.key not in exist]
        if not own:
            return
        local = folder.absolute() if isinstance(folder, Path) else None
        arguments: dict[str, Any] = {
            "folder": str(local or folder), "here": os.getcwd(), "kind": kind, "detail": detail,
            "model": model if kind == "features" else None, "threads": torch.get_num_threads(),
            "device": device or (None if gpus_per_worker else "cpu"), "part": part,
        }  # fmt: skip
        num = min(workers, len(own))
        with _running(workers) as ray, NamedTemporaryFile(dir=local, prefix=".seen-") as witness:
            for name, of_each in (("CPU", 1), ("GPU", gpus_per_worker)):
                num_there = ray.cluster_resources().get(name, 0)
                if of_each * num > num_there:  # Ray would wait for more
                    flag = "workers" if name == "CPU" else "workers x gpus_per_worker"
                    raise ValueError(
                        f"{flag} must be at most the cluster's {name}s, {num_there:g}, got {of_each * num:g}"
                    )
            video = next((os.path.abspath(r.video) for r in own if os.path.exists(r.video)), None)
            arguments["seen"] = [os.path.abspath(witness.name)] * (local is not None) + [video] * bool(video)
            maker = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(Maker)
            yield from _results(ray, lambda: maker.remote(**arguments), own, num, folder)

    return make_share(records, out, parts, **options)


def _results(
    ray: Any, actor_of: Callable[[], Any], own: Sequence[Record], workers: int, folder: Place
) -> Parts:
    """The results of records as they come. `actor_of` starts an actor; `workers` of them run."""
    waiting, ended = deque(own), Counter[str]()
    running: dict[Any, tuple[Any, Record | None]] = {}  # call -> its actor, and its record unless it starts

    def start() -> None:
        actor = actor_of()
        running[actor.start.remote()] = (actor, None)

    for _ in range(workers):
        start()
    while waiting or any(record for _, record in running.values()):
        is_busy = any(record for _, record in running.values())
        done, _ = ray.wait(list(running), timeout=None if is_busy else READY_S)
        if not done:
            raise OSError(f"no worker of Ray came up in {READY_S:g} s; see `ray status`, then run again")
        actor, record = running.pop(done[0])
        try:
            answer = ray.get(done[0])
        except ray.exceptions.RayTaskError:  # a fault of the program, not of a worker
            raise
        except ray.exceptions.RayError as error:  # the worker is dead
            if getattr(error, "actor_init_failed", False):  # and so would be all others
                hint = "are the modules of `model` and `part` there, on all machines?"
                raise OSError(f"a worker of Ray can't take what it is given; {hint} {error}") from error
            key = record.key if record else ""
            ended[key] += 1
            if record is None and ended[key] >= TRIES * workers:
                hint = "is there memory for the model?"
                raise OSError(
                    f"{ended[key]} workers of Ray ended before they were ready; {hint} {error}"
                ) from error
            if record and ended[key] < TRIES:
                waiting.append(record)
            elif record:
                yield note_failure(record, folder, f"{record.video}: it ended {TRIES} workers that read it")
            start()
            continue
        if isinstance(answer, Exception):
            raise answer
        if record is None:
            ended[""] = 0
        else:
            yield answer
        if waiting:
            record = waiting.popleft()
            running[actor.make.remote(record)] = (actor, record)


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
    _check_reach(options["address"])
    with ray.init(logging_level="ERROR", **options):
        yield ray


def _check_reach(address: str) -> None:
    """ConnectionError where nothing answers at this address: Ray tries for minutes, then ends the process."""
    name, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((name, int(port)), REACH_S).close()
    except OSError as error:
        hint = "start a head there with `ray start --head`, or leave RAY_ADDRESS empty"
        raise ConnectionError(
            f"RAY_ADDRESS: no cluster of Ray answers at {address} ({error}); {hint}"
        ) from error
