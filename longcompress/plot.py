"""Plots of a memory (matplotlib): events over time, tokens over time, merged patches, recall of needles."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .config import MediaConfig
from .files import replacing
from .llm.prompt import lay_out
from .media import reader as media
from .media.thumbnails import Thumbnail, pixels_of
from .memory import VideoMemory
from .session_events import Reply, Scored, SessionEvent
from .types import Event, Frames, stream_order

INK, FAINT, BARS = "#22303c", "#d9dee3", ("#2f6db3", "#3f9aa0")
COLOURS = {"video": "#2f6db3", "audio": "#e08a2c", "speech": "#4f9d69"}
MAX_ROWS, MAX_LETTERS = 40, 56  # of a timeline
MAX_BARS = 240  # of a token plot
MAX_THUMBNAILS, THUMBNAIL_ROW = 8, 1.4  # above a timeline; height in inches
KEY_FRAME_PX = 448
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def plot_timeline(
    events: Sequence[Event], duration_s: float, path: str | Path, thumbnails: Sequence[Thumbnail] = ()
) -> Path:
    """The path, .png, .svg or .pdf, of a plot with a row for each text and a bar for each of its events.

    Of more than 40 texts those that last longest are shown, and the title says so. Thumbnails, at most 8 of
    them spread evenly, stand in a row above, each with a line to its time.
    """
    if not duration_s > 0:
        raise ValueError(f"duration_s must be > 0 seconds, got {duration_s}")
    rows: dict[str, list[Event]] = {}
    for event in sorted(events):
        rows.setdefault(event.text or "(no text)", []).append(event)
    title = f"{_count(len(events), 'event')} in {_clock(duration_s)}"
    if len(rows) > MAX_ROWS:
        title += f"; of {len(rows)} texts the {MAX_ROWS} that last longest"
        by_length = sorted(rows, key=lambda text: sum(e.start_s - e.end_s for e in rows[text]))
        rows = {text: rows[text] for text in rows if text in by_length[:MAX_ROWS]}
    height = 1.5 + 0.32 * max(2, len(rows))
    figure = _figure(10, height + (THUMBNAIL_ROW if thumbnails else 0))
    if thumbnails:
        above, axes = figure.subplots(2, 1, height_ratios=[THUMBNAIL_ROW, height])
        _thumbnail_row(above, thumbnails, duration_s)
    else:
        axes = figure.add_subplot()
    for row, same in enumerate(rows.values()):
        min_s = duration_s / 400  # so that an instant can be seen
        spans = [(e.start_s, max(e.end_s - e.start_s, min_s)) for e in same]
        style = {"facecolors": BARS[row % 2], "edgecolors": "white", "linewidth": 0.6, "zorder": 2}
        axes.broken_barh(spans, (row - 0.34, 0.68), **style)
    axes.set_yticks(range(len(rows)), [_short(text) for text in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a dollar sign in a text is one
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    _time_axis(axes, duration_s)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set_title(title, loc="left")
    if not rows:
        axes.text(0.5, 0.5, "no events", transform=axes.transAxes, ha="center", va="center", color=INK)
    return _save(figure, path)


def plot_tokens(memory: VideoMemory, path: str | Path) -> Path:
    """The path, .png, .svg or .pdf, of a plot of the tokens of each segment, stream on stream.

    The memory's model tells the lengths of segments and, unless it is a stock model, where timestamps lie.
    """
    duration_s = max(memory.duration_s, 1e-3)
    model = memory.model
    segment_s = model.config.segments.length_s if model is not None else _nice_step(duration_s / 60)
    bar_s = segment_s * max(1, -(-duration_s // (segment_s * MAX_BARS)))
    edges = np.arange(0, int(-(-duration_s // bar_s)) + 1) * bar_s
    figure = _figure(10, 3.8)
    axes = figure.add_subplot()
    base = np.zeros(len(edges) - 1)
    style = {"align": "edge", "edgecolor": "white", "linewidth": 0.6 if len(base) <= 120 else 0, "zorder": 2}
    for name in stream_order(memory.streams):
        tokens = memory.streams[name]
        time_s = tokens.time_s.to("cpu", torch.float64).numpy().clip(edges[0], edges[-1])
        count = np.histogram(time_s, edges)[0].astype(np.float64)
        label = f"{name}, {_count(len(tokens), 'token')}"
        axes.bar(edges[:-1], count, bar_s, base, color=COLOURS[name], label=label, **style)
        base += count
    axes.set_ylim(0, max(1.0, base.max(initial=0.0)) * 1.08)
    if model is not None and model.config.llm.kind != "stock":
        shown_s = lay_out(memory.video, model.llm.tokenizer, model.config.llm, model.llm.names).shown_s
        style = {"color": INK, "markersize": 4, "clip_on": False, "zorder": 3}
        axes.plot(shown_s, np.zeros(len(shown_s)), "^", label=f"timestamps, {len(shown_s)}", **style)
    axes.set_ylabel(f"tokens per {bar_s:g} s")
    _time_axis(axes, duration_s)
    axes.yaxis.get_major_locator().set_params(integer=True)
    handles = [*reversed(axes.containers), *axes.lines]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)
    num_globals = sum(map(len, memory.globals.values()))
    raw = round(sum(float(t.size.sum()) for t in memory.streams.values()))
    more = f", {num_globals} of them for the whole video" if num_globals else ""
    title = f"{_count(memory.num_tokens, 'token')} stand for {raw:,} in {_clock(duration_s)}{more}"
    axes.set_title(title, loc="left")
    return _save(figure, path)


def plot_merged(
    memory: VideoMemory, source: Any, path: str | Path, num_frames: int = 6, *,
    protocols: Sequence[str] = ("file",),
) -> Path:  # fmt: skip
    """The path, .png, .svg or .pdf, of a plot of key frames, spread evenly over the video, in which the
    patches of a token are outlined in its colour.

    `memory` is of `source`, compressed with keep_assignment=True.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    members = memory.video.assignment.get("video")
    if members is None:
        raise ValueError(
            "memory doesn't say which patches became one token; compress the video with keep_assignment=True "
            "(longcompress compress --keep-assignment)"
        )
    model = memory.model
    if model is None or model.video is None:
        raise ValueError(
            "memory has no model with a video encoder; use longcompress.load_memory(path, model)"
        )
    patches, (side, columns) = model.video.patches, model.video.grid
    if side != columns:
        raise ValueError(f"model must lay a frame's tokens in a square, got {side} x {columns}")
    number = members.view(-1, side, side).cpu().numpy()  # (T, side, side)
    num_frames = min(num_frames, len(number))
    indices = [int((k + 0.5) * len(number) / num_frames) for k in range(num_frames)]
    config = replace(model.config.media, size_px=KEY_FRAME_PX, audio=False)
    frames = _key_frames(source, config, [k * model.video.frames_per_token for k in indices], protocols)
    columns = 2 if num_frames == 4 else min(num_frames, 3)
    rows = -(-num_frames // columns)
    wide = _aspect(source, protocols) if config.fit == "squash" else 1.0
    figure = _figure(3.3 * columns, 0.5 + (3.3 / wide + 0.3) * rows, layout="compressed")
    for place, (index, (pixels, time_s)) in enumerate(zip(indices, frames, strict=True), 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(pixels, extent=(0, side, side, 0), aspect=1 / wide, interpolation="antialiased")
        _outline(axes, number[index])
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        here = len(np.unique(number[index]))
        axes.set_title(f"{_clock(time_s)}   {_count(here, 'token')} for {patches} patches", fontsize=9)
    title = f"{len(np.unique(number[indices]))} tokens"
    if columns > 1:
        frames_of = f"{num_frames} of {_count(len(number), 'frame')}"
        title = f"{frames_of}: patches outlined in one colour are one token ({title} here)"
    figure.suptitle(title, fontsize=11, color=INK)
    return _save(figure, path)


def plot_depths(recall: Mapping[str, Mapping[tuple[float, float], float]], path: str | Path) -> Path:
    """The path, .png, .svg or .pdf, of a plot of the recall of needles, depth against length, with a panel
    for each kind. `recall` is kind -> (minutes, depth) -> recall, in [0, 1]."""
    kinds = [kind for kind, patches in recall.items() if patches]
    if not kinds:
        raise ValueError("recall must hold at least one kind with a patch, got none")
    figure = _figure(2.9 * len(kinds), 3.2)
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, kind in zip(axes, kinds, strict=True):
        lengths, depths = (sorted(set(axis)) for axis in zip(*recall[kind], strict=True))
        values = np.array([[recall[kind].get((x, y), np.nan) for x in lengths] for y in depths])
        image = panel.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 0.6 else "white"
                panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
        panel.set_xticks(range(len(lengths)), [f"{minutes:g}" for minutes in lengths])
        panel.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
        panel.set_title(kind, fontsize=9)
        panel.set_xlabel("minutes")
    axes[0].set_ylabel("depth")
    figure.colorbar(image, ax=list(axes), label="recall", shrink=0.8)
    return _save(figure, path)


def _key_frames(
    source: Any, config: MediaConfig, indices: list[int], protocols: Sequence[str]
) -> list[tuple[NDArray[np.uint8], float]]:
    """Pixels (H, W, 3) and time of the frames at rising `indices`."""
    frames, first = [], 0
    with media.read(source, config, protocols=protocols) as parts:
        for part in parts:
            assert isinstance(part, Frames)
            here = [k - first for k in indices if first <= k < first + len(part)]
            frames += [(part.pixels[k].numpy(), float(part.time_s[k])) for k in here]
            first += len(part)
            if len(frames) == len(indices):
                return frames
    what = f"source must be the video of this memory, read at rate_fps = {config.rate_fps}"
    raise ValueError(f"{what}: it has {first} frames, number {indices[-1]} is wanted")


def _outline(axes: Any, number: NDArray[np.int32]) -> None:
    """Tint and outline on a (side, side) grid the patches of each token, in the token's colour."""
    from matplotlib.collections import LineCollection

    side = len(number)
    tint = np.array([[(*_colour(t), 0.16) for t in row] for row in number.tolist()])
    axes.imshow(tint, extent=(0, side, side, 0), aspect=axes.get_aspect(), interpolation="nearest")
    inset, out = 0.06, 0.5 - 0.06
    padded = np.pad(number, 1, constant_values=-1)
    lines, colours = [], []
    for (y, x), token in np.ndenumerate(number):
        near = padded[y : y + 3, x : x + 3] == token  # itself in the middle
        for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
            if near[1 + dy, 1 + dx]:
                continue
            ends = []
            for ax, ay in ((dy, dx), (-dy, -dx)):  # the line's two ways
                beside = near[1 + ay, 1 + ax]
                turns = beside and near[1 + ay + dy, 1 + ax + dx]
                reach = 0.5 + inset if turns else 0.5 if beside else out  # where the next line begins
                ends.append((x + 0.5 + out * dx + reach * ax, y + 0.5 + out * dy + reach * ay))
            lines.append(ends)
            colours.append(_colour(int(token)))
    width = 1.6 if side <= 16 else 1.0
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, capstyle="projecting"))


def plot_scores(events: Sequence[SessionEvent], duration_s: float, path: str | Path) -> Path:
    """The path, .png, .svg or .pdf, of a plot of a live session: a line for each score of each request, and
    a mark where the model spoke."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        if isinstance(event, Scored):
            for name, score in event.scores.items():
                label = f"{name}, request {event.request}" if event.request else name
                curves.setdefault(label, []).append((event.time_s, score))
    replies = [event for event in events if isinstance(event, Reply)]
    figure = _figure(10, 3.4)
    axes = figure.add_subplot()
    for number, (label, points) in enumerate(list(curves.items())[:MAX_ROWS]):
        axes.plot(*zip(*points, strict=True), color=_colour(number), linewidth=1, label=label, zorder=2)
    for reply in replies[:MAX_BARS]:
        axes.axvline(reply.time_s, color=FAINT if reply.is_repeat else INK, linewidth=0.8, zorder=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("score")
    _time_axis(axes, max(duration_s, 1e-3))
    if curves:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)
    repeats = sum(reply.is_repeat for reply in replies)
    title = f"{_count(len(replies) - repeats, 'reply').replace('replys', 'replies')} in {_clock(duration_s)}"
    axes.set_title(f"{title}, {_count(repeats, 'repeat')}", loc="left")
    return _save(figure, path)


def _figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Any:
    """A figure of its own, in inches: no window, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "matplotlib>=3.8"') from error
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


def check_plot(path: str | Path) -> Path:
    """The path of a plot; ValueError for a suffix that none has."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"path must end in one of .png, .svg, .pdf, got {path.name!r}")
    return path


def _save(figure: Any, path: str | Path) -> Path:
    """Write beside `path`, then put it in its place; nothing half-written stays."""
    path = check_plot(path)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    return path


def _thumbnail_row(axes: Any, thumbnails: Sequence[Thumbnail], duration_s: float) -> None:
    """Thumbnails side by side over the video's seconds, each with its time and a line to it."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    num = min(len(thumbnails), MAX_THUMBNAILS)
    chosen = [thumbnails[(2 * k + 1) * len(thumbnails) // (2 * num)] for k in range(num)]
    axes.set(xlim=(0, duration_s), ylim=(0, 1))
    axes.set_axis_off()
    for place, thumbnail in enumerate(chosen):
        pixels = pixels_of(thumbnail.jpeg)
        image = OffsetImage(pixels, zoom=52 / max(pixels.shape))  # points
        middle = (place + 0.5) / num * duration_s
        box = AnnotationBbox(image, (middle, 0.25), box_alignment=(0.5, 0), frameon=False, pad=0)
        axes.add_artist(box)
        axes.plot((middle, thumbnail.time_s), (0.22, 0), color=INK, linewidth=0.6)
        axes.text(middle, 1.02, _clock(thumbnail.time_s), ha="center", va="bottom", fontsize=8, color=INK)


def _time_axis(axes: Any, duration_s: float) -> None:
    """The video's seconds from left to right, ticks at whole minutes or the like, and a light frame."""
    step = _nice_step(duration_s / 8)
    ticks = np.arange(0, duration_s + step * 0.01, step)
    axes.set_xlim(0, duration_s)
    axes.set_xticks(ticks, [_clock(float(t), hours=duration_s >= 3600) for t in ticks])
    axes.set_xlabel("time in the video (h:mm:ss)" if duration_s >= 3600 else "time in the video (m:ss)")
    axes.grid(axis="x", color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(colors=INK)


def _aspect(source: Any, protocols: Sequence[str]) -> float:
    """Width over height of the video as it is shown; 1 for arrays."""
    if not (isinstance(source, str | Path) or hasattr(source, "read")):
        return 1.0
    info = media.probe(source, protocols=protocols)
    wide = info.width / info.height if info.width and info.height else 1.0
    return 1 / wide if info.rotation_deg % 180 else wide


def _nice_step(seconds: float) -> float:
    """The least step of a clock that is at least so long; days beyond."""
    return float(next((s for s in STEPS_S if s >= seconds), 86400 * -(-seconds // 86400)))


def _colour(number: int) -> tuple[float, float, float]:
    """RGB of a number; neighbouring numbers get different colours."""
    hue = number * 0.61803398875 % 1
    return colorsys.hls_to_rgb(hue, (0.45, 0.58, 0.52)[number % 3], (0.62, 0.72, 0.9)[number // 3 % 3])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…"


def _count(num: int, what: str) -> str:
    return f"{num:,} {what}{'' if num == 1 else 's'}"


def _clock(seconds: float, hours: bool = False) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    if hours or minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"
