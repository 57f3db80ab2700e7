"""The command `serve`."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import heap
from ..serve.limits import Limits
from . import common
from .common import ModelOptions


def serve(*, limits: Limits, options: ModelOptions) -> None:
    """Answer OpenAI clients about videos: each is read once, and asked about many times.

    Args:
        limits: of clients; where to listen and what to accept.
        options: the model.
    """
    for secret in ("api_keys", "live_sources"):  # flags are in the list of processes
        if not getattr(limits, secret):
            own: dict[str, Any] = {secret: os.environ.get(f"LONGCOMPRESS_{secret.upper()}", "").split()}
            limits = replace(limits, **own)
    try:
        from ..serve.app import App, listen, server_of
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'longcompress[serve]'") from error
    heap.share_one_heap()  # else what the tensors of many threads leave between them grows for days
    heap.return_large_blocks()
    with listen(limits) as socket:
        is_folder = Path(options.model).is_dir()  # whose place is nobody's business
        name = Path(options.model).resolve().name if is_folder else options.model
        app = App(common.load_model(options), name, limits)
        heap.make_room_for_names()
        address, port = socket.getsockname()[:2]
        place = f"[{address}]" if ":" in address else address
        print(f"{name} at http://{place}:{port}/v1", flush=True)
        asyncio.run(server_of(app).serve(sockets=[socket]))
