"""Subtitles inside a file, on the clock of its frames."""

from collections.abc import Sequence
from typing import Any

import av
from av.subtitles.subtitle import AssSubtitle

from ..config import MediaConfig
from .demux import find_tracks, origin_of, packets_of
from .source import open_container, open_handle

Cue = tuple[float, float, str]  # start_s, end_s, text


def read_text_track(source: Any, *, protocols: Sequence[str] = ("file",)) -> tuple[list[Cue], str]:
    """(the cues of the first text track in the file's order, from the start of the media; what is wrong).

    Nothing, and "", for a file without subtitles. Bitmaps, as DVDs have them, hold no text.
    """
    handle = open_handle(source, protocols)
    try:
        with open_container(handle, MediaConfig.max_pixels) as container:
            tracks = container.streams.subtitles
            video, audio, _ = find_tracks(container)
            origin_s = origin_of(video, audio) or 0.0
            wrong = ""
            for track in tracks:
                cues: list[Cue] = []
                container.seek(0)
                for packet in packets_of(container, [track]):
                    if not packet.size or packet.pts is None or packet.time_base is None:
                        continue
                    start_s = float(packet.pts * packet.time_base) - origin_s
                    end_s = start_s + float((packet.duration or 0) * packet.time_base)
                    try:
                        parts = [part for part in packet.decode() if isinstance(part, AssSubtitle)]
                    except av.FFmpegError as error:
                        wrong = f"subtitle track {track.index}: {error}"
                        continue
                    cues += [(start_s, end_s, part.dialogue.decode("utf8", "replace")) for part in parts]
                if cues:
                    return cues, wrong
                wrong = wrong or f"subtitle track {track.index} holds no text"
            return [], wrong
    finally:
        handle.close()
