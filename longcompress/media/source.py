"""Opens a file, URL or file object for decoding, and refuses files that point to other files.

FFmpeg opens nothing by itself: it reads through our `Handle`, and every further file that a container asks
for is refused. So a playlist can't make us read another file or reach the network.
"""

import os
import re
import stat
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import unquote, urlsplit

import av
from av.container import InputContainer

_BUFFER_BYTES = 1 << 18
_HEAD_BYTES = 1 << 13
_CONNECT_S = 30.0
INDEX_LAST = "this MP4/MOV has its index at the end and can't be read from a stream; pass a seekable file"
_REFUSED_FORMATS = frozenset(
    ("concat", "dash", "hls", "applehttp", "sdp", "rtsp", "rtp", "sap", "imf", "image2", "webm_dash_manifest")
)
_MP4_HEADS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_PLAYLISTS = (
    (re.compile(rb"\A\s*#EXTM3U"), "an M3U/HLS playlist"),
    (re.compile(rb"\A\s*ffconcat version"), "an ffconcat list"),
    (re.compile(rb"\A(\s*#[^\n]*\n|\s*\n)*\s*file\s+\S"), "a concat list"),
    (re.compile(rb"\A\s*v=0\s*\r?\n\s*[os]="), "an SDP session"),
    (re.compile(rb"\A\s*(<\?xml[^>]*>)?\s*(<!--.*?-->\s*)*<(\w+:)?MPD\b", re.S), "a DASH manifest"),
    (
        re.compile(rb"\A\s*(<\?xml[^>]*>)?\s*<(SmoothStreamingMedia|asx|smil|CompositionPlaylist)\b", re.I),
        "a playlist",
    ),
    (re.compile(rb"\A\s*\[playlist\]", re.I), "a PLS playlist"),
)


class Handle:
    """The bytes of a source as PyAV reads them.

    Attributes:
        name: of the source, for errors.
        num_bytes: its size, None if unknown.
        head: its first bytes.
        failure: the exception that a read or seek raised; from then on the source seems to have ended.
        stop: once set, the source seems to have ended.
    """

    def __init__(self, raw: BinaryIO, name: str, *, owned: bool) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.stop = threading.Event()
        self._raw = raw
        self._owned = owned
        seekable = getattr(raw, "seekable", None)
        self._seekable = bool(seekable() if seekable else hasattr(raw, "seek"))
        self.num_bytes: int | None = None
        if self._seekable:
            self.num_bytes = raw.seek(0, os.SEEK_END)
            if self.num_bytes is None:
                self.num_bytes = raw.tell()
            raw.seek(0)
        self._pending = memoryview(b"")
        self.head = b""
        while len(self.head) < _HEAD_BYTES and (part := self._read_raw(_HEAD_BYTES - len(self.head))):
            self.head += part

    def seekable(self) -> bool:
        return self._seekable

    def rewind(self) -> None:
        """Go back to the first byte."""
        self._pending = memoryview(b"" if self._seekable else self.head)
        if self._seekable:
            self._raw.seek(0)

    def read(self, num: int) -> bytes:
        if self.stop.is_set():
            return b""
        if self._pending:
            part, self._pending = self._pending[:num], self._pending[num:]
            return bytes(part)
        return self._read_raw(num)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            self._raw.seek(offset, whence)
            return self._raw.tell()
        except BaseException as error:  # see _read_raw
            self.failure = error
            return -1

    def tell(self) -> int:
        return self._raw.tell()

    def raise_failure(self, what: str) -> None:
        """Raise the failure, if there was one."""
        if self.failure is None:
            return
        if not isinstance(self.failure, Exception):  # Ctrl-C
            raise self.failure
        raise OSError(f"{self.name}: {what}: {self.failure!r}") from self.failure

    def close(self) -> None:
        """Close the file if we opened it."""
        if self._owned:
            self._raw.close()

    def _read_raw(self, num: int) -> bytes:
        if self.failure is not None:
            return b""
        try:
            return self._raw.read(num) or b""
        except BaseException as error:  # it can't cross FFmpeg's C code: `raise_failure` raises it later
            self.failure = error
            return b""


def open_handle(source: Any, protocols: Sequence[str]) -> Handle:
    """A handle on a path, an allowed URL or a binary file object.

    OSError if the file system or the network refuses it, ValueError for another protocol or a special file.
    """
    if isinstance(source, str | Path):
        text = str(source)
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
        if match and match[1].lower() != "file":
            return _open_url(text, match[1].lower(), protocols)
        return _open_path(unquote(urlsplit(text).path) if match else text, protocols)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return Handle(source, name if isinstance(name, str) else f"<{type(source).__name__}>", owned=False)
    raise TypeError(
        "source must be a path, a URL, a binary file object, Frames, Audio or an iterable of them, "
        f"got {type(source).__name__}; wrap arrays with longcompress.media.arrays"
    )


def open_container(handle: Handle, max_pixels: int) -> InputContainer:
    """The opened container of `handle`.

    ValueError for an empty file, a playlist, references to other files, or an unknown container.
    """
    handle.raise_failure("reading the header failed")
    if not handle.head:
        raise ValueError(f"{handle.name}: the file is empty (0 bytes)")
    for pattern, what in _PLAYLISTS:
        if pattern.match(handle.head):
            _refuse(handle.name, what)
    if outside := _outside_reference(handle):
        _refuse(handle.name, f"an MP4/MOV that keeps its data elsewhere ({outside})")
    handle.rewind()
    requests: list[str] = []  # further files that the container asks for

    def refuse_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
        requests.append(url)
        raise PermissionError(f"{handle.name} asks for {url!r}")

    # Coded sizes are rounded up to blocks and may be padded, so the decoders' own limit is wider than ours.
    options = {"protocol_whitelist": "none", "max_pixels": str(2 * max_pixels + (1 << 20))}
    try:
        container = av.open(
            handle, options=options, buffer_size=_BUFFER_BYTES, io_open=refuse_open, metadata_errors="replace"
        )
    except (av.FFmpegError, OSError) as error:
        if requests:
            _refuse(handle.name, f"a file that points to {requests[0]!r}")
        handle.raise_failure("reading the header failed")
        raise ValueError(f"{handle.name}: {_why(handle, error)}") from error
    names = set(container.format.name.split(","))
    if requests or names & _REFUSED_FORMATS:
        container.close()
        _refuse(handle.name, f"{container.format.long_name} ({container.format.name})")
    assert isinstance(container, InputContainer)
    return container


def _open_path(path: str, protocols: Sequence[str]) -> Handle:
    if "file" not in protocols:
        allowed = ", ".join(protocols)
        raise ValueError(f"{path}: protocols must have 'file' for files, got only {allowed}; add it")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is no regular file (a device or pipe); name - for standard input, or in Python open it "
            "and pass the file object"
        )
    return Handle(open(path, "rb", buffering=0), path, owned=True)


def _open_url(url: str, protocol: str, protocols: Sequence[str]) -> Handle:
    check_protocol(url, protocols)
    import fsspec

    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_CONNECT_S)
        options = {"client_kwargs": {"timeout": timeout}, "block_size": 1 << 20, "cache_type": "readahead"}
    name = without_secrets(url)
    try:
        raw = fsspec.open(url, "rb", **options).open()
    except FileNotFoundError as error:  # fsspec calls every refusal so
        status = getattr(error.__cause__, "status", 404)
        if status != 404:
            why = "the address may have expired" if status in (401, 403) else "try again later"
            raise OSError(f"{name}: the server answers HTTP {status}; {why}") from None
        raise FileNotFoundError(f"no file {name}") from None
    except ImportError as error:
        raise ValueError(f"{name}: reading {protocol}:// needs another package: {error}") from error
    return Handle(raw, name, owned=True)


def check_protocol(url: str, protocols: Sequence[str]) -> None:
    """ValueError for a URL of a protocol that isn't among these, or one inside of another."""
    protocol = url.partition("://")[0].lower()
    if "::" in url:
        raise ValueError(f"{url}: chained URLs are not read; fetch the file first")
    if protocol not in protocols:
        raise ValueError(
            f"{without_secrets(url)}: protocols must have {protocol!r}, got only {', '.join(protocols)}; "
            f"add it if you trust the source: --protocols {' '.join([*protocols, protocol])}"
        )


def without_secrets(url: str) -> str:
    """A URL for messages and files: without user, password, and the query that signs it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refuse(name: str, what: str) -> NoReturn:
    raise ValueError(f"{name} is {what}: what points to other files is refused; name the media file itself")


def _why(handle: Handle, error: BaseException) -> str:
    size = "" if handle.num_bytes is None else f" ({handle.num_bytes} bytes)"
    if handle.head[4:8] not in _MP4_HEADS:
        return f"no video or audio file{size}, or damaged from its first bytes: {error}"
    if handle.seekable():
        cause = "it was cut off or never finished; copy it again"
        return f"the MP4/MOV{size} has no readable index (moov): {cause}"
    return INDEX_LAST


def _outside_reference(handle: Handle) -> str | None:
    """The other file that an MP4/MOV keeps its samples in (a `dref` entry without the self flag), if any."""
    if handle.head[4:8] not in _MP4_HEADS or not handle.seekable():
        return None
    handle.rewind()
    end = handle.num_bytes or 0
    stack = [(0, end)]
    # Walk the boxes that may hold a `dref`; a bounded number of steps, for the file may be hostile.
    for _ in range(100_000):
        if not stack:
            return None
        at, end = stack.pop()
        if at + 8 > end:
            continue
        handle.seek(at)
        head = handle.read(16)
        if len(head) < 8:
            continue
        size, kind = struct.unpack(">I4s", head[:8])
        body = at + 8
        if size == 1 and len(head) == 16:
            size, body = struct.unpack(">Q", head[8:])[0], at + 16
        size = end - at if size == 0 else size
        if size < 8:
            continue
        stack.append((at + size, end))
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            stack.append((body, min(at + size, end)))
        elif kind == b"dref":
            handle.seek(body)
            if reference := _dref(handle.read(min(size - (body - at), 1 << 16))):
                return reference
    return None


def _dref(table: bytes) -> str | None:
    """First entry of a `dref` table that is not the file itself."""
    at = 8
    while at + 12 <= len(table):
        size, kind, flags = struct.unpack(">I4sI", table[at : at + 12])
        if not flags & 1:
            text = table[at + 12 : at + min(size, 512)].split(b"\0")[0]
            return f"{kind.decode('latin-1').strip()} {text.decode('utf-8', 'replace')}".strip()
        if size < 12:
            return None
        at += size
    return None
