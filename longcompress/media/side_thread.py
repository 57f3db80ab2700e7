"""A thread beside the thread that reads a file; what its jobs give comes in the order of the jobs."""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
Results = Future[tuple[list[T], BaseException | None]]


class SideThread(Generic[T]):
    """Runs jobs one after another, at most `num_ahead` ahead of what was taken. With 0 there is no thread: a
    job runs where it is put."""

    def __init__(self, num_ahead: int) -> None:
        self.num_ahead = num_ahead
        self._jobs: queue.SimpleQueue[tuple[Iterable[T], Results[T]] | None] = queue.SimpleQueue()
        self._results: deque[Results[T]] = deque()
        self._thread: threading.Thread | None = None
        self._failed = False

    def put(self, job: Iterable[T]) -> Iterator[T]:
        """Hand over a job; yields what the jobs gave until now. Nothing comes after the error of a job."""
        if self._failed:
            return
        if not self.num_ahead:
            yield from job
            return
        if self._thread is None:
            self._thread = threading.Thread(target=_run, args=(self._jobs,), daemon=True)
            self._thread.name = "longcompress-media"
            self._thread.start()
        results: Results[T] = Future()
        self._results.append(results)
        self._jobs.put((job, results))
        yield from self.take(self.num_ahead)

    def take(self, num_left: int = 0) -> Iterator[T]:
        """What the jobs gave; waits until at most `num_left` of them are left."""
        while self._results and (len(self._results) > num_left or self._results[0].done()):
            items, error = self._results.popleft().result()
            yield from items
            if error is not None:
                self._results.clear()
                self._failed = True
                raise error

    def close(self) -> None:
        """End the thread, after the jobs that it has."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()


def _run(jobs: "queue.SimpleQueue[tuple[Iterable[T], Results[T]] | None]") -> None:
    for job, results in iter(jobs.get, None):
        items: list[T] = []
        error: BaseException | None = None
        try:
            items.extend(job)
        except BaseException as caught:  # raised again by `take`
            error = caught
        results.set_result((items, error))
