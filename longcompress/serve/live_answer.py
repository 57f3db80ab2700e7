"""What happens in a session as the events that a client of a live connection gets."""

import math
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from ..session_events import Asked, Dropped, Reply, ReplyBegan, ReplyPart, Scored, SegmentClosed, SessionEvent

Json = dict[str, Any]
CAUSES = {"a question came": "turn_detected", "cancelled": "client_cancelled"}


class Answers:
    """Knows the items of requests, and the response that is being said."""

    def __init__(self) -> None:
        self.items: dict[int, str] = {}  # request that stands -> its item
        self._id = ""  # of the response
        self._item_id = ""  # of what it says
        self._own: Json = {}

    def item(self, item_id: str, content: Json, own: Json) -> Json:
        """That an item of the user was taken in."""
        item = {
            "id": item_id, "object": "realtime.item", "type": "message", "role": "user",
            "status": "completed", "content": [content],
        }  # fmt: skip
        return {
            "type": "conversation.item.added",
            "previous_item_id": None,
            "item": item,
            "longcompress": own,
        }

    def events(self, event: SessionEvent, item_id: str = "", *, scores: bool = False) -> Iterator[Json]:
        """What the client gets of an event.

        Args:
            event: of the session.
            item_id: of the request that was made just now.
            scores: the client wants those.
        """
        match event:
            case Asked():
                self.items[event.request or 0] = item_id
                own = {"request": event.request, "time_s": event.time_s, "reply": "may"}
                yield self.item(item_id, {"type": "input_text", "text": event.text}, own)
            case Scored():
                if scores:
                    yield {
                        "type": "longcompress.scores", "time_s": event.time_s, "fired": event.fired,
                        "scores": {n: p if math.isfinite(p) else None for n, p in event.scores.items()},
                        **self._about(event.request),
                    }  # fmt: skip
            case SegmentClosed():
                yield {"type": "longcompress.segment", **vars(event)}
            case ReplyBegan():
                yield self._begun(event.request, event.time_s)
            case ReplyPart():
                yield self._part("response.output_text.delta", delta=event.text)
            case Reply():
                yield from self._reply(event)
            case Dropped():
                yield self._dropped(event)

    def withdrawn(self, item_id: str) -> int | None:
        """The number of the request of an item, which stands no longer; None where there is none."""
        for request, name in self.items.items():
            if name == item_id:
                del self.items[request]
                return request
        return None

    def _about(self, request: int | None) -> Json:
        return {"request": request, "item_id": self.items.get(request or 0)}

    def _begun(self, request: int | None, time_s: float) -> Json:
        self._id, self._item_id = f"resp_{uuid4().hex}", f"item_{uuid4().hex}"
        self._own = {"time_s": time_s, **self._about(request)}
        return self._response("response.created", "in_progress", [], self._own)

    def _response(self, kind: str, status: str, output: list[Json], own: Json, details: Any = None) -> Json:
        response = {
            "id": self._id, "object": "realtime.response", "status": status, "status_details": details,
            "output": output, "output_modalities": ["text"], "longcompress": own,
        }  # fmt: skip
        return {"type": kind, "response": response}

    def _part(self, kind: str, **text: str) -> Json:
        where = {"response_id": self._id, "item_id": self._item_id, "output_index": 0, "content_index": 0}
        return {"type": kind, **where, **text}

    def _reply(self, reply: Reply) -> Iterator[Json]:
        answer = reply.answer.to_json()
        text = answer.pop("text")
        if reply.request is None:  # of a question: it is said at once
            yield self._begun(None, reply.time_s)
            if text:
                yield self._part("response.output_text.delta", delta=text)
        yield self._part("response.output_text.done", text=text)
        message = {
            "id": self._item_id, "object": "realtime.item", "type": "message", "role": "assistant",
            "status": "completed", "content": [{"type": "output_text", "text": text}],
        }  # fmt: skip
        own = {**self._own, "done_s": reply.done_s, "is_repeat": reply.is_repeat, **answer}
        yield self._response("response.done", "completed", [message], own)

    def _dropped(self, event: Dropped) -> Json:
        if event.what == "reply":
            reason = CAUSES.get(event.reason, "client_cancelled")
            details = {"type": "cancelled", "reason": reason}
            own = {**self._own, "done_s": event.end_s, "reason": event.reason}
            return self._response("response.done", "cancelled", [], own, details)
        where = {"what": event.what, "start_s": event.time_s, "end_s": event.end_s}
        return {"type": "longcompress.dropped", **where, "reason": event.reason}
