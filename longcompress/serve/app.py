"""The routes: chat completions, models, files, metrics, health."""

import asyncio
import ipaddress
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from ..files import parse_json
from ..heap import return_free_pages
from ..memory import VideoMemory
from ..model import LongCompress
from .engine import Engine
from .guard import Guard
from .limits import MB, ApiError, Limits, refuse
from .live import LiveDoor
from .metrics import Metrics
from .page import page_routes
from .reading import Stopped
from .request import ChatRequest, parse_chat
from .rows import Completion
from .sources import Source, Sources, room

log = logging.getLogger(__name__)
ALIVE_S = 2.0  # without news, after which a stream gets a comment: so it is seen when a client leaves
GRACE_S = 10  # for answers to end when the server is told to
ERROR_S = 3  # of that, for errors
KEEP_ALIVE_S = 75  # of idle connections: clients close theirs first, or a request meets one that ends
FREE_S = 30.0  # after which free memory returns to the system
CHUNK = 1 << 20
UPLOAD_ROOM = 1 << 16  # bytes of an upload's form beside the file


class App:
    """A server of a model, as an ASGI application (`asgi`).

    Args:
        model: what answers.
        name: of the model, for clients.
        limits: where it listens, what it accepts.
    """

    def __init__(self, model: LongCompress, name: str, limits: Limits) -> None:
        self.name, self.limits, self.created_s = name, limits, int(time.time())
        self.metrics = Metrics()
        self.engine = Engine(model, limits, self.metrics)
        self.sources = Sources(limits)
        self.live = LiveDoor(self.engine, name)
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.files, methods=["GET"]),
            Route("/v1/files/{id}", self.file, methods=["GET", "DELETE"]),
            Route("/v1/files/{id}/content", self.content, methods=["GET"]),
            *page_routes(self.engine),
            *self.live.routes,
            Route("/metrics", self.prometheus, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
        ]
        self.asgi = Guard(Router(routes, lifespan=self._lifespan), limits, self.metrics)

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        self.warming = asyncio.create_task(self.engine.warm_up())
        freeing = asyncio.create_task(_return_free_pages())
        yield
        for task in (self.warming, freeing):
            task.cancel()
        self.close()

    def close(self) -> None:
        """End all work, and remove what requests left."""
        self.engine.close()
        self.sources.close()

    async def health(self, _: Request) -> Response:
        """That the server is there."""
        return JSONResponse({"status": "ok", "model": self.name})

    async def prometheus(self, _: Request) -> Response:
        """The metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, _: Request) -> Response:
        """The list of models: there is one."""
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def model(self, request: Request) -> Response:
        """What the model is."""
        if request.path_params["name"] != self.name:
            raise ApiError(f"this server has the model {self.name!r}", "model", "model_not_found", 404)
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        model = self.engine.model
        own = {
            "budget": model.config.budget.tokens, "max_budget": self.limits.max_budget,
            "rate_fps": model.config.media.rate_fps, "media": list(model.media),
            "context": model.llm.context, "protocols": self.limits.protocols,
            "segment_s": model.config.segments.length_s, "live_sources": list(self.limits.sources),
        }  # fmt: skip
        return {
            "id": self.name, "object": "model", "created": self.created_s, "owned_by": "longcompress",
            "longcompress": own,
        }  # fmt: skip

    # --- files

    async def upload(self, request: Request) -> Response:
        """A file of the client."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError("the body must be multipart/form-data with a file and a purpose", status=415)
        max_bytes = self.limits.upload_mb * MB + UPLOAD_ROOM
        parser = MultiPartParser(request.headers, _bounded(request, max_bytes), max_files=1, max_fields=8)
        try:
            with room("file"):
                form = await parser.parse()
        except (MultiPartException, ClientDisconnect, KeyError) as error:
            raise ApiError(f"the body is no form that can be read: {error}") from error
        request.scope["stack"].push_async_callback(form.close)
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise refuse("file", "is missing", "missing_required_parameter")

        async def chunks() -> AsyncIterator[bytes]:
            while chunk := await file.read(CHUNK):
                yield chunk

        purpose = str(form.get("purpose") or "user_data")
        upload = await self.sources.add(chunks(), file.filename or "file", purpose, request.scope["owner"])
        return JSONResponse(upload.to_json(self.limits.upload_hours))

    async def files(self, request: Request) -> Response:
        """The client's files."""
        files = self.sources.of(request.scope["owner"])
        data = [upload.to_json(self.limits.upload_hours) for upload in files]
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def file(self, request: Request) -> Response:
        """What a file is, or its end."""
        upload = self.sources.find(request.path_params["id"], request.scope["owner"], "id")
        if request.method == "DELETE":
            self.sources.remove(upload)
            return JSONResponse({"id": upload.id, "object": "file", "deleted": True})
        return JSONResponse(upload.to_json(self.limits.upload_hours))

    async def content(self, request: Request) -> Response:
        """The bytes of a file; parts of them where the client wants a range."""
        upload = self.sources.find(request.path_params["id"], request.scope["owner"], "id")
        return FileResponse(self.sources.path(upload), media_type="application/octet-stream")

    # --- chat

    async def chat(self, request: Request) -> Response:
        """An answer about a video."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise ApiError("the body must be application/json", status=415)
        body = b"".join([part async for part in _bounded(request, self.limits.request_mb * MB)])
        try:
            values = await asyncio.to_thread(parse_json, body, "the body")
        except ValueError as error:
            raise ApiError(str(error)[:300], "body", "invalid_json") from error
        chat = parse_chat(values, self.name, self.limits)
        stack = request.scope["stack"]
        sources = await stack.enter_async_context(self.sources.opened(chat.parts, request.scope["owner"]))
        work = Work(self, chat, sources)
        stack.callback(work.task.cancel)
        if chat.stream:
            return StreamingResponse(work.events(), media_type="text/event-stream")
        left = asyncio.create_task(_left(request))
        stack.callback(left.cancel)
        await asyncio.wait((work.task, left), return_when=asyncio.FIRST_COMPLETED)
        if not work.task.done():
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(work.whole(*work.task.result()))


class Work:
    """A chat completion at work; `task` gives memory, whether it was there before, and answer."""

    def __init__(self, app: App, chat: ChatRequest, sources: list[Source]) -> None:
        self.app, self.chat, self.key = app, chat, app.engine.key(chat, sources)
        self.id, self.created_s = f"chatcmpl-{uuid4().hex}", int(time.time())
        self.news: asyncio.Queue[str | tuple[float, float | None] | None] = asyncio.Queue()
        self.task = asyncio.create_task(self._run(sources))

    async def _run(self, sources: list[Source]) -> tuple[VideoMemory, bool, Completion]:
        try:
            engine, say = self.app.engine, self.news.put_nowait
            progress = lambda *seconds: say(seconds)  # noqa: E731 - a queue takes one value
            memory, is_kept = await engine.memory(self.key, self.chat, sources, progress)
            return memory, is_kept, await engine.answer(memory, self.chat, say if self.chat.stream else None)
        except Stopped as error:
            raise ApiError("the server is stopping; try again later", status=503) from error
        except ValueError as error:  # of the prompt: too long, or with a placeholder
            raise ApiError(str(error)[:500], "messages") from error
        finally:
            self.news.put_nowait(None)

    def whole(self, memory: VideoMemory, is_kept: bool, done: Completion) -> dict[str, Any]:
        """OpenAI's chat completion."""
        message = {"role": "assistant", "content": done.answer.text, "refusal": None}
        reason = "stop" if done.is_whole else "length"
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return self._head("chat.completion") | {
            "choices": [choice], "usage": usage(memory, done),
            "longcompress": self.own(memory, is_kept, done),
        }  # fmt: skip

    async def events(self) -> AsyncIterator[str]:
        """OpenAI's chunks as server-sent events; comments tell of progress, or keep the connection."""
        sent = ""
        yield self._chunk({"role": "assistant", "content": ""})
        while True:
            try:
                news = await asyncio.wait_for(self.news.get(), ALIVE_S)
            except TimeoutError:
                yield ": at work\n\n"
                continue
            if news is None:
                break
            if isinstance(news, tuple):
                yield self._progress(*news)
            elif len(text := news.rstrip()) > len(sent) and text.startswith(sent):
                yield self._chunk({"content": text[len(sent) :]})
                sent = text
        try:
            memory, is_kept, done = await self.task
        except Exception as error:  # the answer has begun, so its status can't say it any more
            if not isinstance(error, ApiError):
                log.exception("request failed after its answer began")
                error = ApiError("the server failed; its log says why", status=500)
            yield f"data: {json.dumps(error.body())}\n\n"
            return
        if rest := done.answer.text[len(sent) :]:
            yield self._chunk({"content": rest})
        own = {"longcompress": self.own(memory, is_kept, done)}
        yield self._chunk({}, "stop" if done.is_whole else "length", own)
        if self.chat.usage:
            head = self._head("chat.completion.chunk")
            yield f"data: {json.dumps(head | {'choices': [], 'usage': usage(memory, done)})}\n\n"
        yield "data: [DONE]\n\n"

    def own(self, memory: VideoMemory, is_kept: bool, done: Completion) -> dict[str, Any]:
        """Our fields of the answer."""
        answer = done.answer.to_json()
        start_s, length_s = self.chat.start_s, memory.duration_s
        own = {
            "budget": memory.budget, "tokens": memory.num_tokens,
            "streams": {name: len(tokens) for name, tokens in memory.streams.items()},
            "globals": sum(map(len, memory.globals.values())), "part_s": [start_s, start_s + length_s],
            "events": answer["events"], "coverage": answer["coverage"],
            "memory": "kept" if is_kept else "read", "memory_id": self.key,
            "warnings": memory.source.get("warnings", []),
        }  # fmt: skip
        return own | ({"evidence": answer["cites"]} if self.chat.evidence else {})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created_s, "model": self.app.name}

    def _chunk(self, delta: dict[str, str], reason: str | None = None, more: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]} | (more or {})
        return f"data: {json.dumps(chunk)}\n\n"

    def _progress(self, read_s: float, length_s: float | None) -> str:
        """A chunk without choices if the client asked for it, else a comment: some can't take such chunks."""
        seconds = {"read_s": read_s, "duration_s": length_s}
        if not self.chat.progress:
            return f": {json.dumps(seconds)}\n\n"
        own = {"choices": [], "longcompress": {"progress": seconds}}
        return f"data: {json.dumps(self._head('chat.completion.chunk') | own)}\n\n"


def usage(memory: VideoMemory, done: Completion) -> dict[str, Any]:
    """OpenAI's counts: positions of the prompt, of which those of audio and those read before; tokens."""
    audio = sum(len(tokens) for name, tokens in memory.streams.items() if name != "video")
    return {
        "prompt_tokens": done.num_prompt, "completion_tokens": done.num_tokens,
        "total_tokens": done.num_prompt + done.num_tokens,
        "prompt_tokens_details": {"audio_tokens": audio, "cached_tokens": done.num_cached},
    }  # fmt: skip


async def _bounded(request: Request, max_bytes: int) -> Any:
    """The body's parts; ApiError where it is longer, whatever its header says, or packed."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":  # nothing unpacks it, so it can't be a bomb
        raise ApiError(f"content-encoding must be identity, got {coding!r:.60}", status=415)
    num_bytes = 0
    async for part in request.stream():
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise refuse("body", f"must have at most {max_bytes} bytes", "too_large", 413)
        yield part


async def _left(request: Request) -> None:
    """Waits until the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _return_free_pages() -> None:
    """Else what many requests leave between small allocations grows for hours."""
    while True:
        await asyncio.sleep(FREE_S)
        await asyncio.to_thread(return_free_pages)


def listen(limits: Limits) -> socket.socket:
    """A socket of the address.

    Raises:
        OSError: it is taken.
        ValueError: other machines reach it, and no key is needed.
    """
    if not limits.api_keys and not ipaddress.ip_address(limits.address).is_loopback:
        raise ValueError(
            f"api_keys must be set, for other machines reach the address {limits.address}; set "
            "LONGCOMPRESS_API_KEYS, or listen on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in limits.address else socket.AF_INET
    listener = socket.create_server((limits.address, limits.port), family=family, backlog=128)
    # for those it accepts: else an answer's body waits 40 ms until its head is acknowledged
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def server_of(app: App) -> uvicorn.Server:
    """The server, to be run on the socket of `listen`."""
    config = uvicorn.Config(
        app.asgi, log_level="warning", lifespan="on", ws="websockets-sansio", http="h11", proxy_headers=False,
        server_header=False, limit_concurrency=app.limits.connections, timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S, ws_max_size=app.limits.live_message_mb * MB,
        ws_ping_timeout=app.limits.stall_s, ws_ping_interval=app.limits.stall_s, ws_per_message_deflate=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    shutdown = server.shutdown

    async def shutdown_in_order(sockets: list[socket.socket] | None = None) -> None:
        """Answers have time to end; the others become errors while their clients can still be told."""
        await app.live.close()  # first: uvicorn would close WebSockets with another code
        asyncio.get_running_loop().call_later(GRACE_S - ERROR_S, app.engine.stop)
        await shutdown(sockets)

    server.shutdown = shutdown_in_order  # type: ignore[method-assign]
    return server
