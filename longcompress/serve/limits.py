"""What the server accepts, and the error that a client gets for anything else."""

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MB, GB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """Where the server listens, and what it accepts.

    Attributes:
        address: IP address to listen on. One that other machines reach needs api_keys.
        port: 0 takes a free one.
        api_keys: of clients; better in LONGCOMPRESS_API_KEYS, for flags are in the list of processes.
        names: under which clients reach the server, besides its address and localhost.
        folder: of memories and uploads; ~/.cache/longcompress/serve if not given.
        memories_gb: of memory files on disk; those unused for the longest time are removed.
        loaded: memories that stay in RAM, ready to answer.
        uploads_gb: of files of all clients.
        client_gb: of files of a client.
        upload_hours: after which a file is removed.
        upload_mb: of a file, also of one fetched by URL.
        request_mb: of a JSON request, with its data URLs.
        protocols: of URLs that are fetched, of https and http; none if not given. Addresses of private
            networks are never fetched.
        max_seconds: of video read for an answer.
        max_frames: sampled of a video.
        max_rate_fps: frames a second; merging takes memory with the square of a segment's tokens.
        max_pixels: of a frame or an image.
        max_images: of a request.
        max_budget: tokens of a memory.
        max_signs: of all texts of a request.
        max_new_tokens: of an answer.
        requests: at work or waiting; more get 429.
        client_requests: likewise of a client.
        client_minute: requests that a client may begin in a minute.
        connections: open at a time.
        readers: videos that are read at a time, at the most; short ones are read one after another.
        batch: questions that are answered at a time.
        live_sessions: live sessions at a time.
        client_live: likewise of a client.
        live_keep_s: after which a session whose connection was cut is over.
        live_idle_s: after which a session is over that nothing comes for.
        live_pixels: of a frame of a live session.
        live_message_mb: of a message to a live session; twice as much may wait to be read.
        live_sources: NAME=SOURCE each (door=rtsp://...): what the server reads for live sessions. Clients
            know the names alone. Better in LONGCOMPRESS_LIVE_SOURCES where there is a password in it.
        stall_s: without a byte from or to a client, after which it is left.
    """

    address: str = "127.0.0.1"
    port: int = 8765
    api_keys: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    folder: str | None = None
    memories_gb: float = 10.0
    loaded: int = 8
    uploads_gb: float = 20.0
    client_gb: float = 5.0
    upload_hours: float = 24.0
    upload_mb: int = 2048
    request_mb: int = 32
    protocols: list[str] = field(default_factory=list)
    max_seconds: float = 6 * 3600.0
    max_frames: int = 50_000
    max_rate_fps: float = 8.0
    max_pixels: int = 9_000_000
    max_images: int = 256
    max_budget: int = 16_384
    max_signs: int = 20_000
    max_new_tokens: int = 1024
    requests: int = 64
    client_requests: int = 32
    client_minute: int = 600
    connections: int = 256
    readers: int = 2
    batch: int = 16
    live_sessions: int = 8
    client_live: int = 4
    live_keep_s: float = 30.0
    live_idle_s: float = 120.0
    live_pixels: int = 2_200_000
    live_message_mb: int = 8
    live_sources: list[str] = field(default_factory=list)
    stall_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and name != "port" and not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if set(self.protocols) - {"http", "https"}:
            raise ValueError(f"protocols must be of http and https, got {self.protocols}")
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            raise ValueError(f"address must be an IP address such as 127.0.0.1, got {self.address}") from None
        if any(len(key) < 16 for key in self.api_keys):
            raise ValueError("api_keys must have at least 16 signs each; `openssl rand -hex 24` makes one")

        if wrong := [s for s in self.live_sources if not re.fullmatch(r"[\w.-]{1,64}=.+", s)]:
            raise ValueError(
                "live_sources must be NAME=SOURCE (door=rtsp://...), the name of letters, digits and .-_, "
                f"got {wrong[0].partition('=')[0]!r:.80}"
            )

    @property
    def sources(self) -> dict[str, str]:
        """Name -> source, of live_sources."""
        return {name: source for name, _, source in (s.partition("=") for s in self.live_sources)}

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder) if self.folder else Path.home() / ".cache" / "longcompress" / "serve"


class ApiError(Exception):
    """An answer of OpenAI's shape instead of a result; `status` is HTTP's, `code` is for programs."""

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON."""
        kinds = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def from_base64(data: str, param: str) -> bytes:
    """The bytes of a field in base64; ApiError where it is none."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise refuse(param, f"is no base64: {error}") from error


def refuse(param: str, message: str, code: str | None = None, status: int = 400) -> ApiError:
    """The error of a field, which begins the message."""
    return ApiError(f"{param} {message}", param, code, status)
