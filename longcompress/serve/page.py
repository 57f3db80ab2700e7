"""The page that people look at: its files, and what a memory holds as JSON."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from ..media.thumbnails import url_of
from ..memory import VideoMemory, sampling
from ..model import LongCompress
from .limits import ApiError, refuse

if TYPE_CHECKING:
    from .engine import Engine

STATIC = Path(__file__).parent / "static"
FILES = {"/": "index.html"} | {
    f"/{name}": name for name in ("page.css", "page.js", "chart.js", "live.js", "live-audio.js")
}
POLICY = (  # nothing of another site, no script or style in the text of the page
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
}  # fmt: skip
KEY = re.compile(r"[0-9a-f]{64}")


def page_routes(engine: "Engine") -> list[Route]:
    """The page's files, and a memory's content for it."""

    async def static(request: Request) -> Response:
        return FileResponse(STATIC / FILES[request.url.path], headers=HEADERS)

    async def find(request: Request) -> tuple[str, VideoMemory]:
        key = request.path_params["key"]
        memory = await asyncio.to_thread(engine.memories.find, key) if KEY.fullmatch(key) else None
        if memory is None:
            raise ApiError("there is no such memory; ask about the video again", "id", "not_found", 404)
        return key, memory

    async def content(request: Request) -> Response:
        key, memory = await find(request)
        return JSONResponse(await asyncio.to_thread(memory_json, key, memory, engine.model))

    async def patches(request: Request) -> Response:
        _, memory = await find(request)
        rows = patch_rows(memory, engine.model)
        number = request.path_params["number"]
        if number >= len(rows):
            raise refuse("number", f"must be below {len(rows)}, frames whose patches the memory keeps")
        return JSONResponse({"number": number, "tokens": rows[number].tolist()})

    at = "/v1/longcompress/memories/{key}"
    routes = [Route(path, static, methods=["GET"]) for path in FILES]
    return [*routes, Route(at, content), Route(f"{at}/patches/{{number:int}}", patches)]


def memory_json(key: str, memory: VideoMemory, model: LongCompress) -> dict[str, Any]:
    """What a memory holds: seconds and masses of its tokens, its thumbnails, the grid of its patches."""
    streams = {
        name: {
            "start_s": _rounded(tokens.start_s), "end_s": _rounded(tokens.end_s),
            "time_s": _rounded(tokens.time_s), "size": _rounded(tokens.size),
        }
        for name, tokens in memory.streams.items()
    }  # fmt: skip
    thumbnails = [
        {"time_s": thumbnail.time_s, "index": thumbnail.index, "url": url_of(thumbnail.jpeg)}
        for thumbnail in memory.thumbnails
    ]  # fmt: skip
    return {
        "id": key, "budget": memory.budget, "tokens": memory.num_tokens, "duration_s": memory.duration_s,
        "streams": streams, "thumbnails": thumbnails, "fit": model.config.media.fit,
        "grid": [] if model.video is None else list(model.video.grid),
        "frames": len(patch_rows(memory, model)), "step_s": _step_s(memory, model),
    }  # fmt: skip


def patch_rows(memory: VideoMemory, model: LongCompress) -> Tensor:
    """(T, rows * columns) the token of each patch of each frame step; T = 0 where the memory keeps none."""
    numbers = memory.video.assignment.get("video")
    if numbers is None or model.video is None:
        return torch.zeros(0, 1)
    rows, columns = model.video.grid
    return numbers.view(-1, rows * columns)


def _step_s(memory: VideoMemory, model: LongCompress) -> float:
    """Seconds of the video that a row of patches stands for."""
    sampled = sampling(model) | memory.source.get("media", {})
    media = replace(model.config.media, rate_fps=sampled["rate_fps"], frames=sampled["frames"])
    return media.frame_s(memory.duration_s) * (1 if model.video is None else model.video.frames_per_token)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
