"""A server in this process, for tests: `tiny` on a free port of the loopback address."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import httpx
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.serve.app import App, listen, server_of
from longcompress.serve.limits import Limits
from longcompress.serve.live_request import HEAD

QUESTION = "When is the red ball seen?"
# A live session: what is asked, a client's settings, and the same as a config.
TEXT = "when does the red ball appear"
OWN = {
    "trigger": {"rule": "single", "threshold": 0.01, "heads": ["relevance"]}, "near_s": 8, "past": 20,
    "text_tokens": 60, "max_reply_tokens": 9, "step_tokens": 2, "patience_s": 3.0, "replies": "keep",
    "poll": "{request}", "poll_yes": "red", "poll_no": "blue", "budget": 40,
}  # fmt: skip
LIVE = LiveConfig(
    TriggerConfig("single", 0.01, ("relevance",)), near_s=8.0, past=20, text_tokens=60, max_reply_tokens=9,
    step_tokens=2, patience_s=3.0, replies="keep", poll="{request}", poll_yes="red", poll_no="blue",
)  # fmt: skip


@contextmanager
def running(model, folder, **limits) -> Iterator[tuple[App, httpx.Client]]:
    """An app of `model`, and a plain client of it."""
    app = App(model, "tiny", Limits(port=0, folder=str(folder), **limits))
    with listen(app.limits) as socket:
        server = server_of(app)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[socket])))
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while not server.started and thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            address = f"http://127.0.0.1:{socket.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
                yield app, client
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def until(condition) -> None:
    """Waits until it is true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def data_url(path: Path, kind: str = "video/mp4") -> str:
    """A file in a URL."""
    return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def body(*parts, text: str = QUESTION, **more) -> dict:
    """A request about media."""
    content = [{"type": "text", "text": text}, *parts]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


def video(url: str) -> dict:
    """The part of a video."""
    return {"type": "video_url", "video_url": {"url": url}}


class Live:
    """A client of a live session; `events` are all that came."""

    def __init__(self, client: httpx.Client, query: str = "", **options) -> None:
        url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
        self.socket = connect(f"{url}/v1/realtime?model=tiny{query}", proxy=None, **options)
        self.events: list[dict] = []

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    @property
    def id(self) -> str:
        """Of the session; it comes first."""
        return (self.events or [self.next()])[0]["session"]["id"]

    def send(self, kind: str, **fields) -> None:
        """An event."""
        self.socket.send(json.dumps({"type": kind, **fields}))

    def settings(self, **own) -> dict:
        """Sets them; what the session is then, or the error."""
        self.send("session.update", session={"longcompress": own})
        return self.until("session.updated", "error")

    def text(self, text: str, reply: str = "must", **item) -> None:
        """A question, or a request that stands."""
        content = [{"type": "input_text", "text": text}]
        self.send(
            "conversation.item.create", item={"content": content, "longcompress": {"reply": reply}, **item}
        )

    def frame(self, image: bytes, time_s: float) -> None:
        """A JPEG or PNG in a binary message."""
        self.socket.send(HEAD.pack(1, time_s) + image)

    def audio(self, samples: np.ndarray, start_s: float) -> None:
        """Samples of 16 bits in a binary message."""
        self.socket.send(HEAD.pack(2, start_s) + samples.astype("<i2").tobytes())

    def next(self) -> dict:
        """The next event."""
        self.events.append(json.loads(self.socket.recv(timeout=60)))
        return self.events[-1]

    def until(self, *kinds: str) -> dict:
        """The next event of one of these types."""
        while (event := self.next())["type"] not in kinds:
            pass
        return event

    def rest(self) -> int | None:
        """All that comes until the server closes; its code, None where the connection was cut."""
        try:
            while True:
                self.next()
        except ConnectionClosed as error:
            return error.rcvd and error.rcvd.code


def png_of(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG."""
    context = av.CodecContext.create("png", "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base = "rgb24", Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
