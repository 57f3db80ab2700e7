"""Where the bytes of a data set lie: in a folder or below a URL; asked for by ranges, or fetched and kept.

Shards are made into a folder or an object store of S3's kind, where a file is whole or not there.
"""

import errno
import fcntl
import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

from ...files import replacing
from ...media.source import check_protocol
from .tar import Member, read_members, sha256_of

T = TypeVar("T")
REQUEST_BYTES = 8 << 20  # of a shard that is read from end to end
SILENT_S = 30.0  # a server that says nothing for so long is given up; the length of a transfer is not limited
PASSING = (408, 425, 429)  # answers below 500 that mean: later
STORES = ("s3", "s3a", "hf")  # a video there is fetched whole before it is read
WRITABLE = ("s3", "s3a")  # their files appear whole, when the last byte has come
REFUSED = (PermissionError, IsADirectoryError, NotADirectoryError)
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG)


class StoreDown(OSError):
    """A store answered no try: no fault of a file in it."""


@dataclass(frozen=True)
class Remote:
    """Files below a URL. Holds names only: it can be pickled, and processes may fork at any time.

    `remote / NAME` is what lies below, as with a path; methods without a name are about the URL itself.

    Attributes:
        url: of the folder.
        cache: folder that whole shards are kept in once one sample of them was wanted; None: each read asks
            for its range.
        tries: how often a read is tried.
        wait_s: time before the second try; doubled before each further one.
    """

    url: str
    cache: Path | None = None
    tries: int = 5
    wait_s: float = 0.5

    def __post_init__(self) -> None:
        if "::" in self.url:
            raise ValueError(f"{self.url}: chained URLs are not read; fetch the shards first")
        if self.tries < 1 or self.wait_s < 0:
            raise ValueError(f"tries must be >= 1 and wait_s >= 0, got {self.tries} and {self.wait_s}")

    def __str__(self) -> str:
        return self.url

    @property
    def parent(self) -> "Remote":
        """What this file lies in."""
        return replace(self, url=self.url.rpartition("/")[0])

    def of(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url.rstrip('/')}/{name}"

    def __truediv__(self, name: str) -> "Remote":
        return replace(self, url=self.of(name))

    def is_file(self) -> bool:
        """Whether there is this file. Raises what `whole` raises."""
        try:
            self._tried(self.url, lambda files, path: files.info(path, refresh=True), calls=self.tries)
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """All bytes of this file. Raises what `whole` raises."""
        return self._tried(self.url, lambda files, path: files.cat_file(path))

    def fetch(self, path: Path) -> None:
        """Copy this file to `path`, in requests of `REQUEST_BYTES`. Raises what `open` raises."""
        name = self.url.rpartition("/")[2]
        num_bytes = self._tried(self.url, lambda files, at: files.info(at, refresh=True)["size"])
        with self.parent.open(name, num_bytes, "") as source, open(path, "wb") as file:
            shutil.copyfileobj(source, file, REQUEST_BYTES)

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of the files right below; none where nothing is. Raises what `whole` raises."""
        try:
            rows = self._tried(
                self.url, lambda files, path: files.ls(path, detail=True, refresh=True), calls=self.tries
            )
        except FileNotFoundError:
            return {}
        return {row["name"].rpartition("/")[2]: row["size"] for row in rows if row["type"] == "file"}

    def put(self, path: Path) -> None:
        """Make the file at `path` this one. It appears whole, or not at all if this fails or is killed.

        Raises:
            ValueError: files can't be written below such a URL.
            OSError: every try to write it failed, or the store refused it.
        """
        if self.url.partition("://")[0] not in WRITABLE:
            raise ValueError(
                f"{self.url}: files are written into a folder or below s3://; write into a folder, then "
                "upload that"
            )
        # a part of a large file that failed is sent again by the client itself, not all of the file
        self._tried(self.url, lambda files, to: files.put_file(str(path), to), "written", self.tries)

    def unlink(self, missing_ok: bool = True) -> None:
        """Remove this file; where there is none, nothing. Raises what `put` raises."""
        self._tried(self.url, lambda files, path: files.rm_file(path), "removed", self.tries)

    def whole(self, name: str) -> bytes:
        """All bytes of a small file.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: every try to read it failed.
            ImportError: fsspec, or what it needs for this kind of URL, is not installed.
        """
        return (self / name).read_bytes()

    def members(
        self, members: Mapping[str, Member], name: str, num_bytes: int, sha256: str
    ) -> dict[str, bytes]:
        """The bytes of members of a sample; fewer where the shard ends before. Raises what `whole` raises.

        Args:
            members: side by side in the shard.
            name: of the shard.
            num_bytes, sha256: of all of it, as the index says; a cache checks them when it fetches the shard.

        Raises:
            ValueError: what was fetched is another shard; without a cache, the server knows no ranges.
        """
        if self.cache is not None:
            with open(self._cached(self.cache, name, num_bytes, sha256), "rb") as file:
                return read_members(file, members)
        start = min(member.offset for member in members.values())  # one request a sample
        end = max(member.offset + member.num_bytes for member in members.values())
        data = self.span(name, start, end)
        return {n: data[m.offset - start : m.offset - start + m.num_bytes] for n, m in members.items()}

    def open(self, name: str, num_bytes: int, sha256: str) -> BinaryIO:
        """A shard, to be read from its first byte to its last: in requests of `REQUEST_BYTES`, each tried as
        often as `tries` says, or out of the cache. Arguments and errors are those of `members`; ValueError
        also where it ends too early."""
        if self.cache is not None:
            return open(self._cached(self.cache, name, num_bytes, sha256), "rb")
        return io.BufferedReader(_Requests(self, name, num_bytes), REQUEST_BYTES)

    def span(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end` of a file; fewer where it ends before."""
        url = self.of(name)
        data = self._tried(url, lambda files, path: files.cat_file(path, start=start, end=end))
        if len(data) > end - start:
            raise ValueError(
                f"{url}: asked for {end - start} bytes, the server sent {len(data)}: it knows no "
                "ranges; give a cache, so that whole shards are fetched"
            )
        return data

    def _cached(self, cache: Path, name: str, num_bytes: int, sha256: str) -> Path:
        """A whole shard in the cache; fetched by one process, once. One of another size or hash is a
        ValueError, and nothing of it stays."""
        path, url = cache / f"{sha256}.tar", self.of(name)  # by content: a shard made anew is another file
        if path.is_file():
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:  # let go when a process ends, however it ends
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file():  # another process has fetched it meanwhile
                return path
            with replacing(path) as part:
                self._tried(url, lambda files, source: files.get_file(source, str(part)))
                got = part.stat().st_size
                if got != num_bytes or sha256_of(part) != sha256:
                    fault = f"{got} bytes, not {num_bytes}" if got != num_bytes else "another hash"
                    raise ValueError(
                        f"{url} has {fault}: it is not the shard that was indexed; "
                        "upload that one again, or an index of this one"
                    )
        return path

    def _tried(self, url: str, act: Callable[[Any, str], T], done: str = "read", calls: int = 1) -> T:
        """What `act(file system, path)` gives; errors that may pass are waited out. `calls`: of `_files`."""
        files, path, errors = _files(url, calls)
        for number in range(self.tries):
            if number:
                time.sleep(self.wait_s * 2 ** (number - 1))
            try:
                return act(files, path)
            except FileNotFoundError as error:
                hint = "upload it, or an index without it" if done == "read" else "is there such a bucket?"
                raise FileNotFoundError(f"no file {url}; {hint}") from error
            except errors as error:
                status = _status(error)
                if status == 416:  # the range begins past the end
                    raise ValueError(f"{url} was cut: it ends too early; get the shard again") from error
                # another try doesn't help where the server refused, nor where our own disk failed
                if status is not None:
                    passes = status >= 500 or status in PASSING or isinstance(error, TimeoutError)
                else:
                    refused = isinstance(error, REFUSED) or "Credential" in type(error).__name__  # botocore's
                    passes = not refused and getattr(error, "errno", None) not in LASTING
                if not passes:
                    rights = f"; are the credentials valid, and do they allow that it is {done}?"
                    local = getattr(error, "errno", None) in LASTING and status is None
                    raise OSError(f"{url} can't be {done}: {error!r}{'' if local else rights}") from error
                last = error
        hint = "see whether the server is up, then run again"
        raise StoreDown(
            f"{url} couldn't be {done} in {self.tries} tries, the last time: {last!r}; {hint}"
        ) from last


Place = Path | Remote
"""What a data set lies in."""


def place_of(path: str | Place) -> Place:
    """A folder, or what lies below a URL."""
    if isinstance(path, Remote):
        return path
    return Remote(str(path)) if "://" in str(path) else Path(path)


@contextmanager
def fetched(video: str, protocols: Sequence[str]) -> Iterator[str]:
    """The path of a video of a store on this machine, in TMPDIR, until the block ends; of another video, its
    path or URL. What fails in the block names the video by its URL.

    Raises:
        ValueError: the store's protocol isn't among `protocols`, or as the block.
        OSError: it can't be had; StoreDown where the store doesn't answer.
    """
    if video.partition("://")[0] not in STORES:
        yield video
        return
    check_protocol(video, protocols)
    with TemporaryDirectory(prefix="longcompress-") as folder:
        path = Path(folder) / video.rpartition("/")[2]
        Remote(video).fetch(path)
        try:
            yield str(path)
        except (OSError, ValueError) as error:
            if ends_work(error):
                raise
            raise ValueError(str(error).replace(str(path), video)) from error


def ends_work(error: Exception) -> bool:
    """Whether an error is no fault of the video that was read: a store that is down, a full disk here."""
    return isinstance(error, StoreDown) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def sizes_in(place: Place) -> dict[str, int]:
    """Name -> bytes of the files right in a place; none where it isn't there."""
    if isinstance(place, Remote):
        return place.sizes()
    return {path.name: path.stat().st_size for path in place.glob("*") if path.is_file()}


@contextmanager
def placing(place: Place, name: str) -> Iterator[Path]:
    """A path on this machine to write a file to, which then is the file of that name in the place."""
    if isinstance(place, Path):
        yield place / name
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        yield path
        (place / name).put(path)


class _Requests(io.RawIOBase):
    """A file of `num_bytes` below a URL, read by one request after the other."""

    def __init__(self, remote: Remote, name: str, num_bytes: int) -> None:
        self.remote, self.file_name, self.num_bytes, self.start = remote, name, num_bytes, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The number of bytes that were read; 0 at the end."""
        end = min(self.start + len(buffer), self.num_bytes)
        data = self.remote.span(self.file_name, self.start, end) if end > self.start else b""
        if self.start + len(data) < end:
            raise ValueError(
                f"{self.remote.of(self.file_name)} was cut: it ends too early; get the shard again"
            )
        buffer[: len(data)], self.start = data, end
        return len(data)


def _files(url: str, calls: int) -> tuple[Any, str, tuple[type[Exception], ...]]:
    """fsspec's file system of a URL (each process has its own), the path there, and the errors of reading.
    S3's client makes each request up to `calls` times; it would make it up to 25 times by itself."""
    try:
        import fsspec
    except ImportError as error:
        raise ImportError(f"{url}: reading URLs needs fsspec: pip install 'longcompress[web]'") from error
    protocol = url.partition("://")[0]
    options: dict[str, Any] = {}
    errors: tuple[type[Exception], ...] = (OSError,)
    try:
        if protocol in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_S, sock_read=SILENT_S)
            options, errors = {"client_kwargs": {"timeout": timeout}}, (OSError, aiohttp.ClientError)
        elif protocol == "hf":
            from huggingface_hub.errors import HfHubHTTPError

            errors = (OSError, *HfHubHTTPError.__bases__)  # its own and those of the client it is built on
        elif protocol in ("s3", "s3a"):
            from aiohttp import ClientError
            from botocore.exceptions import BotoCoreError

            limits = {"connect_timeout": SILENT_S, "read_timeout": SILENT_S}
            own = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})  # the user's settings
            config = {"retries": {"total_max_attempts": calls}, **limits, **own}
            options, errors = {"config_kwargs": config}, (OSError, BotoCoreError, ClientError)
        files, path = fsspec.core.url_to_fs(url, **options)
        if protocol in ("s3", "s3a"):
            files.retries = 1  # of this instance, which no other code gets
    except ImportError as error:
        raise ImportError(
            f"{url}: reading {protocol}:// needs another package ({error}): pip install 'fsspec[{protocol}]'"
        ) from error
    return files, path, errors


def _status(error: Exception) -> int | None:
    """What an HTTP server answered, if it did: aiohttp, the hub's and S3's client keep it in three places."""
    answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(answer, dict):
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(answer, "status_code", None)
    return status if isinstance(status, int) else None
