"""A thread beside the thread that reads a file; what its jobs give comes in the order of the jobs."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class SideThread(Generic[T]):
    """Runs jobs one after another, at most `num_ahead` ahead of what was taken. With 0 there is no thread: a
    job runs where it is put."""

    def __init__(self, num_ahead: int) -> None:
        self.num_ahead = num_ahead
        self._pool = ThreadPoolExecutor(1, initializer=_name_thread)  # its thread begins with the first job
        self._results: deque[Future[tuple[list[T], BaseException | None]]] = deque()
        self._failed = False

    def put(self, job: Iterable[T]) -> Iterator[T]:
        """Hand over a job; yields what the jobs gave until now. Nothing comes after the error of a job."""
        if self._failed:
            return
        if not self.num_ahead:
            yield from job
            return
        self._results.append(self._pool.submit(_run, job))
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
        self._pool.shutdown()


def _name_thread() -> None:
    threading.current_thread().name = "longcompress-media"


def _run(job: Iterable[T]) -> tuple[list[T], BaseException | None]:
    items: list[T] = []
    try:
        items.extend(job)
    except BaseException as error:  # raised again by `take`, behind what came before it
        return items, error
    return items, None
