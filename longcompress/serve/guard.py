"""Stands before every request: who it is, whether there is room, and an error of OpenAI's shape if not."""

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .limits import ApiError, Limits
from .metrics import Metrics
from .page import FILES

log = logging.getLogger(__name__)
OPEN = ("/health", *FILES)  # need no key
MINUTE_S = 60.0
KEY_PROTOCOL = "openai-insecure-api-key."  # as OpenAI names it


class Guard:
    """An ASGI application around another one.

    The scope of a request gets `owner`, who sent it, and `stack`, an AsyncExitStack that ends with it.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self._active: Counter[str] = Counter()
        self._begun: dict[str, deque[float]] = {}
        self._names = {"localhost", *limits.names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start_s, status = time.perf_counter(), 0
        body_is_there = False
        end: Message | None = None  # of the answer: sent when all that was there for the request is removed

        async def send_in_time(message: Message) -> None:
            nonlocal status, end
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False) and message is not end:
                end = message
                return
            async with asyncio.timeout(self.limits.stall_s):  # a client that reads nothing is left
                await send(message)

        async def receive_in_time() -> Message:
            nonlocal body_is_there
            if body_is_there:  # only the end of the connection is still to come
                return await receive()
            try:
                async with asyncio.timeout(self.limits.stall_s):
                    message = await receive()
            except TimeoutError:
                raise ApiError("the body must come without pauses; send it again", status=408) from None
            body_is_there = not message.get("more_body", False)
            return message

        error: ApiError | None = None
        async with AsyncExitStack() as stack:
            try:
                scope.update(stack=stack, app=self, owner=self._owner(scope))
                if scope["path"] not in OPEN:
                    stack.enter_context(self._admitted(scope["owner"]))
                await self.app(scope, receive_in_time, send_in_time)
            except ApiError as caught:
                error = caught
            except ClientDisconnect:
                log.info("a client left")
            except asyncio.CancelledError:  # by the server, for its grace is over
                error = ApiError("the server is stopping; try again later", status=503)
            except HTTPException as caught:  # of the router
                where = f"{scope['method']} {scope['path']}"
                error = ApiError(f"{where}: {caught.detail}", status=caught.status_code)
            except Exception as caught:  # a client never sees more of it than that it was
                if not status:
                    log.exception("request failed")
                    error = ApiError("the server failed; its log says why", status=500)
                elif not isinstance(caught, TimeoutError):
                    log.exception("request failed after its answer began")
            if error is not None and not status:
                retry = {"retry-after": "5"} if error.status in (429, 503) else {}
                await JSONResponse(error.body(), error.status, retry)(scope, receive, send_in_time)
        route = getattr(scope.get("route"), "path", "none")
        self.metrics.requests.labels(route, status).inc()
        self.metrics.request_s.labels(route).observe(time.perf_counter() - start_s)
        if end is not None:
            with suppress(TimeoutError):
                await send_in_time(end)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket counts as a request; what is wrong before it is accepted is an answer of HTTP."""
        try:
            scope["owner"] = self._owner(scope)
            with self._admitted(scope["owner"]):
                await self.app(scope, receive, send)
        except ApiError as error:
            socket = WebSocket(scope, receive, send)
            await socket.send_denial_response(JSONResponse(error.body(), error.status))

    def _owner(self, scope: Scope) -> str:
        """A name for the client: of its key, or without keys of its address."""
        headers = Headers(scope=scope)
        site = headers.get("host", "")
        name = urlsplit(f"//{site}").hostname or ""
        if name not in self._names and not _is_address(name):  # a name that another site gave to this address
            raise ApiError(f"the name {name!r:.60} is not allowed; start it with --names", status=403)
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != site:
            raise ApiError("pages of other sites may not send requests", status=403)
        if not self.limits.api_keys or scope["path"] in OPEN:
            return hashlib.sha256(str((scope.get("client") or ("",))[0]).encode()).hexdigest()[:16]
        key = headers.get("authorization", "").removeprefix("Bearer ").encode()
        for protocol in scope.get("subprotocols", ()):  # a page can't send headers with a WebSocket
            if protocol.startswith(KEY_PROTOCOL):
                key = protocol.removeprefix(KEY_PROTOCOL).encode()
        matches = [hmac.compare_digest(key, known.encode()) for known in self.limits.api_keys]
        if not any(matches):
            raise ApiError("a key is needed: Authorization: Bearer KEY", None, "invalid_api_key", 401)
        return hashlib.sha256(key).hexdigest()[:16]

    @contextmanager
    def _admitted(self, owner: str) -> Iterator[None]:
        """Room for a request of a client; ApiError 429 if there is none."""
        limits, now_s = self.limits, time.monotonic()
        begun = self._begun.setdefault(owner, deque())
        while begun and begun[0] < now_s - MINUTE_S:
            begun.popleft()
        if len(begun) >= limits.client_minute:
            raise ApiError(f"at most {limits.client_minute} requests a minute; wait", None, "rate_limit", 429)
        if self._active[owner] >= limits.client_requests:
            raise ApiError(f"at most {limits.client_requests} requests at a time", None, "rate_limit", 429)
        if self._active.total() >= limits.requests:
            raise ApiError("the server is busy; try again in a few seconds", None, "busy", 429)
        begun.append(now_s)
        self._active[owner] += 1
        self.metrics.active.inc()
        try:
            yield
        finally:
            self.metrics.active.dec()
            self._active[owner] -= 1
            self._active += Counter()  # without clients that have none
            for name in [n for n, times in self._begun.items() if not times or times[-1] < now_s - MINUTE_S]:
                del self._begun[name]


def _is_address(name: str) -> Any:
    try:
        return ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
