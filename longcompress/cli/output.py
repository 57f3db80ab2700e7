"""What the commands print: tables, sentences, intervals."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..compression.estimate import Estimate
    from ..media.reader import MediaInfo
    from ..memory import VideoMemory


def rows_of(video: "MediaInfo", expected: "Estimate", answer: int) -> list[tuple[str, str]]:
    """What a header says, and the estimate; `answer` tokens are left for the answer."""
    frames = f"{video.width} x {video.height}, {video.video_codec}, {video.rate_fps or 0:.3g} a second"
    if video.rotation_deg % 180:
        frames += f", shown upright as {video.height} x {video.width}"
    if abs(video.pixel_aspect - 1) > 0.01:
        frames += f", pixels {video.pixel_aspect:.3g} times as wide as high"
    frames += f", HDR ({video.hdr})" if video.hdr else ""
    tracks = []
    for track in video.tracks:
        marks = "default" if track.is_default else "", "read" if track.is_read else ""
        about = ", ".join(filter(None, (track.codec, track.language, track.title, *marks)))
        tracks.append((f"{track.kind} track {track.number}", about))
    audio = f"{video.rate_hz} Hz, {video.channels} channels, {video.audio_codec}"
    return [
        ("length", clock(expected.duration_s)), ("frames", frames if video.has_video else "none"),
        ("audio", audio if video.has_audio else "none"), *(tracks if len(tracks) > 2 else []),
        ("", ""), *estimate_rows(expected, answer),
    ]  # fmt: skip


def memory_rows(memory: "VideoMemory") -> list[tuple[str, str]]:
    """A memory's tokens, and what of its video was read and is represented."""
    rows = [("length", clock(memory.duration_s)), ("budget", f"{memory.budget:,}")]
    for name, seconds in memory.coverage.items():
        read = "unknown" if seconds["read_s"] < 0 else clock(seconds["read_s"])
        shown = f"{read} read, {clock(seconds['represented_s'])} represented"
        rows.append((name, f"{len(memory.streams[name]):,} tokens, {shown}"))
    return rows + ([("text", str(memory.source["text"]))] if "text" in memory.source else [])


def estimate_rows(expected: "Estimate", answer: int) -> list[tuple[str, str]]:
    """An estimate; `answer` tokens are left for the answer."""
    return [
        ("sampled frames", f"{expected.frames:,}"), ("segments", f"{expected.segments:,}"),
        ("tokens before merging", f"{expected.raw_tokens:,}"),
        ("tokens", f"{expected.tokens:,}"), ("  of frames", f"{expected.video_tokens:,}"),
        ("  of audio", f"{expected.audio_tokens:,}"), ("  of the whole video", f"{expected.global_tokens:,}"),
        ("timestamps", f"{expected.timestamps:,}, one every {expected.timestamp_s:g} s"),
        ("memory file", size_text(expected.memory_bytes)),
        ("buffered while compressing", f"{expected.held_tokens:,} tokens at most"),
        ("fits the language model", _whether_it_fits(expected, answer)),
    ]  # fmt: skip


def report_of(memory: "VideoMemory", file: str, target: Path, wall_s: float) -> dict[str, Any]:
    """Tokens, bytes and seconds of compressing `file` into `target`, as plain values."""
    stats = memory.stats
    return {
        "source": file, "out": str(target), "tokens": memory.num_tokens, "budget": memory.budget,
        "streams": {name: len(tokens) for name, tokens in memory.streams.items()},
        "global_tokens": sum(map(len, memory.globals.values())), "raw_tokens": int(stats["raw_tokens"]),
        "duration_s": stats["duration_s"], "num_bytes": target.stat().st_size, "wall_s": wall_s,
        "encode_s": stats["encode_s"], "merge_s": stats["merge_s"],
        "reused_frames": int(stats["reused_frames"]),
        "read_s": max(0.0, wall_s - stats["encode_s"] - stats["merge_s"]),
    }  # fmt: skip


def sentence(report: dict[str, Any]) -> str:
    """The same in a line for people."""
    parts = [f"{num:,} {name}" for name, num in report["streams"].items()]
    parts += [f"{report['global_tokens']:,} global"] if report["global_tokens"] else []
    reused = f", {report['reused_frames']:,} frames reused" if report["reused_frames"] else ""
    wall_s = report["wall_s"]
    speed = f"{report['duration_s'] / wall_s:.0f} times as fast as it plays" if wall_s else ""
    return (
        f"{report['out']}: {report['tokens']:,} tokens ({', '.join(parts)}) of {report['raw_tokens']:,}, "
        f"{clock(report['duration_s'])} of video{reused}, {size_text(report['num_bytes'])}; "
        f"{wall_s:.1f} s, {speed}: encoders {report['encode_s']:.1f}, merging {report['merge_s']:.1f}, "
        f"reading and the rest {report['read_s']:.1f}"
    )


def cited(cites: Sequence[Any]) -> list[tuple[float, float, str]]:
    """Intervals of the cited tokens, joined where they touch, with the number of tokens of each stream."""
    from ..types import stream_order

    intervals: list[tuple[float, float, Counter[str]]] = []
    for cite in sorted(cites, key=lambda c: c.start_s):
        start_s, end_s, counts = cite.start_s, cite.end_s, Counter([cite.stream])
        if intervals and start_s <= intervals[-1][1]:
            start_s, last_end_s, before = intervals.pop()
            end_s, counts = max(last_end_s, end_s), before + counts
        intervals.append((start_s, end_s, counts))
    return [(s, e, ", ".join(f"{n[name]} {name}" for name in stream_order(n))) for s, e, n in intervals]


def _whether_it_fits(expected: "Estimate", answer: int) -> str:
    """Whether the prompt of an Estimate fits, and a budget that leaves room for the answer."""
    if expected.context is None:
        return "not known"
    of = f"{expected.prompt_tokens:,} of {expected.context:,} positions"
    if expected.fits:
        return f"yes, {of}"
    max_budget = max(1, (expected.context - answer) * 8 // 9)  # timestamps take at most an eighth of it
    return f"no, {of}; --budget {max_budget} does"


def print_table(title: str, rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> None:
    """Rows of text under a title, and under heads of columns if there are any."""
    table = Table(*heads, title=Text(title), title_justify="left", show_header=bool(heads))
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="")  # rich would end the process where a pipe is closed


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def size_text(num_bytes: float) -> str:
    """In kB or MB."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.1f} kB"
