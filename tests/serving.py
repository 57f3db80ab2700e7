"""A server in this process, for tests: `tiny` on a free port of the loopback address."""

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from longcompress.serve.app import App, listen, server_of
from longcompress.serve.limits import Limits

QUESTION = "When is the red ball seen?"


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
