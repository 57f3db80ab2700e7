"""A live session of a client: what waits to be read, who reads it, and what is sent, also after a cut."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any
from uuid import uuid4

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..media.image import decode_image
from ..session import Session
from ..session_events import Reply, SessionEvent
from ..types import Audio, Frames
from .engine import Engine
from .limits import MB, ApiError, refuse
from .live_answer import Answers
from .live_clock import Clock
from .live_request import Op, changed, default_settings, event_id_of, parse_binary, parse_event, parse_text
from .named_source import NamedSource, data_url

log = logging.getLogger(__name__)
MEDIA = ("frame", "audio")
MAX_MEDIA, MAX_WAITING = 64, 256  # frames and stretches of audio, and things in all, that wait
MAX_ITEMS = 256  # questions that wait, and requests that stand
LAG_S = 3.0  # what waits for longer makes room for what is new
MAX_SIGNS = 1 << 18  # of an event without frames and audio
SENT_BYTES = 4 * MB  # of events that can be sent again
LEFT = (1000, 1001)  # codes of a client that won't come back
Json = dict[str, Any]


class LiveSession:
    """Lives in an event loop. `run` reads what waits, `serve` is a connection: a single one at a time.

    Args:
        owner: the client.
        engine: of the model.
        name: of the model, for clients.
    """

    def __init__(self, owner: str, engine: Engine, name: str) -> None:
        self.id, self.owner, self.name = f"sess_{uuid4().hex}", owner, name
        self.engine, self.limits, self.metrics = engine, engine.limits, engine.metrics
        self._rate_hz = engine.model.config.media.rate_hz
        self.settings = default_settings(engine.model, self.limits)
        self.end: tuple[int, str] | None = None  # code and reason, when it is over
        self._session: Session | None = None
        self._is_begun = False  # media or texts came, so most settings are fixed
        self._overflow = self.settings.overflow
        self._answers = Answers()
        self._questions: dict[str, str] = {}  # item -> text, until the client wants an answer
        self._waiting: deque[Op] = deque()
        self._work, self._room, self._news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._sent: deque[tuple[int, str]] = deque()  # number and JSON of the last events
        self._num_sent, self._num_bytes = 0, 0
        self._num_received, self._num_dropped = 0, {"video": 0, "audio": 0}
        self._line = asyncio.Lock()  # a connection after the other
        self._cut: asyncio.Future[tuple[int, str]] | None = None  # ends the connection there is
        self._seen_s = time.monotonic()  # when the client was last heard of
        self._clock = Clock(self._rate_hz)
        self._source: NamedSource | None = None
        self._tell({"type": "session.created", "session": self._about()})

    # --- the connection

    async def serve(self, websocket: WebSocket, sent: int | None) -> None:
        """Take in and send until the client leaves, or the session is over.

        Args:
            websocket: accepted.
            sent: the number of the last event that a client has which comes back; None for a new client.
        """
        self.cut(4409, "another connection took the session over")
        async with self._line:
            self._seen_s = time.monotonic()
            self._cut = asyncio.get_running_loop().create_future()
            if sent is not None:
                own = {"received": self._num_received, "missed": max(0, self._first - 1 - sent)}
                self._tell({"type": "longcompress.resumed", "session": self._about(), **own})
            work = (self._receive(websocket), self._send(websocket, sent or 0))
            tasks = [asyncio.create_task(coroutine) for coroutine in work]
            try:
                await asyncio.wait([*tasks, self._cut], return_when=asyncio.FIRST_COMPLETED)
                cut = self._cut.result() if self._cut.done() else None
                end = cut or next(task.result() for task in tasks if task.done())
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._cut, self._seen_s = None, time.monotonic()
                self._work.set()
        if end[0] in LEFT and self.end is None:
            self.stop(*end)
        try:
            async with asyncio.timeout(self.limits.stall_s):  # a client that reads nothing is left
                await websocket.close(*end)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            log.info("a live client left")

    def cut(self, code: int, reason: str) -> None:
        """End the connection, where there is one."""
        if self._cut is not None and not self._cut.done():
            self._cut.set_result((code, reason))

    def stop(self, code: int, reason: str) -> None:
        """The session is over."""
        self.end = self.end or (code, reason)
        if self._source is not None:
            self._source.stop()
        for event in (self._work, self._room, self._news):
            event.set()

    async def _receive(self, websocket: WebSocket) -> tuple[int, str]:
        """Takes in what comes; code and reason, when the client has left."""
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return message.get("code") or 1006, "the client left"
            self._seen_s, values, ops = time.monotonic(), None, list[Op]()
            try:
                if (data := message.get("bytes")) is not None:
                    ops = [parse_binary(data)]
                else:
                    values = parse_text(message["text"])
                    ops = parse_event(values, self.limits)
                    if len(message["text"]) > MAX_SIGNS and not {op.kind for op in ops} & {*MEDIA}:
                        raise refuse("event", f"must have at most {MAX_SIGNS} signs", "too_large", 413)
            except ApiError as error:
                self._tell_error(error, event_id_of(values))
            for op in ops:
                await self._put(op)
            self._num_received += 1

    async def _send(self, websocket: WebSocket, sent: int) -> tuple[int, str]:
        """Sends all events after number `sent` as they come; code and reason, when that is over."""
        sent = max(sent, self._first - 1)
        while True:
            while sent < self._num_sent:
                if sent < self._first - 1:
                    return 4408, "events come faster than they are read"
                number, text = self._sent[sent + 1 - self._first]
                try:
                    async with asyncio.timeout(self.limits.stall_s):
                        await websocket.send_text(text)
                except TimeoutError:
                    return 4408, "the client reads nothing"
                except (RuntimeError, WebSocketDisconnect):
                    return 1006, "the client left"
                sent = number
            if self.end is not None:
                return self.end
            self._news.clear()
            await self._news.wait()

    @property
    def _first(self) -> int:
        """Number of the first event that can be sent again."""
        return self._sent[0][0] if self._sent else self._num_sent + 1

    def _tell(self, event: Json) -> None:
        """Send an event, now or when the client comes back."""
        self._num_sent += 1
        text = json.dumps({"event_id": f"event_{self._num_sent}", **event})
        self._sent.append((self._num_sent, text))
        self._num_bytes += len(text)
        while self._num_bytes > SENT_BYTES and len(self._sent) > 1:
            self._num_bytes -= len(self._sent.popleft()[1])
        self._news.set()

    def _tell_error(self, error: ApiError, event_id: str | None) -> None:
        body = error.body()["error"]
        self._tell({"type": "error", "error": {**body, "event_id": event_id}})

    def _about(self) -> Json:
        """OpenAI's session object, and our fields."""
        live = asdict(self.settings.live)
        for name in ("turns", "max_frames"):
            del live[name]
        settings = {n: v for n, v in vars(self.settings).items() if n != "live"}
        settings["rate_fps"] = settings["rate_fps"] or self.engine.model.config.media.rate_fps
        return {
            "id": self.id, "object": "realtime.session", "type": "realtime", "model": self.name,
            "output_modalities": ["text"],
            "audio": {"input": {"format": {"type": "audio/pcm", "rate": self._rate_hz}}},
            "longcompress": {**settings, **live, "keep_s": self.limits.live_keep_s},
        }  # fmt: skip

    # --- what waits

    async def _put(self, op: Op) -> None:
        """Let something wait for its turn; what is too much is dropped, or has to wait outside."""
        now_s = time.monotonic()
        if op.kind == "update" and op.values.get("overflow") in ("drop", "wait"):
            self._overflow = op.values["overflow"]
        if op.kind in MEDIA:
            while self._overflow == "wait" and self._is_full() and self.end is None:
                self._room.clear()
                await self._room.wait()
            op = replace(op, arrived_s=now_s, time_s=self._clock.second(op, now_s))
        elif len(self._waiting) >= MAX_WAITING:
            error = refuse("event", "comes while too many others wait; send it again", "rate_limit", 429)
            self._tell_error(error, op.event_id)
            return
        self._waiting.append(op)
        if op.kind in MEDIA and self._overflow == "drop":
            self._make_room(now_s)
        self._work.set()

    def _is_full(self) -> bool:
        media = [op for op in self._waiting if op.kind in MEDIA]
        num_bytes = sum(len(op.data) for op in media)
        return len(media) >= MAX_MEDIA or num_bytes > 2 * self.limits.live_message_mb * MB

    def _make_room(self, now_s: float) -> None:
        """Where reading lags: of the frames that wait the newest stays, then of the audio its newer half."""
        media = [op for op in self._waiting if op.kind in MEDIA]
        lag_s = now_s - media[0].arrived_s
        if not (lag_s > LAG_S or self._is_full()):
            return
        self._drop([op for op in media if op.kind == "frame"][:-1], lag_s)
        audio = [op for op in self._waiting if op.kind == "audio"]
        if audio and (now_s - audio[0].arrived_s > 2 * LAG_S or self._is_full()):
            self._drop(audio[: max(1, len(audio) // 2)], lag_s)

    def _drop(self, ops: list[Op], lag_s: float) -> None:
        if not ops:
            return
        numbers = {id(op) for op in ops}
        self._waiting = deque(op for op in self._waiting if id(op) not in numbers)
        what = "video" if ops[0].kind == "frame" else "audio"
        self._num_dropped[what] += len(ops)
        self.metrics.live_dropped.labels(what).inc(len(ops))
        times = [op.time_s or 0.0 for op in ops]
        reason = f"late: {lag_s:.1f} s behind, {len(self._waiting)} things wait"
        where = {"what": what, "start_s": min(times), "end_s": max(times), "num": len(ops)}
        self._tell({"type": "longcompress.dropped", **where, "reason": reason})

    # --- reading

    async def run(self) -> None:
        """Read what waits until the session is over; it ends by itself where nothing comes for too long."""
        while (op := await self._next()) is not None:
            try:
                await self._do(op)
            except ApiError as error:
                self._tell_error(error, op.event_id)
            except ValueError as error:
                self._tell_error(ApiError(str(error)[:500], op.kind), op.event_id)
            except Exception:  # a client never sees more of it than that it was
                log.exception("live session failed")
                self._tell_error(ApiError("the server failed; its log says why", status=500), op.event_id)
                self.stop(1011, "the server failed")

    async def _next(self) -> Op | None:
        """What has waited the longest, or that nothing came for too long; None when the session is over."""
        while not self._waiting and self.end is None:
            is_cut = self._cut is None
            patience_s = self.limits.live_keep_s if is_cut else self.limits.live_idle_s
            self._work.clear()
            try:
                async with asyncio.timeout(self._seen_s + patience_s - time.monotonic()):
                    await self._work.wait()
            except TimeoutError:
                if not is_cut:
                    return Op("close", text=f"nothing came for {patience_s:g} s")
                self.stop(4408, "nobody came back")
        if self.end is not None:
            return None
        self._room.set()
        return self._waiting.popleft()

    async def _do(self, op: Op) -> None:
        item_id = op.item_id or f"item_{uuid4().hex}"
        match op.kind:
            case "update":
                self._update(dict(op.values))
            case "frame" | "audio" if op.part is not None:
                await self._part(op, op.part)
            case "frame":
                pixels = await asyncio.to_thread(decode_image, op.data, self.limits.live_pixels)
                await self._model(lambda session: session.push_frame(pixels, op.time_s))
                if op.item_id is not None:
                    self._tell(self._answers.item(item_id, {"type": "input_image"}, {"time_s": op.time_s}))
                self.metrics.live_s.observe(time.monotonic() - op.arrived_s)
            case "audio":
                samples = np.frombuffer(op.data, "<i2").copy()
                await self._model(lambda session: session.push_audio(samples, self._rate_hz, op.time_s))
            case "request" | "question":
                await self._text(op, item_id)
            case "source":
                await self._open(op.text)
            case "end":
                await self._close(1000, op.text)
            case "delete":
                await self._delete(item_id)
            case "respond":
                await self._respond(op)
            case "cancel":
                if not await self._model(lambda session: session.cancel()):
                    raise refuse("response", "is none that could be cancelled", "response_cancel_not_active")
            case "close":
                await self._close(*((4408, op.text) if op.text else (1000, "the client closed it")))

    async def _open(self, name: str) -> None:
        """Read a source of the server's from now on."""
        if self._is_begun or self._source is not None:
            raise refuse(
                "source", "must come once, before media and texts; begin another session", "session_begun"
            )
        media = self.engine.with_rate(self.settings.rate_fps).config.media
        config = replace(media, video="video" in self.settings.media, audio="audio" in self.settings.media)
        self._source = source = NamedSource(name, self.limits.sources[name], config, self._take)
        try:
            opened = await source.opened
        except ValueError:
            self._source = None
            raise
        self.settings = replace(self.settings, media=tuple(m for m in self.settings.media if m in opened))
        self._session = self._new()
        self._tell({"type": "longcompress.source", "source": name, "media": list(self.settings.media)})
        source.ended.add_done_callback(self._end_of_source)

    async def _take(self, part: Frames | Audio) -> None:
        """A part of the source waits for its turn."""
        if self._cut is not None:  # its client is there, and need not say anything
            self._seen_s = time.monotonic()
        await self._put(Op("frame" if isinstance(part, Frames) else "audio", part=part, time_s=part.start_s))

    def _end_of_source(self, ended: asyncio.Future[None]) -> None:
        error = ended.exception()
        if error is not None:
            self._tell_error(ApiError(str(error), "source", "unreadable"), None)
        self._waiting.append(Op("end", text="the source ended" if error is None else "the source failed"))
        self._work.set()

    async def _part(self, op: Op, part: Frames | Audio) -> None:
        await self._model(lambda session: session.push(part))
        if isinstance(part, Frames):
            url = await asyncio.to_thread(data_url, part)
            self._tell({"type": "longcompress.frame", "time_s": op.time_s, "image_url": url})
            self.metrics.live_s.observe(time.monotonic() - op.arrived_s)

    async def _model(
        self, call: Callable[[Session], list[SessionEvent]], item_id: str = ""
    ) -> list[SessionEvent]:
        """The events of a call, which has the model for itself; they are sent."""
        if self._session is None:
            self._session = self._new()
        events = await self.engine.alone(partial(call, self._session))
        self._is_begun = True
        for event in events:
            for sent in self._answers.events(event, item_id, scores=self.settings.scores):
                self._tell(sent)
        return events

    def _new(self) -> Session:
        settings = self.settings
        model = self.engine.with_rate(settings.rate_fps)
        return Session(model, settings.budget, media=settings.media, live=settings.live)

    def _update(self, values: Json) -> None:
        rate_hz, where = values.pop("rate_hz", None), "session.audio.input.format.rate"
        if rate_hz not in (None, self._rate_hz):
            raise refuse(where, f"must be {self._rate_hz}, got {rate_hz!r:.60}")
        settings = changed(self.settings, values, self.limits)
        fixed = replace(settings, scores=self.settings.scores, overflow=self.settings.overflow)
        if fixed != self.settings:
            if self._is_begun:
                alone = "can change scores and overflow alone once media or a text came"
                message = f"{alone}; begin another session"
                raise refuse("session.longcompress", message, "session_begun")
            before, self.settings = self.settings, settings
            try:
                self._session = self._new()
            except ValueError:
                self.settings = before
                raise
        self.settings, self._overflow = settings, settings.overflow
        self._tell({"type": "session.updated", "session": self._about()})

    async def _text(self, op: Op, item_id: str) -> None:
        if item_id in self._questions or item_id in self._answers.items.values():
            raise refuse("item.id", f"{item_id!r:.70} is there already", "item_exists")
        if len(self._questions) + len(self._answers.items) >= MAX_ITEMS:
            raise refuse("item", f"is past {MAX_ITEMS} that wait or stand; delete some", "rate_limit", 429)
        if op.kind == "request":
            await self._model(lambda session: session.push_text(op.text, reply="may"), item_id)
            return
        self._questions[item_id] = op.text
        self._tell(self._answers.item(item_id, {"type": "input_text", "text": op.text}, {"reply": "must"}))

    async def _delete(self, item_id: str) -> None:
        if self._questions.pop(item_id, None) is None:
            request = self._answers.withdrawn(item_id)
            if request is None:
                raise refuse("item_id", f"{item_id!r:.70} is no text that waits or stands", "item_not_found")
            await self._model(lambda session: session.withdraw(request))
        self._tell({"type": "conversation.item.deleted", "item_id": item_id})

    async def _respond(self, op: Op) -> None:
        if not self._questions:
            raise refuse("response", "needs a question; create an item with a text first", "no_question")
        question, self._questions = "\n".join(self._questions.values()), {}

        def of_memory(session: Session) -> list[SessionEvent]:
            longest = min(session.model.config.llm.max_new_tokens, self.limits.max_new_tokens)
            answer = session.ask(question, max_new_tokens=longest)
            return [Reply(session.encoder.end_s, question, answer)]

        await self._model(of_memory if op.is_memory else lambda session: session.push_text(question))

    async def _close(self, code: int, reason: str) -> None:
        """Say what is due, and what came of it all."""
        own: Json = {
            "reason": reason, "received": self._num_received, "dropped": dict(self._num_dropped), "stats": {}
        }  # fmt: skip
        if self._session is not None and self._is_begun:
            await self._model(lambda session: session.close())
            own["stats"] = self._session.stats()
        self._tell({"type": "session.closed", "session": {"id": self.id}, "longcompress": own})
        self.stop(code, reason)
