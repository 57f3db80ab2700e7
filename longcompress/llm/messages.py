"""A video for any model that takes images: its key frames, with their seconds, as OpenAI's messages."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..media.thumbnails import url_of
from ..types import Event


def messages_of(
    frames: Sequence[tuple[float, bytes]], duration_s: float, question: str, transcript: Iterable[Event] = ()
) -> list[dict[str, Any]]:
    """A message of the user: each frame behind its second, what is said, the question.

    Args:
        frames: (second, JPEG) in time order.
        duration_s: length of the video.
        question: not empty.
        transcript: what is said, with its seconds.
    """
    if not question.strip():
        raise ValueError("question must not be empty; ask something, e.g. 'What happens first?'")
    texts = [f"Frames of a video of {duration_s:.1f} s, in time order, each behind its second."]
    content: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}]
    for time_s, jpeg in frames:
        content.append({"type": "text", "text": f"{time_s:.1f} s:"})
        content.append({"type": "image_url", "image_url": {"url": url_of(jpeg)}})
    if lines := [f"{event.start_s:.1f} to {event.end_s:.1f} s: {event.text}" for event in transcript]:
        content.append({"type": "text", "text": "\n".join(["What is said:", *lines])})
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
