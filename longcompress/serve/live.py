"""The door for live sessions: WebSockets at /v1/realtime, with OpenAI's Realtime events."""

import asyncio
import json
from contextlib import suppress

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..media.live import KINDS, kind_of
from .engine import Engine
from .limits import ApiError, refuse
from .live_session import LiveSession

PATH = "/v1/realtime"
PROTOCOL = "realtime"
FAREWELL_S = 2.0
PREFIX = "event_"  # of the numbers of events


class LiveDoor:
    """The live sessions of a server.

    Args:
        engine: of the model.
        name: of the model, for clients.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name, self.limits = engine, name, engine.limits
        for source in self.limits.sources.values():
            kind_of(source, tuple(KINDS))  # what can't be is refused before anybody comes
        self.sessions: dict[str, LiveSession] = {}
        self.routes = [WebSocketRoute(PATH, self.connect)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Future[None]] = set()
        self._is_closed = False

    async def connect(self, websocket: WebSocket) -> None:
        """A connection: of a new session, or of one that was cut."""
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
        try:
            session, sent = self._session(websocket)
        except ApiError as error:
            with suppress(WebSocketDisconnect):
                await websocket.send_text(
                    json.dumps({"type": "error", "event_id": "event_0", **error.body()})
                )
                await websocket.close(4000 + error.status, str(error).encode()[:120].decode(errors="ignore"))
            return
        self._connections.add(done := asyncio.get_running_loop().create_future())
        try:
            await session.serve(websocket, sent)
        finally:
            self._connections.discard(done)
            done.set_result(None)

    async def close(self) -> None:
        """End all sessions: the server goes away."""
        self._is_closed = True
        for session in list(self.sessions.values()):
            session.stop(1001, "the server is stopping")
            session.cut(1001, "the server is stopping")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._connections:  # each says why it ends, to those who listen
            await asyncio.wait(self._connections, timeout=FAREWELL_S)

    def _session(self, websocket: WebSocket) -> tuple[LiveSession, int | None]:
        """The session that the address names, or a new one, and the last event that the client has."""
        query, owner, limits = websocket.query_params, websocket.scope["owner"], self.limits
        if query.get("model", self.name) != self.name:
            raise refuse("model", f"{query['model']!r:.80} is not served, but {self.name!r} is", None, 404)
        if self._is_closed:
            raise ApiError("the server is stopping; try again later", status=503)
        if (name := query.get("session")) is not None:
            session = self.sessions.get(name)
            if session is None or session.owner != owner or session.end is not None:
                message = "is none of yours that goes on; begin a new one"
                raise refuse("session", message, "session_not_found", 404)
            sent = query.get("after", PREFIX + "0").removeprefix(PREFIX)
            if not (sent.isascii() and sent.isdigit() and len(sent) < 16):
                raise refuse("after", f"must be the id of an event, got {sent!r:.60}")
            return session, int(sent)
        own = [session for session in self.sessions.values() if session.owner == owner]
        if len(own) >= limits.client_live or len(self.sessions) >= limits.live_sessions:
            message = f"at most {limits.client_live} live sessions, and {limits.live_sessions} of all clients"
            raise ApiError(message, None, "rate_limit", 429)
        session = LiveSession(owner, self.engine, self.name)
        self.sessions[session.id] = session
        self.engine.metrics.live.set(len(self.sessions))
        task = asyncio.create_task(session.run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._forget(session, done))
        return session, None

    def _forget(self, session: LiveSession, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        del self.sessions[session.id]
        self.engine.metrics.live.set(len(self.sessions))
