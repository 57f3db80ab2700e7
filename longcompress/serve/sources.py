"""The media of requests as files: uploads, data URLs, and URLs where they are allowed."""

import asyncio
import errno
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from uuid import uuid4

import httpx

from ..files import is_alive, replacing
from .limits import GB, MB, Limits, from_base64, refuse
from .request import Part

REDIRECTS = 3
FETCH_S = 600.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # addresses that lead to any IPv4 address, private ones too


@dataclass(frozen=True)
class Source:
    """A medium as a file, and the hash of its bytes."""

    kind: str
    param: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Upload:
    """A file of a client; created_s since 1970."""

    id: str
    owner: str
    filename: str
    purpose: str
    num_bytes: int
    sha256: str
    created_s: float

    def to_json(self, hours: float) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id, "object": "file", "bytes": self.num_bytes, "created_at": int(self.created_s),
            "expires_at": int(self.created_s + 3600 * hours), "filename": self.filename,
            "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


class Sources:
    """The folder of uploads, which clients name by id, and of what is there for a request alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.folder = limits.path / "files"
        self.incoming = limits.path / f"incoming-{os.getpid()}-{uuid4().hex[:8]}"
        for folder in (self.folder, self.incoming):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in limits.path.glob("incoming-*-*"):  # of servers that were killed
            if not is_alive(int(folder.name.split("-")[1])):
                shutil.rmtree(folder, ignore_errors=True)
        self.uploads: dict[str, Upload] = {}
        for path in self.folder.glob("file-*.json"):
            try:
                upload = Upload(**json.loads(path.read_text()))
                self.uploads[upload.id] = upload
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        for path in self.folder.glob("file-*.bin"):
            if path.stem not in self.uploads:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what requests left."""
        shutil.rmtree(self.incoming, ignore_errors=True)

    def of(self, owner: str) -> list[Upload]:
        """A client's files, the newest first; those whose time is over are removed."""
        oldest_s = time.time() - 3600 * self.limits.upload_hours
        for upload in [u for u in self.uploads.values() if u.created_s < oldest_s]:
            self.remove(upload)
        files = [upload for upload in self.uploads.values() if upload.owner == owner]
        return sorted(files, key=lambda upload: -upload.created_s)

    def find(self, name: str, owner: str, param: str) -> Upload:
        """A client's file by its id; of another client's it is as if there were none."""
        upload = next((upload for upload in self.of(owner) if upload.id == name), None)
        if upload is None:
            raise refuse(param, f"{name!r:.60} is no file of yours; upload it first", "not_found", 404)
        return upload

    def path(self, upload: Upload) -> Path:
        """Where its bytes are."""
        return self.folder / f"{upload.id}.bin"

    def remove(self, upload: Upload) -> None:
        """Forget a file."""
        self.uploads.pop(upload.id, None)
        for suffix in (".json", ".bin"):
            (self.folder / f"{upload.id}{suffix}").unlink(missing_ok=True)

    async def add(self, chunks: AsyncIterator[bytes], filename: str, purpose: str, owner: str) -> Upload:
        """A client's new file."""
        name = f"file-{uuid4().hex}"
        part = self.incoming / name
        try:
            num_bytes, sha256 = await store(chunks, part, self.limits.upload_mb * MB, "file")
            mine = sum(upload.num_bytes for upload in self.of(owner)) + num_bytes
            everyone = sum(upload.num_bytes for upload in self.uploads.values()) + num_bytes
            if mine > self.limits.client_gb * GB:
                raise refuse("file", f"would make {mine} bytes of yours; delete some", "quota", 429)
            if everyone > self.limits.uploads_gb * GB:
                raise refuse("file", "has no room on the server; try again later", "no_room", 507)
            upload = Upload(name, owner, filename[:255], purpose[:64], num_bytes, sha256, time.time())
            with room("file"), replacing(self.folder / f"{name}.json") as path:
                path.write_text(json.dumps(asdict(upload)))
                os.replace(part, self.folder / f"{name}.bin")  # before its record has its name
        finally:
            part.unlink(missing_ok=True)
        self.uploads[name] = upload
        return upload

    @asynccontextmanager
    async def opened(self, parts: Iterable[Part], owner: str) -> AsyncIterator[list[Source]]:
        """The media of a request as files; those that are there for it alone are removed afterwards."""
        sources: list[Source] = []
        own: list[Path] = []
        try:
            for part in parts:
                own.append(path := self.incoming / uuid4().hex)
                if part.url.startswith("file-"):
                    upload = self.find(part.url, owner, part.param)
                    sha256 = upload.sha256
                    os.link(self.path(upload), path)  # it may be deleted meanwhile
                elif part.url[:5].lower() == "data:":
                    sha256 = await asyncio.to_thread(_decode, part, path)
                else:
                    async with aclosing(fetch(part.url, part.param, self.limits)) as chunks:
                        _, sha256 = await store(chunks, path, self.limits.upload_mb * MB, part.param)
                sources.append(Source(part.kind, part.param, path, sha256))
            yield sources
        finally:
            for path in own:
                path.unlink(missing_ok=True)


async def store(chunks: AsyncIterator[bytes], path: Path, max_bytes: int, param: str) -> tuple[int, str]:
    """(bytes, hash) of what comes, written to a file; ApiError where it is more, or the disk is full."""
    digest, num_bytes = hashlib.sha256(), 0
    with room(param), open(path, "wb") as file:
        async for chunk in chunks:
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise refuse(param, f"must have at most {max_bytes} bytes", "too_large", 413)
            await asyncio.to_thread(file.write, chunk)
            digest.update(chunk)
    return num_bytes, digest.hexdigest()


@contextmanager
def room(param: str) -> Iterator[None]:
    """A full disk inside is an ApiError that names the field."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise refuse(param, "can't be stored: the disk is full; wait", "no_room", 507) from error


def _decode(part: Part, path: Path) -> str:
    """The hash of a data URL's bytes, which become a file."""
    head, comma, data = part.url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise refuse(part.param, "must be a data URL in base64: data:...;base64,...")
    content = from_base64(data, part.param)
    with room(part.param):
        path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


async def fetch(url: str, param: str, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The bytes behind a URL of an allowed protocol. Every address is checked, and the connection goes to the
    checked one; redirects are checked likewise."""
    try:
        async with (
            asyncio.timeout(FETCH_S),
            httpx.AsyncClient(trust_env=False, timeout=limits.stall_s) as client,
        ):
            for _ in range(REDIRECTS + 1):
                request = await _request(client, url, param, limits)
                response = await client.send(request, stream=True)
                try:
                    if response.is_redirect:
                        url = urljoin(url, response.headers["location"])
                        continue
                    if response.status_code != 200:
                        raise refuse(param, f"can't be fetched: its server answers {response.status_code}")
                    async for chunk in response.aiter_raw():
                        yield chunk
                    return
                finally:
                    await response.aclose()
        raise refuse(param, f"must have at most {REDIRECTS} redirects")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise refuse(param, f"can't be fetched: {type(error).__name__}") from error


async def _request(client: httpx.AsyncClient, url: str, param: str, limits: Limits) -> httpx.Request:
    """A request to the checked address of a URL."""
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise refuse(param, "is no URL") from None
    if parts.scheme not in limits.protocols:
        known = ["a data URL", "the id of a file", *(f"a URL of {name}" for name in limits.protocols)]
        message = f"must be {' or '.join(known)}, got {url!r:.60}; paths are never read: upload the file"
        raise refuse(param, message, "url_not_allowed")
    if not name or parts.username or parts.password:
        raise refuse(param, "must be a URL with a server's name and no password")
    loop = asyncio.get_running_loop()
    try:
        found_at = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise refuse(param, "can't be fetched: there is no server of its name") from None
    addresses = [str(item[4][0]) for item in found_at]
    if not addresses or not all(map(is_public, addresses)):
        raise refuse(param, "leads into a private network", "url_not_allowed")
    place = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    target = parts._replace(netloc=f"{place}:{port}", fragment="").geturl()
    headers = {"host": parts.netloc, "accept-encoding": "identity"}
    return client.build_request("GET", target, headers=headers, extensions={"sni_hostname": name})


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, whatever it wraps."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in NAT64 or ip.teredo or ip.sixtofour:
            return False
        ip = ip.ipv4_mapped or ip
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)
